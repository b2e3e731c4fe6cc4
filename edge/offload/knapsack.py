"""Connected sets of users that are worth more than their prices: the best of every size, or all above a floor.

This is the quadratic knapsack with unit weights, for sets that hang together by positive weights. A pair's weight is
split between its two users, so that a set's worth is at most the sum over its users of what each has with its best
partners; the split that makes this least comes from a subgradient method (Caprara, Pisinger and Toth 1999, there for
any weights of the users). Sets grow by neighbours, many at once; a neighbour that was passed over is banned from then
on, so every set comes up once. A set is left where no size that it can grow to has a bound above that size's floor.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy import ndarray

_STEPS: Final = 60  # of the subgradient method
_CHUNK: Final = 40_000  # entries of a matrix [sets, users] that are looked at together


@dataclass(frozen=True, eq=False)
class Found:
    """Connected sets above the floors.

    Args:
        members: their users [k, n].
        worth: pairs less prices [k].
        bounds: no connected set of a size, found or not, is worth more; at least the size's floor [size + 1].
        complete: whether the search came to its end.
    """

    members: Bool[ndarray, "k n"]
    worth: Float[ndarray, "k"]
    bounds: Float[ndarray, "s"]
    complete: bool


@dataclass(frozen=True)
class Budget:
    """When a search ends before it is done: after so many sets, or at a time of `time.perf_counter`."""

    sets: int = 1_000_000
    until_s: float = math.inf


def connected_sets(
    weights: Float[ndarray, "n n"],
    prices: Float[ndarray, "n"],
    floors: Float[ndarray, "s"],
    *,
    climb: bool = False,
    budget: Budget | None = None,
) -> Found:
    """Connected sets of 2 to `len(floors) - 1` users that are worth more than the floor of their size.

    Args:
        weights: symmetric, 0 or more.
        prices: of the users.
        floors: by size, entries 0 and 1 unused [s].
        climb: raise a size's floor to the best found; then only sets better than all before are listed.
        budget: of the search; the bounds hold if it runs out, too.
    """
    search = _Search(weights, prices, np.array(floors, dtype=np.float64), climb)
    search.run(budget or Budget())
    return search.found()


@dataclass(frozen=True, eq=False)
class _Sets:
    """Sets of equal size: members, what a further user adds, worth, who never joins, bound by size to grow to."""

    members: Bool[ndarray, "b n"]
    gains: Float[ndarray, "b n"]
    worth: Float[ndarray, "b"]
    banned: Bool[ndarray, "b n"]
    bounds: Float[ndarray, "b r"]

    def pick(self, index: ndarray | slice) -> "_Sets":
        return _Sets(*(column[index] for column in vars(self).values()))


class _Search:
    def __init__(
        self, weights: Float[ndarray, "n n"], prices: Float[ndarray, "n"], floors: Float[ndarray, "s"], climb: bool
    ) -> None:
        self.floors, self.climb, self.size = floors, climb, len(floors) - 1
        self.bounds = floors.copy()
        self.users, self.complete = len(prices), True
        split, potential = _split(weights, prices, self.size, float(floors[2:].min(initial=0)))
        self.order = np.argsort(-potential, kind="stable")
        square = np.ix_(self.order, self.order)
        self.weights, self.prices = weights[square], prices[self.order]
        self.partners = _best_partners(split[square], self.size)
        self.near = _balls(self.weights > 0, self.size)
        self.listed = [(np.zeros((0, self.users), dtype=bool), np.zeros(0))]

    def run(self, budget: Budget) -> None:
        """Depth first in chunks."""
        if self.users < 2 or self.size < 2:
            return
        one, earlier = np.eye(self.users, dtype=bool), np.tri(self.users, dtype=bool)
        stack = [(1, self._bounded(one, self.weights - self.prices, -self.prices, earlier, 1))]
        looked = 0
        step = max(1, _CHUNK // self.users)
        while stack:
            if looked >= budget.sets or time.perf_counter() >= budget.until_s:
                self._give_up(stack)
                return
            count, sets = stack.pop()
            if len(sets.worth) > step:
                stack.append((count, sets.pick(slice(step, None))))
                sets = sets.pick(slice(None, step))
            looked += len(sets.worth)
            children = self._grown(sets, count)
            self._list(children, count + 1)
            if count + 1 < self.size and len(children.worth):
                stack.append((count + 1, children))

    def found(self) -> Found:
        members, worth = (np.concatenate(column) for column in zip(*self.listed, strict=True))
        wide = np.zeros_like(members)
        wide[:, self.order] = members
        sizes = members.sum(axis=1)
        np.maximum.at(self.bounds, sizes, worth)
        return Found(wide, worth, self.bounds, self.complete)

    def _list(self, sets: _Sets, count: int) -> None:
        above = np.flatnonzero(sets.worth > self.floors[count])
        if self.climb and len(above):
            above = above[[sets.worth[above].argmax()]]
            self.floors[count] = sets.worth[above[0]]
        self.listed.append((sets.members[above], sets.worth[above]))

    def _give_up(self, stack: list[tuple[int, _Sets]]) -> None:
        self.complete = False
        for count, sets in stack:
            if len(sets.worth):
                reach = self.bounds[count + 1 :]
                np.maximum(reach, sets.bounds.max(axis=0), out=reach)

    def _grown(self, sets: _Sets, count: int) -> _Sets:
        """Sets with one neighbour more; the neighbours before it are banned."""
        alive = sets.bounds > self.floors[count + 1 :]
        sets = sets.pick(np.flatnonzero(alive.any(axis=1)))
        frontier = (sets.members.astype(np.float32) @ self.near[0] > 0) & ~sets.members & ~sets.banned
        row, user = np.nonzero(frontier)
        before = sets.banned[row] | (frontier[row] & (np.arange(self.users) < user[:, None]))
        members = sets.members[row]
        members[np.arange(len(row)), user] = True
        worth, gains = sets.worth[row] + sets.gains[row, user], sets.gains[row] + self.weights[user]
        return self._bounded(members, gains, worth, before, count + 1)

    def _bounded(
        self,
        members: Bool[ndarray, "b n"],
        gains: Float[ndarray, "b n"],
        worth: Float[ndarray, "b"],
        banned: Bool[ndarray, "b n"],
        count: int,
    ) -> _Sets:
        """Sets with their bounds, without those that are neither above a floor nor can grow to be."""
        room = self.size - count
        if not room:
            return _Sets(members, gains, worth, banned, np.zeros((len(worth), 0)))
        adds = gains + self.partners[room - 1]
        adds[(members.astype(np.float32) @ self.near[room - 1] == 0) | members | banned] = 0
        best = np.maximum(-np.partition(-adds, min(room, self.users) - 1, axis=1)[:, :room], 0)
        best = -np.sort(-best, axis=1)
        best = best.cumsum(axis=1)
        bounds = worth[:, None] + np.pad(best, ((0, 0), (0, room - best.shape[1])), mode="edge")
        kept = (bounds > self.floors[count + 1 :]).any(axis=1) | (worth > self.floors[count] if count > 1 else False)
        return _Sets(members, gains, worth, banned, bounds).pick(np.flatnonzero(kept))


def _balls(adjacent: Bool[ndarray, "n n"], size: int) -> list[Float32[ndarray, "n n"]]:
    """Who is within 1, 2, ... steps of whom."""
    step = (adjacent | np.eye(len(adjacent), dtype=bool)).astype(np.float32)
    balls = [step]
    for _ in range(size - 1):
        balls.append((balls[-1] @ step > 0).astype(np.float32))
    return balls


def _split(
    weights: Float[ndarray, "n n"], prices: Float[ndarray, "n"], size: int, floor: float
) -> tuple[Float[ndarray, "n n"], Float[ndarray, "n"]]:
    """Split of the weights between their users that makes the bound small, and each user's part of that bound."""
    split, room = weights / 2, max(1, min(size - 1, len(prices) - 1))
    best, best_bound, pace = split, np.inf, 1.0
    for _ in range(_STEPS):
        partner = np.zeros_like(split)
        top = np.argpartition(-split, room - 1, axis=1)[:, :room]
        np.put_along_axis(partner, top, (np.take_along_axis(split, top, axis=1) > 0).astype(split.dtype), axis=1)
        potential = (split * partner).sum(axis=1) - prices
        bound = float(np.maximum(potential, 0).sum())
        if bound < best_bound - 1e-9:
            best, best_bound = split, bound
        else:
            pace *= 0.9
        used = partner * (potential > 0)[:, None]
        direction = used - used.T
        norm = float(np.square(direction).sum())
        if norm == 0 or bound <= floor:
            break
        split = split - pace * (bound - floor) / norm * direction
    return best, _best_partners(best, size)[size - 1] - prices


def _best_partners(split: Float[ndarray, "n n"], size: int) -> Float[ndarray, "s n"]:
    """What each user has with its best 0, 1, ... size - 1 partners."""
    ordered = np.maximum(-np.sort(-split, axis=1), 0)[:, : size - 1].cumsum(axis=1)
    table = np.concatenate([np.zeros((len(split), 1)), ordered], axis=1)
    return np.pad(table, ((0, 0), (0, size - table.shape[1])), mode="edge").T
