"""How traffic moves: everybody follows, keeps clear of what is ahead, and crosses junctions by their rules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.clearance import granted
from perception.datasets.town.junctions import ACCELERATION, BRAKING, Crossing, Junctions, body_of, crossings
from perception.datasets.town.routes import WHEELBASE, Path
from perception.datasets.town.walking import Walk, Walker

STEP_S: Final = 0.2
_GRID_M: Final = 0.5
_GAP_M: Final = 2.0
_WAKE_STEPS: Final = 25


@dataclass(frozen=True, eq=False)
class Driver:
    """One who follows a path: a vehicle, or a bicycle.

    Args:
        path: where it goes; it stops at the end.
        start_m: arc length of its centre at time 0.
        cruise_mps: desired speed.
        size_m: length and width.
        cycles: whether it rides a bicycle.
        region: where it belongs.
    """

    path: Path
    start_m: float
    cruise_mps: float
    size_m: tuple[float, float]
    cycles: bool = False
    region: int = 0


@dataclass(frozen=True, eq=False)
class Motion:
    """Where everybody was at each step, `STEP_S` apart from time 0.

    Args:
        s_m: arc lengths of the drivers' centres, [t, n].
        drivers, walkers: x, y and yaw, [t, n, 3] and [t, m, 3].
        walked_m: arc lengths of the walkers, [t, m].
    """

    s_m: Float[ndarray, "t n"]
    drivers: Float[ndarray, "t n 3"]
    walkers: Float[ndarray, "t m 3"]
    walked_m: Float[ndarray, "t m"]


def simulate(
    drivers: list[Driver],
    walkers: list[Walker],
    walker_sizes_m: Float[ndarray, "m 2"],
    seconds: float,
    signals: bool = True,
    awake: Callable[[Float[ndarray, "3"]], set[int]] | None = None,
    goal_m: float = np.inf,
) -> Motion:
    """Move everybody in steps of `STEP_S`.

    Each step a driver takes the speed from which it can still brake before the nearest of: who is ahead on its lane, a
    junction that it may not enter, the end of its path (the safe-distance rule of Gipps 1981 with equal braking, and
    the reaction time of one step). Turns are taken at 4.5 m/s. Front and rear axle run on the path, so that long
    vehicles cut corners. Whose rectangle would come to overlap another's stays where it is. What happens up to a time
    does not depend on `seconds`.

    Args:
        drivers, walkers: who moves.
        walker_sizes_m: length and width of the walkers.
        seconds: how long, at most.
        signals: whether the traffic lights work.
        awake: the regions that move while the first driver is at x, y, yaw; None for all. Who sleeps stands still.
        goal_m: the arc length at which the first driver has arrived and the motion ends.
    """
    state = _State(drivers, walkers, walker_sizes_m, signals)
    frames = [state.frame()]
    ids, on_foot = list(range(len(drivers))), list(range(len(walkers)))
    for step in range(math.ceil(seconds / STEP_S - 1e-9)):
        if awake is not None and step % _WAKE_STEPS == 0:
            regions = awake(state.poses[0])
            ids = [i for i, driver in enumerate(drivers) if i == 0 or driver.region in regions]
            on_foot = [i for i, walker in enumerate(walkers) if walker.region in regions]
        state.advance(step * STEP_S, ids, on_foot)
        frames.append(state.frame())
        if drivers and state.s[0] >= goal_m:
            break
    s, poses, walked = (np.array(column) for column in zip(*frames, strict=True))
    n = len(drivers)
    return Motion(s.reshape(len(frames), n), poses[:, :n], poses[:, n:], walked.reshape(len(frames), -1))


def drive(
    paths: list[Path],
    start_m: Float[ndarray, "n"],
    cruise_mps: Float[ndarray, "n"],
    half_m: Float[ndarray, "n"],
    seconds: float,
    goal_m: float = np.inf,
) -> Float[ndarray, "t n"]:
    """Arc lengths every `STEP_S`, [t, n], of cars on their own, without traffic lights; see `simulate`.

    Args:
        paths: one path a vehicle.
        start_m: arc lengths at time 0.
        cruise_mps: desired speeds.
        half_m: half lengths of the vehicles.
        seconds: how long, at most.
        goal_m: the arc length at which the first vehicle has arrived and the drive ends.
    """
    columns = zip(paths, start_m.tolist(), cruise_mps.tolist(), half_m.tolist(), strict=True)
    drivers = [Driver(path, start, cruise, (2 * half, 1.85)) for path, start, cruise, half in columns]
    return simulate(drivers, [], np.zeros((0, 2)), seconds, signals=False, goal_m=goal_m).s_m


class _State:
    """Everybody at one instant."""

    def __init__(
        self, drivers: list[Driver], walkers: list[Walker], walker_sizes_m: Float[ndarray, "m 2"], signals: bool
    ) -> None:
        sizes = np.array([driver.size_m for driver in drivers], float).reshape(-1, 2)
        self.drivers, self.walk = drivers, Walk(walkers)
        self.sizes = np.concatenate([sizes, walker_sizes_m])
        self.half = (sizes[:, 0] / 2).tolist()
        self.axle = WHEELBASE * sizes[:, 0] / 2
        self.grid = _on_grid([driver.path for driver in drivers])
        self.s = np.array([driver.start_m for driver in drivers], float)
        self.v = [0.7 * driver.cruise_mps for driver in drivers]
        ways = [crossings(driver.path) for driver in drivers]
        self.junctions = Junctions(ways, [body_of(driver.size_m[0], driver.cycles) for driver in drivers], signals)
        everyone = np.arange(len(drivers))
        self.poses = np.concatenate([self.pose_at(everyone, self.s), self.walk.poses(self.walk.s_m)])

    def frame(self) -> tuple[Float[ndarray, "n"], Float[ndarray, "k 3"], Float[ndarray, "m"]]:
        return self.s.copy(), self.poses.copy(), np.array(self.walk.s_m)

    def pose_at(self, ids: ndarray, s: Float[ndarray, "k"]) -> Float[ndarray, "k 3"]:
        """x, y and yaw of vehicles whose axles are on their paths."""
        front, rear = self._point(ids, s + self.axle[ids]), self._point(ids, s - self.axle[ids])
        ahead = front - rear
        return np.column_stack([(front + rear) / 2, np.arctan2(ahead[:, 1], ahead[:, 0])])

    def _point(self, ids: ndarray, s: Float[ndarray, "k"]) -> Float[ndarray, "k 2"]:
        cell = np.clip(s / _GRID_M, 0, self.grid.shape[1] - 1.001)
        low = cell.astype(int)
        part = (cell - low)[:, None]
        return self.grid[ids, low] * (1 - part) + self.grid[ids, low + 1] * part

    def advance(self, time_s: float, ids: list[int], on_foot: list[int]) -> None:
        """One step of those who are awake."""
        n, s = len(self.drivers), self.s.tolist()
        speeds = self._speeds(time_s, ids, s)
        walked = [self.walk.wish(i, time_s, STEP_S, self.junctions) for i in on_foot]
        movers = np.array([*ids, *(n + i for i in on_foot)], int)
        mine = np.array(ids, int)
        there = self.s[mine] + STEP_S * np.array(speeds)
        feet = [self.walk.walkers[i].pose(w) for i, w in zip(on_foot, walked, strict=True)]
        wished = np.concatenate([self.pose_at(mine, there), np.array(feet, float).reshape(-1, 3)])
        may = granted(self.poses[movers], wished, self.sizes[movers])
        self.poses[movers[may]] = wished[may]
        self.s[mine[may[: len(ids)]]] = there[may[: len(ids)]]
        allowed = may.tolist()
        for i, speed, ok in zip(ids, speeds, allowed, strict=False):
            self.v[i] = speed if ok else 0.0
        for i, w, ok in zip(on_foot, walked, allowed[len(ids) :], strict=True):
            self.walk.s_m[i] = w if ok else self.walk.s_m[i]

    def _speeds(self, time_s: float, ids: list[int], s: list[float]) -> list[float]:
        """The speed that each driver would like to have during the next step."""
        self.junctions.approached.clear()
        for i in ids:
            self.junctions.pass_by(i, s[i] - self.half[i])
        gaps = self._gaps(ids, s)
        brake, speeds = BRAKING * STEP_S, []
        for i in ids:
            v, room = self.v[i], gaps[i]
            nose_m, length_m = s[i] + self.half[i], 2 * self.half[i]
            stop_m, limit = self.junctions.rule(i, time_s, nose_m, length_m, v, room)
            room = max(min(room, stop_m, self.drivers[i].path.length_m - s[i]), 0.0)
            safe = math.sqrt(brake * brake + 2 * BRAKING * room) - brake
            speeds.append(max(min(v + ACCELERATION * STEP_S, self.drivers[i].cruise_mps, limit, safe), 0.0))
        return speeds

    def _gaps(self, ids: list[int], s: list[float]) -> dict[int, float]:
        """Free metres in front of each: bumper to bumper, less 2 m, on the lane that it is on and on the next one."""
        lanes: dict[tuple[float, float], list[tuple[float, int]]] = {}
        ways: dict[int, Crossing] = {i: self.junctions.ahead(i) for i in ids}
        for i, way in ways.items():
            lanes.setdefault(way.lane, []).append((s[i] - way.enter_m, i))
        gaps = dict.fromkeys(ids, math.inf)
        for lane in lanes.values():
            lane.sort()
            for (behind, i), (before, j) in pairwise(lane):
                gaps[i] = before - behind - self.half[i] - self.half[j] - _GAP_M
        for i, way in ways.items():
            if way.origin >= 0:
                beyond = self.junctions.ways[i][self.junctions.next[i] + 1]
                first = lanes.get(beyond.lane)
                if first and first[0][1] != i:
                    gap = first[0][0] + beyond.enter_m - s[i] - self.half[i] - self.half[first[0][1]] - _GAP_M
                    gaps[i] = min(gaps[i], gap)
        return gaps


def _on_grid(paths: list[Path]) -> Float[ndarray, "n g 2"]:
    """All paths at every half metre, the shorter ones standing still at their ends."""
    s = np.arange(0.0, max((path.length_m for path in paths), default=0.0) + 2 * _GRID_M, _GRID_M)
    rows = [np.stack([np.interp(s, path.s_m, column) for column in path.points_m.T], axis=1) for path in paths]
    return np.array(rows, float).reshape(len(paths), len(s), 2)
