"""The search in numpy, for a few dozen users: many assignments side by side.

Where a worker's head-count differs between users, a start draws which of the counts it plans a worker with, and who
must have a smaller one stays away from it.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from edge.offload.clusters import members_of
from edge.offload.descent import descend
from edge.offload.grow import GrowConfig, grow, scaled
from edge.offload.levels import draw_capacities, levels_of, replan
from edge.offload.model import UNASSIGNED

_STARTS: Final = 64  # grown at the beginning
_ELITE: Final = 4  # kept for the next round
_OFFSPRING: Final = 32  # grown in a round
_OPENED: Final = 3, 6  # clusters that are taken apart, least and most
_GROW: Final = GrowConfig()
_DRAWN: Final = 0.25  # of the clusters that are taken apart: share whose head-count is drawn anew
_ALIKE: Final = 1e-4  # starts of values that differ by less count as one


@dataclass(frozen=True, eq=False)
class Starts:
    """A batch of solutions: cluster of each user (m is none) [s n], and what each is worth [s]."""

    labels: Int[ndarray, "s n"]
    values: Float32[ndarray, "s"]

    def best(self) -> "Starts":
        """Those to go on with: the best that differ in value, best first."""
        order = np.argsort(-self.values, kind="stable")
        drop = np.append(True, -np.diff(self.values[order]) > _ALIKE)
        kept = order[drop][:_ELITE]
        return Starts(self.labels[kept], self.values[kept])

    def join(self, other: "Starts") -> "Starts":
        """Both."""
        return Starts(np.append(self.labels, other.labels, axis=0), np.append(self.values, other.values))


class BatchSearch:
    """The search over one slot's clusters, a round at a time.

    Args:
        weights: worth of a pair, symmetric, 0 or more.
        most: head-count of each user at each worker.
        seed: decides everything.
        labels: cluster of each user to begin with, m for none, feasible; without them the starts are the beginning.
    """

    rounds: ClassVar[int] = 2
    """Rounds that are usually enough."""

    def __init__(
        self,
        weights: Float[ndarray, "n n"],
        most: Int[ndarray, "n m"],
        seed: int,
        labels: Int[ndarray, "n"] | None = None,
    ) -> None:
        self.rng, self.weights = np.random.default_rng(seed), scaled(weights)
        self.most, self.levels = most, levels_of(most)
        self.one_level = all(len(level) == 1 and (most[:, j] > 0).all() for j, level in enumerate(self.levels))
        self.several_levels = any(len(level) > 1 for level in self.levels)
        self.seen: list[Int[ndarray, "s n"]] = []  # all that was ever found
        self.elite = (self._first() if labels is None else self._given(labels[None])).best()

    def round(self) -> None:
        """Take the elite apart, grow and improve; keep the best."""
        parents = self.elite.labels[np.arange(_OFFSPRING) % len(self.elite.labels)]
        count = self.rng.integers(_OPENED[0], _OPENED[1] + 1, (_OFFSPRING, 1))
        opened = self.rng.random((_OFFSPRING, self.most.shape[1])).argsort(axis=1) < count
        self.elite = self.elite.join(self._grown(parents, self._planned(parents, opened), opened)).best()

    def worker(self) -> Int[ndarray, "n"]:
        """The best so far."""
        best = self.elite.labels[0]
        return np.where(best == self.most.shape[1], UNASSIGNED, best)

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of all assignments so far."""
        return np.concatenate([members_of(labels, self.most.shape[1]) for labels in self.seen])

    def _first(self) -> Starts:
        users, workers = self.most.shape
        none, all_opened = np.full((_STARTS, users), workers), np.ones((_STARTS, workers), dtype=bool)
        return self._grown(none, draw_capacities(self.levels, _STARTS, self.rng), all_opened)

    def _given(self, labels: Int[ndarray, "1 n"]) -> Starts:
        several = self.several_levels
        capacities = replan(self.most, labels, self.rng) if several else draw_capacities(self.levels, 1, self.rng)
        return self._descended(labels, capacities)

    def _planned(self, labels: Int[ndarray, "s n"], opened: Bool[ndarray, "s m"]) -> Int[ndarray, "s m"]:
        """Head-counts that suit the clusters as they are; those of some that are opened are drawn anew."""
        if not self.several_levels:
            return draw_capacities(self.levels, len(labels), self.rng)
        anew = opened & (self.rng.random(opened.shape) < _DRAWN)
        return np.where(anew, draw_capacities(self.levels, len(labels), self.rng), replan(self.most, labels, self.rng))

    def _grown(
        self, labels: Int[ndarray, "s n"], capacities: Int[ndarray, "s m"], opened: Bool[ndarray, "s m"]
    ) -> Starts:
        labels = grow(self.weights, labels, capacities, self._allowed(capacities), opened, self.rng, _GROW)
        return self._descended(labels, capacities)

    def _descended(self, labels: Int[ndarray, "s n"], capacities: Int[ndarray, "s m"]) -> Starts:
        labels, values = descend(self.weights, labels, capacities, self._allowed(capacities))
        self.seen.append(labels)
        return Starts(labels, values)

    def _allowed(self, capacities: Int[ndarray, "s m"]) -> Bool[ndarray, "s n m"] | None:
        return None if self.one_level else self.most >= np.maximum(capacities, 1)[:, None]
