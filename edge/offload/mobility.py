"""Where vehicles will be in a second and whether they turn: predictors behind one interface.

A Kalman filter of positions sees a turn only once it has begun; a turn indicator tells before. `TurnCount` measures it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

from edge.offload.filters import FilterBank, observed
from edge.offload.recorded import TraceTable
from edge.offload.states import VehicleStates

TURN_RAD: Final = np.deg2rad(8.0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is expected of vehicles, in the order of the states that it was made from.

    Args:
        position_m: one horizon ahead, east and north, [n, 2].
        heading_rad: one horizon ahead, [n].
        turn: -1 right, 0 straight on, 1 left, int8 [n].
    """

    position_m: Float[ndarray, "n 2"]
    heading_rad: Float[ndarray, "n"]
    turn: Int8[ndarray, "n"]


@runtime_checkable
class Predictor(Protocol):
    """Tells for all vehicles at once what they will do; it may remember what it observed."""

    def observe(self, states: VehicleStates) -> Prediction:
        """Take in the newest states, later than those before, and predict from them."""
        ...


@dataclass(frozen=True)
class MotionConfig:
    """Of the predictors that filter.

    Args:
        horizon_s: how far ahead to predict.
        turn_rad: a change of direction within the horizon that counts as a turn.
        position_noise_m: standard deviation of a measured position on each axis.
        acceleration_mps2: standard deviation of what changes the velocity.
        heading_noise_rad: standard deviation of a measured heading.
        yaw_acceleration_radps2: standard deviation of what changes the yaw rate.

    Raises:
        ValueError: a value is not finite and positive.
    """

    horizon_s: float = 1.0
    turn_rad: float = float(TURN_RAD)
    position_noise_m: float = 0.3
    acceleration_mps2: float = 3.0
    heading_noise_rad: float = 0.01
    yaw_acceleration_radps2: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"MotionConfig: {name} must be finite and positive, got {value}")


@dataclass
class KalmanPredictor:
    """The position filter of Q-CPTO (eqs. 4-7), with the velocity in its state.

    The paper names the 2D position as the state; with it alone a filter predicts that every vehicle stays, so velocity
    is estimated too, from positions alone. A vehicle turns if the bearing of the predicted point, seen from where it
    is, differs from its heading by more than `turn_rad`.
    """

    config: MotionConfig = field(default_factory=MotionConfig)
    bank: FilterBank = field(default_factory=lambda: FilterBank.empty(axes=2))

    def observe(self, states: VehicleStates) -> Prediction:
        """See `Predictor`; who stands, or is seen for the first time, is not expected to turn."""
        config = self.config
        self.bank = observed(
            self.bank,
            states.time_s,
            states.names,
            states.position_m,
            noise=config.position_noise_m,
            drift=config.acceleration_mps2,
        )
        step_m = self.bank.rate * config.horizon_s
        unsure_m = np.sqrt(self.bank.covariance[:, 1, 1]) * config.horizon_s
        moves = np.hypot(*step_m.T) > 3 * unsure_m
        bearing_rad = np.where(moves, np.arctan2(step_m[:, 1], step_m[:, 0]), states.heading_rad)
        turn = _side(_wrapped(bearing_rad - states.heading_rad), config.turn_rad)
        return Prediction(self.bank.value + step_m, bearing_rad, turn)


@dataclass
class YawRatePredictor:
    """Constant turn rate and velocity (CTRV): filters headings for the yaw rate and goes on along the arc."""

    config: MotionConfig = field(default_factory=MotionConfig)
    bank: FilterBank = field(default_factory=lambda: FilterBank.empty(axes=1))

    def observe(self, states: VehicleStates) -> Prediction:
        """See `Predictor`; a vehicle seen for the first time is expected to go straight on."""
        config = self.config
        self.bank = observed(
            self.bank,
            states.time_s,
            states.names,
            states.heading_rad[:, None],
            noise=config.heading_noise_rad,
            drift=config.yaw_acceleration_radps2,
            period=2 * np.pi,
        )
        change_rad = self.bank.rate[:, 0] * config.horizon_s
        step_m = arc(states.heading_rad, change_rad, states.speed_mps * config.horizon_s)
        return Prediction(
            states.position_m + step_m, states.heading_rad + change_rad, _side(change_rad, config.turn_rad)
        )


@dataclass
class IndicatorPredictor:
    """The turn that the vehicle announces by its indicator, over V2X; position and heading as in `motion`."""

    motion: Predictor = field(default_factory=YawRatePredictor)

    def observe(self, states: VehicleStates) -> Prediction:
        """See `Predictor`."""
        expected = self.motion.observe(states)
        return Prediction(expected.position_m, expected.heading_rad, states.indicator.astype(np.int8))


@dataclass
class OraclePredictor:
    """The turn that the record knows: the ceiling for every predictor. Position and heading as in `motion`.

    Args:
        table: the traces that the states come from.
        window_s: how far ahead a turn counts.
        motion: predicts position and heading.
    """

    table: TraceTable
    window_s: float = 4.0
    motion: Predictor = field(default_factory=YawRatePredictor)

    def observe(self, states: VehicleStates) -> Prediction:
        """See `Predictor`.

        Raises:
            ValueError: a vehicle is not in the table.
        """
        expected = self.motion.observe(states)
        turn = self.table.turns_ahead(states.time_s, states.names, self.window_s)
        return Prediction(expected.position_m, expected.heading_rad, turn)


PREDICTORS: Final[dict[str, Callable[[MotionConfig], Predictor]]] = {
    "kalman": KalmanPredictor,
    "yaw-rate": YawRatePredictor,
    "indicator": lambda config: IndicatorPredictor(YawRatePredictor(config)),
}
"""Predictors that need nothing but states; a record is needed for `OraclePredictor`."""


@dataclass(frozen=True)
class TurnCount:
    """How many turns there were and how many were predicted, to the right side; counts add up over ticks."""

    turning: int = 0
    predicted: int = 0
    hits: int = 0

    @classmethod
    def of(cls, predicted: Int8[ndarray, "n"], truth: Int8[ndarray, "n"]) -> "TurnCount":
        """Compare one tick."""
        hits = (predicted == truth) & (truth != 0)
        return cls(int((truth != 0).sum()), int((predicted != 0).sum()), int(hits.sum()))

    def __add__(self, other: "TurnCount") -> "TurnCount":
        return TurnCount(self.turning + other.turning, self.predicted + other.predicted, self.hits + other.hits)

    @property
    def recall(self) -> float:
        """Share of the turns that were predicted; NaN if nobody turned."""
        return self.hits / self.turning if self.turning else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted turns that came; NaN if none was predicted."""
        return self.hits / self.predicted if self.predicted else math.nan


def arc(
    heading_rad: Float[ndarray, "n"], change_rad: Float[ndarray, "n"], length_m: Float[ndarray, "n"]
) -> Float[ndarray, "n 2"]:
    """Displacement along arcs that start at a heading, turn by an angle and have a length; straight where it is 0."""
    chord_m = length_m * np.sinc(change_rad / (2 * np.pi))
    bearing_rad = heading_rad + change_rad / 2
    return np.stack([chord_m * np.cos(bearing_rad), chord_m * np.sin(bearing_rad)], axis=1)


def _wrapped(angle_rad: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    return np.remainder(angle_rad + np.pi, 2 * np.pi) - np.pi


def _side(change_rad: Float[ndarray, "n"], least_rad: float) -> Int8[ndarray, "n"]:
    return np.where(np.abs(change_rad) > least_rad, np.sign(change_rad), 0).astype(np.int8)
