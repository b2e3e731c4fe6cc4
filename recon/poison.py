"""Images that make a set of Gaussians grow: an attack to test against, never applied otherwise.

Lu et al. 2025, "Poison-splat: Computation Cost Attack on 3D Gaussian Splatting" (ICLR 2025), raises the total
variation of what a victim learns from, within a bound that is hardly seen, because densification adds Gaussians where
images have edges. They find such images through a scene of the attacker's own, so that views agree about the noise.
Here it hangs on the world by depth, which takes no training. `poisoned_image` alters one image by itself; a fit sees
through that, for what views do not agree about is averaged away.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from numpy import ndarray

from geometry import Frame
from recon.densify import DensifyConfig, grow, install, moments_of, pull
from recon.fit import FitConfig, FitState, advance
from recon.optimizer import split_tensors
from recon.views import View

EPSILON_255: Final = 16
CELL_M: Final = 0.25
_SWEEPS: Final = 4


def poisoned_image(
    image: UInt8[ndarray, "h w 3"], *, epsilon_255: int = EPSILON_255, seed: int | Sequence[int] = 0
) -> UInt8[ndarray, "h w 3"]:
    """An image of larger total variation, no value further than epsilon from what it was.

    Pixels take turns as on a chessboard, black ones and white ones. Each goes to the end of its range that differs
    more from its four neighbours, which stand still meanwhile, so that no turn lowers the total variation. What is
    alike either way, as on an even wall, is decided by chance.

    Args:
        image: RGB.
        epsilon_255: the most that a value changes, in steps of 1/255.
        seed: of chance.

    Raises:
        ValueError: epsilon is not in 0..255.
    """
    if not 0 <= epsilon_255 <= 255:
        raise ValueError(f"epsilon_255 must lie in 0..255, got {epsilon_255}")
    clean = image.astype(np.int16)
    low, high = np.clip(clean - epsilon_255, 0, 255), np.clip(clean + epsilon_255, 0, 255)
    chance = np.random.default_rng(seed).random(image.shape) < 0.5
    black = np.indices(image.shape[:2]).sum(axis=0)[..., None] % 2 == 0
    found = clean
    for sweep in range(2 * _SWEEPS):
        turn = black if sweep % 2 == 0 else ~black
        found = np.where(turn, _farther_end(found, low, high, chance), found)
    return found.astype(np.uint8)


def _farther_end(
    values: Int16[ndarray, "h w c"],
    low: Int16[ndarray, "h w c"],
    high: Int16[ndarray, "h w c"],
    chance: Bool[ndarray, "h w c"],
) -> Int16[ndarray, "h w c"]:
    """Of each pixel the end of its range that differs more from its neighbours: a sum of distances is largest at one
    end."""
    gain = np.zeros(values.shape, np.int16)
    for axis in (0, 1):
        for ours, theirs in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            here, there = [slice(None)] * 2, [slice(None)] * 2
            here[axis], there[axis] = ours, theirs
            h, t = tuple(here), tuple(there)
            gain[h] += np.abs(high[h] - values[t]) - np.abs(low[h] - values[t])
    return np.where(np.where(gain == 0, chance, gain > 0), high, low)


def poisoned_frames(
    frames: Sequence[Frame], *, epsilon_255: int = EPSILON_255, cell_m: float = CELL_M, seed: int = 0
) -> list[Frame]:
    """Frames whose images carry a chessboard that hangs on the world, so that all views agree about it.

    Space is divided into cubes; values are raised by epsilon in black ones and lowered in white ones, each colour in
    cubes of its own. Where a frame's depth is unknown or infinite, the image is that of `poisoned_image`.

    Args:
        frames: with images; only images change.
        epsilon_255: the most that a value changes, in steps of 1/255.
        cell_m: side of a cube. It harms most where it is a few pixels wide.
        seed: of where the cubes lie, and as of `poisoned_image`.

    Raises:
        ValueError: a frame has no image, epsilon is not in 0..255, or the side is not positive.
    """
    if not (np.isfinite(cell_m) and cell_m > 0):
        raise ValueError(f"cell_m must be finite and positive, got {cell_m}")
    origins_m = np.random.default_rng(seed).uniform(0, cell_m, (3, 3))
    poisoned = list[Frame]()
    for number, frame in enumerate(frames):
        if frame.image is None:
            raise ValueError(f"{frame.source or f'frame {number}'}: has no image to be poisoned; leave the frame out")
        image = poisoned_image(np.asarray(frame.image), epsilon_255=epsilon_255, seed=[seed, number])
        if frame.depth_m is not None:
            known = np.isfinite(frame.depth_m) & (frame.depth_m > 0)
            signs = _cube_signs(frame, np.where(known, frame.depth_m, 0.0), origins_m, cell_m)
            hung = np.clip(np.asarray(frame.image, np.int16) + epsilon_255 * signs, 0, 255).astype(np.uint8)
            image = np.where(known[..., None], hung, image)
        poisoned.append(replace(frame, image=image))
    return poisoned


def _cube_signs(
    frame: Frame, depth_m: Float[ndarray, "h w"], origins_m: Float[ndarray, "c 3"], cell_m: float
) -> Int16[ndarray, "h w c"]:
    """1 in black cubes and -1 in white ones, for the cubes of each colour."""
    centre_m, rays = frame.camera.rays_world()
    places_m = centre_m + rays * depth_m[..., None]
    cubes = np.floor((places_m[..., None, :] - origins_m) / cell_m).astype(np.int64).sum(axis=-1)
    return (1 - 2 * (cubes % 2)).astype(np.int16)


def total_variation(image: UInt8[ndarray, "h w 3"]) -> float:
    """Mean difference, 0..1, between pixels that lie side by side or one above the other, over both and all colours."""
    values = image.astype(np.float64) / 255
    steps = [np.abs(np.diff(values, axis=axis)).ravel() for axis in (0, 1)]
    return float(np.concatenate(steps).mean())


def fit_without_cap(
    state: FitState, config: FitConfig, views: Sequence[View], *, threshold: float, every: int = 50
) -> None:
    """A fit as a victim without a cap runs it: whatever is pulled harder than a threshold calls for another Gaussian.

    As many as are above the threshold are added every so many steps, as `recon.densify.grow` adds them. The cap and
    the changes of the set that `config` asks for do not apply.

    Args:
        state: changed in place.
        config: steps, learning rates and seed.
        views: to learn from.
        threshold: of `recon.densify.pull`.
        every: steps between additions.

    Raises:
        ValueError: the threshold is not positive; and as `advance`.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}; 0 doubles the set each time")
    fixed = replace(config, densify_every=2 * config.steps)
    while state.step < config.steps:
        advance(state, fixed, views)
        if state.step % every == 0:
            moments = moments_of(state.optimizer)
            called = int((pull(state.gaussians, moments) > threshold).sum())
            limits = DensifyConfig(len(state.gaussians) + called, grow=2.0, draw_by="pull")
            grown = grow(state.gaussians, moments, state.draws, limits, state.step)
            install(state.optimizer, split_tensors(grown.gaussians), grown.moments)
