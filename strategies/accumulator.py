"""What every aggregation rule is: an accumulator that is fed one update at a time. And FedAvg's own, the mean."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from strategies.arithmetic import (
    CHUNK,
    Arrays,
    add_scaled,
    add_scaled_difference,
    cast,
    is_integer,
    scaled,
    sum_dtype,
)


@dataclass(frozen=True)
class RuleConfig:
    """Settings of the robust rules.

    Args:
        trim_fraction: share cut from each end by the trimmed mean, in [0, 0.5); it cuts `byzantine` updates at least.
        byzantine: number of liars among the updates of one aggregate that a rule is to survive (f).
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
        """Takes one update, which is neither kept by reference past `result` nor written to."""
        self.count += 1
        self.weight += weight
        self._add(arrays, weight)

    @staticmethod
    def count_needed(config: RuleConfig) -> int:
        """Returns the fewest updates with which it survives `config.byzantine` liars; 1 where it promises nothing."""
        return 1

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
        dtypes = {sum_dtype(start.dtype) for start in reference.values()}
        self._scratch = {dtype: np.empty(CHUNK, dtype) for dtype in dtypes}

    def _add(self, arrays: Mapping[str, ndarray], weight: float) -> None:
        share = weight / self.expected_weight
        if not self._sum:
            self._sum = {name: scaled(arrays[name], share, start.dtype) for name, start in self.reference.items()}
            return
        for name, total in self._sum.items():
            add_scaled(total, arrays[name], share, self._scratch[total.dtype])

    def result(self) -> Arrays:
        correction = self.expected_weight / self.weight
        out: Arrays = {}
        for name, start in self.reference.items():
            total = self._sum.pop(name)
            if correction != 1.0:
                total *= correction
            out[name] = cast(total, start.dtype)
        return out


class DeltaMean:
    """Running mean of reference + scale_k (x_k - reference) under weights w_k; the reference if nothing was added."""

    def __init__(self, reference: Mapping[str, ndarray]) -> None:
        self._reference, self._weight = reference, 0.0
        self._sum = {name: np.zeros(start.shape, sum_dtype(start.dtype)) for name, start in reference.items()}

    def add(self, arrays: Mapping[str, ndarray], weight: float, scale: float) -> None:
        self._weight += weight
        for name, start in self._reference.items():
            step = 1.0 if is_integer(start.dtype) else scale
            add_scaled_difference(self._sum[name], arrays[name], start, weight * step)

    def result(self) -> Arrays:
        weight = self._weight or 1.0
        return {
            name: cast(np.asarray(start + self._sum[name] / weight), start.dtype)
            for name, start in self._reference.items()
        }
