"""What every server optimizer must keep to."""

import numpy as np
import pytest

from strategies.arithmetic import Arrays
from strategies.server_optimizer import SERVER_OPTIMIZERS, ServerOptimizerConfig, server_step

pytestmark = pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
DTYPES = {"w": np.float32, "d": np.float64, "h": np.float16, "n": np.int64, "empty": np.float32}
SHAPES = {"w": (2, 3), "d": (4,), "h": (3,), "n": (2,), "empty": (0, 5)}


def model(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (4 * rng.standard_normal(SHAPES[name])).astype(DTYPES[name]) for name in SHAPES}


def steps(config: ServerOptimizerConfig, count: int = 3) -> tuple[Arrays, Arrays]:
    current, state = model(0), {}
    for k in range(1, count + 1):
        current, state = server_step(config, state, current, model(k))
    return current, state


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_result_looks_like_the_model_and_state_like_arrays(name: str, rate: float) -> None:
    result, state = steps(ServerOptimizerConfig(name, learning_rate=rate))
    assert list(result) == list(SHAPES)
    for key, values in result.items():
        assert (values.dtype, values.shape) == (DTYPES[key], SHAPES[key])
        assert np.isfinite(values).all()
    assert all(isinstance(values, np.ndarray) for values in state.values())


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_integers_are_the_merged_ones(name: str, rate: float) -> None:
    result, state = steps(ServerOptimizerConfig(name, learning_rate=rate))
    np.testing.assert_array_equal(result["n"], model(3)["n"])
    assert not any(key.rsplit("/", 1)[-1] == "n" for key in state)


def test_inputs_are_not_written_to(name: str) -> None:
    config = ServerOptimizerConfig(name, learning_rate=0.5)
    start, state = steps(config)
    merged = model(9)
    given = [start, merged, state]
    before = [{key: values.copy() for key, values in arrays.items()} for arrays in given]
    for arrays in given:
        for values in arrays.values():
            values.flags.writeable = False
    server_step(config, state, start, merged)
    for arrays, old in zip(given, before, strict=True):
        assert list(arrays) == list(old)
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, old[key])


def test_same_input_same_bits(name: str) -> None:
    config = ServerOptimizerConfig(name, learning_rate=0.5)
    (first, state), (second, again) = steps(config), steps(config)
    assert [v.tobytes() for v in first.values()] == [v.tobytes() for v in second.values()]
    assert [v.tobytes() for v in state.values()] == [v.tobytes() for v in again.values()]


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_no_news_no_step(name: str, rate: float) -> None:
    result, _ = server_step(ServerOptimizerConfig(name, learning_rate=rate), {}, model(1), model(1))
    for key, values in result.items():
        np.testing.assert_array_equal(values, model(1)[key])


def test_the_first_step_goes_the_way_of_the_update(name: str) -> None:
    start = {"w": np.zeros(3, np.float32)}
    result, _ = server_step(
        ServerOptimizerConfig(name, learning_rate=0.1), {}, start, {"w": np.array([1, -2, 0], "f4")}
    )
    assert np.sign(result["w"]).tolist() == [1, -1, 0]


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_tensors_without_axes_stay_arrays(name: str, rate: float) -> None:
    start, merged = {"scale": np.array(1, np.float32)}, {"scale": np.array(2, np.float32)}
    result, _ = server_step(ServerOptimizerConfig(name, learning_rate=rate), {}, start, merged)
    assert isinstance(result["scale"], np.ndarray)
