"""The second level: the cameras of each roadside unit (RSU) among its vehicles, by the same solver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from recon.partition.exact import exact
from recon.partition.model import Partition, Problem, Worker


@dataclass(frozen=True, eq=False)
class Share:
    """What the vehicles of one RSU train.

    Args:
        cameras: indices among all cameras, ascending [k].
        problem: those cameras and the vehicles.
        partition: of them; its owners are indices of vehicles.
    """

    cameras: Int[ndarray, "k"]
    problem: Problem
    partition: Partition


def with_vehicles(rsu: Worker, vehicles: Sequence[Worker]) -> Worker:
    """The RSU with the profile that its vehicles give it.

    n views take the vehicles the least time in which they can be done, whatever the reach of a vehicle. What the RSU's
    own rates say comes on top: `views_per_s` is the rate at which it fuses, then it sends its model.

    Raises:
        ValueError: there are no vehicles.
    """
    if not vehicles:
        raise ValueError(f"RSU {rsu.name!r} has no vehicles: leave it out of the partition")
    return replace(rsu, profile=partial(_team_s, rsu, tuple(vehicles)))


def split_among_vehicles(
    problem: Problem, partition: Partition, vehicles: Mapping[str, Sequence[Worker]]
) -> dict[str, Share]:
    """The exact partition of each RSU's cameras among its vehicles.

    Args:
        problem, partition: of the RSUs.
        vehicles: by name of the RSU.

    Returns:
        By name of the RSU; those without cameras are left out.

    Raises:
        ValueError: an RSU with cameras has no vehicles, or its cameras are out of their reach.
    """
    shares = {}
    for index, rsu in enumerate(problem.workers):
        cameras = np.flatnonzero(partition.owner == index)
        if not len(cameras):
            continue
        if not vehicles.get(rsu.name):
            raise ValueError(f"RSU {rsu.name!r} owns {len(cameras)} cameras and has no vehicles: leave it out")
        inner = Problem.of(problem.cameras_m[cameras], vehicles[rsu.name])
        shares[rsu.name] = Share(cameras, inner, exact(inner))
    return shares


def _team_s(rsu: Worker, vehicles: tuple[Worker, ...], counts: Int[ndarray, "n"]) -> Float[ndarray, "n"]:
    most = int(counts.max())
    ends_s = np.sort(np.concatenate([vehicle.completion_s(np.arange(1, most + 1)) for vehicle in vehicles]))
    return ends_s[counts - 1] + rsu.completion_s(counts)
