"""Kalman filters of many vehicles at once: a value that is measured and its rate that is not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

UNKNOWN_RATE = 20.0  # standard deviation of a rate before the second measurement, in units a second


@dataclass(frozen=True, eq=False)
class FilterBank:
    """Estimates of `a` independent axes that share one covariance, for each of n vehicles.

    Args:
        time_s: of the last measurement; -inf before the first.
        names: of the vehicles.
        value: estimate of what is measured, [n, a].
        rate: its change a second, [n, a].
        covariance: of (value, rate), the same on all axes, [n, 2, 2].
    """

    time_s: float
    names: tuple[str, ...]
    value: Float[ndarray, "n a"]
    rate: Float[ndarray, "n a"]
    covariance: Float[ndarray, "n 2 2"]

    @classmethod
    def empty(cls, axes: int) -> "FilterBank":
        """A bank without vehicles."""
        return cls(-math.inf, (), np.zeros((0, axes)), np.zeros((0, axes)), np.zeros((0, 2, 2)))


def observed(
    bank: FilterBank,
    time_s: float,
    names: Sequence[str],
    measured: Float[ndarray, "n a"],
    *,
    noise: float,
    drift: float,
    period: float = math.inf,
) -> FilterBank:
    """One prediction and one update of the filters (Q-CPTO eqs. 5-7). Vehicles that are new start, others are dropped.

    Args:
        bank: the estimates before.
        time_s: of the measurement, later than the bank's.
        names: of the vehicles that were measured.
        measured: values.
        noise: standard deviation of a measurement.
        drift: standard deviation of the rate's change a second; white and constant between two measurements.
        period: values that differ by it are the same, as angles that differ by a full turn; innovations take the
            shorter way.

    Raises:
        ValueError: the time is not later than the bank's.
    """
    if not time_s > bank.time_s:
        raise ValueError(f"time_s is {time_s}, not after {bank.time_s}: pass states in the order of time")
    rows, old = _matched(bank, names)
    value, rate, covariance = _started(measured, noise)
    if len(old):
        value[rows], rate[rows], covariance[rows] = _updated(
            bank, old, time_s - bank.time_s, measured[rows], noise**2, drift**2, period
        )
    return FilterBank(time_s, tuple(names), value, rate, covariance)


def _matched(bank: FilterBank, names: Sequence[str]) -> tuple[Int[ndarray, "k"], Int[ndarray, "k"]]:
    """Rows of the measurement that the bank knows, and where it has them."""
    places = {name: place for place, name in enumerate(bank.names)}
    pairs = [(row, places[name]) for row, name in enumerate(names) if name in places]
    both = np.array(pairs, int).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _started(
    measured: Float[ndarray, "n a"], noise: float
) -> tuple[Float[ndarray, "n a"], Float[ndarray, "n a"], Float[ndarray, "n 2 2"]]:
    covariance = np.tile(np.diag([noise**2, UNKNOWN_RATE**2]), (len(measured), 1, 1))
    return measured.astype(np.float64), np.zeros(measured.shape), covariance


def _updated(
    bank: FilterBank,
    old: Int[ndarray, "k"],
    step_s: float,
    measured: Float[ndarray, "k a"],
    noise: float,
    drift: float,
    period: float,
) -> tuple[Float[ndarray, "k a"], Float[ndarray, "k a"], Float[ndarray, "k 2 2"]]:
    """`noise` and `drift` are variances."""
    transition = np.array([[1.0, step_s], [0.0, 1.0]])
    push = np.array([step_s**2 / 2, step_s])
    expected = bank.value[old] + step_s * bank.rate[old]  # eq. 5a
    spread = transition @ bank.covariance[old] @ transition.T + drift * np.outer(push, push)  # eq. 5b
    innovation = measured - expected  # eq. 6a
    if math.isfinite(period):
        innovation = np.remainder(innovation + period / 2, period) - period / 2
    gain = spread[:, :, 0] / (spread[:, 0, 0] + noise)[:, None]  # eq. 6b
    value, rate = expected + gain[:, :1] * innovation, bank.rate[old] + gain[:, 1:] * innovation  # eq. 7a
    return value, rate, spread - gain[:, :, None] * spread[:, None, 0, :]  # eq. 7b
