"""Who may cross a junction: traffic lights, right of way by arrival, room on the far side, people on the zebras."""

from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.clearance import overlapping
from perception.datasets.town.layout import Node
from perception.datasets.town.routes import CAR_OFFSET_M, CYCLE_OFFSET_M, Path, axle_poses, lane_through
from perception.datasets.town.signals import Light, green, has_signals

BRAKING: Final = 3.0
ACCELERATION: Final = 1.6
TURN_SPEED_MPS: Final = 4.5
STOP_BACK_M: Final = 2.5
_HOLD_M: Final = 5.0
_SHY_S: Final = 3.0
_PATIENCE_S: Final = 8.0
_CLEAR_M: Final = 0.09
# Length and width of the largest bicycle, car or van, bus or lorry.
_BODIES: Final = ((1.95, 0.6), (5.7, 2.13), (9.4, 2.4))

# An arm of a junction: 0 east, 1 north, 2 west, 3 south of its centre.
Zebra = tuple[Node, int]


@dataclass(frozen=True)
class Crossing:
    """A junction on a path.

    Args:
        enter_m, leave_m: arc lengths where it begins and ends.
        node: which it is.
        limit_mps: how fast it may be taken.
        origin, exit: the arms by which the path comes and goes.
        lane: names the lane that leads to it: two paths on one lane have equal names.
    """

    enter_m: float
    leave_m: float
    node: Node
    limit_mps: float
    origin: int
    exit: int
    lane: tuple[float, float]

    @property
    def turn(self) -> int:
        """-1 right, 0 straight on, 1 left."""
        return {0: 0, 1: 1, 3: -1}.get((self.exit - self.origin - 2) % 4, 0)


def crossings(path: Path) -> list[Crossing]:
    """The junctions of a path in order, and at last its end as one that nobody leaves."""
    found = []
    for enter_m, leave_m, node in path.junctions:
        (x, y, before), (_, _, after) = path.at(np.array([enter_m, leave_m]))
        limit = TURN_SPEED_MPS if abs(after - before) > 0.3 else np.inf
        origin, leaves = (round(before / (np.pi / 2)) + 2) % 4, round(after / (np.pi / 2)) % 4
        found.append(Crossing(enter_m, leave_m, node, limit, origin, leaves, (round(x, 3), round(y, 3))))
    x, y = path.points_m[-1]
    end = Crossing(path.length_m, np.inf, (-1, -1), np.inf, -1, -1, (round(float(x), 3), round(float(y), 3)))
    return [*found, end]


def body_of(length_m: float, cycles: bool) -> int:
    """The class of bodies (of `_BODIES`) that a road user belongs to."""
    return 0 if cycles else 1 if length_m <= _BODIES[1][0] else 2


