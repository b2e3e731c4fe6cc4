"""Set packing over a pool of clusters: its linear relaxation with prices, and the best choice in whole clusters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.clusters import Packing, Pool

if TYPE_CHECKING:
    from scipy.sparse import csc_array

_WIDER: Final = 1e-3
_ROUNDING: Final = 1e-7  # of the value: reduced costs beyond the gap by less are kept


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What the linear program says.

    Args:
        value: of the prices, which no choice from the pool exceeds.
        prices: what a user costs, 0 or more [n].
        rents: what a worker of a kind costs, 0 or more [t].
        used: whether a part of the cluster was chosen [k].
    """

    value: float
    prices: Float[ndarray, "n"]
    rents: Float[ndarray, "t"]
    used: Bool[ndarray, "k"]

    def reduced(self, pool: Pool) -> Float[ndarray, "k t"]:
        """What a cluster is worth beyond its users' prices and the rent; minus infinity where it does not fit."""
        worth = pool.values - pool.members @ self.prices
        return np.where(pool.fits, worth[:, None] - self.rents, -np.inf)


def relax(packing: Packing, pool: Pool) -> Relaxation:
    """Solve the linear relaxation over the clusters of a pool.

    Its optimum is often that of whole clusters, and many prices go with it; then ever more clusters join and the prices
    wander. Limits that are a random thousandth wider make them nearly unique. The prices bound all the same, for that
    any prices do.

    Raises:
        RuntimeError: HiGHS gave up.
    """
    from scipy.optimize import linprog

    users, kinds = len(packing.weights), len(packing.workers)
    if not len(pool):
        return Relaxation(0.0, np.zeros(users), np.zeros(kinds), np.zeros(0, dtype=bool))
    model = _Model.of(packing, pool)
    wider = 1 + _WIDER * np.random.default_rng(0).random(len(model.limits))
    found = linprog(-model.values, A_ub=model.matrix, b_ub=model.limits * wider, method="highs-ds")
    if found.status:
        raise RuntimeError(f"HiGHS found no optimum of the linear program over {len(pool)} clusters: {found.message}")
    duals = np.maximum(-found.ineqlin.marginals, 0)
    prices, rents = duals[:users], duals[-kinds:]
    value = float(prices.sum() + packing.workers @ rents)
    return Relaxation(value, prices, rents, found.x[: len(pool)] > _ROUNDING)


@dataclass(frozen=True, eq=False)
class Choice:
    """Whole clusters.

    Args:
        rows: of the pool [j].
        kinds: of worker, for each [j].
        proven: whether no choice from the pool is worth more than this one and the incumbent, beyond the gap.
    """

    rows: Int[ndarray, "j"]
    kinds: Int[ndarray, "j"]
    proven: bool


def pack(
    packing: Packing, pool: Pool, relaxation: Relaxation, incumbent: float, *, gap: float, limit_s: float
) -> Choice:
    """The choice of clusters worth most, if it is worth more than `incumbent` and found in time; else an empty one.

    Clusters whose reduced cost exceeds what the relaxation has over the incumbent cannot be part of such a choice.

    Args:
        packing, pool: the clusters.
        relaxation: of this very pool.
        incumbent: value of a choice that is known.
        gap: share of the value that may be missing.
        limit_s: time for the search.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    slack = _ROUNDING * max(1.0, relaxation.value)
    nothing = np.zeros(0, dtype=np.int64)
    if relaxation.value <= incumbent + slack:
        return Choice(nothing, nothing, proven=True)
    best = relaxation.reduced(pool).max(axis=1, initial=-np.inf)
    kept = np.flatnonzero(best >= incumbent - relaxation.value - slack)
    if not len(kept):
        return Choice(nothing, nothing, proven=True)
    model = _Model.of(packing, pool.pick(kept))
    found = milp(
        -model.values,
        integrality=np.ones(len(model.values)),
        bounds=Bounds(0, np.concatenate([np.ones(len(kept)), np.full(len(model.values) - len(kept), np.inf)])),
        constraints=[LinearConstraint(model.matrix, -np.inf, model.limits)],
        options={"time_limit": max(limit_s, 0.0), "mip_rel_gap": gap},
    )
    proven = found.status == 0
    if found.x is None or -found.fun <= incumbent + slack:
        return Choice(nothing, nothing, proven)
    rows, kinds = model.choice(np.rint(found.x).astype(np.int64))
    return Choice(kept[rows], kinds, proven)


@dataclass(frozen=True, eq=False)
class _Model:
    """Columns and rows for HiGHS.

    Clusters that fit the same kinds of worker are a class. Columns: the clusters, then for each class and kind that it
    fits how many of its clusters go there. Rows: users, classes (no more clusters than go somewhere), kinds.
    """

    values: Float[ndarray, "c"]
    matrix: "csc_array"
    limits: Float[ndarray, "r"]
    class_of: Int[ndarray, "k"]
    arcs: tuple[Int[ndarray, "a"], Int[ndarray, "a"]]

    @classmethod
    def of(cls, packing: Packing, pool: Pool) -> "_Model":
        from scipy.sparse import block_array, csc_array, csr_array

        classes, class_of = np.unique(pool.fits, axis=0, return_inverse=True)
        class_of, (of, to) = class_of.reshape(-1), np.nonzero(classes)
        clusters, count = np.arange(len(pool)), np.arange(len(of))
        members = csr_array(pool.members.astype(np.float64)).T
        belongs = csc_array((np.ones(len(pool)), (class_of, clusters)), shape=(len(classes), len(pool)))
        leaves = csc_array((-np.ones(len(count)), (of, count)), shape=(len(classes), len(count)))
        enters = csc_array((np.ones(len(count)), (to, count)), shape=(len(packing.workers), len(count)))
        matrix = block_array([[members, None], [belongs, leaves], [None, enters]], format="csc")
        values = np.concatenate([pool.values, np.zeros(len(count))])
        limits = np.concatenate([np.ones(len(packing.weights)), np.zeros(len(classes)), packing.workers])
        return cls(values, matrix, limits, class_of, (of, to))

    def choice(self, amounts: Int[ndarray, "c"]) -> tuple[Int[ndarray, "j"], Int[ndarray, "j"]]:
        """Chosen clusters, and for each a kind of worker that its class has places at."""
        rows = np.flatnonzero(amounts[: len(self.class_of)])
        left = amounts[len(self.class_of) :].copy()
        kinds = []
        for row in rows.tolist():
            arc = int(np.flatnonzero((self.arcs[0] == self.class_of[row]) & (left > 0))[0])
            left[arc] -= 1
            kinds.append(int(self.arcs[1][arc]))
        return rows, np.array(kinds, dtype=np.int64)
