"""Server steps with numbers worked out by hand, and against Flower's where the formulas meet."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAdam, FedAvgM

from clients.messages import to_record
from strategies.arithmetic import Arrays
from strategies.server_optimizer import ServerOptimizerConfig, server_step
from tests.fakes import Adder, FakeGrid, Fleet, train_reply


def vector(*values: float, dtype: type = np.float32) -> Arrays:
    return {"w": np.array(values, dtype)}


def test_fedavg_is_the_merged_model_or_a_step_towards_it() -> None:
    model, state = server_step(ServerOptimizerConfig("fedavg"), {}, vector(1, 5), vector(3, 5))
    assert (model["w"].tolist(), state) == ([3, 5], {})
    model, _ = server_step(ServerOptimizerConfig("fedavg", learning_rate=0.25), {}, vector(1, 5), vector(3, 5))
    assert model["w"].tolist() == [1 + 0.25 * 2, 5]


def test_two_steps_of_fedavgm() -> None:
    config = ServerOptimizerConfig("fedavgm", learning_rate=2.0, momentum=0.5)
    # 1: delta 1, v = 1, w = 0 + 2 · 1 = 2.   2: delta 3, v = 0.5 · 1 + 3 = 3.5, w = 2 + 2 · 3.5 = 9.
    first, state = server_step(config, {}, vector(0), vector(1))
    assert (first["w"].tolist(), state["w"].tolist()) == ([2], [1])
    second, state = server_step(config, state, first, vector(2 + 3))
    assert (second["w"].tolist(), state["w"].tolist()) == ([9], [3.5])


def test_two_steps_of_fedadam() -> None:
    config = ServerOptimizerConfig("fedadam", learning_rate=0.1, momentum=0.5, beta_2=0.75, tau=1.0)
    # 1: delta 2, m = 0.5 · 2 = 1, v = 0.75 · tau² + 0.25 · 4 = 1.75.
    first, state = server_step(config, {}, vector(0), vector(2))
    w_1 = 0.1 * 1 / (np.sqrt(1.75) + 1)
    assert first["w"][0] == pytest.approx(w_1, rel=1e-6)
    # 2: delta -2, m = 0.5 · 1 + 0.5 · (-2) = -0.5, v = 0.75 · 1.75 + 0.25 · 4 = 2.3125.
    second, state = server_step(config, state, first, {"w": first["w"] - np.float32(2)})
    assert second["w"][0] == pytest.approx(w_1 + 0.1 * -0.5 / (np.sqrt(2.3125) + 1), rel=1e-5)
    assert {name: round(float(values[0]), 4) for name, values in state.items()} == {"m/w": -0.5, "v/w": 2.3125}


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_fedavgm_steps_as_flowers_does(rate: float) -> None:
    grid, rng = FakeGrid(Fleet(Adder("a", 1, 0.0), Adder("b", 1, 0.0)), [1, 2]), np.random.default_rng(0)
    flowers = FedAvgM(server_learning_rate=rate, server_momentum=0.9)
    config = ServerOptimizerConfig("fedavgm", learning_rate=rate, momentum=0.9)
    model, state = vector(1, -2, 3), {}
    flowers.configure_train(1, to_record(model), ConfigRecord(), grid)
    for server_round in range(1, 5):
        merged = {"w": (model["w"] + rng.standard_normal(3)).astype(np.float32)}
        theirs, _ = flowers.aggregate_train(server_round, [train_reply(1, merged)])
        assert theirs is not None
        model, state = server_step(config, state, model, merged)
        np.testing.assert_allclose(model["w"], theirs["w"].numpy(), rtol=1e-5, atol=1e-6)


def test_fedadam_steps_as_flowers_does_but_for_two_things() -> None:
    """Flower starts v at 0 instead of tau², and scales its rate by Adam's bias correction; we follow Reddi et al."""
    grid, rng = FakeGrid(Fleet(Adder("a", 1, 0.0), Adder("b", 1, 0.0)), [1, 2]), np.random.default_rng(0)
    flowers = FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    model, state = vector(1, -2, 3), {"v/w": np.zeros(3, np.float32)}  # the first thing
    for server_round in range(1, 5):
        flowers.configure_train(server_round, to_record(model), ConfigRecord(), grid)
        merged = {"w": (model["w"] + rng.standard_normal(3)).astype(np.float32)}
        theirs, _ = flowers.aggregate_train(server_round, [train_reply(1, merged)])
        assert theirs is not None
        rate = 0.1 * np.sqrt(1 - 0.99 ** (server_round + 1)) / (1 - 0.9 ** (server_round + 1))  # the second
        config = ServerOptimizerConfig("fedadam", learning_rate=float(rate), momentum=0.9, beta_2=0.99, tau=1e-3)
        model, state = server_step(config, state, model, merged)
        np.testing.assert_allclose(model["w"], theirs["w"].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", "sgd", "unknown server optimizer 'sgd'; known: fedavg, fedavgm, fedadam"),
        ("learning_rate", 0.0, "positive"),
        ("tau", -1.0, "positive"),
        ("momentum", 1.0, r"\[0, 1\)"),
        ("momentum", float("nan"), r"\[0, 1\)"),
        ("beta_2", -0.1, r"\[0, 1\)"),
    ],
)
def test_config_refuses_what_is_out_of_range(field: str, value: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ServerOptimizerConfig(**{field: value})


@pytest.mark.parametrize("field", ["learning_rate", "tau"])
def test_config_refuses_nan(field: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        ServerOptimizerConfig(**{field: float("nan")})
