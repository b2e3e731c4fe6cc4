"""Regions by waypoints: half of how much nearer, by hand; on the ground alone; and what to do with bad places."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.region import ramp, waypoint_region


def places(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


OWN, OTHERS = np.array([[0.0, 0.0], [0.0, 10.0]]), np.array([[6.0, 0.0]])


def test_a_region_is_as_deep_as_half_of_how_much_nearer_it_is() -> None:
    inside_m = waypoint_region(OWN, OTHERS)
    # 0 and 6 m away; 3 and 3; 5 and 1; 3-4-5: 5 m to the origin, 5 m to (6, 0); 0 m to (0, 10), √(36 + 100) to (6, 0).
    here = places((0, 0, 0), (3, 0, 0), (5, 0, 0), (3, 4, 0), (0, 10, 0))
    np.testing.assert_allclose(inside_m(here), [3, 0, -2, 0, math.sqrt(136) / 2], atol=1e-12)


def test_height_does_not_matter() -> None:
    inside_m = waypoint_region(OWN, OTHERS)
    assert torch.equal(inside_m(places((1, 2, 0))), inside_m(places((1, 2, 500))))


def test_between_two_waypoints_it_is_the_distance_to_the_middle() -> None:
    inside_m = waypoint_region(np.array([[0.0, 0.0]]), np.array([[8.0, 0.0]]))
    east = np.linspace(0, 8, 9)
    np.testing.assert_allclose(inside_m(torch.tensor([[x, 0.0, 0.0] for x in east])), 4 - east, atol=1e-12)


def test_without_others_it_is_everywhere() -> None:
    inside_m = waypoint_region(OWN, np.zeros((0, 2)))
    assert inside_m(places((1e5, 0, 0))).tolist() == [math.inf]
    assert ramp(inside_m(places((1e5, 0, 0))), 2.0).tolist() == [1]
    assert inside_m(torch.zeros(0, 3)).shape == (0,)


def test_of_nothing_it_says_nothing() -> None:
    assert waypoint_region(OWN, OTHERS)(torch.zeros(0, 3)).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
def test_one_partys_inside_is_the_others_outside(seed: int, own_count: int, others_count: int) -> None:
    rng = np.random.default_rng(seed)
    own, others = rng.uniform(-50, 50, (own_count, 2)), rng.uniform(-50, 50, (others_count, 2))
    xyz = torch.tensor(rng.uniform(-60, 60, (20, 3)))
    one, other = waypoint_region(own, others)(xyz), waypoint_region(others, own)(xyz)
    torch.testing.assert_close(one, -other)
    away_m = [np.linalg.norm(xyz[:, None, :2].numpy() - sites, axis=2).min(axis=1) for sites in (own, others)]
    np.testing.assert_allclose(one, (away_m[1] - away_m[0]) / 2, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_depth_never_changes_faster_than_one_walks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside_m = waypoint_region(rng.uniform(-50, 50, (4, 2)), rng.uniform(-50, 50, (4, 2)))
    here, step_m = torch.tensor(rng.uniform(-60, 60, (20, 3))), torch.tensor(rng.normal(size=(20, 3)))
    change_m = (inside_m(here + step_m) - inside_m(here)).abs()
    assert (change_m <= step_m[:, :2].norm(dim=1) + 1e-9).all()


def test_gradients_do_not_pass_and_float32_is_welcome() -> None:
    xyz = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    depth_m = waypoint_region(OWN, OTHERS)(xyz)
    assert not depth_m.requires_grad
    assert depth_m.dtype == torch.float64


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (np.zeros((0, 2)), OTHERS),
        (np.array([[np.nan, 0.0]]), OTHERS),
        (OWN, np.array([[np.inf, 0.0]])),
    ],
)
def test_bad_waypoints_are_named(own: np.ndarray, others: np.ndarray) -> None:
    with pytest.raises(ValueError, match="waypoint_region needs a waypoint, and all of them finite"):
        waypoint_region(own, others)
