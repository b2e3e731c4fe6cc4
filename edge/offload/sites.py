"""Where roadside units (RSUs) stand and how fast their computers are."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from edge.offload.model import Worker
from geometry.sumo import RoadNetwork


def workers_at(
    position_m: Float[ndarray, "m 2"],
    base_cycles_per_s: float = 2e9,
    step_cycles_per_s: float = 1e9,
    reach_m: float = 200.0,
    seed: int = 0,
) -> tuple[Worker, ...]:
    """One worker at each RSU; its speed is the base and one, two or three steps, drawn with the seed.

    Args:
        position_m: of the RSUs, east and north.
        base_cycles_per_s: c of the paper.
        step_cycles_per_s: δ of the paper.
        reach_m: of the radio.
        seed: of the draw.

    Raises:
        ValueError: a position or speed is not finite, or a reach or speed is not positive; the message names the RSU.
    """
    steps = np.random.default_rng(seed).integers(1, 4, len(position_m))
    speeds = base_cycles_per_s + steps * step_cycles_per_s
    rows = zip(position_m.tolist(), speeds.tolist(), strict=True)
    return tuple(Worker(f"rsu-{i}", (at[0], at[1]), speed, reach_m) for i, (at, speed) in enumerate(rows))


def spread_sites(candidates_m: Float[ndarray, "k 2"], reach_m: float, count: int = 0) -> Float[ndarray, "m 2"]:
    """Sites for RSUs among candidates: the one nearest to the middle, then always the farthest from those there are.

    Args:
        candidates_m: places to choose from.
        reach_m: of the radio.
        count: how many; 0 for so many that every candidate is within reach of one.

    Raises:
        ValueError: there are no candidates, or the reach is not positive.
    """
    if not len(candidates_m):
        raise ValueError("candidates_m is empty: give at least one place for an RSU")
    if not reach_m > 0:
        raise ValueError(f"reach_m is {reach_m}: give a distance above 0")
    best = int(np.linalg.norm(candidates_m - candidates_m.mean(axis=0), axis=1).argmin())
    chosen: list[int] = []
    distance_m = np.full(len(candidates_m), np.inf)
    while len(chosen) < min(count, len(candidates_m)) if count else distance_m[best] > reach_m:
        chosen.append(best)
        distance_m = np.minimum(distance_m, np.linalg.norm(candidates_m - candidates_m[best], axis=1))
        best = int(distance_m.argmax())
    return candidates_m[chosen]


def junctions_of(network: RoadNetwork) -> Float[ndarray, "k 2"]:
    """Where the junctions of a network are.

    Raises:
        ValueError: it has none.
    """
    if not network.junctions:
        raise ValueError("the network has no junctions, so no places for RSUs: name sites, or take another network")
    return np.array(list(network.junctions.values()))


def points_along(network: RoadNetwork, step_m: float) -> Float[ndarray, "r 2"]:
    """Points on the middle lines of all lanes, at most `step_m` apart.

    Raises:
        ValueError: the step is not positive.
    """
    if not step_m > 0:
        raise ValueError(f"step_m is {step_m}: give a distance above 0")
    lanes = [lane.shape_m for edge in network.edges.values() for lane in edge.lanes]
    return np.concatenate([_along(shape_m, step_m) for shape_m in lanes] or [np.zeros((0, 2))])


def _along(line_m: Float[ndarray, "n 2"], step_m: float) -> Float[ndarray, "r 2"]:
    driven_m = np.concatenate([[0.0], np.linalg.norm(np.diff(line_m, axis=0), axis=1).cumsum()])
    at_m = np.linspace(0, driven_m[-1], 1 + int(np.ceil(driven_m[-1] / step_m)))
    return np.stack([np.interp(at_m, driven_m, axis) for axis in line_m.T], axis=1)


def check_reach(workers: tuple[Worker, ...], roads_m: Float[ndarray, "k 2"]) -> None:
    """See that every worker can hear a vehicle somewhere.

    Args:
        workers: the RSUs' computers.
        roads_m: places where vehicles drive, close to each other compared with the reach.

    Raises:
        ValueError: no road is within reach of a worker, or there are no roads.
    """
    if not len(roads_m):
        raise ValueError("roads_m is empty: give places where vehicles drive")
    for worker in workers:
        nearest_m = float(np.linalg.norm(roads_m - np.array(worker.position_m), axis=1).min())
        if nearest_m > worker.reach_m:
            raise ValueError(
                f"RSU {worker.name!r} is {nearest_m:.0f} m from the nearest road and reaches {worker.reach_m:.0f} m: "
                "move it, or raise its reach"
            )
