"""Who is in the streets on a day: parked and moving vehicles, walkers, riders, and the vehicles that sense."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.config import TownConfig
from perception.datasets.town.driving import STEP_S, drive
from perception.datasets.town.layout import HALF_ROAD_M, JUNCTION_M, KERB_M, Block, Layout, Node
from perception.datasets.town.looks import MOVING, PARKED, SENSING, person_look, vehicle_look
from perception.datasets.town.models import Model
from perception.datasets.town.routes import (
    CAR_OFFSET_M,
    CYCLE_OFFSET_M,
    Path,
    grand_tour,
    lane_path,
    neighbours,
    path_through,
    wander,
)
from perception.datasets.town.scenery import side_line

SENSING_PER_REGION: Final = 2
HOLDOUT_DAY: Final = 1_000_003


@dataclass(frozen=True, eq=False)
class Actor:
    """A road user for a day.

    Args:
        model: what it is.
        size_m: length, width, height, [3].
        colours: its two colours, linear RGB [2, 3].
        track: x, y, z of the ground below its centre, yaw, and stride (turns) at every sampled time, [t, 5].
    """

    model: Model
    size_m: Float[ndarray, "3"]
    colours: Float[ndarray, "2 3"]
    track: Float[ndarray, "t 5"]

    def cuboid(self, tick: int) -> Float[ndarray, "7"]:
        """x y z of the centre, length, width, height, yaw at a sampled time."""
        x, y, z, yaw, _ = self.track[tick]
        return np.array([x, y, z + self.size_m[2] / 2, *self.size_m, yaw])


@dataclass(frozen=True, eq=False)
class Day:
    """One day's traffic, sampled at the times of the frames.

    Args:
        times_s: [t].
        actors: an actor's place in this tuple is its track id; parked ones have a track of one row.
        sensing: index of the actor that carries the sensors, for each sensing vehicle.
        parked: number of actors, the first ones, that never move.
        seed: decides the sensors' noise.
    """

    times_s: Float[ndarray, "t"]
    actors: tuple[Actor, ...]
    sensing: tuple[int, ...]
    parked: int
    seed: tuple[int, ...]


def plan_day(layout: Layout, config: TownConfig, day: int, frames: int) -> Day:
    """Traffic of day 0, 1, ...: `SENSING_PER_REGION` sensing vehicles in each region, dealt region by region.

    The first frames do not depend on how many `frames` there are.
    """
    routes: list[list[Node]] = []
    sensing = []
    for region in range(len(layout.rsus_m)):
        sensing.append(len(routes) + np.arange(SENSING_PER_REGION))
        routes += _routes(layout, config, region, SENSING_PER_REGION, [config.seed, 14, day, region])
    times = config.warmup_s + np.arange(frames) / config.rate_hz
    order = tuple(int(i) for i in np.stack(sensing, axis=1).ravel())
    return _day(layout, config, day, routes, order, float(times[-1]), lambda _: times)


def plan_holdout(layout: Layout, config: TownConfig) -> Day:
    """A day on which one vehicle drives through every region; its frames are spread evenly over the whole way."""
    routes = [grand_tour(layout)]
    for region in range(len(layout.rsus_m)):
        routes += _routes(layout, config, region, 0, [config.seed, 14, HOLDOUT_DAY, region])
    length = lane_path(layout, routes[0], CAR_OFFSET_M).length_m
    spots = np.linspace(12.0, length - 12.0, config.holdout_frames)

    def times(trace: Float[ndarray, "t n"]) -> Float[ndarray, "k"]:
        seconds = STEP_S * np.arange(len(trace))
        return np.interp(spots, trace[:, 0] + 1e-9 * seconds, seconds)

    return _day(layout, config, HOLDOUT_DAY, routes, (0,), length / 1.5, times, goal_m=spots[-1])


def _routes(layout: Layout, config: TownConfig, region: int, sensing: int, seed: list[int]) -> list[list[Node]]:
    """Walks over a region's junctions that start on different streets; the same walk whatever its length."""
    nodes = layout.nodes_of(region)
    streets = [(a, b) for a in nodes for b in neighbours(layout, a) if b in nodes]
    order = np.random.default_rng(seed).permutation(len(streets))
    count = sensing + round(config.moving_per_region * layout.style_at(*layout.rsus_m[region]).moving)
    return [
        wander(layout, streets[k], set(nodes), 120, np.random.default_rng([*seed, i]))
        for i, k in enumerate(order[:count])
    ]


def _day(
    layout: Layout,
    config: TownConfig,
    day: int,
    routes: list[list[Node]],
    sensing: tuple[int, ...],
    seconds: float,
    times_of: Callable[[Float[ndarray, "t n"]], Float[ndarray, "k"]],
    goal_m: float = np.inf,
) -> Day:
    """Everybody of a day, with the movers driven first so that the times may depend on where they are."""
    rng = np.random.default_rng([config.seed, 13, day])
    parked = _parked(layout, config, rng)
    paths = [lane_path(layout, nodes, CAR_OFFSET_M) for nodes in routes]
    looks = [vehicle_look(MOVING if i not in sensing else SENSING, rng) for i in range(len(paths))]
    cruise = rng.uniform(6.0, 9.5, len(paths))
    start = np.array([0.0 if i == 0 and len(sensing) == 1 else rng.uniform(3, 28) for i in range(len(paths))])
    half = np.array([size[0] / 2 for _, size, _ in looks])
    trace = drive(paths, start, cruise, half, seconds, goal_m)
    times = times_of(trace)
    clock = STEP_S * np.arange(len(trace))
    movers = []
    for (model, size, colours), path, s in zip(looks, paths, trace.T, strict=True):
        xyyaw = path.at(np.interp(times, clock, s))
        movers.append(Actor(model, size, colours, _track(xyyaw, 0.0, np.zeros(len(times)))))
    actors = [*parked, *movers, *_walkers(layout, config, times, rng), *_riders(layout, config, times, rng)]
    shifted = tuple(len(parked) + i for i in sensing)
    return Day(times, tuple(actors), shifted, len(parked), (config.seed, 15, day))


