"""From motion to traces: who was where, how fast, with which indicator."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

from geometry import Indicator, Trace
from perception.datasets.base import DataError
from perception.datasets.town.config import TownConfig
from perception.datasets.town.driving import STEP_S, Driver, Motion, simulate
from perception.datasets.town.junctions import crossings
from perception.datasets.town.layout import HALF_ROAD_M, KERB_M, Layout
from perception.datasets.town.looks import Look, kind_of
from perception.datasets.town.populace import Populace
from perception.datasets.town.routes import region_box
from perception.datasets.town.walking import Stroll, Walker

DRIVERS: Final = ("kinematic", "sumo")
INDICATE_S: Final = 3.0


def moved(
    layout: Layout,
    config: TownConfig,
    there: list[Populace],
    seconds: float,
    seed: list[int],
    goal_m: float = np.inf,
    seen_m: float = np.inf,
) -> tuple[list[list[Trace]], list[list[Trace]]]:
    """Traces of the drivers and of the walkers of some regions, who meet each other.

    SUMO moves the drivers alone: with it nobody walks across the junctions.

    Args:
        layout, config: the town; `config.driver` says who drives.
        there: the regions; what comes out is in their order.
        seconds: how long, at most.
        seed: decides what SUMO draws.
        goal_m: the arc length at which the first driver has arrived and the motion ends.
        seen_m: regions further from the first driver stand still.

    Raises:
        DataError: `config.driver` is unknown, or "sumo" without SUMO.
    """
    if config.driver not in DRIVERS:
        raise DataError(f"TownConfig.driver is {config.driver!r}; choose one of: {', '.join(DRIVERS)}")
    if config.driver == "sumo":
        from perception.datasets.town.sumo_driver import drive_sumo

        return drive_sumo(layout, there, seconds, seed, goal_m), [[] for _ in there]
    drivers = [driver for people in there for driver in people.drivers]
    walkers = [walker for people in there for walker in people.walkers]
    feet = np.array([look[1][:2] for people in there for look in people.walker_looks], float).reshape(-1, 2)
    boxes = {people.region: region_box(layout, people.region) for people in there if people.region >= 0}

    def awake(pose: Float[ndarray, "3"]) -> set[int]:
        return {region for region, box in boxes.items() if distance_m(pose, box) <= seen_m}

    longer = seconds + INDICATE_S + STEP_S
    motion = simulate(drivers, walkers, feet, longer, True, awake if seen_m < np.inf else None, goal_m)
    count = min(int(np.ceil(seconds / STEP_S)) + 2, len(motion.s_m))
    return _of_drivers(there, motion, count), _of_walkers(there, motion, count)


def distance_m(pose: Float[ndarray, "3"], box: tuple[float, float, float, float]) -> float:
    """How far a place (x, y, ...) lies from a rectangle (west, south, east, north)."""
    west, south, east, north = box
    return float(np.hypot(max(west - pose[0], pose[0] - east, 0), max(south - pose[1], pose[1] - north, 0)))


def _of_drivers(there: list[Populace], motion: Motion, count: int) -> list[list[Trace]]:
    traces, first = [], 0
    for people in there:
        mine = []
        for i, (driver, look) in enumerate(zip(people.drivers, people.driver_looks, strict=True)):
            s = motion.s_m[:, first + i]
            turns = indicator(driver, s)[:count]
            speed = np.clip(np.gradient(s, STEP_S), 0, None)[:count]
            poses, name = motion.drivers[:count, first + i], driver_name(people.region, i)
            mine.append(trace_of(name, look, poses, np.zeros(count), speed, turns))
        traces.append(mine)
        first += len(people.drivers)
    return traces


def _of_walkers(there: list[Populace], motion: Motion, count: int) -> list[list[Trace]]:
    traces, first = [], 0
    for people in there:
        mine = []
        for i, (walker, look) in enumerate(zip(people.walkers, people.walker_looks, strict=True)):
            poses, s = motion.walkers[:count, first + i], motion.walked_m[:, first + i]
            z, speed = _height_m(walker, s[:count]), np.clip(np.gradient(s, STEP_S), 0, None)[:count]
            mine.append(trace_of(f"region-{people.region}/walker-{i}", look, poses, z, speed))
        traces.append(mine)
        first += len(people.walkers)
    return traces


def _height_m(walker: Walker, s_m: Float[ndarray, "t"]) -> Float[ndarray, "t"]:
    """0 on a zebra, the kerb's height elsewhere."""
    side, u = np.divmod(s_m, 2 * walker.radius_m)
    crosses = np.isin([walker.arm(int(k) % 4) for k in side], sorted(walker.arms))
    return np.where(crosses & (np.abs(u - walker.radius_m) < HALF_ROAD_M), 0.0, KERB_M)


def driver_name(region: int, number: int) -> str:
    """The name of a driver's trace."""
    return f"region-{region}/driver-{number}"


def indicator(driver: Driver, s_m: Float[ndarray, "t"]) -> Int8[ndarray, "t"]:
    """The indicator at each step: set from 3 s before the front enters a turn until the centre has left it."""
    shown = np.full(len(s_m), Indicator.OFF, np.int8)
    for way in crossings(driver.path):
        begins = np.searchsorted(s_m + driver.size_m[0] / 2, way.enter_m)
        if begins == len(s_m):
            return shown
        if way.turn:
            ends = np.searchsorted(s_m, way.leave_m)
            shown[max(begins - round(INDICATE_S / STEP_S), 0) : ends] = way.turn
    return shown


def stroll_trace(region: int, number: int, stroll: Stroll, start_m: float, look: Look, seconds: float) -> Trace:
    """Somebody who walks along a kerb."""
    times = STEP_S * np.arange(int(np.ceil(seconds / STEP_S)) + 2)
    poses = stroll.at(start_m + stroll.speed_mps * times)
    speed, z = np.full(len(times), stroll.speed_mps), np.full(len(times), KERB_M)
    return trace_of(f"region-{region}/stroller-{number}", look, poses, z, speed)


def trace_of(
    name: str,
    look: Look,
    poses: Float[ndarray, "t 3"],
    z_m: Float[ndarray, "t"],
    speed_mps: Float[ndarray, "t"],
    shown: Int8[ndarray, "t"] | None = None,
) -> Trace:
    """A trace of poses `STEP_S` apart, from time 0."""
    model, size, _ = look
    return Trace(
        name=name,
        kind=kind_of(model),
        size_m=(float(size[0]), float(size[1]), float(size[2])),
        times_s=STEP_S * np.arange(len(poses)),
        positions_m=np.column_stack([poses[:, :2], z_m]),
        yaw_rad=poses[:, 2],
        speed_mps=speed_mps,
        indicator=np.zeros(len(poses), np.int8) if shown is None else shown,
    )
