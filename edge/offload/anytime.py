"""An answer at once, a better one while the slot lasts, and at the end a bound that says how good it is.

Three rungs: the clusters as grown and improved first, in milliseconds; more rounds of the same search; column
generation with its choice in whole clusters and its bound, for what is left of the time.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, loose_bound, nothing_to_decide, value_of
from edge.offload.exact import ColumnGeneration, ExactConfig
from edge.offload.heuristic import Search, SearchConfig, search_of
from edge.offload.model import UNASSIGNED, Assignment, Slot, Solution
from edge.offload.post import tidy

_SEARCHED: Final = 0.7  # of the budget, the most for the search: what it finds has to be tidied
_LONGER: Final = 4  # times the search: with less, column generation does not get anywhere


@dataclass(frozen=True)
class LadderConfig:
    """How the time of a slot is spent.

    Args:
        budget_s: for everything; the last rung may end a little later, for its choice in whole clusters.
        search_share: of the budget, what the search takes before column generation begins, or more for its rounds.
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
    """The last answer of `ladder`, without the time that the others take to be made."""
    for answer in _answers(slot, config or LadderConfig()):
        made = answer
    return made()


def ladder(slot: Slot, config: LadderConfig | None = None) -> Iterator[Solution]:
    """Answers that get better in value or bound; every one is feasible and may be used as it is."""
    for answer in _answers(slot, config or LadderConfig()):
        yield answer()


def _answers(slot: Slot, config: LadderConfig) -> Iterator[Callable[[], Solution]]:
    begun_s = time.perf_counter()
    if nothing_to_decide(slot):
        yield partial(_solution, slot, np.full(len(slot), UNASSIGNED), 0.0, begun_s)
        return
    bound = loose_bound(slot)
    search = search_of(slot, config.search, config.seed)
    first = search.worker()
    yield partial(_solution, slot, first, bound, begun_s)
    exact = ExactConfig(limit_s=config.budget_s, gap=config.gap, search=config.search, seed=config.seed)
    going_on = _search_on(search, config, begun_s, exact.pricing_s)
    worker = search.worker()
    value = value_of(slot.pair_value, worker)
    if value > value_of(slot.pair_value, first):
        yield partial(_solution, slot, worker, bound, begun_s)
    if not going_on:
        return
    generation = ColumnGeneration(slot, exact, begun_s, bound)
    generation.begin(search)
    for _ in generation.improve():
        if generation.value > value or generation.bound < bound:
            value, bound = generation.value, generation.bound
            yield generation.solution


def _search_on(search: Search, config: LadderConfig, begun_s: float, pricing_s: float) -> bool:
    """Rounds that are usually enough, and more while the search has a share of the budget.

    Tells whether column generation can begin; where there is no time for it, all of the budget is searched.
    """
    left = config.search.patience * search.rounds
    while (spent_s := time.perf_counter() - begun_s) < _SEARCHED * config.budget_s:
        enough = left <= 0 and spent_s >= config.search_share * config.budget_s
        if enough and _LONGER * spent_s <= pricing_s:
            return True
        search.round()
        left -= 1
    return False


def _solution(slot: Slot, worker: Int[ndarray, "n"], bound: float, begun_s: float) -> Solution:
    tidied = tidy(slot, worker)
    value = value_of(slot.pair_value, tidied)
    return Solution(assignment_of(slot, tidied), value, bound, time.perf_counter() - begun_s)
