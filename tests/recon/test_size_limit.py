"""How large a Gaussian may be where it lies."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.gaussians import Gaussians
from recon.size_limit import SizeLimit

WAY = np.column_stack([np.arange(0.0, 40, 4), np.zeros(10)])  # 0, 4, ... 36 m east
LIMIT = SizeLimit(WAY, 0.2, 4.0)


def balls(places_m: Any, sizes_m: Any) -> Gaussians:
    grey = Gaussians.from_points(np.asarray(places_m, np.float64), np.full((len(places_m), 3), 0.5))
    return replace(grey, log_scales=torch.tensor(sizes_m).float().log())


def bits(gaussians: Gaussians) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in gaussians.tensors().values()]


def test_the_way_to_the_nearest_waypoint_decides() -> None:
    # 3 m beside 4 m and 4 m up; 18 m beyond 36 m and 24 m up; at a waypoint; 30 m up. A fifth: 1, 6, 0 and 6 m.
    places = torch.tensor([[4.0, 3.0, 4.0], [54.0, 0.0, 24.0], [12.0, 0.0, 0.0], [20.0, 0.0, 30.0]])
    assert LIMIT.largest_m(places).tolist() == pytest.approx([4.0, 6.0, 4.0, 6.0])
    assert SizeLimit(WAY, 0.2, 0.5).largest_m(places).tolist() == pytest.approx([1.0, 6.0, 0.5, 6.0])
    assert len(LIMIT.largest_m(places[:0])) == 0


def test_what_is_near_may_not_be_large() -> None:
    """A fifth of the way: 6 m at 30 m, 4 m at 10 m, for that any may have."""
    row = balls([[0, 0, 30], [0, 0, 10], [0, 0, 30]], [[9.0, 5.0, 0.1], [9.0, 3.0, 5.0], [6.0, 4.0, 1.0]])
    found = LIMIT.bounded(row)
    assert found.scales.tolist() == [pytest.approx(s, rel=1e-5) for s in ([6, 5, 0.1], [4, 3, 4], [6, 4, 1])]
    assert bits(replace(found, log_scales=row.log_scales)) == bits(row)
    assert row.scales[0, 0] == pytest.approx(9)  # the argument stays


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 30))
def test_what_is_bounded_stays_so_and_each_is_bounded_by_itself(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    any_balls = balls(rng.normal(0, 40, (count, 3)), rng.lognormal(1, 2, (count, 3)).clip(1e-3, 400))
    found = LIMIT.bounded(any_balls)
    most = LIMIT.largest_m(any_balls.means)[:, None]
    wanted = torch.minimum(any_balls.scales.double(), most)
    np.testing.assert_allclose(found.scales.numpy(), wanted.numpy(), rtol=1e-5)
    small = any_balls.scales.amax(dim=1) <= 4
    assert bits(found.select(small)) == bits(any_balls.select(small))
    assert bits(LIMIT.bounded(found)) == bits(found)


def test_what_an_optimizer_moves_is_held_in_place() -> None:
    row = balls([[0, 0, 30], [0, 0, 10]], [[9.0, 9.0, 9.0], [1.0, 1.0, 1.0]])
    log_scales = row.log_scales.clone().requires_grad_()
    LIMIT.hold(row.means, log_scales)
    assert log_scales.detach().exp().tolist() == [pytest.approx([6.0] * 3), pytest.approx([1.0] * 3)]
    assert log_scales.requires_grad


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((WAY[:0], 0.2, 4.0), r"waypoints_m must be \[k, 2\]"),
        ((WAY * np.nan, 0.2, 4.0), "waypoints_m holds NaN"),
        ((WAY, 0.0, 4.0), "share must be finite and above 0"),
        ((WAY, 0.2, -1.0), "least_m must be finite and above 0"),
        ((WAY, np.inf, 4.0), "share must be finite"),
    ],
)
def test_a_limit_that_is_none_is_named(values: tuple[Any, float, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SizeLimit(*values)
