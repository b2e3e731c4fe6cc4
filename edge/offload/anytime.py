"""An answer at once, a better one while the slot lasts, and at the end a bound that says how good it is.

Three rungs: the clusters as grown and improved first, in milliseconds; more rounds of the same search; column
generation with its choice in whole clusters and its bound, for what is left of the time.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, places, value_of
from edge.offload.exact import ColumnGeneration, ExactConfig, loose_bound, nothing_to_decide
from edge.offload.heuristic import SearchConfig, rounds_of, search_of
from edge.offload.model import UNASSIGNED, Assignment, Slot, Solution
from edge.offload.post import tidy


@dataclass(frozen=True)
class LadderConfig:
    """How the time of a slot is spent.

    Args:
        budget_s: for everything; the last rung may end a little later, for its choice in whole clusters.
        search_share: of the budget, the most that the search takes before column generation begins.
        gap: share of the bound that may be missing; then the ladder ends early.
        search: see `SearchConfig`; its rounds are the least that are searched.
        seed: of what is drawn.

    Raises:
        ValueError: `budget_s` is not positive and finite, or a share is not in [0, 1).
    """

    budget_s: float = 0.8
    search_share: float = 0.1
    gap: float = 0.0
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.budget_s < math.inf:
            raise ValueError(f"LadderConfig: budget_s must be positive and finite, got {self.budget_s}")
        for name in ("search_share", "gap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"LadderConfig: {name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class Anytime:
    """The policy: the last answer of `ladder`."""

    config: LadderConfig = field(default_factory=LadderConfig)

    def assign(self, slot: Slot) -> Assignment:
        """The best assignment within the budget."""
        return last(slot, self.config).assignment


def last(slot: Slot, config: LadderConfig | None = None) -> Solution:
    """The last answer of `ladder`."""
    return list(ladder(slot, config))[-1]


def ladder(slot: Slot, config: LadderConfig | None = None) -> Iterator[Solution]:
    """Answers that get better in value or bound; every one is feasible and may be used as it is."""
    config, begun_s = config or LadderConfig(), time.perf_counter()
    if nothing_to_decide(slot):
        yield _solution(slot, np.full(len(slot), UNASSIGNED), 0.0, begun_s)
        return
    bound = loose_bound(slot.pair_value, places(slot))
    search = search_of(slot, config.search, config.seed)
    worker, value = search.worker(), -math.inf
    for done in range(10**9):
        new = value_of(slot.pair_value, search.worker())
        if new > value:
            worker, value = search.worker(), new
            yield _solution(slot, worker, bound, begun_s)
        spent_s = time.perf_counter() - begun_s
        share = config.search_share if done >= rounds_of(slot, config.search) else 1.0
        if spent_s >= share * config.budget_s:
            break
        search.round()
    exact = ExactConfig(limit_s=config.budget_s, gap=config.gap, search=config.search, seed=config.seed)
    generation = ColumnGeneration(slot, exact, begun_s)
    if generation.left_s() <= 0:
        return
    generation.begin(search)
    for _ in generation.improve():
        if generation.value > value or generation.bound < bound:
            value, bound = generation.value, generation.bound
            yield generation.solution()


def _solution(slot: Slot, worker: Int[ndarray, "n"], bound: float, begun_s: float) -> Solution:
    tidied = tidy(slot, worker)
    value = value_of(slot.pair_value, tidied)
    return Solution(assignment_of(slot, tidied), value, bound, time.perf_counter() - begun_s)
