"""A day's traffic: everybody in the regions that sensing vehicles can see, and where they are over time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import Trace
from perception.datasets.town.config import TownConfig
from perception.datasets.town.driving import Driver
from perception.datasets.town.layout import Layout
from perception.datasets.town.looks import SENSING, Look, vehicle_look
from perception.datasets.town.models import Model
from perception.datasets.town.populace import Populace, populate
from perception.datasets.town.routes import CAR_OFFSET_M, grand_tour, lane_path, regions_near, toured
from perception.datasets.town.traces import INDICATE_S, moved, stroll_trace, trace_of

SENSING_PER_REGION: Final = 2
HOLDOUT_DAY: Final = 1_000_003
SEEN_M: Final = 120.0
_STRIDE_M: Final = 1.4
_IDS_PER_REGION: Final = 10_000
_SLOWEST_TOUR_MPS: Final = 0.7
_START_M: Final = 6.0


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user for a day.

    Args:
        model: what it is.
        size_m: length, width, height, [3].
        colours: its two colours, linear RGB [2, 3].
        track: x, y, z of the ground below its centre, yaw, and stride (turns) at every sampled time, [t, 5].
        trace: its motion in full, from time 0.
        track_id: a number that depends on nobody else.
    """

    model: Model
    size_m: Float[ndarray, "3"]
    colours: Float[ndarray, "2 3"]
    track: Float[ndarray, "t 5"]
    trace: Trace
    track_id: int

    def cuboid(self, tick: int) -> Float[ndarray, "7"]:
        """x y z of the centre, length, width, height, yaw at a sampled time."""
        x, y, z, yaw, _ = self.track[tick]
        return np.array([x, y, z + self.size_m[2] / 2, *self.size_m, yaw])


@dataclass(frozen=True, eq=False)
class Day:
    """One day's traffic, sampled at the times of the frames.

    Args:
        times_s: [t].
        actors: those that are parked, which have a track of one row, then those that move.
        sensing: index of the actor that carries the sensors, for each sensing vehicle that was asked for.
        parked: number of actors, the first ones, that never move.
        seed: decides the sensors' noise.
    """

    times_s: Float[ndarray, "t"]
    actors: tuple[Actor, ...]
    sensing: tuple[int, ...]
    parked: int
    seed: tuple[int, ...]

    def traces(self) -> tuple[Trace, ...]:
        """The motion of every actor, in their order: every 0.2 s from time 0, of one sample for parked ones."""
        return tuple(actor.trace for actor in self.actors)


def plan_day(layout: Layout, config: TownConfig, day: int, frames: int, region: int | None = None) -> Day:
    """Traffic of day 0, 1, ...: `SENSING_PER_REGION` sensing vehicles in each region, dealt region by region.

    It holds what can be seen from some regions: those within 120 m. Each moves on its own: what happens in one depends
    neither on which others are there nor on how many `frames` there are.

    Args:
        layout, config: the town.
        day: its number.
        frames: how many.
        region: the region to be seen from; `sensing` then holds its sensing vehicles alone. None for the regions of
            all vehicles that `config.vehicles` seats on this day (of all seats, if it seats none).

    Raises:
        DataError: `config.driver` is unknown, or "sumo" without SUMO.
    """
    seats = _seats(layout, config, day) if region is None else [(region, k) for k in range(SENSING_PER_REGION)]
    times = config.warmup_s + np.arange(frames) / config.rate_hz
    last_s, at = float(times[-1]), {}
    parked: list[Actor] = []
    moving: list[Actor] = []
    for near in regions_near(layout, {seat[0] for seat in seats}, SEEN_M):
        people = populate(layout, config, day, near, SENSING_PER_REGION, last_s + INDICATE_S)
        (drivers,), (walkers,) = moved(layout, config, [people], last_s, [config.seed, 18, day, near])
        at.update({(near, k): len(moving) + k for k in range(SENSING_PER_REGION)})
        parked += list(_standing(people))
        moving += list(_moving(people, drivers, walkers, times))
    sensing = tuple(len(parked) + at[seat] for seat in seats)
    return Day(times, (*parked, *moving), sensing, len(parked), (config.seed, 15, day))


