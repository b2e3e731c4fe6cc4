"""Surfaces around a drive as its LiDAR senses them: a map that a vehicle keeps, a few points of it to be found by.

A LiDAR looks all around. So it sees the street of those who drive behind too, which a camera that looks ahead misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from geometry import Frame, Sim3
from recon.photos import Photos, hits
from recon.views import Ignore

NEAREST_M, FARTHEST_M = 2.0, 40.0  # of returns: nearer ones are the vehicle itself, farther ones are sparse
CELL_M: Final = 0.25  # points of one cell are one
FEWEST: Final = 2  # returns in a cell; a single one is as likely dust or an edge
NEIGHBOURS: Final = 12  # that say which way a surface faces
WIDEST_M: Final = 1.5  # in which these must lie
FLAT: Final = 0.05  # variance across a surface, over the lesser one along it
LINE: Final = 1e-6  # the lesser variance along a surface, over the larger one
LANDMARKS: Final = 2000  # that a vehicle sends


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """Points on surfaces, and unit normals.

    Args:
        xyz_m: metres.
        normals: of either sign.
    """

    xyz_m: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]

    def __len__(self) -> int:
        return len(self.xyz_m)

    @cached_property
    def tree(self) -> Any:
        """For nearest points (scipy's cKDTree)."""
        from scipy.spatial import cKDTree

        return cKDTree(self.xyz_m)

    def transformed(self, sim3: Sim3) -> "SurfaceMap":
        """The map in another world."""
        return SurfaceMap(sim3.apply(self.xyz_m), self.normals @ sim3.rotation.T)


def surface_map(frames: Sequence[Frame]) -> SurfaceMap | None:
    """What the LiDAR saw of surfaces, in the frames' world; None without LiDAR, or where it saw too little.

    Raises:
        ImportError: scipy is missing.
    """
    return _surfaces(np.concatenate([np.zeros((0, 3)), *(_returns(frame) for frame in frames)]))


def landmarks(
    frames: Sequence[Frame], *, count: int = LANDMARKS, seed: int = 0, ignore: Ignore | None = None
) -> Float32[ndarray, "k 3"]:
    """Points on surfaces for others to find in their own maps, in the frames' world and in no order.

    Only what shows in the image of the same moment, at pixels that count: what moves is left out where it is known.

    Args:
        frames: with or without LiDAR.
        count: the most points.
        seed: of which are taken.
        ignore: pixels that do not count.
    """
    with_lidar = [frame for frame in frames if frame.points_lidar is not None]
    if not with_lidar:
        return np.zeros((0, 3), np.float32)
    photos = Photos.of(with_lidar, ignore)
    shown = [_shown(frame, usable) for frame, usable in zip(with_lidar, photos.usable, strict=True)]
    found = _surfaces(np.concatenate(shown))
    if found is None:
        return np.zeros((0, 3), np.float32)
    rows = np.random.default_rng(seed).permutation(len(found))[:count]
    return found.xyz_m[rows].astype(np.float32)


def _returns(frame: Frame) -> Float[ndarray, "n 3"]:
    """In the world, without those too near or too far, or lost."""
    if frame.points_lidar is None:
        return np.zeros((0, 3))
    away_m = np.linalg.norm(frame.points_lidar[:, :3].astype(np.float64), axis=1)
    kept = frame.points_lidar[(away_m > NEAREST_M) & (away_m < FARTHEST_M)]
    return np.asarray(replace(frame, points_lidar=kept).points_world(), np.float64)


def _shown(frame: Frame, usable: ndarray) -> Float[ndarray, "n 3"]:
    xyz_m = _returns(frame)
    rows, places, _ = hits(frame.camera, xyz_m)
    return xyz_m[rows[usable.ravel()[places]]]


def _surfaces(xyz_m: Float[ndarray, "n 3"]) -> SurfaceMap | None:
    """One point a cell, where its neighbours lie in a plane."""
    from scipy.spatial import cKDTree

    points = _thinned(xyz_m)
    if len(points) < NEIGHBOURS:
        return None
    away_m, rows = cKDTree(points).query(points, k=NEIGHBOURS)
    around = points[rows] - points[rows].mean(axis=1, keepdims=True)
    variances, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    wide = variances[:, 1] > LINE * variances[:, 2]  # on a line, rounding decides over the normal
    flat = wide & (variances[:, 0] < FLAT * variances[:, 1]) & (away_m[:, -1] < WIDEST_M)
    return SurfaceMap(points[flat], axes[flat, :, 0]) if flat.any() else None


def _thinned(xyz_m: Float[ndarray, "n 3"]) -> Float[ndarray, "m 3"]:
    """Means of cells that hold several points."""
    if not len(xyz_m):
        return xyz_m
    cells = np.floor((xyz_m - xyz_m.min(axis=0)) / CELL_M).astype(np.int64)
    sides = cells.max(axis=0) + 1
    _, cell, counts = np.unique(
        np.ravel_multi_index(tuple(cells.T), tuple(sides)), return_inverse=True, return_counts=True
    )
    sums = np.stack([np.bincount(cell, column, len(counts)) for column in xyz_m.T], axis=1)
    return (sums / counts[:, None])[counts >= FEWEST]
