"""Smooth paths: lanes along the streets with rounded turns, and walks around the blocks."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.layout import JUNCTION_M, LANE_M, Layout, Node

STEP_M: Final = 0.5
CAR_OFFSET_M: Final = 1.55
CYCLE_OFFSET_M: Final = LANE_M - 0.3


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


def path_through(points_m: Float[ndarray, "n 2"], junctions: tuple = ()) -> Path:
    """A path over sampled points; the heading follows the chord between a point's neighbours."""
    step = np.linalg.norm(np.diff(points_m, axis=0), axis=1)
    s = np.concatenate([[0.0], np.cumsum(step)])
    tangent = np.gradient(points_m, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    return Path(points_m, s, yaw, tuple((float(s[a]), float(s[b]), node) for a, b, node in junctions))


def lane_path(layout: Layout, nodes: list[Node], offset_m: float) -> Path:
    """The right-hand lane over neighbouring junctions, `offset_m` from the axis; turns are quadratic curves."""
    corners = [layout.at(node) for node in nodes]
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
    """A route that winds through every region: up one column of streets and down the next but one."""
    last = len(layout.ys_m) - 1
    columns = list(range(0, len(layout.xs_m), 2))
    if columns[-1] != len(layout.xs_m) - 1:
        columns.append(len(layout.xs_m) - 1)
    nodes: list[Node] = []
    for k, i in enumerate(columns):
        rise = range(last + 1) if k % 2 == 0 else range(last, -1, -1)
        if nodes:
            nodes += [(a, nodes[-1][1]) for a in range(nodes[-1][0] + 1, i)]
        nodes += [(i, j) for j in rise]
    return nodes


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
