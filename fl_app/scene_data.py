"""From a data set to what a scene is fitted to and judged by: which frames, which pixels, which points."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy import ndarray

from geometry import Frame
from perception.datasets.base import DataError, FrameSubset
from perception.datasets.folder import open_dataset
from perception.resize import KeptFrames
from perception.transients import transient_pixels
from recon.views import Views

SMALLEST_PX = 6  # that a side of an image may have


@dataclass(frozen=True)
class Selection:
    """Which frames of a data set are used, and how.

    Args:
        first: number of the first frame.
        frames: at most so many; 0 takes all.
        apart_m: frames nearer than this to the one before are left out: a vehicle that waits sees nothing new.
        holdout: every so many frames one is kept for judging; 0 keeps none.
        longest_side_px: larger images are made smaller; 0 keeps their size.
        keep_moving: learn vehicles and people too.
    """

    first: int = 0
    frames: int = 0
    apart_m: float = 0.0
    holdout: int = 8
    longest_side_px: int = 0
    keep_moving: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.apart_m):
            raise DataError(f"--apart-m must be a number of metres, got {self.apart_m}")


@dataclass(frozen=True)
class SceneData:
    """Frames to learn from and to judge by.

    Args:
        name: of the data set.
        train, test: frames with images; test may be empty.
        known: points and colours that came with the data, or None.
        selection: what was asked for.
        place: where it came from, in words.
        missing: what the data set says that it lacks.
    """

    name: str
    train: Sequence[Frame]
    test: Sequence[Frame]
    known: tuple[ndarray, ndarray] | None
    selection: Selection
    place: str = ""
    missing: tuple[str, ...] = ()

    @property
    def ignore(self) -> Callable[[Frame], ndarray | None] | None:
        """Pixels that do not count."""
        return None if self.selection.keep_moving else transient_pixels

    def learned(self, *, with_depth: bool = True, cache_bytes: int = 1 << 30) -> Views:
        """What is learned from; depth is what a LiDAR sensed, where there is one."""
        options: dict[str, Any] = {"ignore": self.ignore, "cache_bytes": cache_bytes}
        return Views(self.train, with_depth=with_depth, lidar_first=True, **options)

    def judged(self, frames: Sequence[Frame] | None = None) -> Views:
        """What is judged by, the test frames by default; depth is the best that is known."""
        return Views(self.test if frames is None else frames, ignore=self.ignore, with_depth=True)

    def describe(self) -> str:
        """In words, the same for the same data."""
        return f"{self.place or self.name}: {len(self.train)} + {len(self.test)} frames, {self.selection}"


def open_scene(path: str, selection: Selection, cache_bytes: int = 1 << 29) -> SceneData:
    """The frames of a data set that a selection picks; `cache_bytes` of them are kept in memory.

    Raises:
        DataError: no such data, no poses, or no frames left.
    """
    dataset = open_dataset(path)
    if not getattr(dataset, "posed", True):
        raise DataError(f"{path}: its frames have no poses in one world; a scene needs them (COLMAP finds them)")
    points, rgb = getattr(dataset, "points_world", None), getattr(dataset, "point_rgb", None)
    known = None if points is None or rgb is None or not len(points) else (np.asarray(points), np.asarray(rgb))
    scene = split_frames(cast(Sequence[Frame], dataset), dataset.name, known, selection, cache_bytes)
    place = str(Path(path).resolve()) if Path(path).exists() else path
    return replace(scene, place=place, missing=tuple(getattr(dataset, "missing", ())))


def split_frames(
    frames: Sequence[Frame],
    name: str,
    known: tuple[ndarray, ndarray] | None,
    selection: Selection,
    cache_bytes: int = 1 << 29,
) -> SceneData:
    """`open_scene` of frames at hand.

    Raises:
        DataError: no frames left.
    """
    kept = KeptFrames(frames, selection.longest_side_px, cache_bytes)
    chosen = _spaced(kept, selection)
    if not chosen:
        raise DataError(f"{name}: no frames with an image from number {selection.first} on; it has {len(frames)}")
    small = min(min(kept[index].camera.height_px, kept[index].camera.width_px) for index in chosen[:1])
    if small < SMALLEST_PX:
        raise DataError(f"{name}: images have a side of {small} px, want {SMALLEST_PX} or more; see --longest-side")
    held_out = set(chosen[selection.holdout // 2 :: selection.holdout]) if selection.holdout else set[int]()
    train = FrameSubset(kept, [index for index in chosen if index not in held_out])
    if not len(train):
        raise DataError(f"{name}: all {len(chosen)} frames are held out; choose a larger holdout, or 0 for none")
    return SceneData(name, train, FrameSubset(kept, sorted(held_out)), known, selection)


def _spaced(frames: Sequence[Frame], selection: Selection) -> list[int]:
    """The first frames that have an image and lie far enough from the one before."""
    chosen: list[int] = []
    last_m = np.full(3, np.inf)
    for index in range(selection.first, len(frames)):
        if selection.frames and len(chosen) == selection.frames:
            break
        frame = frames[index]
        centre_m = frame.camera.world_from_cam.translation_m
        if frame.image is not None and not np.linalg.norm(centre_m - last_m) < selection.apart_m:
            chosen.append(index)
            last_m = centre_m
    return chosen
