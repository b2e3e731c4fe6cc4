"""How vehicles move along their paths: they follow, keep clear of what is ahead, and cross junctions one at a time."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.layout import Node
from perception.datasets.town.routes import Path

STEP_S: Final = 0.2
_GRID_M: Final = 0.5
_LOOK_M: Final = np.arange(1.0, 44.0, 1.75)
_SIDE_M: Final = 1.5
_GAP_M: Final = 2.0
_ACCELERATION: Final = 1.6
_BRAKING: Final = 3.0
_TURN_SPEED_MPS: Final = 4.5


@dataclass(frozen=True)
class _Crossing:
    """A junction on a path: where it begins and ends, which it is, and how fast it may be taken."""

    enter_m: float
    leave_m: float
    node: Node
    limit_mps: float


@dataclass
class _Junctions:
    """Who holds which junction, and which crossing comes next on each path."""

    crossings: list[list[_Crossing]]
    next: list[int] = field(init=False)
    holder: dict[Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.next = [0] * len(self.crossings)

    def rule(self, i: int, nose_m: float, tail_m: float, gap_m: float) -> tuple[float, float]:
        """Metres to the stop line of a junction that is not held (or infinity), and the speed limit.

        A vehicle within 10 m of a free junction takes hold of it if there is room for it on the far side, and lets go
        when its tail has left.
        """
        crossings = self.crossings[i]
        while self.next[i] < len(crossings) and tail_m > crossings[self.next[i]].leave_m:
            if self.holder.get(crossings[self.next[i]].node) == i:
                del self.holder[crossings[self.next[i]].node]
            self.next[i] += 1
        if self.next[i] == len(crossings) or crossings[self.next[i]].enter_m - nose_m > 25.0:
            return np.inf, np.inf
        crossing = crossings[self.next[i]]
        ahead_m = crossing.enter_m - nose_m
        if ahead_m < 10.0 and gap_m > crossing.leave_m - tail_m:
            self.holder.setdefault(crossing.node, i)
        blocked = ahead_m < 10.0 and self.holder.get(crossing.node) != i
        limit = (crossing.limit_mps**2 + 2 * _ACCELERATION * max(ahead_m, 0.0)) ** 0.5
        return (ahead_m if blocked else np.inf), limit


def drive(
    paths: list[Path],
    start_m: Float[ndarray, "n"],
    cruise_mps: Float[ndarray, "n"],
    half_m: Float[ndarray, "n"],
    seconds: float,
    goal_m: float = np.inf,
) -> Float[ndarray, "t n"]:
    """Arc lengths of all vehicles every `STEP_S`, [t, n].

    Each step a vehicle takes the speed from which it can still brake before the nearest of: a vehicle on its path
    ahead, a junction that another holds, the end of its path (the safe-distance rule of Gipps 1981 with equal braking,
    and the reaction time of one step). Turns are taken at 4.5 m/s. What happens up to a time does not depend on
    `seconds`.

    Args:
        paths: one path a vehicle; it stops at its end.
        start_m: arc lengths at time 0.
        cruise_mps: desired speeds.
        half_m: half lengths of the vehicles.
        seconds: how long, at most.
        goal_m: the arc length at which the first vehicle has arrived and the drive ends.
    """
    grid = _on_grid(paths)
    ends = np.array([path.length_m for path in paths])
    junctions = _Junctions([_crossings(path) for path in paths])
    s, v = start_m.astype(float), 0.7 * cruise_mps
    trace = [s]
    for _ in range(int(np.ceil(seconds / STEP_S))):
        gap_m = _gap_ahead(grid, s, half_m)
        state = zip(s + half_m, s - half_m, gap_m, strict=True)
        stop_m, limit = np.array([junctions.rule(i, *ahead) for i, ahead in enumerate(state)]).T
        room = np.clip(np.minimum.reduce([gap_m, stop_m, ends - s]), 0, None)
        brake = _BRAKING * STEP_S
        safe = np.sqrt(brake**2 + 2 * _BRAKING * room) - brake
        v = np.clip(np.minimum.reduce([v + _ACCELERATION * STEP_S, cruise_mps, limit, safe]), 0, None)
        s = s + v * STEP_S
        trace.append(s)
        if s[0] >= goal_m:
            break
    return np.array(trace)


def _crossings(path: Path) -> list[_Crossing]:
    turns = [np.ptp(np.interp([a, b], path.s_m, path.yaw_rad)) > 0.3 for a, b, _ in path.junctions]
    limits = [_TURN_SPEED_MPS if turn else np.inf for turn in turns]
    return [_Crossing(a, b, node, limit) for (a, b, node), limit in zip(path.junctions, limits, strict=True)]


def _on_grid(paths: list[Path]) -> Float[ndarray, "n g 2"]:
    """All paths at every half metre, the shorter ones standing still at their ends."""
    s = np.arange(0.0, max(path.length_m for path in paths) + _LOOK_M[-1] + 1, _GRID_M)
    return np.stack([path.at(s)[:, :2] for path in paths])


def _gap_ahead(
    grid: Float[ndarray, "n g 2"], s: Float[ndarray, "n"], half_m: Float[ndarray, "n"]
) -> Float[ndarray, "n"]:
    """Free metres on each vehicle's own path before it meets another, bumper to bumper less 2 m; infinity if free."""
    n = np.arange(len(s))
    cell = np.rint(s[:, None] / _GRID_M + np.concatenate([[0.0], _LOOK_M])[None] / _GRID_M).astype(int)
    spots = grid[n[:, None], np.minimum(cell, grid.shape[1] - 1)]
    here, ahead = spots[:, 0], spots[:, 1:]
    difference = ahead[:, :, None, :] - here[None, None, :, :]
    near = (difference**2).sum(axis=-1) < _SIDE_M**2
    near[n, :, n] = False
    reach = _LOOK_M[None, :, None] - half_m[:, None, None] - half_m[None, None, :] - _GAP_M
    return np.where(near, reach, np.inf).min(axis=(1, 2))
