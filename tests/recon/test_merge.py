"""Merging: shares by arithmetic, the same bits in any order, and refinement by those who see."""

import functools
import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geometry import SE3, Camera, Frame
from recon.distillation import opacity_distillation
from recon.evaluate import mean_scores, score
from recon.fit_config import FitConfig
from recon.gaussians import Gaussians
from recon.merge import Duplicates, Part, concat, faded, join_duplicates, merge, trim
from recon.movie import render_camera
from recon.objective import render_view
from recon.refine import SEEN_PX, Update, blend_weights, combined, local_update, refine
from recon.region import masked_region, power_region, ramp
from recon.trajectories import turntable
from recon.views import View, view_of

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = Camera(SE3.identity(), 50.0, 50.0, 24.0, 16.0, 48, 32)
SITES = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
NO_FILL = math.inf


def balls(xyz: Any, opacity: float = 0.75, grey: float = 0.5) -> Gaussians:
    """Of one decimetre."""
    places = np.asarray(xyz, np.float64).reshape(-1, 3)
    made = Gaussians.from_points(places, np.full(places.shape, grey), opacity=opacity)
    return replace(made, log_scales=torch.full((len(places), 3), math.log(0.1)))


def cube(count: int = 300, seed: int = 0) -> Gaussians:
    """Balls in a cube of two metres, each in the colour of its place."""
    xyz = np.random.default_rng(seed).uniform(-1, 1, (count, 3))
    return Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)


@functools.cache
def views() -> tuple[View, ...]:
    """Eight photos of the cube, from a circle of four metres round it."""
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 8)
    return tuple(view_of(Frame(0.0, camera, render_camera(cube(), camera)[0])) for camera in cameras)


def psnr_db(gaussians: Gaussians) -> float:
    return mean_scores(score(gaussians, views()))["psnr_db"]


def part(name: str, gaussians: Gaussians, visibility: float | None = None) -> Part:
    """The western or eastern half."""
    seen = None if visibility is None else torch.full((len(gaussians),), visibility)
    return Part(name, gaussians, power_region(SITES, {"west": 0, "east": 1}[name]), seen)


def bits(gaussians: Gaussians) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in gaussians.tensors().values()]


def test_a_cell_ends_half_way_to_the_next_site() -> None:
    places = torch.tensor([[3.0, 7.0, 0.0], [5.0, 0, 9], [8.0, 0, 0]])
    inside = power_region(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), 0)
    assert inside(places).tolist() == [2, 0, -3]
    weighted = power_region(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), 0, torch.tensor([20.0, 0.0]))
    assert weighted(places).tolist() == [3, 1, -2]  # by 20 m² / (2 · 10 m)


def test_a_lone_site_owns_all() -> None:
    assert power_region(torch.zeros(1, 2), 0)(torch.zeros(2, 3)).tolist() == [math.inf, math.inf]
    assert len(trim(balls([[9, 9, 9]]), power_region(torch.zeros(1, 2), 0), 1.0)) == 1


@given(st.integers(0, 10_000), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_mask_gives_the_distance_to_where_it_ends(seed: int, east_m: float) -> None:
    xyz = torch.tensor(np.random.default_rng(seed).uniform(-4, 4, (20, 3)))
    found = masked_region(lambda places: places[:, 0] < east_m, reach_m=2.0, rings=20)(xyz)
    exact = (east_m - xyz[:, 0]).clamp(-2, 2)
    assert (found - exact).abs().max() <= 0.1 + 1e-9


def test_a_ramp_is_half_at_the_border() -> None:
    inside = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0])
    assert ramp(inside, 2.0).tolist() == [0, 0, 0.5, 0.75, 1]
    assert ramp(inside, 0.0).tolist() == [0, 0, 1, 1, 1]


def test_a_share_is_one_of_the_optical_depth() -> None:
    found = faded(balls(np.zeros((3, 3)), opacity=0.75), torch.tensor([0.0, 0.5, 1.0]))
    assert found.opacities.tolist() == pytest.approx([0.5, 0.75])  # (1 - 0.5)² = 1 - 0.75


