"""Cameras handed on along chains of workers: the one move that exact solver, repair and re-plan are made of.

A chain a → b → c moves one camera from a to b and another from b to c. Only the m workers are nodes of the graph in
which chains are sought, so a search costs little however many cameras there are.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_ROUNDING: Final = 1e-11  # of the largest cost: what is told from 0


class Chains:
    """Owners that change, with the cheapest hand-over between any two workers.

    Args:
        costs: of a camera at a worker; infinity forbids it [n, m].
        owner: index of the worker of each camera, allowed ones; copied [n].
    """

    def __init__(self, costs: Float[ndarray, "n m"], owner: Int[ndarray, "n"]) -> None:
        self.costs, self.owner = costs, owner.copy()
        workers = costs.shape[1]
        self.counts: Int[ndarray, m] = np.bincount(owner, minlength=workers)
        self.prices = np.full((workers, workers), np.inf)  # of the cheapest camera that can go from row to column
        self._camera = np.zeros((workers, workers), dtype=np.int64)
        self.tolerance = _ROUNDING * float(np.abs(costs[np.isfinite(costs)]).max())
        for worker in range(workers):
            self._look(worker)

    def hand_on(self, path: list[int]) -> None:
        """Move one camera along each step of a path of workers."""
        steps = list(pairwise(path))
        cameras = [int(self._camera[step]) for step in steps]
        for camera, (source, target) in zip(cameras, steps, strict=True):
            self.owner[camera] = target
            self.counts[source] -= 1
            self.counts[target] += 1
        for worker in path:
            self._look(worker)

    def _look(self, worker: int) -> None:
        members = np.flatnonzero(self.owner == worker)
        if not len(members):
            self.prices[worker] = np.inf
            return
        extra = self.costs[members] - self.costs[members, worker][:, None]
        cheapest = extra.argmin(axis=0)
        self.prices[worker] = extra[cheapest, np.arange(extra.shape[1])]
        self.prices[worker, worker] = np.inf
        self._camera[worker] = members[cheapest]


def cheapest_path(
    prices: Float[ndarray, "k k"], sources: Bool[ndarray, "k"], targets: Bool[ndarray, "k"], tolerance: float
) -> list[int] | None:
    """Nodes of the cheapest path from any source to any target by Bellman and Ford; None if there is no path.

    Prices may be negative, but no cycle may cost less than nothing.
    """
    total = np.where(sources, 0.0, np.inf)
    parent = np.full(len(prices), -1)
    for _ in range(len(prices)):
        through = total[:, None] + prices
        best = through.argmin(axis=0)
        least = through[best, np.arange(len(prices))]
        better = least < total - tolerance
        if not better.any():
            break
        total[better], parent[better] = least[better], best[better]
    end = int(np.where(targets, total, np.inf).argmin())
    return _trace(parent, end) if targets[end] and total[end] < np.inf else None


def cheapest_assignment(
    costs: Float[ndarray, "n m"], capacities: Int[ndarray, "m"], prices: Float[ndarray, "m"] | None = None
) -> Int[ndarray, "n"]:
    """Owners of least total cost with at most `capacities` cameras each: successive shortest paths.

    Args:
        costs: of a camera at a worker; infinity forbids it [n, m].
        capacities: of the workers [m].
        prices: a guess of what a place at a worker is worth, 0 or more; it changes the time taken, not the cost [m].
            Next to the costs they must not be so large that a sum of both loses the costs.

    Raises:
        ValueError: the cameras do not fit.
    """
    start_prices = np.zeros(len(capacities)) if prices is None else prices
    chains = Chains(costs, (costs + start_prices).argmin(axis=1))
    # Node m is the sink. A place that has a price counts as used, one without only as far as cameras use it.
    used = np.where(start_prices > 0, capacities, np.minimum(chains.counts, capacities))
    excess = np.append(chains.counts - used, used.sum() - len(costs))
    sink = len(capacities)
    while (excess > 0).any():
        graph = np.full((sink + 1, sink + 1), np.inf)
        graph[:sink, :sink] = chains.prices
        graph[:sink, sink] = np.where(used < capacities, 0.0, np.inf)
        graph[sink, :sink] = np.where(used > 0, 0.0, np.inf)
        path = cheapest_path(graph, excess > 0, excess < 0, chains.tolerance)
        if path is None:
            raise ValueError(f"{len(costs)} cameras do not fit capacities {capacities.tolist()}: raise them")
        excess[path[0]] -= 1
        excess[path[-1]] += 1
        _send(chains, used, path, sink)
    return chains.owner


def _send(chains: Chains, used: Int[ndarray, "m"], path: list[int], sink: int) -> None:
    """Move one unit along a path that may pass through the sink."""
    cut = path.index(sink) if sink in path else len(path)
    before, after = path[:cut], path[cut + 1 :]
    if cut < len(path):
        if before:
            used[before[-1]] += 1
        if after:
            used[after[0]] -= 1
    for part in (before, after):
        chains.hand_on(part)


def _trace(parent: Int[ndarray, "k"], end: int) -> list[int]:
    path = [end]
    while parent[path[-1]] >= 0:
        path.append(int(parent[path[-1]]))
        if len(path) > len(parent):
            raise RuntimeError("a cycle of hand-overs costs less than nothing: the start was not the cheapest")
    return path[::-1]
