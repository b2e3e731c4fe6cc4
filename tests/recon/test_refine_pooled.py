"""A refinement of many tiers: pooled and spread updates, weights of blocks, teachers, and views in another's world."""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Camera, Frame, Sim3
from recon.chart import rotation_matrix
from recon.fit_config import FitConfig
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.objective import render_view
from recon.refine import Update, block_weights, combined, local_update, pooled, spread
from recon.size_limit import SizeLimit
from recon.trajectories import turntable
from recon.views import View, placed, view_of

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = st.integers(0, 2**32 - 1)
CAMERA = Camera(SE3.identity(), 40.0, 40.0, 16.0, 12.0, 32, 24)
THERE = Sim3(
    rotation_matrix(torch.tensor(np.radians(20) * np.array([2.0, -1, 2]) / 3)).numpy(), np.array([3.0, -2, 0.5]), 1.25
)


def cube(count: int = 150) -> Gaussians:
    """Balls in a cube of two metres, each in the colour of its place."""
    xyz = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    return Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)


@functools.cache
def views() -> tuple[View, ...]:
    """Four photos of the cube, from a circle of four metres round it, with depth."""
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 4)
    shots = [(camera, *render_camera(cube(), camera)[:2]) for camera in cameras]
    return tuple(
        view_of(Frame(0.0, camera, image, depth_m=depth_m), with_depth=True) for camera, image, depth_m in shots
    )


def row(east_m: Any) -> Gaussians:
    """Grey balls from west to east."""
    east = np.atleast_1d(np.asarray(list(east_m), np.float64))
    return Gaussians.from_points(np.column_stack([east, 0 * east, 0 * east]), np.full((len(east), 3), 0.5))


def shift(metres: list[float], visibility: list[float]) -> Update:
    """Each Gaussian east by so much."""
    changes = {name: torch.zeros_like(tensor) for name, tensor in row(range(len(metres))).tensors().items()}
    changes["means"][:, 0] = torch.tensor(metres)
    return Update(changes, torch.tensor(visibility).float())


def any_updates(gaussians: Gaussians, seed: int, count: int) -> list[Update]:
    rng = np.random.default_rng(seed)

    def one() -> Update:
        changes = {n: torch.tensor(rng.normal(0, 0.1, t.shape)).float() for n, t in gaussians.tensors().items()}
        seen = rng.uniform(0.1, 9, len(gaussians)) * (rng.uniform(size=len(gaussians)) < 0.6)
        return Update(changes, torch.tensor(seen).float())

    return [one() for _ in range(count)]


def close(found: Any, wanted: Any, atol: float = 1e-5) -> None:
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=atol, rtol=1e-5)


# Pooled updates


def test_a_pool_is_the_weighted_mean_and_all_that_was_seen() -> None:
    # (3 · 1 m + 1 · 5 m) / 4 = 2 m, seen 4; 7 m, seen 2; nothing, seen by nobody.
    pool = pooled(row([0.0, 10, 20]), [shift([1, 9, 9], [3, 0, 0]), shift([5, 7, 9], [1, 2, 0])])
    np.testing.assert_allclose(pool.changes["means"][:, 0], [2, 7, 0], atol=1e-6)
    assert pool.visibility.tolist() == [4, 2, 0]
    assert all(not pool.changes[name].any() for name in ("quats", "log_scales", "logit_opacities", "sh"))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 4), st.integers(0, 4))
def test_combining_pools_is_combining_all(seed: int, count: int, first: int, second: int) -> None:
    scene = row(np.arange(float(count)))
    updates = any_updates(scene, seed, first + second)
    pools = [pooled(scene, group) for group in (updates[:first], updates[first:]) if group]
    for step in (1.0, 1.5):
        close(combined(scene, pools, step).tensors(), combined(scene, updates, step).tensors())


def test_a_pool_of_one_is_that_update_where_it_sees() -> None:
    scene = row([0.0, 1.0])
    (update,) = any_updates(scene, 3, 1)
    seen = Update(update.changes, torch.tensor([2.0, 5.0]))
    close(pooled(scene, [seen]).changes, seen.changes, 1e-6)
    assert pooled(scene, [seen]).visibility.tolist() == [2, 5]


def test_a_pool_of_none_is_nothing() -> None:
    pool = pooled(row([0.0]), [])
    assert pool.visibility.tolist() == [0]
    assert not any(change.any() for change in pool.changes.values())


