"""Traces: interpolation that can be redone by hand, and what is refused."""

import numpy as np
import pytest

from geometry.trace import Indicator, Trace


def trace(**changes) -> Trace:
    columns = {
        "times_s": np.array([0.0, 2.0]),
        "positions_m": np.array([[0.0, 0.0, 0.0], [4.0, 2.0, 1.0]]),
        "yaw_rad": np.array([3.0, -3.0]),
        "speed_mps": np.array([1.0, 3.0]),
        "indicator": np.array([Indicator.LEFT, Indicator.OFF], np.int8),
    }
    return Trace("a", "car", (4.5, 1.8, 1.5), **{**columns, **changes})


def test_between_samples_values_are_interpolated_and_headings_take_the_short_way():
    middle = trace().at(np.array([1.0]))
    assert middle.positions_m.tolist() == [[2.0, 1.0, 0.5]]
    assert middle.speed_mps.tolist() == [2.0]
    assert middle.yaw_rad[0] == pytest.approx((3.0 + (2 * np.pi - 3.0)) / 2)
    assert middle.indicator.tolist() == [Indicator.LEFT]


def test_outside_its_time_a_road_user_stands_where_it_was():
    ends = trace().at(np.array([-1.0, 3.0]))
    assert ends.positions_m.tolist() == [[0.0, 0.0, 0.0], [4.0, 2.0, 1.0]]
    assert ends.speed_mps.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times_s": np.array([0.0, 0.0])}, "must increase"),
        ({"yaw_rad": np.array([0.0, np.nan])}, "yaw_rad holds NaN"),
    ],
)
def test_bad_columns_are_named(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        trace(**changes)


def test_an_unknown_kind_is_named():
    one = {"times_s": np.zeros(1), "yaw_rad": np.zeros(1), "speed_mps": np.zeros(1), "indicator": np.zeros(1, np.int8)}
    with pytest.raises(ValueError, match="kind is 'ufo'"):
        Trace("a", "ufo", (1.0, 1.0, 1.0), positions_m=np.zeros((1, 3)), **one)