def _seats(layout: Layout, config: TownConfig, day: int) -> list[tuple[int, int]]:
    """Region and number within it of the vehicles that sense on a day."""
    regions, seats = len(layout.rsus_m), len(layout.rsus_m) * SENSING_PER_REGION
    asked = min(config.vehicles - day * seats, seats)
    return [(seat % regions, seat // regions) for seat in range(asked if asked > 0 else seats)]


def plan_holdout(layout: Layout, config: TownConfig) -> Day:
    """A day on which one vehicle drives through all regions, at most six; its frames are spread over the whole way.

    A region's traffic stands still until the vehicle comes within 120 m.

    Raises:
        DataError: as `plan_day`.
    """
    rng = np.random.default_rng([config.seed, 13, HOLDOUT_DAY])
    route, look = grand_tour(layout), vehicle_look(SENSING, rng)
    path = lane_path(layout, route, CAR_OFFSET_M)
    tourist = Driver(path, _START_M, float(rng.uniform(7.5, 9.5)), (float(look[1][0]), float(look[1][1])), region=-1)
    longest_s = path.length_m / _SLOWEST_TOUR_MPS
    tour = Populace(-1, [], [], [tourist], [route], [look], [], [], [], [])
    crowds = (populate(layout, config, HOLDOUT_DAY, region, 0, longest_s) for region in toured(layout))
    there = [tour, *(crowd.making_room(tourist) for crowd in crowds)]
    goal_m, seed = path.length_m - 12.0, [config.seed, 18, HOLDOUT_DAY]
    drivers, walkers = moved(layout, config, there, longest_s, seed, goal_m, SEEN_M)
    times = _spread(drivers[0][0], config.holdout_frames)
    parked = [actor for people in there for actor in _standing(people)]
    casts = zip(there, drivers, walkers, strict=True)
    moving = [actor for people, mine, feet in casts for actor in _moving(people, mine, feet, times)]
    return Day(times, (*parked, *moving), (len(parked),), len(parked), (config.seed, 15, HOLDOUT_DAY))


def _spread(trace: Trace, count: int) -> Float[ndarray, "k"]:
    """Times at which a vehicle has driven equal distances since the last one; the first after 6 m."""
    driven = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(trace.positions_m[:, :2], axis=0).T))])
    return np.interp(np.linspace(6.0, driven[-1], count), driven + 1e-9 * trace.times_s, trace.times_s)


def _standing(people: Populace) -> Iterator[Actor]:
    """The parked vehicles of a region."""
    for number, (pose, look) in enumerate(zip(people.parked, people.parked_looks, strict=True)):
        trace = trace_of(f"region-{people.region}/parked-{number}", look, pose[None], np.zeros(1), np.zeros(1))
        yield _actor(look, trace, np.zeros(1), people.region, number)


def _moving(
    people: Populace, drivers: list[Trace], walkers: list[Trace], times_s: Float[ndarray, "t"]
) -> Iterator[Actor]:
    """Drivers, walkers and strollers of a region."""
    last_s = float(times_s[-1]) if len(times_s) else 0.0
    strollers = [
        stroll_trace(people.region, k, stroll, start_m, look, last_s)
        for k, ((stroll, start_m), look) in enumerate(zip(people.strolls, people.stroll_looks, strict=True))
    ]
    feet = people.walker_looks[: len(walkers)]  # SUMO leaves the walkers out
    looks, traces = [*people.driver_looks, *feet, *people.stroll_looks], [*drivers, *walkers, *strollers]
    for number, (look, trace) in enumerate(zip(looks, traces, strict=True)):
        yield _actor(look, trace, times_s, people.region, len(people.parked) + number)


def _actor(look: Look, trace: Trace, times_s: Float[ndarray, "t"], region: int, number: int) -> Actor:
    model, size, colours = look
    then = trace.at(times_s)
    stride = np.zeros(len(times_s))
    if trace.kind == "pedestrian":
        steps = np.hypot(*np.diff(trace.positions_m[:, :2], axis=0).T)
        stride = np.interp(times_s, trace.times_s, np.concatenate([[0.0], np.cumsum(steps)])) / _STRIDE_M
    track = np.column_stack([then.positions_m, then.yaw_rad, stride])
    return Actor(model, size, colours, track, trace, (region + 1) * _IDS_PER_REGION + number)
