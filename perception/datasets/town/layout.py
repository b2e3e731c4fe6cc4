"""The plan of a town: a grid of streets, blocks between them, and a region with its own character around each RSU."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.config import TownConfig

NODES_PER_REGION: Final = 3
LANE_M: Final = 3.4
HALF_ROAD_M: Final = 5.7
PAVEMENT_M: Final = 3.0
KERB_M: Final = 0.14
JUNCTION_M: Final = 9.5
STOP_LINE_M: Final = 11.7
OUTSKIRTS_M: Final = 30.0

Node = tuple[int, int]


@dataclass(frozen=True)
class Style:
    """The character of a region.

    Args:
        name: for messages.
        floors: fewest and most floors of a building.
        width_m, setback_m: smallest and largest width of a building, and distance from the pavement.
        gap, gabled, shop: probabilities of a gap beside a building, of a gable roof, of a shop at street level.
        park: probability that a plot stays green.
        trees, fences, signs, parked, moving, pedestrians, cyclists: weights on the town's densities.
    """

    name: str
    floors: tuple[int, int]
    width_m: tuple[float, float]
    setback_m: tuple[float, float]
    gap: float
    gabled: float
    shop: float
    park: float
    trees: float
    fences: float
    signs: float
    parked: float
    moving: float
    pedestrians: float
    cyclists: float


STYLES: Final = (
    Style(
        "residential",
        floors=(1, 3),
        width_m=(8.0, 13.0),
        setback_m=(2.5, 5.0),
        gap=0.55,
        gabled=0.85,
        shop=0.05,
        park=0.1,
        trees=1.3,
        fences=0.8,
        signs=0.6,
        parked=1.1,
        moving=0.75,
        pedestrians=1.25,
        cyclists=1.0,
    ),
    Style(
        "commercial",
        floors=(3, 7),
        width_m=(11.0, 20.0),
        setback_m=(0.0, 0.6),
        gap=0.06,
        gabled=0.05,
        shop=0.8,
        park=0.0,
        trees=0.5,
        fences=0.1,
        signs=1.6,
        parked=0.9,
        moving=1.35,
        pedestrians=1.0,
        cyclists=0.7,
    ),
    Style(
        "green",
        floors=(1, 4),
        width_m=(9.0, 15.0),
        setback_m=(2.0, 6.0),
        gap=0.4,
        gabled=0.5,
        shop=0.15,
        park=0.45,
        trees=1.8,
        fences=0.6,
        signs=0.7,
        parked=0.75,
        moving=0.8,
        pedestrians=0.8,
        cyclists=1.7,
    ),
)


@dataclass(frozen=True)
class Block:
    """A kerbed island between streets: its rectangle (west, south, east, north) and the sides that face a street."""

    rect_m: tuple[float, float, float, float]
    sides: str


@dataclass(frozen=True, eq=False)
class Layout:
    """Streets run along x = xs_m[i] and y = ys_m[j]; node (i, j) is their junction.

    Args:
        xs_m, ys_m: axes of the streets, increasing.
        columns: regions side by side; region r lies in column r % columns and row r // columns.
        rsus_m: position of each region's RSU, [r, 2].
    """

    xs_m: Float[ndarray, "i"]
    ys_m: Float[ndarray, "j"]
    columns: int
    rsus_m: Float[ndarray, "r 2"]

    def at(self, node: Node) -> Float[ndarray, "2"]:
        """Position of a junction."""
        return np.array([self.xs_m[node[0]], self.ys_m[node[1]]])

    def nodes_of(self, region: int) -> list[Node]:
        """The junctions of a region."""
        k = NODES_PER_REGION
        left, low = region % self.columns * k, region // self.columns * k
        return [(left + i, low + j) for i in range(k) for j in range(k)]

    def region_at(self, x_m: float, y_m: float) -> int:
        """The region of the nearest RSU."""
        return int(np.argmin(((self.rsus_m - (x_m, y_m)) ** 2).sum(axis=1)))

    def style_at(self, x_m: float, y_m: float) -> Style:
        """The character of the surroundings."""
        return STYLES[self.region_at(x_m, y_m) % len(STYLES)]

    def blocks_near(self, region: int, reach_m: float) -> list[int]:
        """Places in `blocks()` of those within a distance of the rectangle around a region's junctions."""
        corners = np.array([self.at(node) for node in self.nodes_of(region)])
        (x0, y0), (x1, y1) = corners.min(axis=0) - reach_m, corners.max(axis=0) + reach_m
        rects = enumerate(block.rect_m for block in self.blocks())
        return [i for i, (west, south, east, north) in rects if west < x1 and east > x0 and south < y1 and north > y0]

    def blocks(self) -> list[Block]:
        """All blocks between streets, and strips along the outer streets that close the town off."""
        xs, ys, h, out = self.xs_m, self.ys_m, HALF_ROAD_M, HALF_ROAD_M + OUTSKIRTS_M
        inner = [
            Block((xs[i] + h, ys[j] + h, xs[i + 1] - h, ys[j + 1] - h), "wsen")
            for i in range(len(xs) - 1)
            for j in range(len(ys) - 1)
        ]
        west, east, south, north = xs[0] - h, xs[-1] + h, ys[0] - h, ys[-1] + h
        strips = []
        for low, high in pairwise([south, *ys[1:-1], north]):
            strips += [Block((xs[0] - out, low, west, high), "e"), Block((east, low, xs[-1] + out, high), "w")]
        for left, right in pairwise([xs[0] - out, *xs[1:-1], xs[-1] + out]):
            strips += [Block((left, ys[0] - out, right, south), "n"), Block((left, north, right, ys[-1] + out), "s")]
        return inner + strips


def plan_town(config: TownConfig) -> Layout:
    """Streets with uneven spacing; the RSU of a region stands at its middle junction."""
    rng = np.random.default_rng([config.seed, 11])
    rows = max(r for r in range(1, int(config.rsus**0.5) + 1) if config.rsus % r == 0)
    columns, k = config.rsus // rows, NODES_PER_REGION
    axis = lambda n: np.cumsum(config.block_m * rng.uniform(0.88, 1.14, n))  # noqa: E731
    xs, ys = axis(columns * k), axis(rows * k)
    xs, ys = xs - xs.mean(), ys - ys.mean()
    centre = k // 2
    rsus = [(xs[r % columns * k + centre], ys[r // columns * k + centre]) for r in range(config.rsus)]
    return Layout(xs, ys, columns, np.array(rsus))
