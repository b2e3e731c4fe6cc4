"""Predictors of motion and turns, against filterpy, circles and straight lines."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.offload.filters import FilterBank, observed
from edge.offload.mobility import (
    PREDICTORS,
    IndicatorPredictor,
    KalmanPredictor,
    MotionConfig,
    OraclePredictor,
    Prediction,
    Predictor,
    TurnCount,
    YawRatePredictor,
    arc,
)
from edge.offload.recorded import TraceTable, record
from edge.offload.states import VehicleStates


def on_circle(time_s: float, radius_m: float = 10.0, rate_radps: float = 0.5) -> VehicleStates:
    """One vehicle on a circle about the origin, to the left for positive rates; and one straight to the east."""
    angle_rad = rate_radps * time_s
    position_m = [[radius_m * math.cos(angle_rad), radius_m * math.sin(angle_rad)], [5 * time_s, 40.0]]
    heading_rad = [angle_rad + math.copysign(math.pi / 2, rate_radps), 0.0]
    speed_mps = [radius_m * abs(rate_radps), 5.0]
    indicator = np.array([np.sign(rate_radps), 0], np.int8)
    return VehicleStates(
        time_s, ("c", "s"), np.array(position_m), np.array(heading_rad), np.array(speed_mps), indicator
    )


def after(predictor: Predictor, seconds: float, step_s: float = 0.1, rate_radps: float = 0.5) -> Prediction:
    """What it says at the end of so many seconds."""
    predictions = [
        predictor.observe(on_circle(i * step_s, rate_radps=rate_radps)) for i in range(round(seconds / step_s) + 1)
    ]
    return predictions[-1]


def test_an_arc_of_a_quarter_turn() -> None:
    quarter = arc(np.array([0.0, np.pi]), np.array([np.pi / 2, -np.pi / 2]), np.array([5 * np.pi, 5 * np.pi]))
    assert quarter[0] == pytest.approx([10, 10]), "radius 10: from east to north"
    assert quarter[1] == pytest.approx([-10, 10]), "from west to north"
    assert arc(np.array([0.5]), np.zeros(1), np.array([2.0]))[0] == pytest.approx(
        [2 * math.cos(0.5), 2 * math.sin(0.5)]
    )


@pytest.mark.parametrize("rate_radps", [0.5, -0.5])
def test_constant_turn_rate_goes_on_along_the_circle(rate_radps: float) -> None:
    prediction, truth = after(YawRatePredictor(), 8.0, rate_radps=rate_radps), on_circle(9.0, rate_radps=rate_radps)
    assert prediction.position_m == pytest.approx(truth.position_m, abs=0.02)
    assert np.exp(1j * prediction.heading_rad) == pytest.approx(np.exp(1j * truth.heading_rad), abs=2e-3)
    assert prediction.turn.tolist() == [np.sign(rate_radps), 0]


def test_the_position_filter_follows_a_straight_line() -> None:
    prediction = after(KalmanPredictor(), 8.0)
    assert prediction.position_m[1] == pytest.approx([45, 40], abs=0.05)
    assert prediction.turn[1] == 0


def test_the_position_filter_lags_behind_a_turn() -> None:
    """It knows the velocity of a moment ago, while the heading is that of now: the turn shows on the wrong side."""
    assert after(KalmanPredictor(), 8.0).turn[0] == -1
    assert after(KalmanPredictor(MotionConfig(acceleration_mps2=1000.0)), 8.0).turn[0] == 0


def test_the_indicator_tells_before_anything_moves() -> None:
    assert IndicatorPredictor().observe(on_circle(0.0)).turn.tolist() == [1, 0]
    assert YawRatePredictor().observe(on_circle(0.0)).turn.tolist() == [0, 0]


def test_the_oracle_says_what_the_record_says() -> None:
    table = TraceTable.of(record(on_circle(i * 0.5) for i in range(20)))
    assert OraclePredictor(table, window_s=2.0).observe(on_circle(1.0)).turn.tolist() == [1, 0]
    assert OraclePredictor(table, window_s=1.0).observe(on_circle(1.0)).turn.tolist() == [0, 0], "0.5 is less than π/6"


@pytest.mark.parametrize("step_s", [0.1, 1.0])
def test_the_filters_are_filterpys(step_s: float) -> None:
    kalman = pytest.importorskip("filterpy.kalman", reason="filterpy, the reference, is not installed")
    rng, noise, drift = np.random.default_rng(0), 0.3, 3.0
    measured = np.cumsum(rng.normal(2, 1, (30, 5)), axis=0)  # one axis of five vehicles
    bank = FilterBank.empty(axes=1)
    references: list[Any] = []
    for number, row in enumerate(measured):
        bank = observed(bank, number * step_s, "abcde", row[:, None], noise=noise, drift=drift)
        if not references:
            references = [kalman.KalmanFilter(dim_x=2, dim_z=1) for _ in row]
            for reference, value in zip(references, row, strict=True):
                reference.x, reference.P = np.array([[value], [0.0]]), bank.covariance[0].copy()
                reference.F, reference.H = np.array([[1, step_s], [0, 1]]), np.array([[1.0, 0.0]])
                reference.R = np.array([[noise**2]])
                push = np.array([[step_s**2 / 2], [step_s]])
                reference.Q = drift**2 * push @ push.T
            continue
        for reference, value in zip(references, row, strict=True):
            reference.predict()
            reference.update(value)
    assert bank.value[:, 0] == pytest.approx([reference.x[0, 0] for reference in references])
    assert bank.rate[:, 0] == pytest.approx([reference.x[1, 0] for reference in references])
    assert bank.covariance == pytest.approx(np.array([reference.P for reference in references]))


def test_a_heading_that_passes_a_full_turn_is_no_jump() -> None:
    turning = after(YawRatePredictor(), 20.0)  # 10 rad in all
    wrapped = YawRatePredictor()
    for i in range(201):
        states = on_circle(i * 0.1)
        prediction = wrapped.observe(replace(states, heading_rad=np.angle(np.exp(1j * states.heading_rad))))
    assert prediction.position_m == pytest.approx(turning.position_m)
    assert np.exp(1j * prediction.heading_rad) == pytest.approx(np.exp(1j * turning.heading_rad))


@pytest.mark.parametrize("name", PREDICTORS)
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), gone=st.integers(0, 5))
def test_order_does_not_matter_and_vehicles_come_and_go(name: str, order: list[int], gone: int) -> None:
    rng = np.random.default_rng(3)
    names = tuple("abcdef")

    def at(step: int) -> VehicleStates:
        turned = rng.normal(0, 0.1, 6).cumsum()
        position_m = np.arange(12.0).reshape(6, 2) * (1 + step)
        return VehicleStates(float(step), names, position_m, turned, np.ones(6), np.zeros(6, np.int8))

    one, two = PREDICTORS[name](MotionConfig()), PREDICTORS[name](MotionConfig())
    for step in range(4):
        states = at(step)
        here = states if step != 2 else states.pick(np.delete(np.arange(6), gone))
        shuffled = here.pick(np.array([i for i in order if i < len(here)]))
        first, second = one.observe(here), two.observe(shuffled)
        rows = [here.names.index(name) for name in shuffled.names]
        assert second.position_m == pytest.approx(first.position_m[rows])
        assert second.turn.tolist() == first.turn[rows].tolist()


def test_turns_are_counted_by_side() -> None:
    count = TurnCount.of(np.array([1, 1, 0, -1], np.int8), np.array([1, -1, -1, 0], np.int8))
    assert (count.turning, count.predicted, count.hits) == (3, 3, 1)
    assert (count.recall, count.precision) == (1 / 3, 1 / 3)
    assert (count + TurnCount(1, 0, 0)).recall == 1 / 4
    assert math.isnan(TurnCount().recall)


def test_time_only_goes_forward() -> None:
    predictor = KalmanPredictor()
    predictor.observe(on_circle(1.0))
    with pytest.raises(ValueError, match=r"time_s is 1\.0, not after 1\.0"):
        predictor.observe(on_circle(1.0))


def test_bad_settings_are_one_error() -> None:
    with pytest.raises(ValueError, match="turn_rad must be finite and positive, got 0"):
        MotionConfig(turn_rad=0.0)
