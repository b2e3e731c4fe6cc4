"""What stands still in every drive: ground, kerbs, buildings, trees, street furniture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from perception.datasets.town.buildings import Facades, Plot, build, facades_of
from perception.datasets.town.lamps import StreetLamps
from perception.datasets.town.layout import (
    HALF_ROAD_M,
    JUNCTION_M,
    KERB_M,
    OUTSKIRTS_M,
    PAVEMENT_M,
    Block,
    Layout,
    Style,
)
from perception.datasets.town.mesh import Coat, Mesh, Surface, blob, box, merged, mesh, tube
from perception.datasets.town.mounts import RSU_POLE_M
from perception.labels import SEGMENT_ID

ROAD, PAVEMENT, VEGETATION, POLE, SIGN, FENCE = (
    SEGMENT_ID[name] for name in ("road", "pavement", "vegetation", "pole", "sign", "fence")
)
_GROUND_CELL_M: Final = 60.0
_NUMBERS_PER_BLOCK: Final = 100
_LEAVES: Final = np.array([[0.09, 0.2, 0.04], [0.14, 0.25, 0.05], [0.06, 0.15, 0.05], [0.2, 0.26, 0.06]])
_BARK: Final = (0.12, 0.08, 0.05)
_STEEL: Final = (0.2, 0.21, 0.22)
_PLATES: Final = np.array([[0.65, 0.03, 0.03], [0.03, 0.14, 0.55], [0.75, 0.6, 0.02], [0.03, 0.3, 0.12]])


@dataclass(frozen=True, eq=False)
class Scenery:
    """The standing town: one mesh, the facades that its `owner`s index, its street lamps, and its plan."""

    layout: Layout
    mesh: Mesh
    facades: Facades
    lamps: StreetLamps


def build_scenery(layout: Layout, seed: int, blocks: Sequence[int]) -> Scenery:
    """What stands on some of a plan's blocks (places in `layout.blocks()`); a block does not depend on the others."""
    parts: list[Mesh] = [_ground(layout)]
    rows: list[dict] = []
    every = layout.blocks()
    for index in blocks:
        meshes, facades = _block(layout, every[index], len(rows), np.random.default_rng([seed, 12, index]))
        parts += meshes
        rows += [row | {"number": _NUMBERS_PER_BLOCK * index + k} for k, row in enumerate(facades)]
    parts += [_rsu_pole(layout, rsu) for rsu in range(len(layout.rsus_m))]
    heads = [part.vertices[-8:].mean(axis=0) for part in parts if (part.surface == Surface.LAMP).any()]
    return Scenery(layout, merged(parts), facades_of(rows), StreetLamps(np.array(heads, float).reshape(-1, 3)))


def _block(layout: Layout, block: Block, first: int, rng: np.random.Generator) -> tuple[list[Mesh], list[dict]]:
    parts, rows, plots = build(layout, block, first, rng)
    parts += _island(block)
    for side in block.sides:
        parts += _roadside(layout, block, side, rng)
    parts += [garden for plot in plots for garden in _garden(layout, plot, rng)]
    return parts + _corner_signs(layout, block, rng), rows


def _rsu_pole(layout: Layout, rsu: int) -> Mesh:
    """The pole that carries an RSU's sensors, with its box of electronics."""
    x, y = layout.rsus_m[rsu] + RSU_POLE_M
    steel = Coat(POLE, _STEEL)
    box_m = box((x, y + 0.2, 2.4), (0.4, 0.3, 0.6), Coat(POLE, (0.6, 0.62, 0.62)))
    return merged([tube((x, y, KERB_M), (x, y, 5.0), 0.09, 8, steel), box_m])


def _ground(layout: Layout) -> Mesh:
    """Asphalt below the streets and blocks, and fields around the town."""
    h, out = HALF_ROAD_M, OUTSKIRTS_M + 100
    west, south, east, north = layout.xs_m[0], layout.ys_m[0], layout.xs_m[-1], layout.ys_m[-1]
    asphalt, field = Coat(ROAD, (0.1, 0.1, 0.105), Surface.ROAD), Coat(VEGETATION, (0.13, 0.2, 0.05), Surface.LAWN)
    return merged([
        _squares((west - h, south - h, east + h, north + h), 0.0, asphalt),
        _squares((west - out, south - out, east + out, north + out), -0.05, field),
    ])  # fmt: skip