@given(st.floats(-12, 12), st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_shares_that_sum_to_one_hide_what_one_did(logit: float, share: float) -> None:
    whole = replace(balls([[0, 0, 0]]).to(dtype=torch.float64), logit_opacities=torch.tensor([logit]).double())
    left = [1 - faded(whole, torch.tensor([each])).opacities for each in (share, 1 - share)]
    assert float(left[0] * left[1]) == pytest.approx(float(1 - whole.opacities), rel=1e-5)


def test_trimming_leaves_the_others_region_out() -> None:
    line = balls([[-2, 0, 0], [-0.25, 0, 0], [0.25, 0, 0], [2, 0, 0]], opacity=0.75)
    found = trim(line, power_region(SITES, 0), 1.0)
    assert found.means[:, 0].tolist() == [-2, -0.25, 0.25]
    assert found.opacities.tolist() == pytest.approx([0.75, 1 - 0.25**0.75, 1 - 0.25**0.25])


def test_both_sides_together_let_through_what_one_did() -> None:
    found = merge([part("west", balls([[0.3, 0, 0]])), part("east", balls([[0.3, 0, 0]]))], 2.0, fill=NO_FILL)
    assert len(found) == 2
    assert float((1 - found.opacities).prod()) == pytest.approx(0.25)


def test_shares_go_with_visibility() -> None:
    sides = [part("west", balls([[0, 0, 0]]), 3.0), part("east", balls([[0, 0, 0]]), 1.0)]
    found = merge(sides, 1.0, fill=NO_FILL)
    assert found.opacities.tolist() == pytest.approx([1 - 0.25**0.25, 1 - 0.25**0.75])  # east comes first


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_three_shares_sum_to_one_anywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place, sites = rng.uniform(-2, 2, (1, 3)), torch.tensor(rng.uniform(-2, 2, (3, 2)))
    sides = [Part(str(number), balls(place), power_region(sites, number)) for number in range(3)]
    assert float((1 - merge(sides, 1.5, fill=NO_FILL).opacities).prod()) == pytest.approx(0.25, rel=1e-5)


@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, NO_FILL]))
@settings(max_examples=15, deadline=None)
def test_the_order_of_parts_does_not_matter(seed: int, seen: bool, fill: float) -> None:
    rng, sites = np.random.default_rng(seed), torch.tensor([[-1.0, 0], [1.0, 0], [0, 1.5]])
    sides = [
        Part(name, cube(40, seed + number), power_region(sites, number), torch.tensor(rng.random(40)) if seen else None)
        for number, name in enumerate(("b", "c", "a"))
    ]
    merged = {
        tuple(bits(merge(order, 0.8, fill=fill, duplicates=Duplicates(2.0, 0.5))))
        for order in itertools.permutations(sides)
    }
    assert len(merged) == 1
    assert len({tuple(bits(concat(order))) for order in itertools.permutations(sides)}) == 1


def test_a_scene_split_and_merged_is_the_same_scene() -> None:
    found = merge([part("west", cube()), part("east", cube())], 1.0, duplicates=Duplicates())
    assert len(found) == 300
    image = render_view(found, views()[0])[0]
    torch.testing.assert_close(image, render_view(cube(), views()[0])[0], atol=2e-4, rtol=0)


def test_what_the_owner_lacks_is_filled_in() -> None:
    west = balls([[-1, 0, 0], [1, 0, 0], [1.3, 0, 0]])  # two of three lie in the east
    east = balls([[1.05, 0, 0]])
    sides = [part("west", west), part("east", east)]
    assert sorted(merge(sides, 0.0, fill=1.0).means[:, 0].tolist()) == pytest.approx([-1, 1.05, 1.3])
    assert len(merge(sides, 0.0, fill=NO_FILL)) == 2
    assert len(merge(sides, 0.0, fill=0.0)) == len(concat(sides)) == 4


