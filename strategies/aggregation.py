"""Merging of models: pure, no Flower. What comes in are (arrays, weight) pairs, what goes out is arrays.

Every rule is an accumulator that is fed one update at a time. The rules that allow it keep one model in memory
however many updates come (mean, norm clip, FLTrust); the coordinate-wise and distance-based ones must hold all.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

Arrays = dict[str, ndarray]
CHUNK = 1 << 16  # elements worked on at a time: a few float32 buffers of it stay in the L2 cache


@dataclass(frozen=True)
class RuleConfig:
    """Settings of the robust rules.

    Args:
        trim_fraction: share cut from each end by the trimmed mean, in [0, 0.5).
        byzantine: number of liars that Krum is to survive (f).
        clip_norm: longest update (L2, all float tensors together) that norm clipping lets through.

    Raises:
        ValueError: a value outside its range.
    """

    trim_fraction: float = 0.2
    byzantine: int = 1
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.trim_fraction < 0.5:
            raise ValueError(f"trim_fraction must lie in [0, 0.5), got {self.trim_fraction}")
        if self.byzantine < 0:
            raise ValueError(f"byzantine must not be negative, got {self.byzantine}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")


class Accumulator(ABC):
    """Takes updates one by one. `reference` is the model that they all started from."""

    def __init__(self, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float = 1.0) -> None:
        self.reference, self.config, self.expected_weight = reference, config, expected_weight
        self.count, self.weight = 0, 0.0

    def add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        """Take one update, which is neither kept by reference past `result` nor written to."""
        self.count += 1
        self.weight += weight
        self._add(arrays, weight)

    @abstractmethod
    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None: ...

    @abstractmethod
    def result(self) -> Arrays:
        """The merged model, with the dtypes of the reference. Call once, after at least one `add`."""


class WeightedMean(Accumulator):
    """FedAvg (McMahan et al. 2017, algorithm 1): sum of w_k x_k over sum of w_k.

    The share w_k / `expected_weight` is applied as each update arrives, and the sum is corrected at the end if
    other weights came than were expected. When all expected updates arrive, in order, the result equals Flower's
    FedAvg bit for bit, and the mean of one update is that update.
    """

    def __init__(self, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float = 1.0) -> None:
        super().__init__(reference, config, expected_weight)
        self._sum: Arrays = {}
        dtypes = {_sum_dtype(start.dtype) for start in reference.values()}
        self._scratch = {dtype: np.empty(CHUNK, dtype) for dtype in dtypes}

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        share = weight / self.expected_weight
        if not self._sum:
            self._sum = {name: _scaled(arrays[name], share, start.dtype) for name, start in self.reference.items()}
            return
        for name, total in self._sum.items():
            _add_scaled(total, arrays[name], share, self._scratch[total.dtype])

    def result(self) -> Arrays:
        correction = self.expected_weight / self.weight
        out: Arrays = {}
        for name, start in self.reference.items():
            total = self._sum.pop(name)
            if correction != 1.0:
                total *= correction
            out[name] = _cast(total, start.dtype)
        return out


class NormClip(Accumulator):
    """Mean of updates shortened to at most `clip_norm` (Sun et al. 2019, "Can You Really Backdoor FL?", norm bound)."""

    def __init__(self, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float = 1.0) -> None:
        super().__init__(reference, config, expected_weight)
        self._mean = _DeltaMean(reference)

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
        self._mean = _DeltaMean(reference)

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
        out = np.empty(start.size, np.float64 if _is_integer(start.dtype) else start.dtype)
        for begin in range(0, start.size, CHUNK):
            out[begin : begin + CHUNK] = self._rule(np.stack([row[begin : begin + CHUNK] for row in rows]))
        return _cast(out.reshape(start.shape), start.dtype)

    def _rule(self, columns: ndarray) -> ndarray:
        raise NotImplementedError


class Median(Buffered):
    """Coordinate-wise median (Yin et al. 2018, definition 1); ignores weights."""

    def _rule(self, columns: ndarray) -> ndarray:
        return np.median(columns, axis=0)


class TrimmedMean(Buffered):
    """Coordinate-wise trimmed mean (Yin et al. 2018, definition 2); ignores weights."""

    def _rule(self, columns: ndarray) -> ndarray:
        cut = int(self.config.trim_fraction * len(columns))
        return np.sort(columns, axis=0)[cut : len(columns) - cut].mean(axis=0)


class Krum(Buffered):
    """Krum (Blanchard et al. 2017, section 4): the update closest to its n - f - 2 nearest others; ignores weights.

    With fewer than f + 3 updates there is no such neighbourhood; then one neighbour is used.
    """

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


RULES: dict[str, type[Accumulator]] = {
    "mean": WeightedMean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "norm-clip": NormClip,
    "fltrust": FLTrust,
}


def new_accumulator(
    rule: str, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float, root: Arrays | None = None
) -> Accumulator:
    """An empty accumulator of a rule of `RULES`; `root` is for "fltrust" alone."""
    if rule == "fltrust":
        return FLTrust(reference, config, expected_weight, root)
    return RULES[rule](reference, config, expected_weight)


def merge(
    rule: str, updates: list[tuple[Arrays, float]], reference: Arrays, config: RuleConfig, root: Arrays | None = None
) -> Arrays:
    """Merge a list of (arrays, weight) at once by a rule of `RULES`; the reference stands in when the list is empty."""
    if not updates:
        return dict(reference)
    accumulator = new_accumulator(rule, reference, config, sum(weight for _, weight in updates), root)
    for arrays, weight in updates:
        accumulator.add(arrays, weight)
    return accumulator.result()


def update_norm(arrays: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> float:
    """L2 norm of arrays - reference over all float tensors; NaN or infinity if any element is."""
    return float(np.sqrt(update_dot(arrays, arrays, reference)))


def update_dot(first: Mapping[str, ndarray], second: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> float:
    """Inner product of (first - reference) and (second - reference) over all float tensors, in float64 sums."""
    scratch = np.empty(CHUNK, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(
            _dot(first[name].ravel(), None if second is first else second[name].ravel(), start.ravel(), scratch)
            for name, start in reference.items()
            if start.dtype.kind in "fc"
        )


def add_scaled(total: ndarray, values: ndarray, share: float) -> None:
    """total += values * share, in place, rounding after the product and after the sum as numpy would."""
    _add_scaled(total, values, share, np.empty(CHUNK, total.dtype))


def _add_scaled(total: ndarray, values: ndarray, share: float, scratch: ndarray) -> None:
    flat_total, flat = total.reshape(-1), values.ravel()
    for begin in range(0, flat.size, CHUNK):
        part = flat[begin : begin + CHUNK]
        product = np.multiply(part, share, out=scratch[: part.size], casting="same_kind")
        target = flat_total[begin : begin + CHUNK]
        np.add(target, product, out=target)


class _DeltaMean:
    """Running mean of reference + scale_k (x_k - reference) under weights w_k; the reference if nothing was added."""

    def __init__(self, reference: Mapping[str, ndarray]) -> None:
        self._reference, self._weight = reference, 0.0
        self._sum = {name: np.zeros(start.shape, _sum_dtype(start.dtype)) for name, start in reference.items()}

    def add(self, arrays: Mapping[str, ndarray], weight: float, scale: float) -> None:
        self._weight += weight
        for name, start in self._reference.items():
            step = 1.0 if _is_integer(start.dtype) else scale
            add_scaled(self._sum[name], arrays[name], weight * step)
            add_scaled(self._sum[name], start, -weight * step)

    def result(self) -> Arrays:
        weight = self._weight or 1.0
        return {
            name: _cast(np.asarray(start + self._sum[name] / weight), start.dtype)
            for name, start in self._reference.items()
        }


def _dot(a: ndarray, b: ndarray | None, origin: ndarray, scratch: ndarray) -> float:
    """(a - origin) · (b - origin), b = a when it is None."""
    buffer = scratch if origin.dtype in (np.float16, np.float32) else np.empty(CHUNK, origin.dtype)
    total = 0.0
    for begin in range(0, origin.size, CHUNK):
        part = slice(begin, begin + CHUNK)
        start = origin[part]
        delta = np.subtract(a[part], start, out=buffer[: start.size], dtype=buffer.dtype)
        total += float(np.dot(delta, delta if b is None else np.subtract(b[part], start, dtype=buffer.dtype)))
    return total


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.kind not in "fc"


def _sum_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64) if _is_integer(dtype) or dtype == np.float16 else dtype


def _scaled(values: ndarray, share: float, dtype: np.dtype) -> ndarray:
    return np.asarray(
        np.multiply(values, share, dtype=_sum_dtype(dtype), order="C")
    )  # numpy makes a scalar of a 0-d product


def _cast(values: ndarray, dtype: np.dtype) -> ndarray:
    if _is_integer(dtype):
        values = np.asarray(np.rint(values))
    return np.asarray(values, dtype)
