"""What a vehicle may weigh, whatever it claims."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.weights import cap_weights, weight_limit


@pytest.mark.parametrize(
    ("claims", "ratio", "limit"),
    [
        ([20, 20, 20, 1_000_000], 3.0, 60),
        ([20, 1_000_000], 3.0, 60),  # the lower of two
        ([1, 1, 100], 1.5, 1),
        ([20, 1_000_000], 0.0, 5000),  # off: the ceiling alone
        ([4000, 4000], 3.0, 5000),
        ([], 3.0, 5000),
    ],
)
def test_limit(claims: list[int], ratio: float, limit: int) -> None:
    assert weight_limit(claims, ratio, ceiling=5000) == limit


@given(st.lists(st.integers(50, 100), min_size=3, max_size=9), st.lists(st.integers(0, 10**9), max_size=2))
def test_a_minority_of_liars_weighs_no_more_than_the_ratio_each(honest: list[int], lies: list[int]) -> None:
    claims = {f"v{i}": claim for i, claim in enumerate([*honest, *lies])}
    capped = cap_weights(claims, 2.0, 10**6)
    assert all(capped[name] <= 2 * max(honest) for name in capped)
    assert all(capped[f"v{i}"] == claim for i, claim in enumerate(honest))  # at most twice each other: none is cut


def test_negative_claims_weigh_nothing() -> None:
    assert cap_weights({"a": -9, "b": 10, "c": 10}, 3.0, 100) == {"a": 0, "b": 10, "c": 10}