def test_duplicates_are_near_and_alike() -> None:
    a = balls([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], opacity=0.5)
    b = Gaussians.concat([balls([[0.02, 0, 0]], 0.75), balls([[1.02, 0, 0]], 0.2), balls([[2.08, 0, 0]], 0.2)])
    b = Gaussians.concat([b, balls([[3.02, 0, 0]], 0.2, grey=0.9)])
    left, right = join_duplicates(a, b, Duplicates(size_share=0.5, colour=0.1))
    assert left.means[:, 0].tolist() == [1, 2, 3]  # the first gave way to a more opaque one
    assert left.opacities.tolist() == pytest.approx([1 - 0.5 * 0.8, 0.5, 0.5])
    assert right.means[:, 0].tolist() == pytest.approx([0.02, 2.08, 3.02])  # 0.08 m is too far, 0.4 of grey too much
    assert right.opacities.tolist() == pytest.approx([1 - 0.25 * 0.5, 0.2, 0.2])


def test_duplicates_of_nothing_are_none() -> None:
    nothing = Gaussians.empty()
    assert [len(side) for side in join_duplicates(nothing, cube(5), Duplicates())] == [0, 5]
    assert len(merge([part("west", nothing, 1.0), part("east", cube(20), 1.0)], 1.0)) == 20


def test_blend_weights_are_shares_of_pixels() -> None:
    weights = blend_weights(cube(), views()[:2])
    covered = sum(render_view(cube(), view)[1].sum() for view in views()[:2])
    assert float(weights.sum()) == pytest.approx(float(covered), rel=1e-4)
    wall, hidden, behind = balls([[0, 0, 2]], opacity=0.9999), balls([[0, 0, 4]]), balls([[0, 0, -2]])
    wall = replace(wall, log_scales=torch.full((1, 3), 1.5))
    view = replace(views()[0], viewmat=torch.eye(4))
    seen = blend_weights(Gaussians.concat([wall, hidden, behind]), [view]).tolist()
    assert seen[0] > 1000
    assert seen[1] < 0.2
    assert seen[2] == 0


def zero_update(gaussians: Gaussians, visibility: Any, **changes: Tensor) -> Update:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in gaussians.tensors().items()}
    return Update({**zeros, **changes}, torch.as_tensor(visibility, dtype=torch.float32))