def _squares(rect: tuple[float, float, float, float], height_m: float, coat: Coat) -> Mesh:
    """A level rectangle (west, south, east, north) in pieces of about `_GROUND_CELL_M`."""
    west, south, east, north = rect
    x = np.linspace(west, east, int((east - west) / _GROUND_CELL_M) + 2)
    y = np.linspace(south, north, int((north - south) / _GROUND_CELL_M) + 2)
    corners = np.stack([*np.meshgrid(x, y), np.full((len(y), len(x)), height_m)], axis=-1).reshape(-1, 3)
    first = (np.arange(len(y) - 1)[:, None] * len(x) + np.arange(len(x) - 1)).ravel()
    right, above = first + 1, first + len(x)
    faces = np.concatenate([np.stack([first, right, above + 1], 1), np.stack([first, above + 1, above], 1)])
    return mesh(corners, faces, coat)


def _island(block: Block) -> list[Mesh]:
    """The kerbed slab of a block: pavement along the streets, a lawn inside."""
    west, south, east, north = block.rect_m
    p = PAVEMENT_M
    inner = (
        west + p * ("w" in block.sides),
        south + p * ("s" in block.sides),
        east - p * ("e" in block.sides),
        north - p * ("n" in block.sides),
    )
    pavement = Coat(PAVEMENT, (0.33, 0.31, 0.29), Surface.PAVEMENT)
    lawn = Coat(VEGETATION, (0.13, 0.22, 0.05), Surface.LAWN)
    return [_slab(block.rect_m, KERB_M, pavement), _slab(inner, KERB_M + 0.03, lawn)]


def _slab(rect: tuple[float, float, float, float], height_m: float, coat: Coat) -> Mesh:
    west, south, east, north = rect
    return box(((west + east) / 2, (south + north) / 2, 0.0), (east - west, north - south, height_m), coat)