@cache
def conflict(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    """Whether two road users would touch somewhere if they crossed a junction at any two times.

    Two of one class that come from the same arm follow each other, so that they do not conflict.

    Args:
        a, b: the arms by which each comes and goes, and its class (see `body_of`).
    """
    if a[0] == b[0] and (a[2] == 0) == (b[2] == 0):
        return False
    poses_a, poses_b = _sweep(a), _sweep(b)
    i, j = (index.ravel() for index in np.indices((len(poses_a), len(poses_b))))
    half_a, half_b = (np.full((len(i), 2), np.array(_BODIES[way[2]]) / 2 + _CLEAR_M) for way in (a, b))
    return bool(overlapping(poses_a[i], poses_b[j], half_a, half_b).any())


@cache
def _sweep(way: tuple[int, int, int]) -> Float[ndarray, "k 3"]:
    """Poses about every 0.7 m on the way across a junction at the origin, from the stop line until it is left."""
    origin, leaves, body = way
    arms = 60.0 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    offset_m = CYCLE_OFFSET_M if body == 0 else CAR_OFFSET_M
    path = lane_through([arms[origin], np.zeros(2), arms[leaves]], [(-1, -1)] * 3, offset_m)
    (enter_m, leave_m, _), length_m = path.junctions[0], _BODIES[body][0]
    begin, end = enter_m - STOP_BACK_M - length_m / 2, leave_m + length_m / 2
    return axle_poses(path, np.linspace(begin, end, int((end - begin) / 0.7)), length_m)


@dataclass
class Junctions:
    """Which crossing comes next for whom, who holds a junction, and which zebras people are on.

    Args:
        ways: the crossings of each road user.
        bodies: the class of each; see `body_of`.
        signals: whether the traffic lights work.
    """

    ways: list[list[Crossing]]
    bodies: list[int]
    signals: bool
    next: list[int] = field(init=False)
    holders: dict[Node, dict[int, Crossing]] = field(default_factory=dict)
    refused_s: dict[Node, dict[int, float]] = field(default_factory=dict)
    walked_on: dict[Zebra, int] = field(default_factory=dict)
    approached: set[Zebra] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.next = [0] * len(self.ways)

    def ahead(self, i: int) -> Crossing:
        """The junction that road user `i` is in or comes to next."""
        return self.ways[i][self.next[i]]

    def pass_by(self, i: int, tail_m: float) -> None:
        """Let go of the junctions that the tail has left."""
        while tail_m > self.ahead(i).leave_m:
            self.holders.get(self.ahead(i).node, {}).pop(i, None)
            self.next[i] += 1

    def rule(
        self, i: int, time_s: float, nose_m: float, length_m: float, speed_mps: float, room_m: float
    ) -> tuple[float, float]:
        """Metres to the stop line where it has to wait (or infinity), and the speed limit.

        A junction is taken hold of at the last moment to brake: with green light or without lights, if nobody holds
        it whose way is in conflict, nor has waited to for 8 s, if nobody walks on the two zebras, and if there is
        room on the far side. A red light ends the hold of one who can still stop.

        Args:
            i: the road user.
            time_s: now.
            nose_m: arc length of its front end.
            length_m: its length.
            speed_mps: its speed.
            room_m: free metres in front of it.
        """
        way = self.ahead(i)
        ahead_m = way.enter_m - nose_m
        if ahead_m > 30.0 or way.origin < 0:
            return np.inf, np.inf
        limit = (way.limit_mps**2 + 2 * ACCELERATION * max(ahead_m, 0.0)) ** 0.5
        if ahead_m < max(12.0, _SHY_S * speed_mps) and speed_mps > 1.0:
            self.approached.add((way.node, way.origin))
        holders = self.holders.setdefault(way.node, {})
        braking_m = speed_mps**2 / (2 * BRAKING)
        stop_m = max(ahead_m - STOP_BACK_M, 0.0)
        if i in holders:
            if self._light(way, time_s) != Light.RED or ahead_m < max(braking_m, 0.05):
                return np.inf, limit
            del holders[i]
            return stop_m, limit
        if ahead_m < braking_m + _HOLD_M and self._free(i, way, time_s, room_m, nose_m, length_m):
            holders[i] = way
            return np.inf, limit
        return stop_m, limit

    def _light(self, way: Crossing, time_s: float) -> Light:
        lights = self.signals and has_signals(way.node)
        return green(way.node, way.origin % 2, time_s) if lights else Light.GREEN

    def _free(self, i: int, way: Crossing, time_s: float, room_m: float, nose_m: float, length_m: float) -> bool:
        walked_on = self.walked_on.get((way.node, way.origin)) or self.walked_on.get((way.node, way.exit))
        room = room_m >= way.leave_m + length_m - nose_m
        if self._light(way, time_s) != Light.GREEN or walked_on or not room:
            self.refused_s.get(way.node, {}).pop(i, None)
            return False
        holders = self.holders[way.node]
        if any(self._conflict(i, way, j, other) for j, other in holders.items()):
            self.refused_s.setdefault(way.node, {}).setdefault(i, time_s)
            return False
        longer = self.refused_s.get(way.node, {})
        since_s = min(longer.get(i, time_s), time_s - _PATIENCE_S)
        if any(t < since_s and self._conflict(i, way, j, self.ahead(j)) for j, t in longer.items() if j != i):
            return False
        longer.pop(i, None)
        return True

    def _conflict(self, i: int, way: Crossing, j: int, other: Crossing) -> bool:
        return conflict((way.origin, way.exit, self.bodies[i]), (other.origin, other.exit, self.bodies[j]))

    def may_step_on(self, zebra: Zebra, time_s: float, crossing_s: float) -> bool:
        """Whether a pedestrian may step on: no holder's way leads over it, and the light or the street allows it.

        With lights, the traffic across the zebra must have red for long enough; without, nobody may be coming.
        """
        node, arm = zebra
        if any(arm in (way.origin, way.exit) for way in self.holders.get(node, {}).values()):
            return False
        if self.signals and has_signals(node):
            return all(green(node, arm % 2, t) == Light.RED for t in (time_s, time_s + crossing_s))
        return zebra not in self.approached
