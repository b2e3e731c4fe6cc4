"""The reply gate: one smallest reply for every cause that it can give, and limits checked from both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array

from strategies.arithmetic import Arrays
from strategies.gate import Cause, GateConfig, ReplyGate


def vector(*values: float, dtype: type = np.float32) -> Arrays:
    return {"w": np.array(values, dtype)}


MODEL = vector(3, 4)  # length 5


def inspect(arrays: Arrays, num_examples: int = 1, reference: Arrays = MODEL, **limits: float) -> Cause | None:
    return ReplyGate(reference, GateConfig(**limits)).inspect(arrays, num_examples).cause


def test_an_honest_update_passes_with_its_length() -> None:
    verdict = ReplyGate(MODEL, GateConfig()).inspect(vector(3 + 3, 4 + 4), 1)
    assert (verdict.cause, verdict.norm) == (None, 5.0)


@pytest.mark.parametrize(
    ("arrays", "cause", "detail"),
    [
        ({}, Cause.KEYS, "missing ['w']"),
        ({**MODEL, "v": np.zeros(1, np.float32)}, Cause.KEYS, "extra ['v']"),
        ({"v": MODEL["w"]}, Cause.KEYS, "extra ['v'], missing ['w']"),
        (vector(3, 4, 5), Cause.SHAPE, "w: (3,), model has (2,)"),
        ({"w": np.array([[3, 4]], np.float32)}, Cause.SHAPE, "w: (1, 2), model has (2,)"),
        ({"w": np.array(3, np.float32)}, Cause.SHAPE, "w: (), model has (2,)"),
        (vector(3, 4, dtype=np.float64), Cause.DTYPE, "w: float64, model has float32"),
        (vector(3, 4, dtype=np.int32), Cause.DTYPE, "w: int32, model has float32"),
        (vector(3, np.nan), Cause.NOT_FINITE, "w"),
        (vector(3, np.inf), Cause.NOT_FINITE, "w"),
        (vector(-np.inf, 4), Cause.NOT_FINITE, "w"),
        (vector(np.inf, -np.inf), Cause.NOT_FINITE, "w"),
        (vector(1e30, 4), Cause.NOT_FINITE, "overflow"),
        (vector(-3e38, 3e38), Cause.NOT_FINITE, "overflow"),
        (vector(3 + 15.1, 4), Cause.NORM, "update length 15.1, allowed 15"),
    ],
)
def test_each_cause_and_what_it_says(arrays: Arrays, cause: Cause, detail: str) -> None:
    verdict = ReplyGate(MODEL, GateConfig()).inspect(arrays, 1)
    assert verdict.cause is cause
    assert detail in verdict.detail


@pytest.mark.parametrize(
    ("num_examples", "cause"),
    [(1, None), (0, Cause.WEIGHT), (-9, Cause.WEIGHT), (1000, None), (1001, Cause.WEIGHT), (10**9, Cause.WEIGHT)],
)
def test_claimed_weights_are_capped(num_examples: int, cause: Cause | None) -> None:
    assert inspect(MODEL, num_examples, max_examples=1000) is cause


def test_a_billion_examples_are_too_many_by_default() -> None:
    assert inspect(MODEL, 10**9) is Cause.WEIGHT


@pytest.mark.parametrize(
    ("typical_norm", "growth", "limit"),
    [
        (0.0, 10.0, 15.0),  # nothing accepted so far: 3 · 5
        (1.0, 10.0, 10.0),  # 10 · 1 is less
        (9.0, 10.0, 15.0),  # 10 · 9 is more
        (1.0, 0.0, 15.0),  # no limit of growth
    ],
)
def test_length_limit_is_the_smaller_of_model_and_last_round(typical_norm: float, growth: float, limit: float) -> None:
    gate = ReplyGate(MODEL, GateConfig(max_update_ratio=3.0, max_norm_growth=growth), typical_norm)
    assert gate.inspect(vector(3 + limit - 0.01, 4), 1).cause is None
    assert gate.inspect(vector(3 + limit + 0.01, 4), 1).cause is Cause.NORM


def test_a_model_of_zeros_sets_no_limit_of_its_own() -> None:
    assert inspect(vector(1e6, 0), reference=vector(0, 0)) is None
    gate = ReplyGate(vector(0, 0), GateConfig(), typical_norm=1.0)
    assert gate.inspect(vector(10.1, 0), 1).cause is Cause.NORM


def test_the_length_counts_all_float_tensors_and_no_integers() -> None:
    reference = {"a": np.array([3.0], np.float32), "b": np.array([4.0], np.float64), "n": np.array([10**6])}
    update = {"a": np.array([3.0 + 12], np.float32), "b": np.array([4.0 + 5], np.float64), "n": np.array([-(10**6)])}
    verdict = ReplyGate(reference, GateConfig()).inspect(update, 1)  # (12, 5): length 13, allowed 15
    assert (verdict.cause, verdict.norm) == (None, 13.0)


def test_a_model_of_integers_alone_passes_with_length_zero() -> None:
    verdict = ReplyGate({"n": np.array([1])}, GateConfig()).inspect({"n": np.array([7])}, 1)
    assert (verdict.cause, verdict.norm) == (None, 0.0)


def test_empty_tensors_pass() -> None:
    empty = {**MODEL, "none": np.zeros((0, 3), np.float32)}
    assert inspect(empty, reference=empty) is None


def test_a_float16_update_of_finite_length_is_finite() -> None:
    reference = {"w": np.full(1000, 10, np.float16)}  # length 316, so that 948 is allowed
    update = {"w": reference["w"].copy()}
    update["w"][0] += 300
    verdict = ReplyGate(reference, GateConfig()).inspect(update, 1)
    assert (verdict.cause, verdict.norm) == (None, 300.0)


def test_a_float16_model_limits_updates() -> None:
    reference = {"w": np.full(10_000, 3, np.float16)}  # length 300, so that 900 is allowed
    update = {"w": reference["w"] + np.float16(15)}  # length 1500
    assert inspect(update, reference=reference) is Cause.NORM


@given(any_array(np.float32, 3, elements=st.floats(width=32)))
def test_whatever_passes_is_finite_and_near(values: np.ndarray) -> None:
    verdict = ReplyGate({"w": np.ones(3, np.float32)}, GateConfig(max_update_ratio=2.0)).inspect({"w": values}, 1)
    length = np.linalg.norm(values.astype(np.float64) - 1)
    if verdict.cause is None:
        assert length <= 2 * np.sqrt(3) * (1 + 1e-6)
        assert verdict.norm == pytest.approx(length, rel=1e-5, abs=1e-20)
    else:
        assert not length <= 2 * np.sqrt(3) * (1 - 1e-6)


@pytest.mark.parametrize(
    "limits", [{"max_examples": 0}, {"max_update_ratio": 0.0}, {"max_update_ratio": np.nan}, {"max_norm_growth": -1.0}]
)
def test_limits_must_be_positive(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        GateConfig(**limits)
