"""What every aggregation rule must keep to."""

import numpy as np
import pytest

from strategies.accumulator import RuleConfig
from strategies.aggregation import RULES, merge
from strategies.arithmetic import Arrays

CONFIG = RuleConfig(clip_norm=100.0)
DTYPES = {"a.weight": np.float32, "b": np.float64, "c": np.float16, "n": np.int64, "empty": np.float32}
SHAPES = {"a.weight": (2, 3), "b": (4,), "c": (3,), "n": (2,), "empty": (0, 5)}

pytestmark = pytest.mark.parametrize("rule", RULES)


def model(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (4 * rng.standard_normal(SHAPES[name])).astype(DTYPES[name]) for name in SHAPES}


def updates() -> list[tuple[Arrays, float]]:
    return [(model(k), float(k)) for k in range(1, 6)]


def frozen(arrays: Arrays) -> Arrays:
    for values in arrays.values():
        values.flags.writeable = False
    return arrays


def copied(arrays: Arrays) -> Arrays:
    return {name: values.copy() for name, values in arrays.items()}


def test_result_looks_like_the_reference(rule: str) -> None:
    merged, reference = merge(rule, updates(), model(0), CONFIG, model(9)), model(0)
    assert list(merged) == list(reference)
    for name, values in merged.items():
        assert (values.dtype, values.shape) == (reference[name].dtype, reference[name].shape)
        assert np.isfinite(values).all()


def test_inputs_are_not_written_to(rule: str) -> None:
    given, before = updates(), [copied(arrays) for arrays, _ in updates()]
    reference, root = frozen(model(0)), frozen(model(9))
    for arrays, _ in given:
        frozen(arrays)
    merge(rule, given, reference, CONFIG, root)
    for (arrays, _), old in zip(given, before, strict=True):
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, old[name])


def test_result_is_a_model_of_its_own(rule: str) -> None:
    given, reference = updates(), model(0)
    merged = merge(rule, given, reference, CONFIG, model(9))
    for name, values in merged.items():
        assert not any(np.shares_memory(values, arrays[name]) for arrays in [reference, *(a for a, _ in given)])


def test_same_input_same_bits(rule: str) -> None:
    first, second = (merge(rule, updates(), model(0), CONFIG, model(9)) for _ in range(2))
    assert [v.tobytes() for v in first.values()] == [v.tobytes() for v in second.values()]


def test_updates_that_agree_are_the_result(rule: str) -> None:
    merged = merge(rule, [(model(5), weight) for weight in (1.0, 2.0, 4.0, 1.0)], model(0), CONFIG, model(5))
    for name, values in merged.items():
        tolerance = 5e-3 if values.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(values, model(5)[name], atol=tolerance)


def test_moving_everything_moves_the_result(rule: str) -> None:
    def floats(seed: int, shift: float) -> Arrays:
        return {name: v + np.asarray(shift, v.dtype) for name, v in model(seed).items() if v.dtype in ("f4", "f8")}

    def merged(shift: float) -> Arrays:
        given = [(floats(k, shift), float(k)) for k in range(1, 6)]
        return merge(rule, given, floats(0, shift), CONFIG, floats(9, shift))

    for name, values in merged(8.0).items():
        np.testing.assert_allclose(values, merged(0.0)[name] + 8, atol=2e-5)


def test_memory_layout_does_not_matter(rule: str) -> None:
    plain = [({"w": np.arange(12, dtype=np.float32).reshape(3, 4) * k}, 1.0) for k in range(1, 6)]
    strided = [({"w": np.asfortranarray(arrays["w"])}, weight) for arrays, weight in plain]
    reversed_ = [({"w": arrays["w"][::-1].copy()[::-1]}, weight) for arrays, weight in plain]
    reference, root = {"w": np.zeros((3, 4), np.float32)}, {"w": np.ones((3, 4), np.float32)}
    results = [merge(rule, given, reference, CONFIG, root)["w"] for given in (plain, strided, reversed_)]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_a_fortran_ordered_reference_does_not_matter(rule: str) -> None:
    given = [({"w": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4) * k)}, 1.0) for k in range(1, 6)]
    zeros, root = np.zeros((3, 4), np.float32), {"w": np.ones((3, 4), np.float32)}
    plain = merge(rule, given, {"w": zeros}, CONFIG, root)["w"]
    np.testing.assert_array_equal(merge(rule, given, {"w": np.asfortranarray(zeros)}, CONFIG, root)["w"], plain)


def test_no_updates_leave_the_reference(rule: str) -> None:
    merged = merge(rule, [], model(0), CONFIG, model(9))
    assert [v.tobytes() for v in merged.values()] == [v.tobytes() for v in model(0).values()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_tensors_without_axes_are_merged_too(rule: str, dtype: type) -> None:
    reference = {"w": np.zeros(2, np.float32), "steps": np.array(0, dtype)}
    update = {"w": np.ones(2, np.float32), "steps": np.array(4, dtype)}
    merged = merge(rule, [(update, 1.0)] * 3, reference, CONFIG, update)["steps"]
    assert isinstance(merged, np.ndarray)
    assert (merged.shape, merged.dtype) == ((), dtype)
    assert float(merged) == 4
