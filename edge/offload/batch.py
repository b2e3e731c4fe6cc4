"""The search in numpy, for a few dozen users: many assignments side by side.

Where a worker's head-count differs between users, a start draws which of the counts it plans a worker with, and who
must have a smaller one stays away from it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from edge.offload.clusters import members_of
from edge.offload.descent import descend
from edge.offload.grow import GrowConfig, grow
from edge.offload.levels import draw_capacities, levels_of, replan
from edge.offload.model import UNASSIGNED

_DRAWN: Final = 0.25  # of the clusters that are taken apart: share whose head-count is drawn anew
_ALIKE: Final = 1e-4  # starts of values that differ by less count as one


@dataclass(frozen=True)
class SearchConfig:
    """How widely and how long is searched.

    Args:
        patience: how many times as many rounds as are usually enough.
        chains: assignments that the compiled search improves side by side for a few dozen users.
        starts: in numpy, grown at the beginning.
        elite: in numpy, how many are kept for the next round.
        offspring: in numpy, grown in a round.
        opened: in numpy, least and most clusters that are taken apart.
        grow: in numpy, see `GrowConfig`.

    Raises:
        ValueError: a count is too small.
    """

    patience: int = 1
    chains: int = 8
    starts: int = 64
    elite: int = 4
    offspring: int = 32
    opened: tuple[int, int] = (3, 6)
    grow: GrowConfig = field(default_factory=GrowConfig)

    def __post_init__(self) -> None:
        for name in ("patience", "chains", "starts", "elite", "offspring"):
            if getattr(self, name) < 1:
                raise ValueError(f"SearchConfig: {name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.opened[0] <= self.opened[1]:
            raise ValueError(f"SearchConfig: opened must rise from at least 1, got {self.opened}")


@dataclass(frozen=True, eq=False)
class Starts:
    """A batch of solutions: cluster of each user (m is none), head-count of each cluster, value; best first.

    `labels` [s n], `capacities` [s m], `values` [s].
    """

    labels: Int[ndarray, "s n"]
    capacities: Int[ndarray, "s m"]
    values: Float32[ndarray, "s"]

    def best(self, count: int) -> "Starts":
        """The best that differ in value."""
        order = np.argsort(-self.values, kind="stable")
        drop = np.append(True, -np.diff(self.values[order]) > _ALIKE)
        return self.pick(order[drop][:count])

    def pick(self, index: Int[ndarray, "k"]) -> "Starts":
        return Starts(self.labels[index], self.capacities[index], self.values[index])

    def join(self, other: "Starts") -> "Starts":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Starts(*(np.concatenate(pair) for pair in pairs))


class BatchSearch:
    """The search over one slot's clusters, a round at a time.

    Args:
        weights: worth of a pair, symmetric, 0 or more.
        most: head-count of each user at each worker.
        config: see `SearchConfig`.
        seed: decides everything.
        labels: cluster of each user to begin with, m for none, feasible; without them the starts are the beginning.
    """

    rounds: ClassVar[int] = 2
    """Rounds that are usually enough."""

    def __init__(
        self,
        weights: Float[ndarray, "n n"],
        most: Int[ndarray, "n m"],
        config: SearchConfig,
        seed: int,
        labels: Int[ndarray, "n"] | None = None,
    ) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.weights = (weights / (weights.max(initial=0) or 1)).astype(np.float32)
        self.most, self.levels = most, levels_of(most)
        self.one_level = all(len(level) == 1 and (most[:, j] > 0).all() for j, level in enumerate(self.levels))
        self.several_levels = any(len(level) > 1 for level in self.levels)
        self.seen: list[Int[ndarray, "s n"]] = []  # all that was ever found
        first = self._first() if labels is None else self._given(labels[None])
        self.elite = first.best(config.elite)

    def round(self) -> None:
        """Take the elite apart, grow and improve; keep the best."""
        config, rng = self.config, self.rng
        parents = self.elite.pick(np.arange(config.offspring) % len(self.elite.values))
        workers = self.most.shape[1]
        count = rng.integers(config.opened[0], config.opened[1] + 1, (config.offspring, 1))
        opened = rng.random((config.offspring, workers)).argsort(axis=1) < count
        capacities = parents.capacities
        if self.several_levels:
            drawn = opened & (rng.random(opened.shape) < _DRAWN)
            capacities = np.where(
                drawn, draw_capacities(self.levels, config.offspring, rng), replan(self.most, parents.labels, rng)
            )
        self.elite = self.elite.join(self._grown(parents.labels, capacities, opened)).best(config.elite)

    def worker(self) -> Int[ndarray, "n"]:
        """The best so far."""
        best = self.elite.labels[0]
        return np.where(best == self.most.shape[1], UNASSIGNED, best)

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of all assignments so far."""
        return np.concatenate([members_of(labels, self.most.shape[1]) for labels in self.seen])

    def _first(self) -> Starts:
        starts, (users, workers) = self.config.starts, self.most.shape
        none = np.full((starts, users), workers)
        return self._grown(none, draw_capacities(self.levels, starts, self.rng), np.ones((starts, workers), dtype=bool))

    def _given(self, labels: Int[ndarray, "1 n"]) -> Starts:
        several = self.several_levels
        capacities = replan(self.most, labels, self.rng) if several else draw_capacities(self.levels, 1, self.rng)
        return self._descended(labels, capacities)

    def _grown(
        self, labels: Int[ndarray, "s n"], capacities: Int[ndarray, "s m"], opened: Bool[ndarray, "s m"]
    ) -> Starts:
        labels = grow(self.weights, labels, capacities, self._allowed(capacities), opened, self.rng, self.config.grow)
        return self._descended(labels, capacities)

    def _descended(self, labels: Int[ndarray, "s n"], capacities: Int[ndarray, "s m"]) -> Starts:
        labels, values = descend(self.weights, labels, capacities, self._allowed(capacities))
        self.seen.append(labels)
        return Starts(labels, capacities, values)

    def _allowed(self, capacities: Int[ndarray, "s m"]) -> Bool[ndarray, "s n m"] | None:
        return None if self.one_level else self.most >= np.maximum(capacities, 1)[:, None]