def _track(xyyaw: Float[ndarray, "t 3"], z_m: float, stride: Float[ndarray, "t"]) -> Float[ndarray, "t 5"]:
    return np.column_stack([xyyaw[:, :2], np.full(len(xyyaw), z_m), xyyaw[:, 2], stride])


def _parked(layout: Layout, config: TownConfig, rng: np.random.Generator) -> list[Actor]:
    """Vehicles at the kerbs of all streets, in the direction of traffic; slots near junctions stay free."""
    actors = []
    for block in layout.blocks():
        for side in block.sides:
            start, end, inward = side_line(block, side, 0.0)
            along, length = (end - start) / np.linalg.norm(end - start), float(np.linalg.norm(end - start))
            travel = np.array([-inward[1], inward[0]])
            slots = np.arange(JUNCTION_M - HALF_ROAD_M + 5.0, length - JUNCTION_M + HALF_ROAD_M - 4.0, 6.4)
            for s in slots:
                spot = start + along * s
                free = rng.random() >= config.parked_share * layout.style_at(*spot).parked
                model, size, colours = vehicle_look(PARKED, rng)
                if free or _in_junction(layout, spot, along):
                    continue
                x, y = spot - inward * (size[1] / 2 + rng.uniform(0.15, 0.3)) + along * rng.uniform(-0.4, 0.4)
                yaw = np.arctan2(travel[1], travel[0]) + rng.normal(0, 0.02)
                actors.append(Actor(model, size, colours, np.array([[x, y, 0.0, yaw, 0.0]])))
    return actors


def _in_junction(layout: Layout, spot: Float[ndarray, "2"], along: Float[ndarray, "2"]) -> bool:
    """Whether a place at a kerb lies at the mouth of a street (only along the strips that close the town off)."""
    axes = layout.xs_m if abs(along[0]) > 0.5 else layout.ys_m
    return bool(np.abs(axes - spot @ np.abs(along)).min() < JUNCTION_M + 4.0)


def _walkers(layout: Layout, config: TownConfig, times_s: ndarray, rng: np.random.Generator) -> list[Actor]:
    """People on the pavements, each to and fro along one side of a block."""
    actors = []
    for block, side, middle, length in _sides(layout):
        density = config.pedestrians_per_100_m / 100 * layout.style_at(*middle).pedestrians
        for _ in range(rng.poisson(density * length)):
            near, far = sorted(rng.uniform(0.95, 2.6, 2))
            (a, b, _), (c, d, _) = side_line(block, side, near), side_line(block, side, max(far, near + 0.3))
            trim = 1.0 * (b - a) / np.linalg.norm(b - a)
            ring = np.array([a + trim, b - trim, d - trim, c + trim, a + trim])
            ring = ring[::-1] if rng.random() < 0.5 else ring
            model, size, colours = person_look("pedestrian", rng)
            speed, phase = rng.uniform(0.8, 1.6), rng.random()
            path = path_through(_dense(ring))
            walked = phase * path.length_m + speed * times_s
            xyyaw = path.at(walked % path.length_m)
            actors.append(Actor(model, size, colours, _track(xyyaw, KERB_M, walked / 1.4)))
    return actors


def _riders(layout: Layout, config: TownConfig, times_s: ndarray, rng: np.random.Generator) -> list[Actor]:
    """Cyclists at the right of their lane, round and round a few streets of a region."""
    actors = []
    for region in range(len(layout.rsus_m)):
        nodes = layout.nodes_of(region)
        count = round(config.cyclists_per_region * layout.style_at(*layout.rsus_m[region]).cyclists)
        for _ in range(count):
            a = nodes[int(rng.integers(len(nodes)))]
            b = next(n for n in neighbours(layout, a) if n in nodes)
            route = wander(layout, (a, b), set(nodes), 60, np.random.default_rng(rng.integers(2**31)))
            path: Path = lane_path(layout, route, CYCLE_OFFSET_M)
            model, size, colours = person_look("cyclist", rng)
            ridden = rng.uniform(0, 0.5) * path.length_m + rng.uniform(3.0, 5.5) * times_s
            actors.append(Actor(model, size, colours, _track(path.at(ridden % path.length_m), 0.0, 0.0 * times_s)))
    return actors


def _sides(layout: Layout) -> Iterator[tuple[Block, str, Float[ndarray, "2"], float]]:
    """Every side of a block that faces a street, with its middle and its length."""
    for block in layout.blocks():
        for side in block.sides:
            start, end, _ = side_line(block, side, 0.0)
            yield block, side, (start + end) / 2, float(np.linalg.norm(end - start))


def _dense(corners: Float[ndarray, "n 2"]) -> Float[ndarray, "m 2"]:
    """Points about every 0.4 m along a polygon."""
    pieces = []
    for a, b in pairwise(corners):
        n = max(int(np.linalg.norm(b - a) / 0.4), 1)
        pieces.append(a + (b - a) * (np.arange(n) / n)[:, None])
    return np.concatenate([*pieces, corners[-1:]])