@pytest.mark.parametrize(
    "wrong",
    [shift([1.0, 2.0], [1, 1]), shift([math.nan], [1]), shift([1.0], [math.inf]), shift([1.0], [-1])],
)
def test_a_pool_takes_no_other_update(wrong: Update) -> None:
    with pytest.raises(ValueError, match="update 1"):
        pooled(row([0.0]), [shift([1.0], [1]), wrong])


# Spread updates


def test_rows_find_their_places() -> None:
    update = spread(shift([5.0, 7.0], [1, 2]), torch.tensor([4, 1]), 6)
    assert update.changes["means"][:, 0].tolist() == [0, 7, 0, 0, 5, 0]
    assert update.visibility.tolist() == [0, 2, 0, 0, 1, 0]
    assert {name: tuple(change.shape) for name, change in update.changes.items()} == {
        **{"means": (6, 3), "quats": (6, 4), "log_scales": (6, 3)},
        **{"logit_opacities": (6,), "sh": (6, 1, 3)},
    }


def test_of_no_rows_nothing_is_spread() -> None:
    empty = Update({name: t[:0] for name, t in row([0.0]).tensors().items()}, torch.zeros(0))
    assert spread(empty, torch.zeros(0, dtype=torch.int64), 3).visibility.tolist() == [0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 8), st.data())
def test_what_is_selected_can_be_put_back(seed: int, count: int, data: Any) -> None:
    rows = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), unique=True)), dtype=torch.int64)
    (update,) = any_updates(row(np.arange(float(count))), seed, 1)
    part = Update({name: change[rows] for name, change in update.changes.items()}, update.visibility[rows])
    back = spread(part, rows, count)
    elsewhere = torch.ones(count, dtype=torch.bool).index_fill(0, rows, False)
    for name, change in update.changes.items():
        assert torch.equal(back.changes[name][rows], change[rows])
        assert not back.changes[name][elsewhere].any()
    assert torch.equal(back.visibility[rows], update.visibility[rows])


# Weights of blocks


def test_block_weights_by_hand() -> None:
    # 2 - exp(-δ² / 2): 1 for the best, 2 - e^-0.5 one dB below, 2 - e^-2 two; a hundredth of SSIM counts as a dB.
    weights = block_weights({"a": 25, "b": 24, "c": 23, "d": 25}, {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.79})
    wanted = {"a": 1, "b": 2 - math.exp(-0.5), "c": 2 - math.exp(-2), "d": 2 - math.exp(-0.5)}
    assert weights == pytest.approx(wanted)
    # Both below: squares add up. With lean 0 SSIM does not count, with sigma 2 a dB counts as half of one.
    both = ({"a": 25.0, "b": 24.0}, {"a": 0.8, "b": 0.78})
    assert block_weights(*both)["b"] == pytest.approx(2 - math.exp(-(1 + 4) / 2))
    assert block_weights(*both, lean=0.0)["b"] == pytest.approx(2 - math.exp(-0.5))
    assert block_weights(*both, sigma=2.0)["b"] == pytest.approx(2 - math.exp(-5 / 8))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcde"), st.tuples(st.floats(5, 40), st.floats(0, 1)), min_size=1))
def test_block_weights_lie_between_one_and_two(quality: dict[str, tuple[float, float]]) -> None:
    psnr_db, ssim = ({name: pair[k] for name, pair in quality.items()} for k in (0, 1))
    weights = block_weights(psnr_db, ssim)
    assert all(1 <= weight <= 2 for weight in weights.values())
    best = [n for n in psnr_db if psnr_db[n] == max(psnr_db.values()) and ssim[n] == max(ssim.values())]
    assert all(weights[name] == 1 for name in best)


def test_bad_block_weights_are_named() -> None:
    assert block_weights({}, {}) == {}
    for psnr_db, ssim, sigma in (({"a": 1.0}, {}, 1.0), ({"a": 1.0}, {"b": 1.0}, 1.0), ({}, {}, 0.0)):
        with pytest.raises(ValueError, match="same parties and sigma > 0"):
            block_weights(psnr_db, ssim, sigma=sigma)


# A teacher


def update_with(teacher: Gaussians | None, scene: Gaussians) -> Update:
    return local_update(scene, 0, views(), FitConfig(steps=12, cap=1000), 4.0, teacher=teacher)


