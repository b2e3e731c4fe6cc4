"""A new partition when workers join, leave or change speed, with cameras moved as few or as short a way as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from recon.partition.chains import cheapest_assignment
from recon.partition.exact import optimum_s
from recon.partition.model import Partition, Problem, partition_of

Few = Literal["moves", "metres"]


@dataclass(frozen=True, eq=False)
class Replan:
    """A new partition and what changed.

    Args:
        partition: the new one.
        moved: cameras whose owner is another than before, or that had none [n].
        optimum_s: the least makespan that any partition has now.
    """

    partition: Partition
    moved: Bool[ndarray, "n"]
    optimum_s: float


def owner_names(problem: Problem, partition: Partition) -> list[str]:
    """The name of each camera's owner: what `replan` takes, however the workers' order changes."""
    return [problem.workers[worker].name for worker in partition.owner]


def replan(problem: Problem, before: Sequence[str | None], slack: float = 0.05, few: Few = "moves") -> Replan:
    """A partition near to the one before, with a makespan of at most (1 + slack) times the least possible.

    - "moves": the fewest cameras change hands. Among partitions with as few, the one of least sum of squared distances
      of camera and owner. A camera without owner goes to whoever has time left, however far away: for cameras whose
      images are taken already.
    - "metres": cameras move the least, by the sum of squared distances from the nearest that the new owner had before;
      of whoever had none, from where it stands. A stretch that falls to nobody goes to its neighbours, which pass the
      far ends of theirs on to their neighbours: more cameras change hands, but each owner's still lie together, as
      they must if somebody is to drive there yet.

    Args:
        problem: cameras and workers as they are now.
        before: name of each camera's owner until now; None, or a worker that is gone, for a camera without.
        slack: what balance is given up for fewer or shorter moves, 0 or more.
        few: what there shall be little of.

    Raises:
        ValueError: `before` is not as long as the cameras, slack is negative, `few` is neither, or as `optimum_s`.
        ImportError: scipy is missing and metres are counted.
    """
    if len(before) != len(problem):
        raise ValueError(f"before names the owners of {len(before)} cameras, want one for each of {len(problem)}")
    if not slack >= 0:
        raise ValueError(f"slack must be 0 or more, got {slack}")
    if few not in get_args(Few):
        raise ValueError(f"few is one of {', '.join(get_args(Few))}, got {few!r}")
    index = {worker.name: k for k, worker in enumerate(problem.workers)}
    held = np.array([-1 if name is None else index.get(name, -1) for name in before])
    least_s = optimum_s(problem)
    if few == "moves":
        costs = problem.costs_m2 + _move_cost_m2(problem) * _moves(held, len(problem.workers))
    else:
        costs = _metres_m2(problem, held)
    owner = cheapest_assignment(costs, problem.capacities((1 + slack) * least_s))
    return Replan(partition_of(problem, owner), owner != held, least_s)


def _metres_m2(problem: Problem, held: Int[ndarray, "n"]) -> Float[ndarray, "n m"]:
    """Squared distance of each camera from the nearest that each worker held; infinite out of its reach."""
    from scipy.spatial import cKDTree

    costs = problem.costs_m2.copy()
    for worker in np.unique(held[held >= 0]):
        away_m = cKDTree(problem.cameras_m[held == worker]).query(problem.cameras_m)[0]
        costs[:, worker] = np.where(np.isfinite(costs[:, worker]), np.square(away_m), np.inf)
    return costs


def _moves(held: Int[ndarray, "n"], workers: int) -> Bool[ndarray, "n m"]:
    """Which choices move a camera that could stay; one without owner has to move in any case."""
    return (held[:, None] != np.arange(workers)) & (held >= 0)[:, None]


def _move_cost_m2(problem: Problem) -> float:
    """More than one move can save in squared distance.

    Two partitions differ by chains and rings of at most m + 1 hand-overs, and each saves at most the largest cost.
    """
    return (len(problem.workers) + 2) * max(problem.farthest_m2, 1.0)