def test_updates_count_by_what_their_vehicle_sees() -> None:
    before = balls([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    ones = torch.ones(3, 3)
    updates = [zero_update(before, [3, 0, 0], means=ones), zero_update(before, [1, 2, 0], means=5 * ones)]
    moved = combined(before, updates).means - before.means
    assert moved[:, 0].tolist() == pytest.approx([(3 * 1 + 1 * 5) / 4, 5, 0])
    assert bits(combined(before, [])) == bits(before)


@pytest.mark.parametrize(
    ("visibility", "means", "message"),
    [
        ([1, 1], torch.zeros(3, 3), "not of these 3 Gaussians"),
        ([1, 1, 1], torch.zeros(2, 3), "not of these 3 Gaussians"),
        ([1, 1, 1], torch.full((3, 3), math.nan), "NaN"),
        ([1, -1, 1], torch.zeros(3, 3), "negative visibility"),
    ],
)
def test_broken_updates_are_named(visibility: Any, means: Tensor, message: str) -> None:
    before = balls(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=f"update 1 .*{message}"):
        combined(before, [zero_update(before, [1, 1, 1]), zero_update(before, visibility, means=means)])


def spoilt() -> Gaussians:
    """The cube, moved and grey."""
    noise = torch.tensor(np.random.default_rng(1).normal(0, 0.02, (300, 3))).float()
    return replace(cube(), means=cube().means + noise, sh=0.3 * cube().sh)


def test_vehicles_refine_together_what_neither_sees_whole() -> None:
    config = FitConfig(steps=12)
    sides = {"left": views()[:4], "right": views()[4:]}
    update_of = {name: partial(local_update, views=side, config=config, scale_m=4.0) for name, side in sides.items()}
    found = refine(spoilt(), update_of, rounds=4)
    assert psnr_db(found) > psnr_db(spoilt()) + 2
    once, turned = refine(spoilt(), update_of, 1), refine(spoilt(), dict(reversed(update_of.items())), 1)
    assert bits(once) == bits(turned)


def test_what_a_vehicle_does_not_see_it_leaves_alone() -> None:
    away = balls([[0, 0, 50]])
    update = local_update(
        Gaussians.concat([spoilt(), away]), 0, views()[:2], FitConfig(steps=2), 4.0, log_gains=torch.zeros(2, 3)
    )
    assert update.visibility[-1] == 0
    assert all((change[-1] == 0).all() for name, change in update.changes.items() if name != "quats")
    with pytest.raises(ValueError, match="needs a view"):
        local_update(spoilt(), 0, [], FitConfig(steps=2), 4.0)


def test_what_views_hardly_show_is_left_alone() -> None:
    """A faint ball before the cube, a twentieth of a pixel in all: with it or without, the update is the same."""
    scene, ahead = spoilt(), views()[:1]
    centre = -ahead[0].viewmat[:3, :3].T @ ahead[0].viewmat[:3, 3]
    faint = balls([((centre + scene.means.mean(dim=0)) / 2).tolist()], opacity=0.005)
    shown = blend_weights(Gaussians.concat([scene, faint]), ahead)[-1]
    assert 0 < shown < SEEN_PX
    options = {"log_gains": torch.zeros(1, 3)}
    alone = local_update(scene, 0, ahead, FitConfig(steps=3), 4.0, **options)
    both = local_update(Gaussians.concat([scene, faint]), 0, ahead, FitConfig(steps=3), 4.0, **options)
    assert both.visibility[-1] == 0
    assert all((change[-1] == 0).all() for change in both.changes.values())
    for name, change in both.changes.items():
        torch.testing.assert_close(change[:-1], alone.changes[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("count", [0, 1])
def test_distillation_bears_a_part_of_next_to_nothing(count: int) -> None:
    many, few = part("west", cube(40)), part("east", cube(300).select(torch.arange(count)))
    cameras = {"west": views()[:1], "east": views()[4:5]}
    for parts in ([many, few], [few, many]):
        assert len(opacity_distillation(parts, cameras, epochs=1, min_opacity=0.0)) == 40 + count


def test_distillation_learns_opacity_alone() -> None:
    halves = [cube().select(cube().means[:, 0] < 0.3), cube().select(cube().means[:, 0] > -0.3)]
    sides = [part("west", halves[0]), part("east", halves[1])]
    cameras = {"west": views()[:4], "east": views()[4:]}
    found = opacity_distillation(sides, cameras, epochs=3)
    places = {tuple(row) for half in halves for row in half.means.tolist()}
    assert {tuple(row) for row in found.means.tolist()} <= places
    assert 0.5 * 300 < len(found) <= sum(map(len, halves))
    assert float(found.opacities.min()) >= 0.005
    assert bits(opacity_distillation(sides[:1], cameras)) == bits(halves[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merge([], 1.0), "at least one"),
        (lambda: merge([part("west", cube(3)), part("west", cube(3))], 1.0), "different names"),
        (lambda: merge([part("west", cube(3))], -1.0), "blend_m must be finite and not negative"),
        (lambda: merge([part("west", cube(3))], 1.0, fill=-1.0), "fill must not be negative"),
        (lambda: power_region(torch.zeros(2, 2), 0), "another site lies"),
        (lambda: power_region(torch.zeros(2, 2), 2), "none has the index 2"),
        (lambda: Part("a", cube(3), power_region(SITES, 0), torch.ones(2)), "one number for each of 3"),
        (lambda: Part("a", cube(3), power_region(SITES, 0), -torch.ones(3)), "finite and not negative"),
        (lambda: opacity_distillation([], {}), "at least one part"),
        (lambda: merge([part("west", cube(3), 1.0), part("east", cube(3))], 1.0), "east have no visibility"),
        (lambda: Duplicates(size_share=-0.1), "size_share and colour of 0 or more"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
