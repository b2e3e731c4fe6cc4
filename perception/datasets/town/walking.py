"""People on foot: strollers along the kerbs, and those who go round a junction over its zebras."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.junctions import Junctions
from perception.datasets.town.layout import HALF_ROAD_M, Layout, Node
from perception.datasets.town.routes import kerb_line, neighbours

NEAR_M: Final = 1.15
FAR_M: Final = 2.45
TRIM_M: Final = 3.6
SPACING_M: Final = 2.8
RINGS_M: Final = (8.1, 6.75)
_BEFORE_KERB_M: Final = 0.5
_BEHIND_KERB_M: Final = 0.4
_SLOWEST_MPS: Final = 1.1


@dataclass(frozen=True, eq=False)
class Stroll:
    """A closed line along one kerb: away near it, back further from it. All on it walk the same way at one speed.

    Args:
        corners_m: its four corners in the order of walking, [4, 2].
        speed_mps: of everybody.
    """

    corners_m: Float[ndarray, "4 2"]
    speed_mps: float

    @property
    def length_m(self) -> float:
        return float(np.linalg.norm(np.roll(self.corners_m, -1, axis=0) - self.corners_m, axis=1).sum())

    def at(self, walked_m: Float[ndarray, "t"]) -> Float[ndarray, "t 3"]:
        """x, y and yaw after walking so far from the first corner."""
        step = np.roll(self.corners_m, -1, axis=0) - self.corners_m
        sides = np.linalg.norm(step, axis=1)
        ends = np.cumsum(sides)
        s = walked_m % ends[-1]
        k = np.minimum(np.searchsorted(ends, s, side="right"), 3)
        share = (s - ends[k] + sides[k]) / sides[k]
        yaw = np.arctan2(step[:, 1], step[:, 0])
        return np.column_stack([self.corners_m[k] + share[:, None] * step[k], yaw[k]])


def stroll_along(layout: Layout, street: tuple[Node, Node], rng: np.random.Generator) -> Stroll | None:
    """A stroll along a street's right-hand kerb, or None where the block is too short for one."""
    (a, b), (d, c) = (kerb_line(layout, street, inset, TRIM_M) for inset in (NEAR_M, FAR_M))
    corners = np.stack([a, b, c, d] if rng.random() < 0.5 else [d, c, b, a])
    return Stroll(corners, float(rng.uniform(0.9, 1.5))) if np.linalg.norm(b - a) > SPACING_M else None


@dataclass(frozen=True, eq=False)
class Walker:
    """One who goes round a junction on the pavements and the zebras, with a rest before each zebra.

    Args:
        node, centre_m: the junction.
        arms: the arms that it has: 0 east, 1 north, 2 west, 3 south.
        clockwise: which way round; the two ways lie side by side.
        side: the side of the ring on which it starts, before the zebra.
        speed_mps: when it walks.
        rests_s: how long it waits before each zebra.
        region: the region of the junction.
    """

    node: Node
    centre_m: Float[ndarray, "2"]
    arms: frozenset[int]
    clockwise: bool
    side: int
    speed_mps: float
    rests_s: Float[ndarray, "k"]
    region: int = 0

    @property
    def radius_m(self) -> float:
        """Half the side of the square ring."""
        return RINGS_M[int(self.clockwise)]

    @property
    def wait_m(self) -> float:
        """How far along a side it waits for the zebra."""
        return self.radius_m - HALF_ROAD_M - _BEFORE_KERB_M

    @property
    def over_m(self) -> float:
        """How far along a side the zebra is behind it."""
        return self.radius_m + HALF_ROAD_M + _BEHIND_KERB_M

    def arm(self, side: int) -> int:
        """The arm that a side of the ring crosses."""
        return (-side if self.clockwise else side) % 4

    def pose(self, s_m: float) -> tuple[float, float, float]:
        """x, y and yaw at an arc length of the ring, which begins south-east (clockwise: north-east)."""
        r = self.radius_m
        side, u = int(s_m // (2 * r)) % 4, s_m % (2 * r)
        x, y = ((r, u - r), (r - u, r), (-r, r - u), (u - r, -r))[side]
        yaw = (side + 1) * np.pi / 2
        flip = -1.0 if self.clockwise else 1.0
        return float(self.centre_m[0] + x), float(self.centre_m[1] + flip * y), flip * yaw


def walker_at(layout: Layout, node: Node, clockwise: bool, region: int, rng: np.random.Generator) -> Walker:
    """Somebody at a junction."""
    i, j = node
    around = {(i + 1, j): 0, (i, j + 1): 1, (i - 1, j): 2, (i, j - 1): 3}
    arms = frozenset(around[other] for other in neighbours(layout, node))
    speed, rests = float(rng.uniform(_SLOWEST_MPS, 1.6)), rng.uniform(4.0, 30.0, 64)
    return Walker(node, layout.at(node), arms, clockwise, int(rng.integers(4)), speed, rests, region)


@dataclass
class Walk:
    """The state of all walkers: how far each is on its ring, until when it rests, how many zebras it has crossed."""

    walkers: list[Walker]
    s_m: list[float] = field(init=False)
    ready_s: list[float] = field(init=False)
    crossed: list[int] = field(init=False)
    on: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.s_m = [2 * w.radius_m * w.side + w.wait_m for w in self.walkers]
        self.ready_s = [float(w.rests_s[0]) / 2 for w in self.walkers]
        self.crossed = [0] * len(self.walkers)
        self.on = [False] * len(self.walkers)

    def wish(self, i: int, time_s: float, step_s: float, junctions: Junctions) -> float:
        """The arc length at which a walker would like to be one step later."""
        walker, s = self.walkers[i], self.s_m[i]
        side, u = int(s // (2 * walker.radius_m)), s % (2 * walker.radius_m)
        zebra = (walker.node, walker.arm(side % 4))
        forward = walker.speed_mps * step_s
        if self.on[i] and u >= walker.over_m:
            self.on[i] = False
            junctions.walked_on[zebra] -= 1
            self.crossed[i] += 1
            self.ready_s[i] = time_s + float(walker.rests_s[self.crossed[i] % len(walker.rests_s)])
        if self.on[i] or u > walker.wait_m + 1e-6 or u + forward <= walker.wait_m:
            return s + forward
        needed_s = (walker.over_m - walker.wait_m) / walker.speed_mps
        if zebra[1] not in walker.arms:
            return s + forward
        if time_s < self.ready_s[i] or not junctions.may_step_on(zebra, time_s, needed_s):
            return s - u + walker.wait_m
        self.on[i] = True
        junctions.walked_on[zebra] = junctions.walked_on.get(zebra, 0) + 1
        return s + forward

    def poses(self, s_m: list[float]) -> Float[ndarray, "n 3"]:
        """x, y and yaw of all walkers."""
        rows = [walker.pose(s) for walker, s in zip(self.walkers, s_m, strict=True)]
        return np.array(rows, float).reshape(-1, 3)
