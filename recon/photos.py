"""Frames as sources of coloured points: which pixels to draw, where they lie, which points they show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy import ndarray

from geometry import Camera, Frame

CELL_PX: Final = (8, 16)  # least and most, of the grid on which pixels are found that no point covers
ROWS: Final = 8  # of that grid, in between
COVERING: Final = 50_000  # points that are enough to decide it

Mask = Bool[ndarray, "_ _"]  # [h, w]; images may differ in size
Cloud = tuple[Float[ndarray, "_ 3"], UInt8[ndarray, "_ 3"]]  # xyz in the world and rgb of n points
Pixels = tuple[Int64[ndarray, "n"], Int64[ndarray, "n"]]  # frame, and place in its flattened image


@dataclass(frozen=True, eq=False)
class Photos:
    """Frames, their images, and which of the pixels may be used."""

    frames: Sequence[Frame]
    images: Sequence[UInt8[ndarray, "_ _ 3"]]
    usable: Sequence[Mask]

    @classmethod
    def of(cls, frames: Sequence[Frame], ignore: Callable[[Frame], Mask | None] | None) -> "Photos":
        """All pixels but the ignored ones.

        Raises:
            ValueError: no frames, one without image, or `ignore` gives another shape, no booleans, or leaves no pixel.
        """
        frames = list(frames)
        if not frames:
            raise ValueError("no frames to take initial points from; give at least one with an image")
        images = []
        for frame in frames:
            if frame.image is None:
                raise ValueError(f"{name_of(frame)}: no image, so its points have no colour; leave this frame out")
            images.append(frame.image)
        usable = [_usable(frame, ignore(frame) if ignore else None) for frame in frames]
        if not any(mask.any() for mask in usable):
            raise ValueError(f"ignore covers every pixel of all {len(frames)} frames; check it")
        return cls(frames, images, usable)

    def draw(self, weights: Sequence[Float32[ndarray, "_ _"] | Mask], count: int, rng: np.random.Generator) -> Pixels:
        """Up to `count` different pixels in order, likelier the higher they weigh (Efraimidis and Spirakis 2006)."""
        flat = np.concatenate([weight.ravel() for weight in weights])
        found = np.flatnonzero(flat)
        if len(found) > count:
            waits = rng.standard_exponential(len(found), np.float32) / flat[found]
            found = np.sort(found[np.argpartition(waits, count)[:count]])
        starts = np.cumsum([0, *[weight.size for weight in weights]])
        frame = np.searchsorted(starts, found, side="right") - 1
        return frame, found - starts[frame]

    def lift(self, pixels: Pixels, depth_m: Float[ndarray, "n"], *, along_ray: bool = False) -> Cloud:
        """Centres of pixels at a depth along z, or at that distance along the ray, and their colours."""
        xyz, rgb = np.zeros((len(depth_m), 3)), np.zeros((len(depth_m), 3), np.uint8)
        for index in np.unique(pixels[0]):
            rows = pixels[0] == index
            camera, place = self.frames[index].camera, pixels[1][rows]
            v, u = np.divmod(place, camera.width_px) + np.array([[0.5], [0.5]])
            rays = np.stack([(u - camera.cx_px) / camera.fx_px, (v - camera.cy_px) / camera.fy_px, u * 0 + 1], axis=1)
            if along_ray:
                rays /= np.linalg.norm(rays, axis=1, keepdims=True)
            xyz[rows] = camera.world_from_cam.apply(rays * depth_m[rows, None])
            rgb[rows] = self.images[index].reshape(-1, 3)[place]
        return xyz, rgb


def name_of(frame: Frame) -> str:
    """What messages call a frame."""
    return frame.source or f"frame at {frame.timestamp_s} s"


def _usable(frame: Frame, ignored: Mask | None) -> Mask:
    size_px = (frame.camera.height_px, frame.camera.width_px)
    if ignored is None:
        return np.ones(size_px, bool)
    if ignored.shape != size_px or ignored.dtype != bool:
        raise ValueError(f"{name_of(frame)}: ignore gave {ignored.dtype} {ignored.shape}, want bool {size_px}")
    return ~ignored


def hits(
    camera: Camera, xyz: Float[ndarray, "n 3"]
) -> tuple[Int64[ndarray, "m"], Int64[ndarray, "m"], Float[ndarray, "m"]]:
    """Which points lie in view, their places in the flattened image, their depths."""
    pixel, depth_m = camera.project(xyz)
    size_px = (camera.width_px, camera.height_px)
    rows = np.flatnonzero((depth_m > 0) & (pixel >= 0).all(axis=1) & (pixel < size_px).all(axis=1))
    column, line = pixel[rows].astype(np.int64).T
    return rows, line * camera.width_px + column, depth_m[rows]


def camera_spread(photos: Photos) -> tuple[Float[ndarray, "3"], float]:
    """Mean of the camera centres and the largest distance from it."""
    centres = np.array([frame.camera.world_from_cam.translation_m for frame in photos.frames])
    mean = centres.mean(axis=0)
    return mean, float(np.linalg.norm(centres - mean, axis=1).max())


def uncovered(photos: Photos, xyz: Float[ndarray, "n 3"], rng: np.random.Generator) -> tuple[list[Mask], int]:
    """Usable pixels of cells into which, and into whose neighbours, no point falls; and how many are usable."""
    some, far = xyz[some_of(len(xyz), COVERING, rng)], []
    for frame, usable in zip(photos.frames, photos.usable, strict=True):
        line, column = np.divmod(hits(frame.camera, some)[1], frame.camera.width_px)
        height, width = usable.shape
        cell_px = min(max(CELL_PX[0], height // ROWS), CELL_PX[1])
        hit = np.zeros((-(-height // cell_px) + 2, -(-width // cell_px) + 2), bool)
        hit[line // cell_px + 1, column // cell_px + 1] = True
        cells = np.lib.stride_tricks.sliding_window_view(hit, (3, 3)).any(axis=(2, 3))
        covered = cells.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[:height, :width]
        far.append(usable & ~covered)
    return far, sum(int(mask.sum()) for mask in photos.usable)


def joined(clouds: Sequence[Cloud]) -> Cloud:
    """One cloud of several, in order."""
    return np.concatenate([xyz for xyz, _ in clouds]), np.concatenate([rgb for _, rgb in clouds])


def some_of(total: int, count: int, rng: np.random.Generator) -> Int64[ndarray, "m"]:
    """Up to `count` of the first `total` numbers, in order."""
    return np.sort(rng.choice(total, count, replace=False)) if total > count else np.arange(total)
