"""Light at night: street lamps as a map of what they throw on the ground, and the viewer's headlights."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from perception.datasets.town.points import dots

_LAMP_RGB: Final = np.array([1.0, 0.72, 0.38], np.float32)
_LAMP_POWER: Final = 22.0
_LAMP_REACH_M: Final = 26.0
_CELL_M: Final = 1.0
_HEADLIGHT_RGB: Final = np.array([1.0, 0.95, 0.85], np.float32)
_HEADLIGHT_POWER: Final = 90.0


@dataclass(frozen=True, eq=False)
class StreetLamps:
    """Lamps and the ground that they light.

    Args:
        heads_m: x y z of each lamp, [k, 3].
    """

    heads_m: Float[ndarray, "k 3"]

    @cached_property
    def _map(self) -> tuple[Float[ndarray, "2"], Float32[ndarray, "i j"]]:
        """South-west corner, and light on level ground in cells of a metre: power x cosine / squared distance."""
        if not len(self.heads_m):
            return np.zeros(2), np.zeros((1, 1), np.float32)
        low = self.heads_m[:, :2].min(axis=0) - _LAMP_REACH_M
        size = np.ceil((self.heads_m[:, :2].max(axis=0) + _LAMP_REACH_M - low) / _CELL_M).astype(int) + 1
        light = np.zeros(size, np.float32)
        r = int(_LAMP_REACH_M / _CELL_M)
        window = np.arange(-r, r + 1)
        for x, y, z in self.heads_m:
            i, j = ((np.array([x, y]) - low) / _CELL_M).astype(int)
            di, dj = np.meshgrid(window, window, indexing="ij")
            squared = (di**2 + dj**2) * _CELL_M**2 + z**2
            spot = _LAMP_POWER * z / squared**1.5
            rows, columns = slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1)
            cut = spot[rows.start - i + r :, columns.start - j + r :][: size[0] - rows.start, : size[1] - columns.start]
            light[rows, columns] += cut[: light[rows, columns].shape[0], : light[rows, columns].shape[1]]
        return low, light

    def on(self, position_m: Float32[ndarray, "n 3"], normal: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 3"]:
        """Light that arrives at surfaces: the map's below the lamps, fading above them, half of it on upright faces."""
        low, light = self._map
        cell = ((position_m[:, :2] - low.astype(np.float32)) / np.float32(_CELL_M)).astype(np.int32)
        inside = (cell >= 0).all(axis=1) & (cell < light.shape).all(axis=1)
        cell[~inside] = 0
        level = light[cell[:, 0], cell[:, 1]] * inside
        level *= np.clip(np.float32(1.6) - position_m[:, 2] / np.float32(7), 0, 1)
        return (level * (np.float32(0.55) + np.float32(0.45) * normal[:, 2]))[:, None] * _LAMP_RGB


@dataclass(frozen=True, eq=False)
class Headlight:
    """The viewer's own lamps: a cone of dipped light from one point ahead of the camera.

    Args:
        origin_m, forward: where it is and where it shines, [3].
        power: 0 for none.
    """

    origin_m: Float32[ndarray, "3"]
    forward: Float32[ndarray, "3"]
    power: float = _HEADLIGHT_POWER

    def on(self, position_m: Float32[ndarray, "n 3"], normal: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 3"]:
        """Light that arrives at surfaces: power x cone x cosine / squared distance, without shadows."""
        away = position_m - self.origin_m
        squared = dots(away, away) + np.float32(4)
        distance = np.sqrt(squared)
        cone = np.clip(away @ self.forward / distance, 0, 1) ** 14
        dipped = np.clip(np.float32(1) - away[:, 2] / (np.float32(0.12) * distance), np.float32(0.08), 1)
        facing = np.clip(-dots(away, normal) / distance, np.float32(0.02), 1)
        return (np.float32(self.power) * cone * dipped * facing / squared)[:, None] * _HEADLIGHT_RGB
