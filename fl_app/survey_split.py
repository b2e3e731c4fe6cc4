"""Which vehicle is to drive which part of a street: a first division, and one near to it when some are missing.

The boundaries between roadside units (RSUs) are moved by `recon.partition.shift_boundaries`; those between the vehicles
of one are the exact partition. Whoever falls out or slows down is made up for by `recon.partition.replan`.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from perception.datasets.base import DataError
from recon.partition import (
    Partition,
    Problem,
    Worker,
    nearest,
    optimum_s,
    replan,
    shift_boundaries,
    split_among_vehicles,
    with_vehicles,
)

SPEEDS: Final = (1.0, 0.5, 0.0)  # of vehicles in turn, between the slowest (0) and the fastest (1)
VIEWS_PER_S: Final = 0.1  # that the slowest vehicle fits
SLACK: Final = 0.05  # a plan that is made again may take so much longer than the best, to move fewer frames


@dataclass(frozen=True, eq=False)
class Split:
    """Who covers what.

    Args:
        problem: frames and RSUs.
        teams: vehicles by RSU; their rates are views a second.
        owner: name of a vehicle for each frame.
        partitions: of frames among RSUs; nearest ("Voronoi") and balanced ("HWP").
        moved: frames that had another owner, if this was made of an earlier one.
    """

    problem: Problem
    teams: Mapping[str, Sequence[Worker]]
    owner: Sequence[str]
    partitions: Mapping[str, Partition]
    moved: int = 0

    @property
    def makespan_s(self) -> float:
        """That the last vehicle takes."""
        rates = {worker.name: worker.views_per_s for team in self.teams.values() for worker in team}
        return max(count / rates[name] for name, count in Counter(self.owner).items())

    @property
    def rsu_of(self) -> dict[str, str]:
        """RSU of each vehicle that has a frame, in order of their names."""
        owners = set(self.owner)
        pairs = [(worker.name, rsu) for rsu, team in self.teams.items() for worker in team if worker.name in owners]
        return dict(sorted(pairs))


def vehicle_names(vehicles: int) -> list[str]:
    """In order of their numbers and of the alphabet."""
    digits = len(str(vehicles - 1))
    return [f"vehicle-{number:0{digits}d}" for number in range(vehicles)]


def rsu_of(number: int, vehicles: int, rsus: int) -> str:
    """Of a vehicle: vehicles in order are dealt to RSUs in order."""
    return f"rsu-{number * rsus // vehicles:0{len(str(rsus - 1))}d}"


def active_vehicles(
    vehicles: int,
    rsus: int,
    rsu_names: Collection[str],
    without: Collection[str] = (),
    slowed: Collection[str] = (),
) -> list[str]:
    """Names of the vehicles whose RSUs take part, but those that are gone, or whose RSU is.

    Args:
        vehicles, rsus: how many.
        rsu_names: RSUs that take part; none for all.
        without: names of vehicles, or of RSUs with all of theirs.
        slowed: names of vehicles, which are looked at and nothing else.

    Raises:
        DataError: there is no vehicle or RSU of a name, none is left, somebody is to fall out or slow down where only
            some RSUs take part, or there are fewer vehicles than RSUs.
    """
    if vehicles < rsus:
        raise DataError(f"{rsus} RSUs need at least as many vehicles, got {vehicles}")
    known = {name: rsu_of(number, vehicles, rsus) for number, name in enumerate(vehicle_names(vehicles))}
    there = sorted(set(known.values()))
    for key, names, choice in (
        ("regions", rsu_names, there),
        ("without", without, [*there, *known]),
        ("slowed", slowed, list(known)),
    ):
        if unknown := sorted(set(names) - set(choice)):
            raise DataError(f"{key}: there is no {', '.join(unknown)}; there are {', '.join(choice)}")
    if rsu_names and (without or slowed):
        raise DataError("without, slowed: a run of some regions only keeps its plan; leave `regions` empty")
    wanted = {name: rsu for name, rsu in known.items() if not rsu_names or rsu in rsu_names}
    if not (left := [name for name, rsu in wanted.items() if name not in without and rsu not in without]):
        raise DataError("without: no vehicle is left; leave some out of it")
    return left


def split(centres_m: Float[ndarray, "n 2"], vehicles: int, rsus: int, speed_ratio: float) -> Split:
    """Of frames along a way, at places east and north.

    Raises:
        DataError: a vehicle gets no frame.
    """
    teams = _teams(centres_m, vehicles, rsus, speed_ratio)
    sites_m = [centres_m[int((index + 0.5) / rsus * len(centres_m))] for index in range(rsus)]
    sites = dict(zip(sorted(teams), sites_m, strict=True))
    problem = Problem.of(centres_m, [_rsu(name, sites[name], teams[name]) for name in sorted(teams)])
    partitions = {"Voronoi": nearest(problem), "HWP": shift_boundaries(problem)}
    owner = np.full(len(problem), "", dtype=object)
    for rsu, share in split_among_vehicles(problem, partitions["HWP"], teams).items():
        owner[share.cameras] = [teams[rsu][row].name for row in share.partition.owner]
    if idle := vehicles - len(set(owner)):
        raise DataError(f"{idle} of {vehicles} vehicles get no frame of {len(owner)}: fewer vehicles, more frames")
    return Split(problem, teams, owner.tolist(), partitions)


def split_again(before: Split, without: Collection[str], slowed: Mapping[str, float]) -> Split:
    """Frames move the least, first between RSUs, then between the vehicles of each.

    Nobody has driven yet, so that stretches must stay in one piece: who drives beside one that is gone takes of its
    frames, and passes others on. The last one takes at most `SLACK` more than in the best plan. An RSU without vehicles
    falls out, and so does whoever would be given no frame.

    Args:
        before: while all were there, and as fast as planned.
        without: names of vehicles that are gone, or of RSUs with all of theirs; others are passed over.
        slowed: by name of a vehicle, its speed as a share of what was planned.

    Raises:
        DataError: no vehicle is left.
    """
    teams = {rsu: _left(team, without, slowed) for rsu, team in before.teams.items() if rsu not in without}
    teams = {rsu: team for rsu, team in teams.items() if team}
    if not teams:
        raise DataError("without: no vehicle is left; leave some out of it")
    places = {worker.name: worker.position_m for worker in before.problem.workers}
    problem = Problem.of(before.problem.cameras_m, [_rsu(name, places[name], teams[name]) for name in sorted(teams)])
    rsu_of = before.rsu_of
    left = {worker.name for team in teams.values() for worker in team}
    held = [rsu_of[name] if name in left else None for name in before.owner]
    outer = replan(problem, held, SLACK, few="metres").partition
    owner = _among_vehicles(problem, outer, teams, before.owner)
    moved = sum(old != new for old, new in zip(before.owner, owner, strict=True))
    return Split(problem, teams, owner, {"Voronoi": nearest(problem), "HWP": outer}, moved)


def holders(
    centres_m: Float[ndarray, "n 3"], owner: Int[ndarray, "n"], overlap_m: float, judged: Collection[int] = ()
) -> Int[ndarray, "n"]:
    """Which vehicle took each frame to learn from; -1 for those that are held back.

    Where several drive, within the overlap of their stretches, they take turns: the one that has waited longest takes
    the next frame. No two hold the same photo or sweep, as no two cameras ever would.
    """
    rows = int(owner.max()) + 1
    away_m = np.stack(
        [np.linalg.norm(centres_m[:, None] - centres_m[owner == row], axis=2).min(axis=1) for row in range(rows)]
    )
    took, holder = np.full(rows, -1), np.full(len(owner), -1)
    for frame in sorted(set(range(len(owner))) - set(judged)):
        near = np.flatnonzero(away_m[:, frame] <= overlap_m)
        holder[frame] = near[took[near].argmin()]
        took[holder[frame]] = frame
    return holder


def _teams(centres_m: Float[ndarray, "n 2"], vehicles: int, rsus: int, speed_ratio: float) -> dict[str, list[Worker]]:
    teams: dict[str, list[Worker]] = {}
    for number, name in enumerate(vehicle_names(vehicles)):
        east_m, north_m = centres_m[int((number + 0.5) / vehicles * len(centres_m))]
        speed = VIEWS_PER_S * (1 + (speed_ratio - 1) * SPEEDS[number % len(SPEEDS)])
        worker = Worker(name, (float(east_m), float(north_m)), views_per_s=speed)
        teams.setdefault(rsu_of(number, vehicles, rsus), []).append(worker)
    return teams


def _among_vehicles(
    problem: Problem, outer: Partition, teams: Mapping[str, Sequence[Worker]], before: Sequence[str]
) -> list[str]:
    """Name of a vehicle for each frame; each RSU may use up the time that the slowest has, to move less."""
    limit_s, owner = (1 + SLACK) * optimum_s(problem), list(before)
    for index, rsu in enumerate(sorted(teams)):
        if not (cameras := np.flatnonzero(outer.owner == index).tolist()):
            continue
        inner = Problem.of(problem.cameras_m[cameras], teams[rsu])
        slack = max(limit_s / optimum_s(inner) - 1, 0.0)
        again = replan(inner, [before[camera] for camera in cameras], slack, few="metres")
        for camera, row in zip(cameras, again.partition.owner, strict=True):
            owner[camera] = teams[rsu][row].name
    return owner


def _rsu(name: str, place_m: Sequence[float] | Float[ndarray, "2"], team: Sequence[Worker]) -> Worker:
    return with_vehicles(Worker(name, (float(place_m[0]), float(place_m[1])), math.inf), team)


def _left(team: Sequence[Worker], without: Collection[str], slowed: Mapping[str, float]) -> list[Worker]:
    kept = [worker for worker in team if worker.name not in without]
    return [replace(worker, views_per_s=slowed.get(worker.name, 1.0) * worker.views_per_s) for worker in kept]
