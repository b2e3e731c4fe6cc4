"""A mean that a tier checks on labelled frames of its own: it survives liars in any number, if the frames tell them."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy import ndarray

from strategies.accumulator import Accumulator, DeltaMean, RuleConfig
from strategies.arithmetic import Arrays, update_dot, update_norm

MARGIN = 0.02  # share of the loss that leaving an update out must save; what honest unlike vehicles cost is less
MOST_WORSE = 2.0  # times the loss before; a round of honest training does not double it

RootLoss = Callable[[Arrays], float]


class ValidatedMean(Accumulator):
    """Mean of updates of bounded length, without those that harm it.

    1. Each update is shortened to the median length of all (adaptive clipping, as in Andrew et al. 2021,
       "Differentially Private Learning with Adaptive Clipping", there by a running quantile). Of two in the middle it
       is the longer one, or half of the vehicles could hold up all by next to no update; without a loss, which would
       tell a harmful long one, the shorter.
    2. While leaving one update out lowers the mean's loss on the tier's own frames by `MARGIN`, the one that lowers it
       most is left out. Zeno (Xie et al. 2019, section 3) scores each update by itself on such data; among unlike
       vehicles even an honest update by itself worsens a model, so here it is the mean that is scored.
    3. While updates point against the mean of those that are left, the most opposed is left out; or all others, where
       most are opposed: then few turned the mean against the many.

    One update at least is kept, but where even then the loss is more than `MOST_WORSE` times what it was, the model
    stays as it was. All are held until `result`. The loss is taken n + 3 times where nobody lies, and about n more
    for each update that is left out. Without a loss step 2 is left out; then a minority is survived.
    """

    def __init__(
        self,
        reference: Mapping[str, ndarray],
        config: RuleConfig,
        expected_weight: float = 1.0,
        loss: RootLoss | None = None,
    ) -> None:
        super().__init__(reference, config, expected_weight)
        self._loss = loss
        self._updates: list[tuple[Mapping[str, ndarray], float, float]] = []

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        self._updates.append((arrays, weight, update_norm(arrays, self.reference)))

    def result(self) -> Arrays:
        norms, loss = sorted(norm for _, _, norm in self._updates), self._loss
        self._longest = norms[(len(norms) - (loss is None)) // 2]
        kept = list(range(len(self._updates)))
        if loss is None:
            return self._mean(self._without_opposed(kept))
        merged = self._mean(self._without_opposed(self._without_harmful(kept, loss)))
        start = {name: np.array(values) for name, values in self.reference.items()}
        return start if not loss(merged) <= MOST_WORSE * loss(start) else merged

    def _without_harmful(self, kept: list[int], loss: RootLoss) -> list[int]:
        """Indices without those whose absence lowers the loss of the mean, the worst first."""
        best = loss(self._mean(kept))
        if not math.isfinite(best):  # then leaving one of several out may not help
            kept = [index for index in kept if math.isfinite(loss(self._mean([index])))] or kept
            best = loss(self._mean(kept))
        while len(kept) > 1:
            found, worst = min((loss(self._mean(leave_out(kept, index))), index) for index in kept)
            if not found < best * (1 - MARGIN):
                break
            kept, best = leave_out(kept, worst), found
        return kept

    def _without_opposed(self, kept: list[int]) -> list[int]:
        """Indices without those that point against the mean of the rest, the most opposed first."""
        while len(kept) > 1:
            mean = self._mean(kept)
            cosines = {index: self._cosine(index, mean) for index in kept}
            opposed = [index for index in kept if cosines[index] < 0]
            if not opposed:
                break
            kept = opposed if 2 * len(opposed) > len(kept) else leave_out(kept, min(opposed, key=cosines.__getitem__))
        return kept

    def _cosine(self, index: int, mean: Arrays) -> float:
        """Of an update and the mean, times the mean's length, which is the same for all."""
        arrays, _, norm = self._updates[index]
        return update_dot(arrays, mean, self.reference) / norm if norm > 0 else 0.0

    def _mean(self, kept: list[int]) -> Arrays:
        mean = DeltaMean(self.reference)
        for index in kept:
            arrays, weight, norm = self._updates[index]
            mean.add(arrays, weight, self._longest / norm if norm > self._longest else 1.0)
        return mean.result()


def leave_out(indices: list[int], left_out: int) -> list[int]:
    """Returns the indices without one."""
    return [index for index in indices if index != left_out]
