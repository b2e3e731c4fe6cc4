"""Smooth paths: lanes along the streets with rounded turns, routes over the junctions, and lines along the kerbs."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.layout import HALF_ROAD_M, JUNCTION_M, LANE_M, Layout, Node

STEP_M: Final = 0.5
CAR_OFFSET_M: Final = 1.4
CYCLE_OFFSET_M: Final = LANE_M - 0.25
TOUR_REGIONS: Final = 6
# Distance of the axles, in lengths of the vehicle.
WHEELBASE: Final = 0.75


@dataclass(frozen=True, eq=False)
class Path:
    """A curve sampled about every half metre.

    Args:
        points_m: [n, 2].
        s_m: arc length at each point, [n].
        yaw_rad: heading at each point, unwrapped, [n].
        junctions: (s where it enters, s where it leaves, node) of every junction on the way, in order.
    """

    points_m: Float[ndarray, "n 2"]
    s_m: Float[ndarray, "n"]
    yaw_rad: Float[ndarray, "n"]
    junctions: tuple[tuple[float, float, Node], ...] = ()

    @property
    def length_m(self) -> float:
        return float(self.s_m[-1])

    def at(self, s_m: Float[ndarray, "k"]) -> Float[ndarray, "k 3"]:
        """x, y and yaw [k, 3] at arc lengths [k], which are clamped to the path."""
        columns = (self.points_m[:, 0], self.points_m[:, 1], self.yaw_rad)
        return np.stack([np.interp(s_m, self.s_m, column) for column in columns], axis=-1)


def axle_poses(path: Path, s_m: Float[ndarray, "k"], length_m: float) -> Float[ndarray, "k 3"]:
    """x, y and yaw of a vehicle whose front and rear axle are on a path, `s_m` along it in the mean."""
    reach_m = WHEELBASE * length_m / 2
    front, rear = path.at(s_m + reach_m)[:, :2], path.at(s_m - reach_m)[:, :2]
    ahead = front - rear
    return np.column_stack([(front + rear) / 2, np.arctan2(ahead[:, 1], ahead[:, 0])])


def path_through(points_m: Float[ndarray, "n 2"], junctions: tuple = ()) -> Path:
    """A path over sampled points; the heading follows the chord between a point's neighbours."""
    step = np.linalg.norm(np.diff(points_m, axis=0), axis=1)
    s = np.concatenate([[0.0], np.cumsum(step)])
    tangent = np.gradient(points_m, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    return Path(points_m, s, yaw, tuple((float(s[a]), float(s[b]), node) for a, b, node in junctions))


def lane_path(layout: Layout, nodes: list[Node], offset_m: float) -> Path:
    """The right-hand lane over neighbouring junctions, `offset_m` from the axis; turns are quadratic curves."""
    return lane_through([layout.at(node) for node in nodes], nodes, offset_m)


def lane_through(corners: list[Float[ndarray, "2"]], nodes: list[Node], offset_m: float) -> Path:
    """The right-hand lane over junctions at these places; see `lane_path`."""
    pieces, junctions, count = [], [], 0
    for k in range(len(nodes) - 1):
        direction, right = _frame(corners[k], corners[k + 1])
        start = corners[k] + JUNCTION_M * direction + offset_m * right
        end = corners[k + 1] - JUNCTION_M * direction + offset_m * right
        pieces.append(_line(start, end))
        count += len(pieces[-1])
        if k + 2 < len(nodes):
            next_direction, next_right = _frame(corners[k + 1], corners[k + 2])
            exit_point = corners[k + 1] + JUNCTION_M * next_direction + offset_m * next_right
            turning = abs(direction @ next_direction) < 0.5
            control = corners[k + 1] + offset_m * (right + next_right) if turning else (end + exit_point) / 2
            pieces.append(_bend(end, control, exit_point))
            junctions.append((count, count + len(pieces[-1]) - 1, nodes[k + 1]))
            count += len(pieces[-1])
    return path_through(np.concatenate(pieces), tuple(junctions))


def wander(
    layout: Layout, start: tuple[Node, Node], allowed: set[Node], edges: int, rng: np.random.Generator
) -> list[Node]:
    """A walk over junctions that never turns back, of `edges` streets; the start is a street with a direction.

    The first k junctions do not depend on `edges`.
    """
    nodes = list(start)
    while len(nodes) <= edges:
        here, before = nodes[-1], nodes[-2]
        ahead = [node for node in neighbours(layout, here) if node in allowed and node != before]
        nodes.append(ahead[int(rng.integers(len(ahead)))])
    return nodes


def neighbours(layout: Layout, node: Node) -> list[Node]:
    """Junctions one street away."""
    i, j = node
    around = [(i + 1, j), (i, j + 1), (i - 1, j), (i, j - 1)]
    return [(a, b) for a, b in around if 0 <= a < len(layout.xs_m) and 0 <= b < len(layout.ys_m)]


def grand_tour(layout: Layout) -> list[Node]:
    """A route through every region of a small town, and through a corner of six regions of a large one.

    It winds up one column of streets and down the next but one.
    """
    nodes_there = [node for region in toured(layout) for node in layout.nodes_of(region)]
    (left, low), (right, high) = (tuple(pick(axis) for axis in zip(*nodes_there, strict=True)) for pick in (min, max))
    columns = sorted({*range(left, right + 1, 2), right})
    nodes: list[Node] = []
    for k, i in enumerate(columns):
        rise = range(low, high + 1) if k % 2 == 0 else range(high, low - 1, -1)
        if nodes:
            nodes += [(a, nodes[-1][1]) for a in range(nodes[-1][0] + 1, i)]
        nodes += [(i, j) for j in rise]
    return nodes


def toured(layout: Layout) -> list[int]:
    """The regions of the grand tour: all, or the rectangle of at most `TOUR_REGIONS` regions that holds the most."""
    columns, rows = layout.columns, -(-len(layout.rsus_m) // layout.columns)
    shapes = [(min(w, columns), min(TOUR_REGIONS // w, rows)) for w in range(1, TOUR_REGIONS + 1)]
    wide, high = max(shapes, key=lambda shape: (shape[0] * shape[1], -abs(shape[0] - shape[1])))
    return [row * columns + column for row in range(high) for column in range(wide)]


def regions_near(layout: Layout, wanted: set[int], within_m: float) -> list[int]:
    """The regions whose junctions' bounding rectangles lie within a distance of a wanted region's, in order."""
    boxes = np.array([region_box(layout, region) for region in range(len(layout.rsus_m))])
    mine = boxes[sorted(wanted)]
    gap_x = np.maximum(boxes[:, None, 0] - mine[None, :, 2], mine[None, :, 0] - boxes[:, None, 2])
    gap_y = np.maximum(boxes[:, None, 1] - mine[None, :, 3], mine[None, :, 1] - boxes[:, None, 3])
    apart = np.hypot(np.clip(gap_x, 0, None), np.clip(gap_y, 0, None)).min(axis=1)
    return [int(region) for region in np.flatnonzero(apart <= within_m)]


def region_box(layout: Layout, region: int) -> tuple[float, float, float, float]:
    """West, south, east, north of a region's junctions."""
    i, j = zip(*layout.nodes_of(region), strict=True)
    return (
        float(layout.xs_m[min(i)]),
        float(layout.ys_m[min(j)]),
        float(layout.xs_m[max(i)]),
        float(layout.ys_m[max(j)]),
    )


def streets_of(layout: Layout, region: int) -> list[tuple[Node, Node]]:
    """Directed streets between a region's junctions."""
    nodes = layout.nodes_of(region)
    return [(a, b) for a in nodes for b in neighbours(layout, a) if b in nodes]


def kerbs_of(layout: Layout, region: int) -> list[tuple[Node, Node]]:
    """Directed streets whose right-hand kerb a region looks after: its own and those to the east and the north."""
    nodes = layout.nodes_of(region)
    out = [(a, b) for a in nodes for b in neighbours(layout, a) if b in nodes or b > a]
    return out + [(b, a) for a, b in out if b not in nodes]


def kerb_line(layout: Layout, street: tuple[Node, Node], inset_m: float, trim_m: float) -> Float[ndarray, "2 2"]:
    """Start and end of a line along the right-hand kerb, `inset_m` behind it, `trim_m` short of the block's corners."""
    a, b = layout.at(street[0]), layout.at(street[1])
    direction, right = _frame(a, b)
    shift, cut = (HALF_ROAD_M + inset_m) * right, (HALF_ROAD_M + trim_m) * direction
    return np.stack([a + cut + shift, b - cut + shift])


def _frame(a: ndarray, b: ndarray) -> tuple[ndarray, ndarray]:
    direction = (b - a) / np.linalg.norm(b - a)
    return direction, np.array([direction[1], -direction[0]])


def _line(a: ndarray, b: ndarray) -> Float[ndarray, "n 2"]:
    n = max(int(np.linalg.norm(b - a) / STEP_M), 2)
    return a + (b - a) * (np.arange(n) / n)[:, None]


def _bend(a: ndarray, control: ndarray, b: ndarray) -> Float[ndarray, "n 2"]:
    n = max(int((np.linalg.norm(control - a) + np.linalg.norm(b - control)) / STEP_M), 2)
    t = (np.arange(n) / n)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b
