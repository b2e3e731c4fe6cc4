"""The reply gate: nothing reaches an aggregate that does not fit the model, is not finite, or weighs too much."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy import ndarray

from strategies.arithmetic import model_norm, update_norm
from strategies.packing import Layout

NORM_ROUNDS = 3
LARGEST_INTEGER = 2.0**53  # whole numbers up to here are exact in the sums


class Cause(StrEnum):
    """Why a vehicle's update is not in the aggregate. The first group never arrived, the second was refused."""

    LATE = "late"
    LOST = "lost"
    UNAVAILABLE = "unavailable"
    CLIENT_ERROR = "client-error"

    MALFORMED = "malformed"
    KEYS = "keys"
    SHAPE = "shape"
    DTYPE = "dtype"
    WEIGHT = "weight"
    NOT_FINITE = "not-finite"
    NORM = "norm"
    BUDGET = "budget"
    VALUES = "values"
    STRANGER = "stranger"


@dataclass(frozen=True)
class GateConfig:
    """Limits of what is let through.

    Args:
        max_examples: largest "num-examples" that is let in.
        max_update_ratio: longest update, as a multiple of the model's own L2 norm.
        max_norm_growth: longest update, as a multiple of the usual length in the RSU's last rounds; 0 for no limit.
        max_weight_ratio: largest weight of a vehicle, as a multiple of the median number of examples in the fleet; 0
            for no limit but `max_examples`.

    Raises:
        ValueError: a limit that is not positive.
    """

    max_examples: int = 1_000_000
    max_update_ratio: float = 3.0
    max_norm_growth: float = 10.0
    max_weight_ratio: float = 3.0

    def __post_init__(self) -> None:
        if self.max_examples < 1 or not self.max_update_ratio > 0:
            raise ValueError(f"gate limits must be positive, got {self}")
        for name in ("max_norm_growth", "max_weight_ratio"):
            if getattr(self, name) and not getattr(self, name) >= 1:
                raise ValueError(f"gate limits must be positive: {name} is 0 or at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Verdict:
    """`cause` is None when the reply may enter; `norm` is the length of its update (L2), when it got that far."""

    cause: Cause | None = None
    detail: str = ""
    norm: float = 0.0


class ReplyGate:
    """Judges replies against the model that they were trained from.

    Args:
        reference: the model that was sent.
        config: limits.
        typical_norm: usual length of the RSU's updates, 0 if there was none; see `typical_norm`.
        layout: how `reference` is packed, when the caller packs the replies anyway.
    """

    def __init__(
        self,
        reference: Mapping[str, ndarray],
        config: GateConfig,
        typical_norm: float = 0.0,
        layout: Layout | None = None,
    ) -> None:
        self._reference, self._config = reference, config
        self._layout = layout or Layout(reference)
        self._packed = self._layout.pack(reference)
        self._norm_limit = _norm_limit(reference, config, typical_norm)

    def inspect(self, arrays: Mapping[str, ndarray], num_examples: int) -> Verdict:
        """Judge one reply's model and the weight that it claims."""
        verdict = self.inspect_form(arrays, num_examples)
        return verdict if verdict.cause is not None else self.inspect_length(self._layout.pack(arrays), arrays)

    def inspect_form(self, arrays: Mapping[str, ndarray], num_examples: int) -> Verdict:
        """Judge the weight, and whether names, shapes and dtypes are the model's."""
        if not 0 < num_examples <= self._config.max_examples:
            return Verdict(Cause.WEIGHT, f"num-examples {num_examples}, allowed 1 to {self._config.max_examples}")
        return _misfit(arrays, self._reference)

    def inspect_length(self, packed: Mapping[str, ndarray], arrays: Mapping[str, ndarray]) -> Verdict:
        """Judge the update's length; `arrays`, which `packed` holds, are for the message."""
        norm = update_norm(packed, self._packed)
        if not np.isfinite(norm):
            return Verdict(Cause.NOT_FINITE, f"NaN or infinity in {_not_finite(arrays)}")
        if norm > self._norm_limit:
            return Verdict(Cause.NORM, f"update length {norm:.3g}, allowed {self._norm_limit:.3g}", norm)
        return Verdict(norm=norm)


def typical_norm(recent: Sequence[float]) -> float:
    """Returns the usual length of an RSU's updates, the longest of the medians of its last rounds; 0 without any."""
    return float(max(recent, default=0.0))


def remember_norms(recent: Sequence[float], norms: Sequence[float]) -> list[float]:
    """Returns the medians of an RSU's last `NORM_ROUNDS` rounds, the new round's among them.

    Args:
        recent: medians of the rounds before, oldest first.
        norms: lengths of the round's finite updates, refused ones included: when honest updates grow, it is they that
            are refused, and the limit follows them in the next round. A minority of liars cannot move a median.
    """
    new = [float(statistics.median(norms))] if norms else []
    return [*recent, *new][-NORM_ROUNDS:]


def _misfit(arrays: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> Verdict:
    if arrays.keys() != reference.keys():
        extra, missing = sorted(arrays.keys() - reference.keys()), sorted(reference.keys() - arrays.keys())
        return Verdict(Cause.KEYS, f"extra {extra[:3]}, missing {missing[:3]}")
    for name, start in reference.items():
        values, dtype = arrays[name], start.dtype
        if values.shape != start.shape:
            return Verdict(Cause.SHAPE, f"{name}: {values.shape}, model has {start.shape}")
        if values.dtype != dtype:
            return Verdict(Cause.DTYPE, f"{name}: {values.dtype}, model has {dtype}")
        if dtype.kind in "iu" and start.size and np.abs(values.astype(np.float64)).max() > LARGEST_INTEGER:
            return Verdict(Cause.NORM, f"{name}: integers beyond 2^53 cannot be averaged")
    return Verdict()


def _norm_limit(reference: Mapping[str, ndarray], config: GateConfig, typical_norm: float) -> float:
    length = model_norm(reference)
    limit = config.max_update_ratio * length if length > 0 else np.inf
    if typical_norm > 0 and config.max_norm_growth > 0:
        limit = min(limit, config.max_norm_growth * typical_norm)
    return float(limit)


def _not_finite(arrays: Mapping[str, ndarray]) -> str:
    bad = [n for n, v in arrays.items() if np.issubdtype(v.dtype, np.inexact) and not np.isfinite(v).all()]
    return ", ".join(bad[:3]) or "the update's length (overflow)"
