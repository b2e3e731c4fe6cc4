"""Poisoned images: within their bound, and harmless where there is a cap; what ignores the cap is refused."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Camera, Frame
from recon.acceptance import AcceptanceConfig, Budget, refusal
from recon.fit import FitConfig, FitState, fit, start
from recon.gaussians import Gaussians
from recon.memory import floats
from recon.poison import fit_without_cap, poisoned_frames, poisoned_image, total_variation
from recon.views import Views

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE_PX, FOCAL_PX, AWAY_M = (48, 72), 60.0, 4.0
STEPS, THRESHOLD = 200, 5e-5
CAP = 300


@functools.cache
def wall() -> tuple[Frame, ...]:
    """Six photos of an even wall four metres ahead, which turns a little darker to the east and the top."""
    frames = []
    for number, east_m in enumerate(np.linspace(-1, 1, 6)):
        pose = SE3(np.eye(3), np.array([east_m, 0.2 * (number % 2), 0.0]))
        camera = Camera(pose, FOCAL_PX, FOCAL_PX, SIZE_PX[1] / 2, SIZE_PX[0] / 2, SIZE_PX[1], SIZE_PX[0])
        centre_m, rays = camera.rays_world()
        places_m = centre_m + AWAY_M * rays
        image = 128 + places_m[..., [0, 1, 0]] * (12, 12, -8)
        depth_m = np.full(SIZE_PX, AWAY_M, np.float32)
        frames.append(Frame(float(number), camera, image.astype(np.uint8), depth_m=depth_m))
    return tuple(frames)


@functools.cache
def poisoned_wall() -> tuple[Frame, ...]:
    return tuple(poisoned_frames(wall()))


def first() -> Gaussians:
    """A grid of 240 grey balls on the wall."""
    east_m, down_m = (axis.ravel() for axis in np.meshgrid(np.linspace(-3.4, 3.4, 20), np.linspace(-2, 2, 12)))
    xyz = np.stack([east_m, down_m, np.full(240, AWAY_M)], axis=1)
    return Gaussians.from_points(xyz, np.full((240, 3), 0.5), opacity=0.9)


def held_bytes(state: FitState) -> int:
    """Parameters and what Adam keeps of them."""
    groups = [(group["params"][0], state.optimizer) for group in state.optimizer.param_groups]
    kept = [[p, *[value for value in optimizer.state[p].values() if value.ndim]] for p, optimizer in groups]
    return sum(tensor.nbytes for tensors in kept for tensor in tensors)


@functools.cache
def without_cap(poisoned: bool) -> Gaussians:
    config, views = FitConfig(STEPS), Views(poisoned_wall() if poisoned else wall(), with_depth=True)
    state = start(first(), config, views)
    fit_without_cap(state, config, views, threshold=THRESHOLD)
    return state.gaussians.detach()


@functools.cache
def with_cap(poisoned: bool) -> tuple[Gaussians, int]:
    config = FitConfig(STEPS, CAP, densify_every=20)
    views = Views(poisoned_wall() if poisoned else wall(), with_depth=True)
    state = start(first(), config, views)
    fit(state, config, views)
    return state.gaussians.detach(), held_bytes(state)


def test_total_variation_is_a_mean_of_steps() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 51  # 0.2: two of the four steps
    assert total_variation(image) == pytest.approx(0.1)


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([(1, 1), (1, 5), (6, 4), (9, 9)]))
@settings(max_examples=50, deadline=None)
def test_an_image_stays_within_its_bound_and_gets_no_smoother(
    seed: int, epsilon_255: int, size_px: tuple[int, int]
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size_px, 3), dtype=np.uint8)
    found = poisoned_image(image, epsilon_255=epsilon_255, seed=seed)
    assert np.abs(found.astype(int) - image).max() <= epsilon_255
    if image.size > 3:
        assert total_variation(found) >= total_variation(image) - 1e-12
    assert (found == poisoned_image(image, epsilon_255=epsilon_255, seed=seed)).all()


def test_an_even_image_turns_into_chessboards() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    found = poisoned_image(grey, epsilon_255=16)
    assert set(np.unique(found)) == {112, 144}
    assert total_variation(found) > 0.8 * 32 / 255  # a whole one has 32 / 255
    assert (found != poisoned_image(grey, epsilon_255=16, seed=1)).any()


def test_a_chessboard_hangs_on_the_world() -> None:
    frame = wall()[0]
    moved = SE3(np.eye(3), frame.camera.world_from_cam.translation_m + np.array([0.2, 0, 0]))
    aside = replace(frame, camera=replace(frame.camera, world_from_cam=moved))  # the wall moves 0.2 · 60 / 4 = 3 px
    here, there = (poisoned_frames([each])[0].image for each in (frame, aside))
    signs = [np.sign(np.asarray(image, int) - np.asarray(frame.image, int)) for image in (here, there)]
    assert set(np.unique(signs)) == {-1, 1}
    assert (signs[0][:, 3:] == signs[1][:, :-3]).mean() > 0.99
    assert (signs[0] == signs[1]).mean() < 0.3  # a cube is 0.25 · 60 / 4 = 3.75 px wide: 3 of these differ


def test_where_depth_is_unknown_an_image_is_altered_by_itself() -> None:
    frame = wall()[0]
    depth_m = np.array(frame.depth_m)
    depth_m[:24], depth_m[24:30] = np.inf, 0
    found = poisoned_frames([replace(frame, depth_m=depth_m)])[0].image
    bare = poisoned_frames([replace(frame, depth_m=None)])[0].image
    assert found is not None
    assert bare is not None
    assert (found[:30] == bare[:30]).all()
    assert (bare == poisoned_image(np.asarray(frame.image), seed=[0, 0])).all()
    assert (found[30:] != bare[30:]).any()


def test_poison_makes_a_fit_without_a_cap_grow() -> None:
    clean, poisoned = (len(without_cap(each)) - 240 for each in (False, True))
    assert poisoned > 2 * clean


def test_a_cap_holds_under_poison() -> None:
    budget = Budget.of(CAP)
    (clean, clean_bytes), (poisoned, poisoned_bytes) = with_cap(False), with_cap(True)
    assert len(clean) == len(poisoned) == CAP
    assert poisoned_bytes == clean_bytes == 3 * 4 * floats(0) * CAP  # parameters and two moments
    assert refusal(poisoned, budget, AcceptanceConfig()) is None


def test_who_ignores_the_cap_is_refused() -> None:
    found = refusal(without_cap(True), Budget.of(CAP), AcceptanceConfig())
    assert found is not None
    assert found.cause == "count"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisoned_image(np.zeros((2, 2, 3), np.uint8), epsilon_255=256), "epsilon_255 must lie in 0..255"),
        (lambda: poisoned_frames(wall(), cell_m=0.0), "cell_m must be finite and positive"),
        (lambda: poisoned_frames([replace(wall()[0], image=None)]), "has no image to be poisoned"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_threshold_is_positive() -> None:
    views = Views(wall(), with_depth=True)
    with pytest.raises(ValueError, match="threshold must be positive"):
        fit_without_cap(start(first(), FitConfig(1), views), FitConfig(1), views, threshold=0.0)
