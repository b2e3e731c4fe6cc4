"""Our heuristic: clusters grown at random, improved by relocating and swapping, taken apart in part and grown anew.

What is summed is `Slot.pair_value`, so a pair counts once. Every worker has a head-count (`capacity.places`); where it
differs between users, a start draws which of the counts it plans a worker with, and who must have a smaller one stays
away from it.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, places
from edge.offload.clusters import members_of
from edge.offload.descent import descend
from edge.offload.grow import GrowConfig, grow
from edge.offload.levels import draw_capacities, levels_of, replan
from edge.offload.model import UNASSIGNED, Assignment, Slot
from edge.offload.post import tidy
from edge.offload.wide import WideSearch

_DRAWN: Final = 0.25  # of the clusters that are taken apart: share whose head-count is drawn anew
_ALIKE: Final = 1e-4  # starts of values that differ by less count as one


@dataclass(frozen=True)
class SearchConfig:
    """How long and how widely is searched.

    Args:
        starts: grown at the beginning.
        rounds: how often the best are taken apart and grown anew.
        elite: how many are kept for the next round.
        offspring: grown in a round.
        opened: least and most clusters that are taken apart.
        wide_rounds: rounds for more users than `wide_users`, whose clusters are improved in groups (`WideSearch`).
        wide_users: the most users whose clusters are improved all together.
        grow: see `GrowConfig`.

    Raises:
        ValueError: a count is too small.
    """

    starts: int = 64
    rounds: int = 2
    elite: int = 4
    offspring: int = 32
    opened: tuple[int, int] = (3, 6)
    wide_rounds: int = 12
    wide_users: int = 80
    grow: GrowConfig = field(default_factory=GrowConfig)

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("rounds", 0), ("elite", 1), ("offspring", 1), ("wide_rounds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"SearchConfig: {name} must be at least {least}, got {getattr(self, name)}")
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


@dataclass(frozen=True)
class Heuristic:
    """The policy.

    Args:
        config: of the search.
        seed: of what is drawn.
    """

    config: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 0

    def assign(self, slot: Slot) -> Assignment:
        """The best assignment found, without users who gain and give nothing, largest clusters at fast workers."""
        return assignment_of(slot, tidy(slot, solve(slot, self.config, self.seed)))


class Search:
    """The search over one slot's clusters, a round at a time."""

    def __init__(self, weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"], config: SearchConfig, seed: int):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.weights = (weights / (weights.max(initial=0) or 1)).astype(np.float32)[None]
        self.most, self.levels = most, levels_of(most)
        self.one_level = all(len(level) == 1 and (most[:, j] > 0).all() for j, level in enumerate(self.levels))
        self.several_levels = any(len(level) > 1 for level in self.levels)
        self.seen: list[Int[ndarray, "s n"]] = []  # all that was ever found
        self.elite = self._first().best(config.elite)

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

    def _grown(
        self, labels: Int[ndarray, "s n"], capacities: Int[ndarray, "s m"], opened: Bool[ndarray, "s m"]
    ) -> Starts:
        allowed = None if self.one_level else self.most >= np.maximum(capacities, 1)[:, None]
        labels = grow(self.weights, labels, capacities, allowed, opened, self.rng, self.config.grow)
        labels, values = descend(self.weights, labels, capacities, allowed)
        self.seen.append(labels)
        return Starts(labels, capacities, values)


def solve(slot: Slot, config: SearchConfig | None = None, seed: int = 0) -> Int[ndarray, "n"]:
    """Worker of each user, `UNASSIGNED` for none, as found by the search."""
    if not slot.pair_value.any():
        return np.full(len(slot), UNASSIGNED)
    config = config or SearchConfig()
    search = search_of(slot, config, seed)
    for _ in range(rounds_of(slot, config)):
        search.round()
    return search.worker()


def search_of(slot: Slot, config: SearchConfig, seed: int) -> Search | WideSearch:
    """The search that fits the number of users, before its first round."""
    if len(slot) > config.wide_users:
        return WideSearch(slot.pair_value, places(slot), config.grow, seed)
    return Search(slot.pair_value, places(slot), config, seed)


def rounds_of(slot: Slot, config: SearchConfig) -> int:
    """Rounds that it takes by default."""
    return config.wide_rounds if len(slot) > config.wide_users else config.rounds
