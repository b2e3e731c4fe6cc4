"""States of vehicles: what is refused, and noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.offload.states import VehicleStates, noisy


def states(**changes: object) -> VehicleStates:
    """Two vehicles."""
    columns: dict[str, Any] = {
        "time_s": 1.0,
        "names": ("a", "b"),
        "position_m": np.array([[0.0, 0.0], [10.0, 5.0]]),
        "heading_rad": np.array([0.0, 1.0]),
        "speed_mps": np.array([3.0, 4.0]),
        "indicator": np.array([0, 1], np.int8),
    }
    return VehicleStates(**(columns | changes))


def test_some_vehicles_in_another_order() -> None:
    picked = states().pick(np.array([1]))
    assert picked.names == ("b",)
    assert picked.position_m.tolist() == [[10.0, 5.0]]
    assert picked.indicator.tolist() == [1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heading_rad": np.array([0.0, np.nan])}, "'b' at 1 s: heading_rad is NaN"),
        ({"position_m": np.array([[0.0, np.inf], [0.0, 0.0]])}, "'a' at 1 s: position_m is NaN or infinite"),
        ({"speed_mps": np.array([3.0, -0.1])}, "'b' at 1 s: speed_mps is negative"),
        ({"indicator": np.array([0, 2], np.int8)}, "'b' at 1 s: indicator is unknown"),
        ({"names": ("a", "a")}, "'a' is there twice at 1 s"),
        ({"names": ("a",)}, r"position_m has shape \(2, 2\), want \(1, 2\)"),
        ({"time_s": np.nan}, "time_s is nan"),
    ],
)
def test_bad_states_are_one_error(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        states(**changes)


def test_noise_has_the_deviation_asked_for_and_is_the_seeds() -> None:
    many = states().pick(np.array([0]))
    crowd = replace(
        many,
        names=tuple(map(str, range(4000))),
        position_m=np.zeros((4000, 2)),
        heading_rad=np.zeros(4000),
        speed_mps=np.zeros(4000),
        indicator=np.zeros(4000, np.int8),
    )
    (first,), (again,), (other,) = (list(noisy([crowd], 0.5, 0.1, seed)) for seed in (7, 7, 8))
    assert np.array_equal(first.position_m, again.position_m)
    assert not np.array_equal(first.position_m, other.position_m)
    assert first.position_m.std() == pytest.approx(0.5, rel=0.05)
    assert first.heading_rad.std() == pytest.approx(0.1, rel=0.05)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="position_m is -1"):
        next(noisy([states()], -1.0))
