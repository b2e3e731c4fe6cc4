"""Landmarks laid onto maps of a street whose similarity is known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from geometry import Sim3
from recon.chart import rotation_matrix
from recon.landmarks import SurfaceMap
from recon.register import CUT_M, RegisterConfig, distances_m, hold, register


def plane(rng: np.random.Generator, count: int, low: ndarray, high: ndarray, normal: ndarray) -> SurfaceMap:
    return SurfaceMap(rng.uniform(low, high, (count, 3)), np.tile(normal, (count, 1)).astype(float))


def street(seed: int = 0, times: int = 1) -> SurfaceMap:
    """Ground, two house fronts at unequal distances, and gables across the street at three places, in 40 m."""
    rng, ones = np.random.default_rng(seed), np.eye(3)
    parts = [
        plane(rng, 3000 * times, np.array([-20, -8, 0]), np.array([20, 9, 0]), ones[2]),
        plane(rng, 1500 * times, np.array([-20, 9, 0]), np.array([20, 9, 5]), ones[1]),
        plane(rng, 1500 * times, np.array([-20, -8, 0]), np.array([20, -8, 5]), ones[1]),
        *(
            plane(rng, 300 * times, np.array([east, 6, 0]), np.array([east, 9, 5]), ones[0])
            for east in (-14.0, -3.0, 11.0)
        ),
    ]
    return SurfaceMap(np.concatenate([p.xyz_m for p in parts]), np.concatenate([p.normals for p in parts]))


MAP = street(0, times=4)
POINTS_M = street(1).xyz_m[::3]


def off_by(shift_m: ndarray, degrees: float, scale: float) -> Sim3:
    axis = np.array([1.0, -2, 2]) / 3
    return Sim3(rotation_matrix(torch.tensor(math.radians(degrees) * axis)).numpy(), np.asarray(shift_m, float), scale)


def error_m(found: Sim3, true: Sim3) -> float:
    corners = np.array([[x, y, z] for x in (-20, 20) for y in (-8, 9) for z in (0, 5.0)])
    return float(np.abs(found.apply(corners) - true.apply(corners)).max())


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-0.7, 0.7)] * 3), st.floats(-1.5, 1.5), st.floats(0.97, 1.03), st.integers(0, 3))
def test_a_known_similarity_is_found(shift_m: tuple, degrees: float, scale: float, part: int) -> None:
    """Positioning errs by 0.7 m along each axis, 1.5 degrees and 3 %; map points lie 0.1 m apart, planes are exact."""
    map_from_points = off_by(np.array(shift_m), degrees, scale)
    points_m = map_from_points.inverse().apply(np.roll(POINTS_M, part, axis=0))
    found = register(points_m, MAP)
    assert found is not None
    assert error_m(found.map_from_points @ map_from_points.inverse(), Sim3.identity()) < 0.02
    assert found.after_m < 0.005
    assert found.after_m <= found.before_m + 0.001
    assert found.matched > 0.95 * len(points_m)


def test_half_of_the_points_may_belong_to_nothing() -> None:
    rng, true = np.random.default_rng(3), off_by(np.array([0.5, -0.4, 0.2]), 1.0, 1.02)
    elsewhere = rng.uniform([-20, -8, 0.5], [20, 9, 5], (len(POINTS_M), 3)) + np.array([0, 0, 8])
    points_m = true.inverse().apply(np.concatenate([POINTS_M, elsewhere]))
    found = register(points_m, MAP)
    assert found is not None
    assert error_m(found.map_from_points @ true.inverse(), Sim3.identity()) < 0.02
    assert found.matched == pytest.approx(len(POINTS_M), rel=0.05)


def test_a_first_guess_is_where_the_search_begins() -> None:
    """Thirty metres away nothing is found from the identity; a guess that is a metre off leads there."""
    true = off_by(np.array([30.0, 5.0, 0.0]), 0.5, 1.0)
    points_m = true.inverse().apply(POINTS_M)
    found = register(points_m, MAP, off_by(np.array([30.7, 4.6, 0.1]), 0.0, 1.0))
    assert found is not None
    assert error_m(found.map_from_points @ true.inverse(), Sim3.identity()) < 0.02
    lost = register(points_m, MAP)
    assert lost is None or error_m(lost.map_from_points @ true.inverse(), Sim3.identity()) > 1


@pytest.mark.parametrize("count", [0, 6, 99])
def test_too_few_points_are_not_tried(count: int) -> None:
    assert register(POINTS_M[:count], MAP) is None


def test_an_empty_map_holds_nothing() -> None:
    assert register(POINTS_M, SurfaceMap(np.zeros((0, 3)), np.zeros((0, 3)))) is None


def test_what_matches_too_little_is_not_found() -> None:
    far_m = POINTS_M + np.array([0, 0, 500.0])
    assert register(far_m, MAP) is None
    assert register(POINTS_M, MAP, config=replace(RegisterConfig(), least_share=1.1)) is None


def test_a_scale_beyond_what_positioning_errs_by_is_no_answer() -> None:
    found = register(off_by(np.zeros(3), 0.0, 1.5).apply(POINTS_M), MAP)
    assert found is None or abs(math.log(found.map_from_points.scale)) <= 0.2


def test_distances_are_those_from_planes_and_end_at_the_cut() -> None:
    ground = SurfaceMap(np.array([[0.0, 0, 0], [1.0, 0, 0]]), np.array([[0.0, 0, 1], [0, 0, 1]]))
    points_m = np.array([[0.1, 0.0, 0.2], [1.0, 0.1, -0.05], [0.0, 0.0, 0.4], [9.0, 0, 0]])
    assert np.allclose(distances_m(points_m, ground, Sim3.identity()), [0.2, 0.05, CUT_M, CUT_M])


def test_the_same_points_give_the_same_bits() -> None:
    points_m = off_by(np.array([0.3, 0.2, 0.1]), 1.0, 0.99).apply(POINTS_M)
    first, second = register(points_m, MAP), register(points_m.copy(), MAP)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.map_from_points.matrix, second.map_from_points.matrix)


def test_between_blank_walls_lidar_does_not_say_how_far_along_the_street() -> None:
    """Ground and two straight fronts: whatever is tried along the street fits as well, so nothing is found."""
    rng, ones = np.random.default_rng(5), np.eye(3)
    ground = plane(rng, 6000, np.array([-20, -8, 0]), np.array([20, 9, 0]), ones[2])
    walls = [plane(rng, 3000, np.array([-20, y, 0]), np.array([20, y, 5]), ones[1]) for y in (-8.0, 9.0)]
    xyz_m = np.concatenate([p.xyz_m + rng.normal(0, 0.01, p.xyz_m.shape) for p in (ground, *walls)])
    blank = SurfaceMap(xyz_m, np.concatenate([p.normals for p in (ground, *walls)]))
    points_m = blank.xyz_m[1::6] + np.array([0.6, 0, 0])
    assert hold(points_m, blank, Sim3.identity()) < 1e-6
    assert register(points_m, blank) is None
    assert register(points_m, blank, config=replace(RegisterConfig(), least_hold=0.0)) is not None


@pytest.mark.parametrize("radius_m", [1.0, 10.0])
def test_hold_is_the_least_curvature(radius_m: float) -> None:
    """Six places on the axes, at each a surface across every axis: 18 landmarks.

    Shifts along an axis are seen by the 6 that face it, stretch by the 6 that face outwards, a turn about an axis by 4;
    what mixes these cancels between opposite places. So the least curvature is 4 of 18.
    """
    places = np.repeat(radius_m * np.concatenate([np.eye(3), -np.eye(3)]), 3, axis=0)
    normals = np.tile(np.eye(3), (6, 1))
    places += 1e-6 * normals  # three surfaces at one place, told apart
    assert hold(places, SurfaceMap(places, normals), Sim3.identity()) == pytest.approx(4 / 18, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"finalists": 0}, "finalists must be at least 1"),
        ({"coarse_points": 0}, "coarse_points must be at least 1"),
        ({"fine_m": (0.5, 0.0)}, "fine_m must be two widths"),
        ({"shifts_m": ()}, "shifts_m must hold"),
    ],
)
def test_bad_searches(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RegisterConfig(**wrong)


def test_a_shift_beyond_what_positioning_errs_by_is_no_answer() -> None:
    far = off_by(np.array([7.0, 0.0, 0.0]), 0.0, 1.0)
    config = replace(RegisterConfig(), shifts_m=(7.0,))
    assert register(far.inverse().apply(POINTS_M), MAP, config=config) is None
    near = off_by(np.array([4.0, 0.0, 0.0]), 0.0, 1.0)
    assert register(near.inverse().apply(POINTS_M), MAP, config=replace(config, shifts_m=(0.0, 4.0))) is not None
