"""Points of the scene with the colours that the camera sees them in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from geometry import Camera, Frame
from perception.datasets.export.writing import cloud_of

VOXEL_M: Final = 0.1
DEPTH_STEP_PX: Final = 4
HIDDEN_BY_M: Final = 0.2
HIDDEN_BY_SHARE: Final = 0.02


@dataclass(frozen=True, eq=False)
class SeenPoints:
    """Points that lie in one image.

    Args:
        world_m: positions, [n, 3].
        image_px: where they project to, [n, 2].
        rgb: the colour of that pixel, [n, 3].
    """

    world_m: Float[ndarray, "n 3"]
    image_px: Float[ndarray, "n 2"]
    rgb: UInt8[ndarray, "n 3"]

    def __len__(self) -> int:
        return len(self.world_m)

    def select(self, keep: Bool[ndarray, "n"]) -> "SeenPoints":
        """The points that a mask picks."""
        return SeenPoints(self.world_m[keep], self.image_px[keep], self.rgb[keep])


def seen_points(frame: Frame, image: UInt8[ndarray, "h w 3"]) -> SeenPoints | None:
    """LiDAR points in the image, else every fourth pixel's depth in both directions; None without either.

    LiDAR points more than 0.2 m + 2 % behind the frame's depth, where it has one, are hidden and left out.

    Raises:
        DataError: the points are not finite.
    """
    if cloud_of(frame) is not None:
        world_m = frame.points_world()
    elif frame.depth_m is not None:
        world_m = _from_depth(frame.depth_m, frame.camera)
    else:
        return None
    image_px, depth_m = frame.camera.project(world_m)
    inside = (depth_m > 0) & (image_px >= 0).all(axis=1) & (image_px < [image.shape[1], image.shape[0]]).all(axis=1)
    world_m, image_px, depth_m = world_m[inside], image_px[inside], depth_m[inside]
    columns, rows = np.floor(image_px).astype(np.int64).T
    if frame.depth_m is not None:
        limit_m = frame.depth_m[rows, columns].astype(np.float64) * (1 + HIDDEN_BY_SHARE) + HIDDEN_BY_M
        shown = depth_m <= limit_m
        world_m, image_px, rows, columns = world_m[shown], image_px[shown], rows[shown], columns[shown]
    return SeenPoints(world_m, image_px, image[rows, columns])


def _from_depth(depth_m: Float[ndarray, "h w"], camera: Camera) -> Float[ndarray, "n 3"]:
    origin, directions = camera.rays_world()
    every = slice(DEPTH_STEP_PX // 2, None, DEPTH_STEP_PX)
    depth = depth_m[every, every].astype(np.float64)
    hit = np.isfinite(depth) & (depth > 0)
    return origin + directions[every, every][hit] * depth[hit][:, None]


class Thinning:
    """Keeps the first point in each cube of `side_m`, over any number of calls."""

    def __init__(self, side_m: float = VOXEL_M) -> None:
        self._side_m = side_m
        self._taken: set[bytes] = set()

    def keep(self, world_m: Float[ndarray, "n 3"]) -> Bool[ndarray, "n"]:
        """Which points lie in cubes that held none before."""
        cells = np.ascontiguousarray(np.floor(world_m / self._side_m).astype(np.int64))
        kept = np.zeros(len(cells), dtype=bool)
        for place, cell in enumerate(cells):
            key = cell.tobytes()
            if key not in self._taken:
                self._taken.add(key)
                kept[place] = True
        return kept


def save_ply(path: Path, world_m: Float[ndarray, "n 3"], rgb: UInt8[ndarray, "n 3"]) -> None:
    """A binary PLY of coloured points.

    Raises:
        OSError: it cannot be written.
    """
    layout = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(world_m), dtype=layout)
    for place, name in enumerate("xyz"):
        rows[name] = world_m[:, place]
    for place, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, place]
    names = "".join(f"property {'float' if kind == '<f4' else 'uchar'} {name}\n" for name, kind in layout)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{names}end_header\n"
    path.write_bytes(header.encode() + rows.tobytes())
