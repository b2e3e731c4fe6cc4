"""Rules that survive liars. Norm clipping and FLTrust keep one model in memory; the others must hold all updates."""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from strategies.accumulator import Accumulator, DeltaMean, RuleConfig
from strategies.arithmetic import CHUNK, Arrays, cast, floor_share, is_integer, update_dot, update_norm


class NormClip(Accumulator):
    """Mean of updates shortened to at most `clip_norm` (Sun et al. 2019, "Can You Really Backdoor FL?", norm bound)."""

    def __init__(self, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float = 1.0) -> None:
        super().__init__(reference, config, expected_weight)
        self._mean = DeltaMean(reference)

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        norm = update_norm(arrays, self.reference)
        self._mean.add(arrays, weight, min(1.0, self.config.clip_norm / max(norm, 1e-30)))

    def result(self) -> Arrays:
        return self._mean.result()


class FLTrust(Accumulator):
    """FLTrust (Cao et al. 2021, algorithm 2) with the server's own update as the root of trust.

    Trust score TS_k = ReLU(cos(g_k, g_0)); each update is scaled to the root's length; result is the TS-weighted mean.
    `root` is the model that the RSU or cloud trained on its own few frames, starting from the same reference.

    Raises:
        ValueError: no root model was given.
    """

    def __init__(
        self,
        reference: Mapping[str, ndarray],
        config: RuleConfig,
        expected_weight: float = 1.0,
        root: Mapping[str, ndarray] | None = None,
    ) -> None:
        super().__init__(reference, config, expected_weight)
        if root is None:
            raise ValueError("rule 'fltrust' needs a root model: the tier has no frames of its own to train it on")
        self._root, self._root_norm = root, update_norm(root, reference)
        self._mean = DeltaMean(reference)

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        norm = update_norm(arrays, self.reference)
        if norm == 0 or self._root_norm == 0:
            return
        cosine = update_dot(arrays, self._root, self.reference) / (norm * self._root_norm)
        if cosine > 0:
            self._mean.add(arrays, cosine, self._root_norm / norm)

    def result(self) -> Arrays:
        return self._mean.result()


class Buffered(Accumulator):
    """Base of the rules that must see all updates at once: memory grows with their number."""

    def __init__(self, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float = 1.0) -> None:
        super().__init__(reference, config, expected_weight)
        self._updates: list[Mapping[str, ndarray]] = []

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        self._updates.append(arrays)

    def result(self) -> Arrays:
        return {name: self._merge(name, start) for name, start in self.reference.items()}

    def _merge(self, name: str, start: ndarray) -> ndarray:
        """Apply `_rule` to columns [k, chunk] so that the stacked copy stays small."""
        rows = [np.ascontiguousarray(update[name]).reshape(-1) for update in self._updates]
        out = np.empty(start.size, np.float64 if is_integer(start.dtype) else start.dtype)
        for begin in range(0, start.size, CHUNK):
            out[begin : begin + CHUNK] = self._rule(np.stack([row[begin : begin + CHUNK] for row in rows]))
        return cast(out.reshape(start.shape), start.dtype)

    def _rule(self, columns: ndarray) -> ndarray:
        raise NotImplementedError


class Median(Buffered):
    """Coordinate-wise median (Yin et al. 2018, definition 1); ignores weights. Survives f liars of 2f + 1."""

    @staticmethod
    def count_needed(config: RuleConfig) -> int:
        return 2 * config.byzantine + 1

    def _rule(self, columns: ndarray) -> ndarray:
        return np.median(columns, axis=0)


class TrimmedMean(Buffered):
    """Coordinate-wise trimmed mean (Yin et al. 2018, definition 2); ignores weights. Survives f liars of 2f + 1.

    Cuts `trim_fraction` of the updates from each end, rounded down, but f at least: a fraction that rounds to nothing
    would leave the mean. Of fewer than 2f + 1 updates it keeps the middle one or two.
    """

    @staticmethod
    def count_needed(config: RuleConfig) -> int:
        return 2 * config.byzantine + 1

    def _rule(self, columns: ndarray) -> ndarray:
        wanted = max(floor_share(self.config.trim_fraction, len(columns)), self.config.byzantine)
        cut = min(wanted, (len(columns) - 1) // 2)
        return np.sort(columns, axis=0)[cut : len(columns) - cut].mean(axis=0)


class Krum(Buffered):
    """Krum (Blanchard et al. 2017, section 4): the update closest to its n - f - 2 nearest others; ignores weights.

    Survives f liars of 2f + 3 (ibid., proposition 1). With fewer than f + 3 updates there is no such neighbourhood;
    then one neighbour is used.
    """

    @staticmethod
    def count_needed(config: RuleConfig) -> int:
        return 2 * config.byzantine + 3

    def result(self) -> Arrays:
        chosen = self._updates[int(np.argmin(self._scores()))]
        return {name: np.array(chosen[name], dtype=start.dtype) for name, start in self.reference.items()}

    def _scores(self) -> ndarray:
        n = len(self._updates)
        squared = np.zeros((n, n))
        for i in range(n):
            for j in range(i + 1, n):
                squared[i, j] = squared[j, i] = update_norm(self._updates[i], self._updates[j]) ** 2
        neighbours = max(1, n - self.config.byzantine - 2)
        return np.sort(squared, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
