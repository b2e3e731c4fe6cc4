"""Buildings along the streets, and the numbers from which their facades are drawn."""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from perception.datasets.town.layout import KERB_M, PAVEMENT_M, Block, Layout, Style
from perception.datasets.town.mesh import Coat, Mesh, Surface, box, gable
from perception.labels import SEGMENT_ID

BUILDING: Final = SEGMENT_ID["building"]
DEEPEST_M: Final = 11.0

_WALLS: Final = np.array(
    [[0.62, 0.55, 0.44], [0.55, 0.3, 0.2], [0.42, 0.17, 0.11], [0.7, 0.66, 0.58], [0.5, 0.48, 0.46], [0.66, 0.5, 0.27],
     [0.36, 0.42, 0.47], [0.6, 0.4, 0.33], [0.45, 0.47, 0.36], [0.3, 0.24, 0.2], [0.72, 0.6, 0.5]]
)  # fmt: skip
_TRIMS: Final = np.array([[0.8, 0.78, 0.72], [0.3, 0.2, 0.13], [0.2, 0.22, 0.24], [0.65, 0.62, 0.55]])
_DOORS: Final = np.array([[0.3, 0.07, 0.05], [0.06, 0.16, 0.1], [0.07, 0.1, 0.24], [0.25, 0.15, 0.08], [0.1, 0.1, 0.1]])
_TILES: Final = np.array([[0.35, 0.13, 0.08], [0.22, 0.1, 0.08], [0.13, 0.13, 0.15], [0.3, 0.2, 0.14]])


@dataclass(frozen=True, eq=False)
class Facades:
    """What shading needs to know of each building, [b] or [b, 3] float32; lengths in metres, colours linear RGB.

    A `number` tells a building from all others of its town, whichever blocks are built.
    """

    number: Float32[ndarray, "b"]
    origin_m: Float32[ndarray, "b 2"]
    floor_m: Float32[ndarray, "b"]
    bay_m: Float32[ndarray, "b 2"]
    window: Float32[ndarray, "b 2"]
    height_m: Float32[ndarray, "b"]
    brick: Float32[ndarray, "b"]
    shop: Float32[ndarray, "b"]
    trim: Float32[ndarray, "b 3"]
    door: Float32[ndarray, "b 3"]


@dataclass(frozen=True)
class Plot:
    """A building's rectangle on the ground and the axis along its street."""

    centre_m: tuple[float, float]
    size_m: tuple[float, float]
    along_x: bool


def build(
    layout: Layout, block: Block, first: int, rng: np.random.Generator
) -> tuple[list[Mesh], list[dict], list[Plot]]:
    """A block's buildings, the rows of their facades, and their plots; the first is building number `first`."""
    meshes: list[Mesh] = []
    rows: list[dict[str, object]] = []
    plots = [plot for side in block.sides for plot in _row(layout, block, side, rng)]
    for plot in plots:
        parts, row = _building(plot, layout.style_at(*plot.centre_m), first + len(rows), rng)
        meshes += parts
        rows.append(row)
    return meshes, rows, plots


def facades_of(rows: list[dict]) -> Facades:
    """Rows of buildings as columns."""
    shapes = {"origin_m": 2, "bay_m": 2, "window": 2, "trim": 3, "door": 3}
    return Facades(**{
        field.name: np.array([row[field.name] for row in rows], np.float32).reshape(-1, *_tail(shapes.get(field.name)))
        for field in fields(Facades)
    })  # fmt: skip


def _tail(columns: int | None) -> tuple[int, ...]:
    return () if columns is None else (columns,)


def _row(layout: Layout, block: Block, side: str, rng: np.random.Generator) -> list[Plot]:
    """Plots along one side of a block, from its start to its end; corners belong to the sides along x."""
    west, south, east, north = block.rect_m
    along_x = side in "sn"
    start, end = (west, east) if along_x else (south, north)
    inset = PAVEMENT_M if along_x or len(block.sides) == 1 else PAVEMENT_M + DEEPEST_M + 3.5
    s = start + inset + rng.uniform(0, 1.5)
    plots: list[Plot] = []
    while True:
        edge = {"s": south, "n": north, "w": west, "e": east}[side]
        style = layout.style_at(*((s, edge) if along_x else (edge, s)))
        width, depth = rng.uniform(*style.width_m), rng.uniform(7.5, DEEPEST_M)
        setback = PAVEMENT_M + rng.uniform(*style.setback_m)
        gap = rng.uniform(2.5, 7) if rng.random() < style.gap else 0.02
        empty = rng.random() < style.park
        if s + width > end - inset:
            return plots
        across = edge + (setback + depth / 2) * (1 if side in "sw" else -1)
        centre, size = (s + width / 2, across), (width, depth)
        if not empty:
            plots.append(Plot(centre if along_x else centre[::-1], size if along_x else size[::-1], along_x))
        s += width + gap


def _building(plot: Plot, style: Style, index: int, rng: np.random.Generator) -> tuple[list[Mesh], dict[str, object]]:
    (x, y), (wx, wy) = plot.centre_m, plot.size_m
    floors = int(rng.integers(style.floors[0], style.floors[1] + 1))
    floor_m, bay_m = rng.uniform(2.8, 3.4), rng.uniform(2.0, 3.2)
    height = floors * floor_m + 0.5
    wall = np.clip(_WALLS[rng.integers(len(_WALLS))] * rng.uniform(0.75, 1.15) + rng.normal(0, 0.02, 3), 0.04, 0.85)
    trim = _TRIMS[rng.integers(len(_TRIMS))]
    parts = [box((x, y, KERB_M), (wx, wy, height), Coat(BUILDING, wall, Surface.FACADE, index))]
    tile = _TILES[rng.integers(len(_TILES))] * rng.uniform(0.8, 1.2)
    if rng.random() < style.gabled:
        size = (wx + (0.1 if plot.along_x else 0.8), wy + (0.8 if plot.along_x else 0.1), rng.uniform(1.8, 3.4))
        parts.append(gable((x, y, KERB_M + height), size, plot.along_x, Coat(BUILDING, tile, Surface.ROOF, index)))
    else:
        parts.append(box((x, y, KERB_M + height), (wx + 0.5, wy + 0.5, 0.35), Coat(BUILDING, trim * 0.9)))
        if rng.random() < 0.5:
            parts.append(
                box((x, y, KERB_M + height), (wx * 0.3, wy * 0.3, 2.4), Coat(BUILDING, wall * 0.8, Surface.ROOF, index))
            )
    row = {
        "origin_m": (x - wx / 2, y - wy / 2),
        "floor_m": floor_m,
        "bay_m": (wx / max(round(wx / bay_m), 1), wy / max(round(wy / bay_m), 1)),
        "window": (rng.uniform(0.4, 0.62), rng.uniform(0.42, 0.6)),
        "height_m": floors * floor_m,
        "brick": float(rng.random() < 0.45),
        "shop": float(rng.random() < style.shop),
        "trim": trim,
        "door": _DOORS[rng.integers(len(_DOORS))],
    }
    return parts, row
