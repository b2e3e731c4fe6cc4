"""Procedural albedo, gloss and glow of surfaces: asphalt with markings, paving, grass, roofs, leaves, paint, lamps."""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from perception.datasets.town.buildings import Facades
from perception.datasets.town.facades import paint_facade
from perception.datasets.town.layout import HALF_ROAD_M, LANE_M, STOP_LINE_M, Layout
from perception.datasets.town.light import Light
from perception.datasets.town.mesh import Surface
from perception.datasets.town.points import Albedo, Canvas, Picked, Points, grain, hashed, near_by


def textured(points: Points, facades: Facades, layout: Layout, light: Light) -> Albedo:
    """Albedo of points by the kind of surface."""
    glow = np.zeros_like(points.rgb) if light.lamps else None
    albedo = Albedo(points.rgb, _GLOSS.take(points.surface), glow)
    for kind, paint in _PAINTERS.items():
        chosen = np.flatnonzero(points.surface == kind)
        if len(chosen):
            paint(Picked(points, chosen), Canvas(albedo, chosen, facades, layout, light))
    return albedo


def _road(points: Picked, canvas: Canvas) -> None:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    near = near_by(points, 30.0)
    tone = 0.55 + 0.5 * grain(x, y, 0.11) + (grain(y, x, 0.013) - 0.5) * 0.9 * near
    rgb = points.rgb * tone[:, None]
    dx, dy = _to_axis(x, canvas.layout.xs_m), _to_axis(y, canvas.layout.ys_m)
    paint = np.flatnonzero(_markings(np.abs(dx), np.abs(dy), y) | _markings(np.abs(dy), np.abs(dx), x))
    worn = grain(x[paint], y[paint], 0.03)
    rgb[paint] = (0.42 + 0.4 * np.clip(1.6 * worn - 0.3, 0, 1))[:, None] * np.float32(0.95)
    rain = np.float32(canvas.light.config.rain)
    puddles = np.clip(4 * grain(x + 50, y, 0.06) - 1.6, 0.15, 1)
    canvas.put(rgb * (1 - np.float32(0.45) * rain), puddles * (np.float32(0.6) * rain))


def _to_axis(value: Float32[ndarray, "n"], axes: ndarray) -> Float32[ndarray, "n"]:
    """Signed distance to the nearest of some parallel axes."""
    middle = (axes[1:] + axes[:-1]) / 2
    return value - axes.astype(np.float32)[np.searchsorted(middle, value)]


def _markings(
    across: Float32[ndarray, "n"], to_junction: Float32[ndarray, "n"], along: Float32[ndarray, "n"]
) -> Bool[ndarray, "n"]:
    """Paint of a street at distance `across` from its axis and `to_junction` from the crossing street's axis."""
    street = (to_junction > HALF_ROAD_M + 0.3) & (across < HALF_ROAD_M)
    found = np.zeros(len(across), bool)
    at = np.flatnonzero(street)
    a, j, s = across[at], to_junction[at], along[at]
    zebra = (j < HALF_ROAD_M + 3.1) & (np.mod(a + 0.25, 1.0) < 0.5) & (a < HALF_ROAD_M - 0.3)
    lines = ((a < 0.08) & (np.mod(s, 6.0) < 3.3)) | (np.abs(a - LANE_M) < 0.06)
    stop = (np.abs(j - STOP_LINE_M) < 0.2) & (a < LANE_M)
    found[at] = zebra | (lines & (j > STOP_LINE_M + 0.5)) | stop
    return found


def _pavement(points: Picked, canvas: Canvas) -> None:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    seam = (np.mod(x, 0.6) < 0.04) | (np.mod(y, 0.6) < 0.04)
    tile = hashed(np.floor(x / 0.6).astype(np.int32), np.floor(y / 0.6).astype(np.int32))
    near = near_by(points, 18.0)
    tone = 0.7 + 0.35 * (tile - 0.5) * near + 0.6 * grain(x, y, 0.05) - seam * near * 0.4
    kerb = points.normal[:, 2] < 0.5
    rgb = points.rgb * np.where(kerb, np.float32(1.25), tone)[:, None]
    rain = np.float32(canvas.light.config.rain)
    canvas.put(rgb * (1 - 0.35 * float(rain)), 0.35 * float(rain))


def _lawn(points: Picked, canvas: Canvas) -> None:
    x, y = points.position_m[:, 0], points.position_m[:, 1]
    tone = 0.25 + 1.1 * grain(x, y, 0.2) + 1.1 * (grain(y, x, 0.02) - 0.5) * near_by(points, 30.0)
    canvas.put(points.rgb * np.clip(tone, 0.1, None)[:, None])


def _roof(points: Picked, canvas: Canvas) -> None:
    x, y, z = points.position_m.T
    course = (np.mod(z, 0.28) < 0.07) * near_by(points, 45.0)
    tone = 0.75 - 0.35 * course + 0.6 * grain(x + z, y, 0.06)
    canvas.put(points.rgb * tone[:, None])


def _foliage(points: Picked, canvas: Canvas) -> None:
    x, y, z = points.position_m.T
    fine = (grain(x + z, y - z, 0.025) - 0.5) * near_by(points, 35.0)
    tone = 0.35 + 1.1 * grain(x + 0.7 * z, y + 0.6 * z, 0.09) + 1.5 * fine
    canvas.put(points.rgb * np.clip(tone, 0.12, None)[:, None])


def _fence(points: Picked, canvas: Canvas) -> None:
    along = points.position_m[:, 0] + points.position_m[:, 1]
    gap = (np.mod(along, 0.3) < 0.08) * near_by(points, 30.0)
    tone = (1 - 0.75 * gap) * (0.7 + 0.6 * grain(along, points.position_m[:, 2], 0.03))
    canvas.put(points.rgb * tone[:, None])


def _cloth(points: Picked, canvas: Canvas) -> None:
    tone = 0.7 + 0.6 * grain(points.position_m[:, 0] + points.position_m[:, 1], points.position_m[:, 2], 0.02)
    canvas.put(points.rgb * tone[:, None])


def _lamp(points: Picked, canvas: Canvas) -> None:
    canvas.put(points.rgb, 0.3, points.rgb * np.float32(6.0))


_PAINTERS: Final[dict[Surface, Callable[[Picked, Canvas], None]]] = {
    Surface.PLAIN: _cloth,
    Surface.ROAD: _road,
    Surface.PAVEMENT: _pavement,
    Surface.LAWN: _lawn,
    Surface.FACADE: paint_facade,
    Surface.ROOF: _roof,
    Surface.FOLIAGE: _foliage,
    Surface.FENCE: _fence,
    Surface.LAMP: _lamp,
}
_GLOSS: Final = np.zeros(len(Surface), np.float32)
_GLOSS[Surface.PAINT], _GLOSS[Surface.GLASS] = 0.8, 1.0