def test_an_update_keeps_sizes_within_a_limit() -> None:
    """The largest ball may have what it has, and would grow; the others may have as much."""
    scene, config = cube(), FitConfig(steps=12, cap=1000)
    most_m = float(scene.scales.max())
    free = local_update(scene, 0, views(), config, 4.0)
    held = local_update(scene, 0, views(), config, 4.0, limit=SizeLimit(np.zeros((1, 2)), 1e-3, most_m))
    after = [(scene.log_scales + update.changes["log_scales"]).exp().max() for update in (free, held)]
    assert after[0] > 1.01 * most_m
    assert after[1] <= most_m * (1 + 1e-5)


def test_a_teacher_holds_back() -> None:
    """Towards photos that differ from the scene, one goes less far with a teacher who is content with the scene."""
    grey = replace(cube(), sh=0.5 * cube().sh)
    free, held = update_with(None, grey), update_with(grey, grey)
    assert held.changes["sh"].abs().sum() < 0.95 * free.changes["sh"].abs().sum()
    assert torch.equal(free.visibility, held.visibility)


def test_a_teacher_that_shows_the_photos_pulls_the_same_way() -> None:
    grey = replace(cube(), sh=0.5 * cube().sh)
    free, taught = update_with(None, grey), update_with(cube(), grey)
    one, other = (update.changes["sh"].flatten().double() for update in (free, taught))
    assert float(one @ other / (one.norm() * other.norm())) > 0.8


def test_the_same_seed_gives_the_same_update_and_inputs_stay() -> None:
    grey = replace(cube(), sh=0.5 * cube().sh)
    before = [tensor.clone() for tensor in grey.tensors().values()]
    one, other = update_with(cube(), grey), update_with(cube(), grey)
    assert all(torch.equal(one.changes[name], other.changes[name]) for name in one.changes)
    assert all(torch.equal(a, b) for a, b in zip(before, grey.tensors().values(), strict=True))


# Views in another's world


def test_a_view_that_is_moved_with_the_scene_shows_the_same() -> None:
    view = views()[1]
    moved, moved_alpha = render_view(cube().transformed(THERE), placed(view, THERE))
    image, alpha = render_view(cube(), view)
    torch.testing.assert_close(moved, image, atol=5e-4, rtol=0)
    torch.testing.assert_close(moved_alpha, alpha, atol=5e-4, rtol=0)


def test_a_camera_stands_where_the_similarity_takes_it_and_looks_along() -> None:
    view = views()[2]
    moved = placed(view, THERE)
    rotation, rotation_there = view.viewmat[:3, :3].double(), moved.viewmat[:3, :3].double()
    centre_m = -rotation.T @ view.viewmat[:3, 3].double()
    centre_there_m = -rotation_there.T @ moved.viewmat[:3, 3].double()
    np.testing.assert_allclose(centre_there_m, THERE.apply(centre_m.numpy()[None])[0], atol=1e-5)
    np.testing.assert_allclose(rotation_there.T, THERE.rotation @ rotation.T.numpy(), atol=1e-6)
    np.testing.assert_allclose(moved.viewmat[3], [0, 0, 0, 1])
    assert moved.viewmat.dtype == view.viewmat.dtype


def test_depth_grows_with_the_world_and_the_rest_stays() -> None:
    view = replace(views()[0], counted=torch.ones(24, 32, dtype=torch.bool))
    assert view.depth_m is not None
    depth_m = view.depth_m.clone()
    depth_m[0, 0], depth_m[0, 1] = 0.0, math.inf
    moved = placed(replace(view, depth_m=depth_m), THERE)
    assert moved.depth_m is not None
    torch.testing.assert_close(moved.depth_m, 1.25 * depth_m)
    assert moved.depth_m[0, :2].tolist() == [0, math.inf]
    assert moved.image is view.image
    assert torch.equal(moved.intrinsics, view.intrinsics)
    assert moved.counted is view.counted
    assert placed(replace(view, depth_m=None), THERE).depth_m is None


def test_there_and_back_is_where_it_was() -> None:
    view = views()[3]
    back = placed(placed(view, THERE), THERE.inverse())
    torch.testing.assert_close(back.viewmat, view.viewmat, atol=1e-5, rtol=0)
    assert back.depth_m is not None
    torch.testing.assert_close(back.depth_m, view.depth_m)
    torch.testing.assert_close(placed(view, Sim3.identity()).viewmat, view.viewmat, atol=1e-6, rtol=0)
