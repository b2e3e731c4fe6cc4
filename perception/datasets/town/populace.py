"""Who is in a region on a day, before anybody moves: parked and moving vehicles, cyclists, people on foot."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.clearance import placed_apart
from perception.datasets.town.config import TownConfig
from perception.datasets.town.driving import Driver
from perception.datasets.town.layout import HALF_ROAD_M, JUNCTION_M, Layout, Node
from perception.datasets.town.looks import MOVING, PARKED, SENSING, Look, person_look, vehicle_look
from perception.datasets.town.routes import (
    CAR_OFFSET_M,
    CYCLE_OFFSET_M,
    kerb_line,
    kerbs_of,
    lane_path,
    streets_of,
    wander,
)
from perception.datasets.town.walking import SPACING_M, Stroll, Walker, stroll_along, walker_at

_FASTEST_MPS: Final = 9.5
_SLOT_M: Final = 6.4
_CROSSERS: Final = 0.4
_LONGEST_ROUTE: Final = 60


@dataclass(frozen=True, eq=False)
class Populace:
    """The road users of one region; each list of looks runs along the list that it belongs to.

    Args:
        parked: x, y and yaw of those that stand at the kerbs.
        drivers: vehicles and bicycles; the sensing vehicles come first.
        routes: the junctions that each driver passes.
        walkers: who goes round a junction.
        strolls: who walks along a kerb, and how far along at time 0.
    """

    region: int
    parked: list[Float[ndarray, "3"]]
    parked_looks: list[Look]
    drivers: list[Driver]
    routes: list[list[Node]]
    driver_looks: list[Look]
    walkers: list[Walker]
    walker_looks: list[Look]
    strolls: list[tuple[Stroll, float]]
    stroll_looks: list[Look]

    def making_room(self, guest: Driver) -> "Populace":
        """The same people without the drivers who would start inside a guest."""
        kept = np.flatnonzero(placed_apart(*_starts([guest, *self.drivers]))[1:]).tolist()
        drivers, routes = [self.drivers[k] for k in kept], [self.routes[k] for k in kept]
        return replace(self, drivers=drivers, routes=routes, driver_looks=[self.driver_looks[k] for k in kept])


def _starts(drivers: list[Driver]) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 2"]]:
    """Where drivers start (x, y, yaw), and their lengths and widths."""
    poses = np.array([driver.path.at(np.array([driver.start_m]))[0] for driver in drivers]).reshape(-1, 3)
    return poses, np.array([driver.size_m for driver in drivers], float).reshape(-1, 2)


def populate(layout: Layout, config: TownConfig, day: int, region: int, sensing: int, seconds: float) -> Populace:
    """Everybody of a region on a day; who they are does not depend on `seconds`, which bounds their routes alone.

    Args:
        layout, config: the town.
        day: its number; decides everything together with the seed and the region.
        region: which.
        sensing: how many of its vehicles sense.
        seconds: how long the day is.
    """
    config = config.crowded(day)
    rngs = np.random.default_rng([config.seed, 14, day, region]).spawn(4)
    parked, parked_looks = _parked(layout, config, region, rngs[0])
    drivers, routes, driver_looks = _drivers(layout, config, day, region, sensing, seconds, rngs[1])
    walkers, walker_looks = _walkers(layout, config, region, rngs[2])
    strolls, stroll_looks = _strolls(layout, config, region, rngs[3])
    return Populace(
        region, parked, parked_looks, drivers, routes, driver_looks, walkers, walker_looks, strolls, stroll_looks
    )


def _parked(
    layout: Layout, config: TownConfig, region: int, rng: np.random.Generator
) -> tuple[list[Float[ndarray, "3"]], list[Look]]:
    """Vehicles at the kerbs, in the direction of traffic; slots near junctions stay free."""
    poses, looks = [], []
    for street in kerbs_of(layout, region):
        start, end = kerb_line(layout, street, 0.0, 0.0)
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        inward = np.array([along[1], -along[0]])
        near = JUNCTION_M - HALF_ROAD_M
        for s in np.arange(near + 5.0, length - near - 4.0, _SLOT_M):
            spot = start + along * s
            look, gap_m, slip_m = vehicle_look(PARKED, rng), rng.uniform(0.1, 0.2), rng.uniform(-0.4, 0.4)
            taken, turn = rng.random() < config.parked_share * layout.style_at(*spot).parked, rng.normal(0, 0.02)
            if taken:
                x, y = spot - inward * (look[1][1] / 2 + gap_m) + along * slip_m
                poses.append(np.array([x, y, np.arctan2(along[1], along[0]) + turn]))
                looks.append(look)
    return poses, looks


def _drivers(
    layout: Layout,
    config: TownConfig,
    day: int,
    region: int,
    sensing: int,
    seconds: float,
    rng: np.random.Generator,
) -> tuple[list[Driver], list[list[Node]], list[Look]]:
    """Those that sense, further vehicles, cyclists; who would start inside another stays at home."""
    style = layout.style_at(*layout.rsus_m[region])
    counts = sensing, round(config.moving_per_region * style.moving), round(config.cyclists_per_region * style.cyclists)
    streets = streets_of(layout, region)
    order = rng.permutation(len(streets))
    again = np.random.default_rng([config.seed, 16, 0 if config.same_routes else day, region])
    first = again.choice(len(streets), size=sensing, replace=False)
    order = np.concatenate([first, order[~np.isin(order, first)]])
    drivers, routes, looks = [], [], []
    for k in range(sum(counts)):
        cycles = k >= sensing + counts[1]
        street = streets[order[k % len(streets)]]
        walk = np.random.default_rng([config.seed, 17, 0 if config.same_routes and k < sensing else day, region, k])
        look = person_look("cyclist", rng) if cycles else vehicle_look(SENSING if k < sensing else MOVING, rng)
        driver, route = _driver(layout, region, street, look, cycles, seconds, rng, walk)
        drivers.append(driver)
        routes.append(route)
        looks.append(look)
    chosen = np.flatnonzero(placed_apart(*_starts(drivers))).tolist()
    return [drivers[k] for k in chosen], [routes[k] for k in chosen], [looks[k] for k in chosen]


def _driver(
    layout: Layout,
    region: int,
    street: tuple[Node, Node],
    look: Look,
    cycles: bool,
    seconds: float,
    rng: np.random.Generator,
    walk: np.random.Generator,
) -> tuple[Driver, list[Node]]:
    shortest_m = float(min(np.diff(layout.xs_m).min(initial=np.inf), np.diff(layout.ys_m).min(initial=np.inf)))
    edges = min(int(_FASTEST_MPS * seconds / shortest_m) + 4, _LONGEST_ROUTE)
    route = wander(layout, street, set(layout.nodes_of(region)), edges, walk)
    path = lane_path(layout, route, CYCLE_OFFSET_M if cycles else CAR_OFFSET_M)
    starts, speeds = ((20, 30), (3.0, 5.5)) if cycles else ((6, 14), (6.0, _FASTEST_MPS))
    start_m, cruise = rng.uniform(*starts), rng.uniform(*speeds)
    nose_m = min(start_m + look[1][0] / 2, path.junctions[0][0] - 1.0)
    size = (float(look[1][0]), float(look[1][1]))
    return Driver(path, float(nose_m - look[1][0] / 2), float(cruise), size, cycles, region), route


def _walkers(
    layout: Layout, config: TownConfig, region: int, rng: np.random.Generator
) -> tuple[list[Walker], list[Look]]:
    """At most two at each junction, one each way round."""
    walkers, looks = [], []
    for node in layout.nodes_of(region):
        share = _CROSSERS * config.pedestrians_per_100_m / 4.5 * layout.style_at(*layout.at(node)).pedestrians
        for clockwise in (False, True):
            walker, look = walker_at(layout, node, clockwise, region, rng), person_look("pedestrian", rng)
            if rng.random() < share:
                walkers.append(walker)
                looks.append(look)
    return walkers, looks


def _strolls(
    layout: Layout, config: TownConfig, region: int, rng: np.random.Generator
) -> tuple[list[tuple[Stroll, float]], list[Look]]:
    """People along the kerbs, at least a stride apart."""
    strolls, looks = [], []
    for street in kerbs_of(layout, region):
        stroll = stroll_along(layout, street, rng)
        if stroll is None:
            continue
        style = layout.style_at(*stroll.corners_m.mean(axis=0))
        slots = int(stroll.length_m / SPACING_M)
        count = min(rng.poisson(config.pedestrians_per_100_m / 100 * style.pedestrians * stroll.length_m / 2), slots)
        for slot in rng.choice(slots, size=count, replace=False):
            strolls.append((stroll, float(slot * stroll.length_m / slots)))
            looks.append(person_look("pedestrian", rng))
    return strolls, looks
