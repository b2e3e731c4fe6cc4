"""A mean that a tier checks on labelled frames of its own: it survives liars in any number, if the frames tell them."""

from collections.abc import Callable, Mapping

from numpy import ndarray

from strategies.accumulator import Accumulator, DeltaMean, RuleConfig
from strategies.arithmetic import Arrays, update_dot, update_norm

MARGIN = 0.02  # share of the loss that leaving an update out must save; what honest unlike vehicles cost is less

RootLoss = Callable[[Arrays], float]


class ValidatedMean(Accumulator):
    """Mean of updates of bounded length, without those that harm it.

    1. Each update is shortened to the median length of all, the lower of two (adaptive clipping, as in Andrew et al.
       2021, "Differentially Private Learning with Adaptive Clipping", there by a running quantile).
    2. While leaving one update out lowers the mean's loss on the tier's own frames by `MARGIN`, the one that lowers it
       most is left out. Zeno (Xie et al. 2019, section 3) scores each update by itself on such data; among unlike
       vehicles even an honest update by itself worsens a model, so here it is the mean that is scored.
    3. While updates point against the mean of those that are left, the most opposed is left out; or all others, where
       most are opposed: then few turned the mean against the many.

    One update at least is kept. All are held until `result`, and the loss is taken at most n (n + 1) / 2 times, n + 1
    times where nobody lies. Without a loss step 2 is left out; then a minority is survived.
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
        norms = sorted(norm for _, _, norm in self._updates)
        self._longest = norms[(len(norms) - 1) // 2]
        kept = list(range(len(self._updates)))
        if self._loss is not None:
            kept = self._without_harmful(kept, self._loss)
        return self._mean(self._without_opposed(kept))

    def _without_harmful(self, kept: list[int], loss: RootLoss) -> list[int]:
        """Indices without those whose absence lowers the loss of the mean, the worst first."""
        best = loss(self._mean(kept))
        while len(kept) > 1:
            found, worst = min((loss(self._mean(others(kept, index))), index) for index in kept)
            if not found < best * (1 - MARGIN):
                break
            kept, best = others(kept, worst), found
        return kept

    def _without_opposed(self, kept: list[int]) -> list[int]:
        """Indices without those that point against the mean of the rest, the most opposed first."""
        while len(kept) > 1:
            mean = self._mean(kept)
            cosines = {index: self._cosine(index, mean) for index in kept}
            opposed = [index for index in kept if cosines[index] < 0]
            if not opposed:
                break
            kept = opposed if 2 * len(opposed) > len(kept) else others(kept, min(opposed, key=cosines.__getitem__))
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


def others(indices: list[int], left_out: int) -> list[int]:
    """Returns the indices without one."""
    return [index for index in indices if index != left_out]
