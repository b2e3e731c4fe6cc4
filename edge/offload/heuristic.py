"""Our heuristic: clusters grown at random, improved by relocating and swapping, taken apart in part and grown anew.

What is summed is `Slot.pair_value`, so a pair counts once. Every worker has a head-count (`capacity.places`). The
search is compiled C++; where there is no compiler, numpy takes its place, slower and further from the optimum.
"""

import logging
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from edge.offload.batch import BatchSearch
from edge.offload.capacity import assignment_of, nothing_to_decide, places
from edge.offload.compiled import CompiledSearch, unavailable
from edge.offload.model import UNASSIGNED, Assignment, Slot
from edge.offload.patches import PatchSearch
from edge.offload.post import tidy

logger = logging.getLogger("convoy")
_MANY: Final = 80  # users beyond whom numpy improves a part of the clusters at a time


@runtime_checkable
class Search(Protocol):
    """A search over one slot's clusters, a round at a time, with something to show before the first."""

    rounds: ClassVar[int]
    """Rounds that are usually enough."""

    def round(self) -> None:
        """Search on."""
        ...

    def worker(self) -> Int[ndarray, "n"]:
        """The best so far: worker of each user, `UNASSIGNED` for none."""
        ...

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of assignments so far, good ones to choose from."""
        ...


@dataclass(frozen=True)
class SearchConfig:
    """How long is searched, and how widely.

    Args:
        patience: how many times as many rounds as are usually enough.
        chains: assignments that the compiled search improves side by side for a few dozen users.

    Raises:
        ValueError: a count is below 1.
    """

    patience: int = 1
    chains: int = 8

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count < 1:
                raise ValueError(f"SearchConfig: {name} must be at least 1, got {count}")


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


def solve(slot: Slot, config: SearchConfig | None = None, seed: int = 0) -> Int[ndarray, "n"]:
    """Worker of each user, `UNASSIGNED` for none, as found by the search."""
    if nothing_to_decide(slot):
        return np.full(len(slot), UNASSIGNED)
    return searched(slot, config or SearchConfig(), seed).worker()


def searched(slot: Slot, config: SearchConfig, seed: int) -> Search:
    """The search after as many rounds as the config asks for."""
    search = search_of(slot, config, seed)
    for _ in range(config.patience * search.rounds):
        search.round()
    return search


def search_of(slot: Slot, config: SearchConfig, seed: int) -> Search:
    """The search before its first round: the compiled one, or numpy's for the number of users.

    Where it cannot be compiled, a warning says so, once a process.
    """
    most, why = places(slot), unavailable()
    if why is None:
        return CompiledSearch(slot.pair_value, most, config.chains, seed)
    _warn(why)
    return (BatchSearch if len(slot) <= _MANY else PatchSearch)(slot.pair_value, most, seed)


@cache
def _warn(why: str) -> None:
    logger.warning("offloading is searched in numpy, slower and further from the optimum: %s", why)
