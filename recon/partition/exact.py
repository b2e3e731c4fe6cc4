"""The partition of least makespan, and among those the one of least squared distances: exact.

With T_k(n) the time that worker k takes for n views, the least makespan is the N-th smallest of all T_k(n), n >= 1: so
many places are free by then, and one fewer before. Limits on reach make it a question of maximum flow; which camera
goes where is one of minimum-cost flow, whose duals are the weights of a power diagram.
"""

import math

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from recon.partition.chains import cheapest_assignment
from recon.partition.model import Partition, Problem, partition_of
from recon.partition.voronoi_shift import ShiftConfig, nearest, shift_boundaries


def optimum_s(problem: Problem) -> float:
    """The least makespan of any partition, seconds.

    Raises:
        ValueError: the workers within reach cannot take all cameras; the message names one that is left over.
        ImportError: reach is limited and scipy is not installed.
    """
    free_s = float(np.partition(problem.times_s[:, 1:].ravel(), len(problem) - 1)[len(problem) - 1])
    if math.isinf(free_s):
        places = int(problem.capacities(np.finfo(np.float64).max).sum())
        raise ValueError(f"all workers together take {places} of {len(problem)} cameras: raise max_views")
    return _reachable_optimum_s(problem, free_s) if problem.limited else free_s


def exact(problem: Problem) -> Partition:
    """The partition of least makespan; among those, of least sum of squared distances of camera and owner.

    Raises:
        ValueError, ImportError: as `optimum_s`.
    """
    return exact_within(problem, optimum_s(problem))


def exact_within(problem: Problem, limit_s: float) -> Partition:
    """The partition of least sum of squared distances whose makespan is at most `limit_s`.

    Raises:
        ValueError: there is none.
    """
    capacities, closest = problem.capacities(limit_s), nearest(problem)
    if (closest.counts <= capacities).all():  # the flow would hand back, one by one, all the places that it has
        return closest
    start = shift_boundaries(problem, ShiftConfig(repair=False)).weights_m2
    assert start is not None
    owner = cheapest_assignment(problem.costs_m2, capacities, start.max() - start)
    return partition_of(problem, owner)


def _reachable_optimum_s(problem: Problem, least_s: float) -> float:
    reach, sizes, first = _groups(problem)
    times_s = np.unique(problem.times_s)
    times_s = times_s[(times_s >= least_s) & np.isfinite(times_s)]
    left = _left_over(reach, sizes, problem.capacities(times_s[-1]))
    if left is not None:
        names = [worker.name for worker, near in zip(problem.workers, reach[left], strict=True) if near]
        raise ValueError(
            f"camera {first[left]} finds no place: {', '.join(names)} in its reach are full; raise max_views or reach_m"
        )
    low, high = 0, len(times_s) - 1
    while low < high:
        middle = (low + high) // 2
        if _left_over(reach, sizes, problem.capacities(times_s[middle])) is None:
            high = middle
        else:
            low = middle + 1
    return float(times_s[low])


def _groups(problem: Problem) -> tuple[Bool[ndarray, "g m"], Int[ndarray, "g"], Int[ndarray, "g"]]:
    """Cameras that are in reach of the same workers: who reaches them, how many they are, and the first of them."""
    reach = np.isfinite(problem.costs_m2)
    groups, first, sizes = np.unique(reach, axis=0, return_index=True, return_counts=True)
    return groups, sizes, first


def _left_over(reach: Bool[ndarray, "g m"], sizes: Int[ndarray, "g"], capacities: Int[ndarray, "m"]) -> int | None:
    """A group of which some find no place; None if all do."""
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow
    except ImportError as error:
        raise ImportError("limits on reach need scipy: pip install scipy") from error
    groups, workers = reach.shape
    sink = 1 + groups + workers
    graph = np.zeros((sink + 1, sink + 1), dtype=np.int32)
    graph[0, 1 : 1 + groups] = sizes
    graph[1 : 1 + groups, 1 + groups : sink] = reach * sizes[:, None]
    graph[1 + groups : sink, sink] = capacities
    flow = maximum_flow(csr_array(graph), 0, sink)
    if flow.flow_value == sizes.sum():
        return None
    sent = flow.flow.toarray()[0, 1 : 1 + groups]
    return int(np.flatnonzero(sent < sizes)[0])
