"""Sequences divided among vehicles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.datasets.base import DataError
from perception.datasets.sharing import parts_per_source, time_blocks


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(1, 20))
def test_parts_serve_every_vehicle_or_say_how_many_they_can(lengths: list[int], extra: int) -> None:
    vehicles = len(lengths) + extra - 1
    if vehicles > sum(length // 2 for length in lengths):
        with pytest.raises(DataError, match="at most"):
            parts_per_source(lengths, vehicles)
        return
    parts = parts_per_source(lengths, vehicles)
    assert sum(parts) == vehicles
    assert all(length // k >= 2 and k >= 1 for length, k in zip(lengths, parts, strict=True))


@given(st.integers(2, 80), st.integers(1, 6), st.floats(0.05, 2))
def test_no_training_frame_is_near_a_test_frame(frames: int, parts: int, period_s: float) -> None:
    parts = min(parts, frames // 2)
    times = np.arange(frames) * period_s
    blocks = time_blocks(times.tolist(), parts, 0, guard_s=0.5)
    tests = [i for _, test in blocks for i in test]
    trains = [i for train, _ in blocks for i in train]
    assert len({*tests, *trains}) == len(tests) + len(trains)
    assert all(test for _, test in blocks)
    if trains:
        assert np.abs(times[trains][:, None] - times[tests]).min() >= 0.5
    if period_s >= 0.5:
        assert len(tests) + len(trains) == frames


def test_blocks_of_two_neighbours_meet_in_their_tests() -> None:
    assert time_blocks([float(t) for t in range(16)], 2, 0, 0.5) == [
        ([0, 1, 2, 3, 4, 5], [6, 7]),
        ([10, 11, 12, 13, 14, 15], [8, 9]),
    ]
    assert time_blocks([float(t) for t in range(16)], 1, 4, 0.5) == [([0, 5, 10], [15])]
