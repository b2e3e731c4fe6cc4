"""Procedural albedo of surfaces: asphalt with markings, paving, grass, facades, roofs, leaves."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy import ndarray

from perception.datasets.town.buildings import Facades
from perception.datasets.town.layout import HALF_ROAD_M, KERB_M, LANE_M, Layout
from perception.datasets.town.mesh import Surface

_SKEW: Final = np.array([[0.6, 0.64, 0.48], [-0.8, 0.48, 0.36], [0.0, -0.6, 0.8]], np.float32)


@dataclass(frozen=True, eq=False)
class Points:
    """Surface points to be coloured.

    Args:
        position_m: float32 [n, 3].
        normal: unit, towards the viewer, float32 [n, 3].
        ray: unit vector from the viewer, float32 [n, 3].
        distance_m: from the viewer, float32 [n].
        surface, rgb, owner: attributes of the triangles hit, as in `Mesh`.
    """

    position_m: Float32[ndarray, "n 3"]
    normal: Float32[ndarray, "n 3"]
    ray: Float32[ndarray, "n 3"]
    distance_m: Float32[ndarray, "n"]
    surface: UInt8[ndarray, "n"]
    rgb: Float32[ndarray, "n 3"]
    owner: Int32[ndarray, "n"]

    def where(self, mask: Bool[ndarray, "n"]) -> "Points":
        """The points that a mask picks."""
        picked = np.flatnonzero(mask)
        return Points(*(getattr(self, name).take(picked, axis=0) for name in self.__dataclass_fields__))


def textured(points: Points, facades: Facades, layout: Layout) -> Float32[ndarray, "n 3"]:
    """Albedo [n, 3] of points by the kind of surface."""
    albedo = points.rgb.copy()
    painters = {
        Surface.ROAD: lambda p: _road(p, layout),
        Surface.PAVEMENT: _pavement,
        Surface.LAWN: _lawn,
        Surface.FACADE: lambda p: _facade(p, facades),
        Surface.ROOF: _roof,
        Surface.FOLIAGE: _foliage,
        Surface.FENCE: _fence,
    }
    for surface, paint in painters.items():
        mask = points.surface == surface
        if mask.any():
            albedo[mask] = paint(points.where(mask))
    return albedo


@cache
def _noise_table() -> Float32[ndarray, "256 256"]:
    """Smooth noise that tiles, in 0..1: a random grid of 64 x 64 enlarged by linear interpolation."""
    grid = np.random.default_rng(2).random((64, 64)).astype(np.float32)
    k = np.arange(256) / 4
    low, share = k.astype(int) % 64, (k % 1).astype(np.float32)
    rows = grid[low] * (1 - share)[:, None] + grid[(low + 1) % 64] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, (low + 1) % 64] * share


def noise(x: Float32[ndarray, "n"], y: Float32[ndarray, "n"], per_m: float) -> Float32[ndarray, "n"]:
    """Value noise in 0..1 with about `per_m` grains a metre."""
    i = np.floor(x * (4 * per_m)).astype(np.int64) & 255
    j = np.floor(y * (4 * per_m)).astype(np.int64) & 255
    return _noise_table()[i, j]


def _hash(*keys: Int32[ndarray, "n"]) -> Float32[ndarray, "n"]:
    """A number in 0..1 for a tuple of integers."""
    total = np.zeros(len(keys[0]), np.uint32)
    for key, factor in zip(keys, (73856093, 19349663, 83492791), strict=False):
        total ^= key.astype(np.uint32) * np.uint32(factor)
    total = (total ^ (total >> np.uint32(13))) * np.uint32(1274126177)
    return ((total >> np.uint32(8)) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65535)


def lattice(position_m: Float32[ndarray, "n 3"], cell_m: float) -> Float32[ndarray, "n"]:
    """A number in 0..1 for each cubic cell of a lattice that is askew to everything."""
    i, j, k = np.floor(np.einsum("ij,nj->in", _SKEW, position_m) / np.float32(cell_m)).astype(np.int32)
    return _hash(i, j, k)


def _near(points: Points, scale_m: float) -> Float32[ndarray, "n"]:
    """1 near the viewer, falling to 0: how much of a fine texture is still resolved."""
    return np.clip(1.3 - points.distance_m / scale_m, 0, 1)


def _road(points: Points, layout: Layout) -> Float32[ndarray, "n 3"]:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    grain = 0.75 + 0.25 * noise(x, y, 0.35) + 0.35 * (noise(x, y, 4.0) - 0.5) * _near(points, 25.0)
    albedo = points.rgb * grain[:, None]
    dx, dy = _to_axis(x, layout.xs_m), _to_axis(y, layout.ys_m)
    paint = _markings(np.abs(dx), np.abs(dy), y) | _markings(np.abs(dy), np.abs(dx), x)
    albedo[paint] = 0.62 + 0.12 * noise(x[paint], y[paint], 2.0)[:, None]
    return albedo


def _to_axis(value: Float32[ndarray, "n"], axes: ndarray) -> Float32[ndarray, "n"]:
    """Signed distance to the nearest of some parallel axes."""
    middle = (axes[1:] + axes[:-1]) / 2
    return value - axes[np.searchsorted(middle, value)].astype(np.float32)


def _markings(
    across: Float32[ndarray, "n"], to_junction: Float32[ndarray, "n"], along: Float32[ndarray, "n"]
) -> Bool[ndarray, "n"]:
    """Paint of a street at distance `across` from its axis and `to_junction` from the crossing street's axis."""
    street = to_junction > HALF_ROAD_M + 0.3
    zebra = (to_junction < HALF_ROAD_M + 3.1) & (np.mod(across + 0.25, 1.0) < 0.5) & (across < HALF_ROAD_M - 0.3)
    open_road = to_junction > HALF_ROAD_M + 4.5
    centre = (across < 0.08) & (np.mod(along, 6.0) < 3.3) & open_road
    edge = (np.abs(across - LANE_M) < 0.06) & open_road
    stop = (np.abs(to_junction - HALF_ROAD_M - 4.0) < 0.2) & (across < LANE_M)
    return street & (zebra | centre | edge | stop)


