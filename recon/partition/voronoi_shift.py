"""Heterogeneity-aware workload partitioning (HWP): Voronoi cells whose boundaries move until all workers end together.

The four steps are `nearest`, `completion_times`, `move_boundaries` and the loop of `shift_boundaries`. Cells are those
of a power diagram throughout: camera x belongs to the worker at p with the least |x - p|² - w. Raising w by 2 |p - q| d
moves the straight boundary towards a neighbour at q by d along its normal.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from recon.partition.chains import Chains, cheapest_path
from recon.partition.model import Partition, Problem, partition_of


@dataclass(frozen=True)
class ShiftConfig:
    """Hyper-parameters of `shift_boundaries`.

    Args:
        threshold: residual below which a worker is balanced, as a share of the mean completion time.
        rounds: the most rounds.
        patience: rounds without a smaller makespan after which it ends.
        first_step: how far a boundary moves at first, as a share of the distance to the nearest other worker.
        grow, shrink: factors on a worker's step where its residual keeps or changes its sign.
        one_at_a_time: move the boundary of the worst outlier alone, as in the source; otherwise of all outliers.
        repair: hand on single border cameras at the end while the makespan falls.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    threshold: float = 0.02
    rounds: int = 1000
    patience: int = 200
    first_step: float = 0.3
    grow: float = 1.2
    shrink: float = 0.7
    one_at_a_time: bool = False
    repair: bool = True

    def __post_init__(self) -> None:
        if not (self.threshold >= 0 and min(self.rounds, self.patience) >= 0 and self.first_step > 0):
            raise ValueError(f"ShiftConfig takes threshold, rounds, patience >= 0 and first_step > 0, got {self}")
        if not (self.grow >= 1 and 0 < self.shrink < 1):
            raise ValueError(f"ShiftConfig takes grow >= 1 and 0 < shrink < 1, got {self.grow} and {self.shrink}")


def shift_boundaries(problem: Problem, config: ShiftConfig | None = None) -> Partition:
    """Balance completion times by moving boundaries; the partition of least makespan that was seen.

    Returns:
        With `repair`, cells are those of a power diagram still, whose weights are no longer known exactly:
        `weights_m2` are those before the repair.
    """
    config = config or ShiftConfig()
    weights_m2 = np.zeros(len(problem.workers))
    best = partition = nearest(problem)
    steps_m, signs = config.first_step * problem.spacing_m, np.zeros(len(weights_m2))
    for round_ in range(1, config.rounds + 1):
        residual_s, limit_s = completion_times(partition, config.threshold)
        if (np.abs(residual_s) <= limit_s).all() or round_ - best.rounds > config.patience:
            break
        movers = _outliers(residual_s, limit_s, config.one_at_a_time)
        steps_m = np.minimum(_next_steps(steps_m, signs, residual_s, movers, config), problem.farthest_m2**0.5)
        signs = np.where(movers, np.sign(residual_s), signs)
        weights_m2 = move_boundaries(problem, weights_m2, -signs * steps_m * movers)
        partition = cells(problem, weights_m2, round_)
        best = min(best, partition, key=lambda seen: seen.makespan_s)
    return repair(problem, best, config.threshold) if config.repair else best


def nearest(problem: Problem) -> Partition:
    """Step 1: each camera to the nearest worker that reaches it; their cells are a Voronoi diagram."""
    return cells(problem, np.zeros(len(problem.workers)))


def completion_times(partition: Partition, threshold: float) -> tuple[Float[ndarray, "m"], float]:
    """Step 2: by how much each worker's completion time exceeds the mean, and what counts as balanced; seconds.

    A worker with more views than it can take exceeds it by infinity.
    """
    finite = partition.times_s[np.isfinite(partition.times_s)]
    mean_s = float(finite.mean()) if len(finite) else 0.0
    return partition.times_s - mean_s, threshold * mean_s


def move_boundaries(
    problem: Problem, weights_m2: Float[ndarray, "m"], outward_m: Float[ndarray, "m"]
) -> Float[ndarray, "m"]:
    """Step 3: weights after each worker's nearest boundary moved outwards along its normal by so many metres.

    Weights end where a cell holds all that it can reach, however the others stand.
    """
    bound_m2 = len(weights_m2) * problem.farthest_m2
    return np.clip(weights_m2 + 2 * problem.spacing_m * outward_m, -bound_m2, bound_m2)


def cells(problem: Problem, weights_m2: Float[ndarray, "m"], rounds: int = 0) -> Partition:
    """The partition of a power diagram, within reach."""
    return partition_of(problem, (problem.costs_m2 - weights_m2).argmin(axis=1), weights_m2, rounds)


def repair(problem: Problem, partition: Partition, threshold: float = 0.0) -> Partition:
    """Hand on border cameras from the slowest worker while the makespan falls.

    A camera goes along the chain of neighbouring cells that lengthens the squared distances least, to a worker that
    stays faster than the slowest was. It ends where the slowest is within `threshold` of the mean, or where no chain
    helps: then no partition has a smaller makespan.
    """
    chains = Chains(problem.costs_m2, partition.owner)
    workers = np.arange(len(problem.workers))
    while True:
        now = problem.seconds(chains.counts)
        slowest = int(now.argmax())
        if now[slowest] <= (1 + threshold) * now.mean() < np.inf:
            break
        one_more = problem.times_s[workers, np.minimum(chains.counts + 1, len(problem))]
        path = cheapest_path(chains.prices, workers == slowest, one_more < now[slowest], chains.tolerance)
        if path is None:
            break
        chains.hand_on(path)
    return partition_of(problem, chains.owner, partition.weights_m2, partition.rounds)


def _outliers(residual_s: Float[ndarray, "m"], limit_s: float, one_at_a_time: bool) -> Bool[ndarray, "m"]:
    if one_at_a_time:
        return np.arange(len(residual_s)) == np.abs(residual_s).argmax()
    return np.abs(residual_s) > limit_s


def _next_steps(
    steps_m: Float[ndarray, "m"],
    signs: Float[ndarray, "m"],
    residual_s: Float[ndarray, "m"],
    movers: Bool[ndarray, "m"],
    config: ShiftConfig,
) -> Float[ndarray, "m"]:
    turn = signs * np.sign(residual_s)  # 0 at a worker's first move
    factor = np.where(turn < 0, config.shrink, np.where(turn > 0, config.grow, 1.0))
    return np.where(movers, steps_m * factor, steps_m)