def side_line(block: Block, side: str, inset_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A line along a side of a block, `inset_m` inside the kerb: its start, its end, and the unit vector inwards."""
    west, south, east, north = block.rect_m
    start, end, inward = {
        "s": ((west, south), (east, south), (0, 1)),
        "n": ((west, north), (east, north), (0, -1)),
        "w": ((west, south), (west, north), (1, 0)),
        "e": ((east, south), (east, north), (-1, 0)),
    }[side]
    shift = inset_m * np.array(inward, float)
    return np.array(start) + shift, np.array(end) + shift, np.array(inward, float)


def _roadside(layout: Layout, block: Block, side: str, rng: np.random.Generator) -> list[Mesh]:
    """Lamps, street trees and hedges along one side of a block."""
    start, end, inward = side_line(block, side, 0.55)
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    parts, s = [], JUNCTION_M - HALF_ROAD_M + rng.uniform(0, 6)
    while s < length - 4:
        spot = start + along * s
        style = layout.style_at(*spot)
        roll = rng.random()
        if roll < 0.3:
            parts.append(_lamp(spot, -inward, rng))
        elif roll < 0.3 + 0.42 * style.trees:
            parts += _tree(spot, rng.uniform(3.2, 5.5), rng)
        elif roll < 0.92 and style.signs > rng.uniform(0, 3):
            parts += _sign(spot, along, rng)
        s += rng.uniform(6, 11)
    return parts


def _garden(layout: Layout, plot: Plot, rng: np.random.Generator) -> list[Mesh]:
    """What grows and stands around a house: a tree or a bush, a fence or a hedge towards the street."""
    style: Style = layout.style_at(*plot.centre_m)
    (x, y), (wx, wy) = plot.centre_m, plot.size_m
    parts: list[Mesh] = []
    if style.setback_m[1] < 2:
        return parts
    for sx in (-1, 1):
        if rng.random() < 0.3 * style.trees:
            offset = (sx * (wx / 2 + 1.2), sx * 0.4 * wy) if plot.along_x else (sx * 0.4 * wx, sx * (wy / 2 + 1.2))
            parts += _tree(np.array([x + offset[0], y + offset[1]]), rng.uniform(3.5, 7), rng)
    if rng.random() < style.fences:
        reach = 1.9
        hedge = rng.random() < 0.4
        size = (wx + 2, 0.5 if hedge else 0.08) if plot.along_x else (0.5 if hedge else 0.08, wy + 2)
        for sign in (-1, 1):
            centre = (x, y + sign * (wy / 2 + reach)) if plot.along_x else (x + sign * (wx / 2 + reach), y)
            parts.append(_hedge(centre, size, rng) if hedge else _fence(centre, size, rng))
    return parts


def _fence(centre: tuple[float, float], size: tuple[float, float], rng: np.random.Generator) -> Mesh:
    rgb = np.array([[0.55, 0.5, 0.42], [0.3, 0.18, 0.1], [0.6, 0.6, 0.58]])[rng.integers(3)]
    return box((*centre, KERB_M), (*size, rng.uniform(0.9, 1.5)), Coat(FENCE, rgb, Surface.FENCE))


def _hedge(centre: tuple[float, float], size: tuple[float, float], rng: np.random.Generator) -> Mesh:
    rgb = _LEAVES[rng.integers(len(_LEAVES))] * 0.9
    height = rng.uniform(0.9, 1.6)
    return box((*centre, KERB_M), (*size, height), Coat(VEGETATION, rgb, Surface.FOLIAGE))


def _tree(spot: np.ndarray, height: float, rng: np.random.Generator) -> list[Mesh]:
    """A trunk and a crown of three lumps; the trunk counts as vegetation."""
    x, y = spot
    rgb = _LEAVES[rng.integers(len(_LEAVES))] * rng.uniform(0.8, 1.25)
    radius = height * rng.uniform(0.26, 0.36)
    leaves = Coat(VEGETATION, rgb, Surface.FOLIAGE)
    parts = [tube((x, y, KERB_M), (x, y, 0.6 * height), 0.14, 5, Coat(VEGETATION, _BARK))]
    for k in range(3):
        dx, dy = rng.normal(0, 0.35 * radius, 2)
        centre = (x + dx, y + dy, height * (0.58 + 0.17 * k))
        parts.append(blob(centre, (radius * (1 - 0.2 * k), radius * (1 - 0.2 * k), 0.28 * height), rng, leaves))
    return parts


def _lamp(spot: np.ndarray, outward: np.ndarray, rng: np.random.Generator) -> Mesh:
    x, y = spot
    height = rng.uniform(5.2, 6.8)
    tip = (x + 1.3 * outward[0], y + 1.3 * outward[1], height + 0.25)
    steel = Coat(POLE, _STEEL)
    head = box((tip[0], tip[1], tip[2] - 0.08), (0.45, 0.45, 0.14), Coat(POLE, (0.6, 0.5, 0.35), Surface.LAMP))
    return merged([
        tube((x, y, KERB_M), (x, y, 1.1), 0.13, 6, steel),
        tube((x, y, 1.0), (x, y, height), 0.085, 6, steel),
        tube((x, y, height), tip, 0.06, 5, steel),
        head,
    ])  # fmt: skip


def _sign(spot: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> list[Mesh]:
    """A plate on a pole, facing the traffic that comes along the street."""
    x, y = spot
    height = rng.uniform(2.2, 2.7)
    rgb = _PLATES[rng.integers(len(_PLATES))]
    thin, wide = 0.05, rng.uniform(0.6, 0.85)
    size = (thin, wide, wide) if abs(along[0]) > 0.5 else (wide, thin, wide)
    rim = tuple(1.15 * side if side > thin else 0.8 * thin for side in size)
    return [
        tube((x, y, KERB_M), (x, y, height + 0.2), 0.045, 5, Coat(POLE, _STEEL)),
        box((x, y, height - 0.07 * wide), rim, Coat(SIGN, (0.75, 0.75, 0.75))),
        box((x, y, height), size, Coat(SIGN, rgb)),
    ]


def _corner_signs(layout: Layout, block: Block, rng: np.random.Generator) -> list[Mesh]:
    """A sign at the corners of a block, more of them where there is trade."""
    if len(block.sides) == 1:
        return []
    west, south, east, north = block.rect_m
    parts: list[Mesh] = []
    for x, y in product((west + 0.7, east - 0.7), (south + 0.7, north - 0.7)):
        if rng.random() < 0.5 * layout.style_at(x, y).signs:
            axis = np.array([1.0, 0.0]) if rng.random() < 0.5 else np.array([0.0, 1.0])
            parts += _sign(np.array([x, y]), axis, rng)
    return parts