def _pavement(points: Points) -> Float32[ndarray, "n 3"]:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    seam = (np.mod(x, 0.9) < 0.05) | (np.mod(y, 0.9) < 0.05)
    tile = _hash(np.floor(x / 0.9).astype(np.int32), np.floor(y / 0.9).astype(np.int32))
    near = _near(points, 16.0)
    tone = 0.9 + 0.2 * (tile - 0.5) * near + 0.18 * (noise(x, y, 0.5) - 0.5) - 0.3 * seam * near
    kerb = points.normal[:, 2] < 0.5
    return points.rgb * np.where(kerb, 1.25, tone)[:, None].astype(np.float32)


def _lawn(points: Points) -> Float32[ndarray, "n 3"]:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    tone = 0.6 + 0.5 * noise(x, y, 0.25) + 0.5 * (noise(x, y, 3.0) - 0.5) * _near(points, 30.0)
    return points.rgb * tone[:, None]


def _roof(points: Points) -> Float32[ndarray, "n 3"]:
    x, y, z = points.position_m.T
    course = (np.mod(z, 0.35) < 0.09) * _near(points, 40.0)
    tone = 1 - 0.35 * course + 0.3 * (noise(x, y, 1.0) - 0.5)
    return points.rgb * tone[:, None]


def _foliage(points: Points) -> Float32[ndarray, "n 3"]:
    fine = (lattice(points.position_m, 0.09) - 0.5) * _near(points, 20.0)
    tone = 0.72 + 0.4 * (lattice(points.position_m, 0.37) - 0.5) + 0.5 * (lattice(points.position_m, 0.19) - 0.5)
    return points.rgb * np.clip(tone + 0.7 * fine, 0.15, None)[:, None]


def _fence(points: Points) -> Float32[ndarray, "n 3"]:
    along = points.position_m[:, 0] + points.position_m[:, 1]
    gap = (np.mod(along, 0.3) < 0.08) * _near(points, 22.0)
    return points.rgb * (1 - 0.75 * gap)[:, None]


def _facade(points: Points, facades: Facades) -> Float32[ndarray, "n 3"]:
    """Windows in bays and floors, a door or shop windows at street level, brick courses, a plinth."""
    b = points.owner
    on_x = np.abs(points.normal[:, 1]) > np.abs(points.normal[:, 0])
    axis = np.where(on_x, 0, 1)
    n = np.arange(len(b))
    u = (points.position_m[n, axis] - facades.origin_m[b, axis]) / facades.bay_m[b, axis]
    z = points.position_m[:, 2] - KERB_M
    v = z / facades.floor_m[b]
    bay, floor = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = np.abs(u - bay - 0.5), v - floor
    below_roof = z < facades.height_m[b]
    street, shop = floor == 0, facades.shop[b] > 0.5
    in_window = (fu < facades.window[b, 0] / 2) & (np.abs(fv - 0.55) < facades.window[b, 1] / 2)
    in_frame = (fu < facades.window[b, 0] / 2 + 0.05) & (np.abs(fv - 0.55) < facades.window[b, 1] / 2 + 0.05)
    shop_front = street & shop & (fv > 0.12) & (fv < 0.78) & (fu < 0.44)
    door = street & ~shop & (_hash(bay, b) < 0.3) & (fv < 0.7) & (fu < 0.2)
    course = (np.mod(z, 0.3) < 0.07) & (facades.brick[b] > 0.5)
    tone = 0.92 + 0.16 * noise(u, z, 0.6) - 0.22 * course * _near(points, 30.0) - 0.2 * (z < 0.45)
    albedo = points.rgb * tone[:, None]
    frame = below_roof & in_frame & ~(street & shop)
    albedo = np.where(frame[:, None], facades.trim[b], albedo)
    sign_board = street & shop & (fv > 0.8)
    albedo = np.where(sign_board[:, None], facades.door[b] * 1.6, albedo)
    glass = (below_roof & in_window & ~(street & shop)) | shop_front
    dark = 0.035 + 0.09 * _hash(bay, floor, b) + 0.1 * np.clip(fv - 0.3, 0, 1)
    tint = np.stack([dark * 0.85, dark, dark * 1.15], axis=1)
    albedo = np.where(glass[:, None], tint, albedo)
    return np.where(door[:, None], facades.door[b], albedo).astype(np.float32)
