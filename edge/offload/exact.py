"""The best assignment with a proof of how good it is: column generation over clusters, then set packing.

The linear relaxation of the set-packing problem prices the users; clusters worth more than their users join until no
worker of any kind could have one. What the best possible cluster of each kind is worth beyond the prices, times the
workers of that kind, plus the prices bounds every assignment from above, whatever the prices are.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, loose_bound, nothing_to_decide, value_of
from edge.offload.clusters import Packing, Pool, all_clusters, members_of, workers_of
from edge.offload.heuristic import Search, SearchConfig, searched
from edge.offload.knapsack import Budget
from edge.offload.master import Relaxation, pack, relax
from edge.offload.model import UNASSIGNED, Assignment, Slot, Solution
from edge.offload.post import tidy
from edge.offload.pricing import all_priced, grow_priced

_WORTH: Final = 1e-6  # of the value: clusters worth less beyond their prices do not join
_CLOSING: Final = (0.2, 0.4, 0.7, 1.0)  # of what the relaxation has over the best assignment
_BATCH: Final = 200  # clusters that join at once for a kind of worker


@dataclass(frozen=True)
class ExactConfig:
    """How long is searched and for what proof.

    Args:
        limit_s: time for everything; what was found by then is returned.
        gap: share of the bound that may be missing.
        most_clusters: so many are simply listed, and the result is the optimum.
        packing_share: of the time, kept for the choice in whole clusters.
        search: of the first solution and the first clusters.
        seed: of what is drawn.

    Raises:
        ValueError: `limit_s` is not positive, or `gap` or `packing_share` is not in [0, 1).
    """

    limit_s: float = 5.0
    gap: float = 0.0
    most_clusters: int = 5000
    packing_share: float = 0.35
    search: SearchConfig = field(default_factory=lambda: SearchConfig(patience=6))
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.limit_s > 0:
            raise ValueError(f"ExactConfig: limit_s must be positive, got {self.limit_s}: give seconds or inf")
        for name in ("gap", "packing_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"ExactConfig: {name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def pricing_s(self) -> float:
        """Time until the choice in whole clusters."""
        return self.limit_s * (1 - self.packing_share)


@dataclass(frozen=True)
class Exact:
    """The policy: `solve_exact` without the proof."""

    config: ExactConfig = field(default_factory=ExactConfig)

    def assign(self, slot: Slot) -> Assignment:
        """The best assignment found in time."""
        return solve_exact(slot, self.config).assignment


def solve_exact(slot: Slot, config: ExactConfig | None = None) -> Solution:
    """The best assignment found in time, and a bound on the value of all assignments."""
    generation = ColumnGeneration(slot, config or ExactConfig())
    generation.run()
    return generation.solution()


class ColumnGeneration:
    """Column generation for one slot, step by step.

    `worker` and `value` are the best assignment so far, `bound` is what no assignment exceeds.
    """

    def __init__(
        self, slot: Slot, config: ExactConfig, begun_s: float | None = None, bound: float | None = None
    ) -> None:
        self.begun_s = time.perf_counter() if begun_s is None else begun_s
        self.slot, self.config = slot, config
        self.packing = Packing.of(slot)
        self.worker = np.full(len(slot), UNASSIGNED)
        self.value, self.bound = 0.0, loose_bound(slot) if bound is None else bound
        self.pool = Pool.of(self.packing, np.zeros((0, len(slot)), dtype=bool))
        self._relaxed: tuple[Pool, Relaxation] | None = None
        self.converged = False  # no cluster would make the relaxation better
        self.closed = False  # no cluster is missing

    def run(self) -> None:
        """All steps, until the gap is small enough or the time is over."""
        if self.start():
            for _ in self.improve():
                pass

    def improve(self) -> Iterator[None]:
        """From the first clusters to the end; comes back after every step that may have changed value or bound."""
        while not self.finished() and self.left_s() > 0 and self.step():
            yield
        self.choose()
        yield
        if not self.finished() and self.left_s() > 0 and self.converged and not self.closed:
            self.close()
            yield

    def start(self) -> bool:
        """First solution and clusters; tells whether there is anything to decide."""
        if nothing_to_decide(self.slot):
            self.bound = 0.0
            return False
        self.begin(searched(self.slot, self.config.search, self.config.seed))
        return True

    def begin(self, search: Search) -> None:
        """Take over what a search has found."""
        self.offer(search.worker())
        listed = all_clusters(self.packing, self.config.most_clusters)
        self.closed = listed is not None
        self.pool = Pool.of(self.packing, search.clusters() if listed is None else listed)

    def step(self) -> bool:
        """Price, and let clusters join; tells whether any did."""
        relaxation = self.relaxation()
        if self.closed:
            self.bound = min(self.bound, relaxation.value)
            return False
        new = self._grown(relaxation)
        if not len(new):
            if not self.converged:
                self.choose()
            new = self._proven(relaxation)
        if not len(new):
            return False
        before = len(self.pool)
        self.pool = self.pool.join(new)
        return len(self.pool) > before

    def choose(self) -> None:
        """The best choice in whole clusters: of those that the relaxation uses, then of all."""
        relaxation = self.relaxation()
        if not self.closed:
            used = self.pool.pick(relaxation.used)
            own = Pool.of(self.packing, members_of(self.worker[None], len(self.slot.workers)))
            self._choose_from(used.join(own), relaxation, gap=2e-4)
        proven = self._choose_from(self.pool, relaxation, gap=1e-9 if self.closed else 2e-4)
        if self.closed and proven:
            self.bound = min(self.bound, self.value)

    def _choose_from(self, pool: Pool, relaxation: Relaxation, gap: float) -> bool:
        spare_s = self.config.limit_s - (time.perf_counter() - self.begun_s)
        limit_s = max(spare_s, 0.2 * self.config.packing_share * self.config.limit_s)
        choice = pack(self.packing, pool, relaxation, self.value, gap=gap, limit_s=limit_s)
        if len(choice.rows):
            self.offer(workers_of(self.packing, pool.pick(choice.rows), choice.kinds))
        return choice.proven

    def close(self) -> None:
        """Add clusters that an assignment better than the best could have, more and more; with all, it is the optimum.

        Of all clusters none is worth more than its rent and a tolerance, which add up to the relaxation's value and
        that of `_WORTH`. An assignment with a cluster that is worth less by some amount is worth less by that, too.
        """
        relaxation = self.relaxation()
        most = relaxation.value + _WORTH * self.value
        for share in _CLOSING:
            less = share * (most - self.value)
            budget = Budget(until_s=time.perf_counter() + self.left_s())
            priced = all_priced(self.packing, relaxation.prices, relaxation.rents - less, budget)
            if self.finished() or self.left_s() <= 0 or not all(one.complete for one in priced):
                return
            self.pool = self.pool.join(Pool.of(self.packing, np.concatenate([one.members for one in priced])))
            if not self._choose_from(self.pool, self.relaxation(), gap=1e-9):
                return
            self.bound = min(self.bound, max(self.value, most - less))

    def relaxation(self) -> Relaxation:
        """The linear relaxation over the clusters that there are."""
        if self._relaxed is None or self._relaxed[0] is not self.pool:
            self._relaxed = self.pool, relax(self.packing, self.pool)
        return self._relaxed[1]

    def offer(self, worker: Int[ndarray, "n"]) -> None:
        """Keep an assignment if it is better."""
        value = value_of(self.slot.pair_value, worker)
        if value > self.value:
            self.worker, self.value = worker, value

    def left_s(self) -> float:
        """Time for pricing."""
        return self.config.pricing_s - (time.perf_counter() - self.begun_s)

    def finished(self) -> bool:
        """Whether the proof is as good as asked for."""
        return self.bound - self.value <= max(self.config.gap * self.bound, _WORTH * self.value)

    def solution(self) -> Solution:
        """The best so far, tidied."""
        worker = tidy(self.slot, self.worker)
        seconds = time.perf_counter() - self.begun_s
        return Solution(assignment_of(self.slot, worker), self.value, max(self.bound, self.value), seconds)

    def _proven(self, relaxation: Relaxation) -> Pool:
        """Clusters worth more than their prices and rent, and with their bounds the bound of all assignments."""
        floors = relaxation.rents + _WORTH * self.value / len(self.slot.workers)
        budget = Budget(until_s=time.perf_counter() + self.left_s())
        priced = all_priced(self.packing, relaxation.prices, floors, budget)
        bounds = np.array([one.bound for one in priced])
        total = float(relaxation.prices.sum() + self.packing.workers @ bounds)
        self.bound = min(self.bound, total)
        self.converged = bool((bounds <= floors).all())
        return self._worthy(relaxation, np.concatenate([one.members for one in priced]))

    def _grown(self, relaxation: Relaxation) -> Pool:
        kinds = range(len(self.packing.workers))
        return self._worthy(
            relaxation, np.concatenate([grow_priced(self.packing, relaxation.prices, kind) for kind in kinds])
        )

    def _worthy(self, relaxation: Relaxation, members: Bool[ndarray, "k n"]) -> Pool:
        """The best of the clusters, if they are worth more than they cost."""
        pool = Pool.of(self.packing, members)
        worth = relaxation.reduced(pool).max(axis=1, initial=-np.inf)
        order = np.argsort(-worth, kind="stable")[: _BATCH * len(self.packing.workers)]
        return pool.pick(order[worth[order] > _WORTH * self.value / len(self.slot.workers)])
