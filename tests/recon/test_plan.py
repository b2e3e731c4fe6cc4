"""Plans: who is where, whose neighbours are whose, and what lies in whose region."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.plan import Plan, Stretch, gap_m


def way(*east_m: float, north_m: float = 0.0) -> np.ndarray:
    return np.column_stack([np.array(east_m, float), np.full(len(east_m), float(north_m))])


def stretch(vehicle: str = "a", rsu: str = "1", waypoints_m: np.ndarray | None = None, **changed: Any) -> Stretch:
    values = {"views": 4, "max_gaussians": 10, **changed}
    return Stretch(vehicle, rsu, way(0, 1) if waypoints_m is None else waypoints_m, **values)


# Along a street: a and b of RSU 1, c and d of RSU 2, in an order that is none.
PLAN = Plan(
    (
        stretch("d", "2", way(30, 34, 38)),
        stretch("a", "1", way(0, 4, 8)),
        stretch("c", "2", way(20, 24, 28)),
        stretch("b", "1", way(10, 14, 18)),
    )
)


def at(*east_m: float) -> torch.Tensor:
    """Places on the street, at any height."""
    return torch.tensor([[east, 0.0, 7.0] for east in east_m])


def test_vehicles_are_found_by_name() -> None:
    assert "a" in PLAN
    assert "e" not in PLAN
    assert 3 not in PLAN
    assert PLAN["c"].rsu == "2"
    with pytest.raises(KeyError):
        PLAN["e"]


def test_rsus_and_their_vehicles_come_in_order() -> None:
    assert PLAN.rsus == ("1", "2")
    assert [s.vehicle for s in PLAN.of_rsu("2")] == ["c", "d"]
    assert PLAN.of_rsu("3") == []


def test_the_centre_of_a_stretch_is_the_mean_of_its_waypoints_on_the_ground() -> None:
    np.testing.assert_array_equal(stretch(waypoints_m=np.array([[1.0, 2], [3, 8]])).centre_m, [2, 5, 0])


def test_waypoints_of_others() -> None:
    assert sorted(PLAN.others_m("a")[:, 0]) == [10, 14, 18, 20, 24, 28, 30, 34, 38]
    assert PLAN.others_m("a", same_rsu=True)[:, 0].tolist() == [10, 14, 18]
    assert PLAN.waypoints_of(["1"])[:, 0].tolist() == [0, 4, 8, 10, 14, 18]
    assert PLAN.waypoints_of([]).shape == (0, 2)
    assert Plan((stretch(),)).others_m("a").shape == (0, 2)


def test_gaps_are_between_the_nearest_waypoints() -> None:
    assert gap_m(way(0, 4, 8), way(10, 14, 18)) == 2
    assert gap_m(way(0, 1), way(3, north_m=4)) == pytest.approx(math.hypot(2, 4))


@pytest.mark.parametrize(
    ("within_m", "names"), [(1.9, []), (2.0, ["a", "c"]), (11.9, ["a", "c"]), (12.0, ["a", "c", "d"])]
)
def test_neighbours_are_as_near_as_asked(within_m: float, names: list[str]) -> None:
    assert PLAN.neighbours("b", within_m) == names


def test_a_region_is_what_is_nearer_to_ones_own_waypoints() -> None:
    # On b's waypoint at 10 m the nearest of the others, 8 m, is 2 m away: half of that. Half way, at 9 m: the border.
    # At 14 m others are 6 m away, 8 m and 20 m both.
    assert PLAN.region("b")(at(10, 9, 8, 14)).tolist() == [1, 0, -1, 3]
    # 19 m is half way to c's first waypoint, which is another RSU's: without these b goes on.
    assert PLAN.region("b")(at(19)).tolist() == [0]
    assert PLAN.region("b", same_rsu=True)(at(19, 28)).tolist() == [5, 5]


def test_the_region_of_an_rsu_is_that_of_its_vehicles_together() -> None:
    assert PLAN.rsu_region("1")(at(9, 18, 19, 20)).tolist() == [5, 1, 0, -1]
    assert PLAN.rsu_region("2")(at(9, 18, 19, 20)).tolist() == [-5, -1, 0, 1]


def test_alone_one_owns_the_world() -> None:
    alone = Plan((stretch(),))
    assert alone.region("a")(at(1e6)).tolist() == [math.inf]
    assert alone.rsu_region("1")(at(-1e6)).tolist() == [math.inf]


@settings(max_examples=30, deadline=None)
@given(st.floats(-60, 60), st.floats(-60, 60))
def test_every_place_is_in_one_region(east_m: float, north_m: float) -> None:
    place = torch.tensor([[east_m, north_m, 0.0]])
    depths = [PLAN.region(name)(place).item() for name in "abcd"]
    assert max(depths) >= 0
    assert sum(depth > 1e-4 for depth in depths) <= 1
    best = "abcd"[int(np.argmax(depths))]
    rsu = PLAN[best].rsu
    assert PLAN.rsu_region(rsu)(place).item() >= -1e-4
    assert PLAN.region(best, same_rsu=True)(place).item() >= max(depths) - 1e-6  # fewer others leave more


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stretch(waypoints_m=np.zeros((0, 2))), "Stretch of 'a': waypoints_m must be finite, east and north"),
        (lambda: stretch(waypoints_m=np.array([[0.0, np.nan]])), "waypoints_m must be finite"),
        (lambda: stretch(waypoints_m=np.array([[np.inf, 0.0]])), "waypoints_m must be finite"),
        (lambda: stretch(views=0), "views and max_gaussians must be at least 1, got 0 and 10"),
        (lambda: stretch(max_gaussians=0), "must be at least 1, got 4 and 0"),
        (lambda: Plan(()), r"different vehicles, got \[\]"),
        (lambda: Plan((stretch("a"), stretch("a", "2"))), "different vehicles, got"),
    ],
)
def test_bad_plans_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
