"""Points on surfaces that are to be coloured, where their colour goes, and the noise that it is made of."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8
from numpy import ndarray

from perception.datasets.town.buildings import Facades
from perception.datasets.town.layout import Layout
from perception.datasets.town.light import Light

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


class Picked:
    """Some of the points: the fields of `Points`, each taken when it is first asked for."""

    def __init__(self, points: Points, at: Shaped[ndarray, "k"]) -> None:
        self._points, self._at = points, at

    def __getattr__(self, name: str) -> Shaped[ndarray, "k ..."]:
        values = getattr(self._points, name).take(self._at, axis=0)
        self.__dict__[name] = values
        return values


@dataclass(frozen=True, eq=False)
class Albedo:
    """What a surface does with light: the share it scatters by colour, how much it mirrors (0..1), what it emits.

    Nothing has a `glow` by day.
    """

    rgb: Float32[ndarray, "n 3"]
    gloss: Float32[ndarray, "n"]
    glow: Float32[ndarray, "n 3"] | None


@dataclass(frozen=True, eq=False)
class Canvas:
    """Where a painter puts its result, and what it may look at."""

    albedo: Albedo
    where: Shaped[ndarray, "k"]
    facades: Facades
    layout: Layout
    light: Light

    def put(
        self,
        rgb: Float32[ndarray, "k 3"],
        gloss: Float32[ndarray, "k"] | float = 0.0,
        glow: Float32[ndarray, "k 3"] | None = None,
    ) -> None:
        """Set the albedo of this painter's points."""
        self.albedo.rgb[self.where] = rgb
        self.albedo.gloss[self.where] = gloss
        if glow is not None and self.albedo.glow is not None:
            self.albedo.glow[self.where] = glow


_GRAIN_CELLS: Final = 1024


@cache
def _grain() -> Float32[ndarray, "g g"]:
    """A tile of noise with grains of all sizes, in 0..1: white noise whose spectrum falls with frequency."""
    white = np.fft.rfft2(np.random.default_rng(2).standard_normal((_GRAIN_CELLS, _GRAIN_CELLS)))
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(_GRAIN_CELLS), np.fft.fftfreq(_GRAIN_CELLS)))
    tile = np.fft.irfft2(white / np.maximum(frequency, 3 / _GRAIN_CELLS) ** 0.85)
    return np.clip(0.5 + tile / (5.5 * tile.std()), 0, 1).astype(np.float32)


def grain(x: Float32[ndarray, "n"], y: Float32[ndarray, "n"], cell_m: float) -> Float32[ndarray, "n"]:
    """Noise in 0..1 with a mean of 0.5, its finest grains `cell_m` wide; it repeats after 1024 of them."""
    per_m, mask = np.float32(1 / cell_m), np.int32(_GRAIN_CELLS - 1)
    i = np.floor(x * per_m).astype(np.int32) & mask
    j = np.floor(y * per_m).astype(np.int32) & mask
    return _grain().ravel().take(i * np.int32(_GRAIN_CELLS) + j)


_ONES: Final = np.ones(3, np.float32)


def dots(a: Float32[ndarray, "n 3"], b: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n"]:
    """Inner products of rows (four times as fast as einsum)."""
    return (a * b) @ _ONES


def unit(vectors: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 3"]:
    """Rows scaled to length 1; zeros stay."""
    return vectors / np.maximum(np.sqrt(dots(vectors, vectors)), np.float32(1e-12))[:, None]


def hashed(*keys: Int32[ndarray, "n"]) -> Float32[ndarray, "n"]:
    """A number in 0..1 for a tuple of integers."""
    total = np.zeros(len(keys[0]), np.uint32)
    for key, factor in zip(keys, (73856093, 19349663, 83492791), strict=False):
        total ^= key.astype(np.uint32) * np.uint32(factor)
    total = (total ^ (total >> np.uint32(13))) * np.uint32(1274126177)
    return ((total >> np.uint32(8)) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65535)


def lattice(position_m: Float32[ndarray, "n 3"], cell_m: float) -> Float32[ndarray, "n"]:
    """A number in 0..1 for each cubic cell of a lattice that is askew to everything."""
    i, j, k = np.floor(np.einsum("ij,nj->in", _SKEW, position_m) / np.float32(cell_m)).astype(np.int32)
    return hashed(i, j, k)


def near_by(points: Picked, scale_m: float) -> Float32[ndarray, "n"]:
    """1 near the viewer, falling to 0: how much of a fine texture is still resolved."""
    return np.clip(1.3 - points.distance_m / scale_m, 0, 1)
