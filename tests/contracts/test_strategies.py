"""What every Flower strategy of the project must keep to."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MessageType
from flwr.serverapp.strategy import Strategy

from clients.messages import Arrays, to_record
from strategies import STRATEGIES
from strategies.hierarchical import Hierarchical
from strategies.hierarchical_config import HierarchicalConfig
from strategies.rsu_round import Participation
from strategies.state import RunState
from tests.fakes import EVALUATE, TRAIN, Adder, FakeGrid, Fleet, failing, silent

FLEET = Fleet(*(Adder(f"v{i}", 3 * i + 1, 0.1 * i, "north" if i % 2 else "south") for i in range(6)))


def model() -> Arrays:
    rng = np.random.default_rng(5)
    return {"w": rng.standard_normal((3, 4)).astype(np.float32), "b": rng.standard_normal(4), "n": np.array([5, 6])}


def hierarchical(arrays: Arrays) -> Strategy:
    participation = Participation(fraction=0.6, quorum=0.3)
    return Hierarchical(HierarchicalConfig(6, 2, participation=participation, seed=7), RunState(arrays))


BUILD: dict[str, Callable[[Arrays], Strategy]] = {"hierarchical": hierarchical}
pytestmark = pytest.mark.parametrize("name", STRATEGIES)


def run(name: str, grid: FakeGrid, arrays: Arrays | None = None, num_rounds: int = 4) -> ArrayRecord:
    arrays = model() if arrays is None else arrays
    return BUILD[name](arrays).start(grid, to_record(arrays), num_rounds=num_rounds, timeout=1.0).arrays


def bits(record: ArrayRecord) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in record.items()}


def test_result_looks_like_the_model(name: str) -> None:
    result = run(name, FakeGrid(FLEET, FLEET.at_node))
    assert isinstance(BUILD[name](model()), STRATEGIES[name])
    for key, values in model().items():
        assert (result[key].numpy().dtype, result[key].numpy().shape) == (values.dtype, values.shape)


def test_same_seed_same_result_whoever_answers_first(name: str) -> None:
    grids = [FakeGrid(FLEET, FLEET.at_node) for _ in range(3)]
    grids[1].order = lambda replies: replies[::-1]
    grids[2].order = lambda replies: replies[1::2] + replies[::2]
    results = [bits(run(name, grid)) for grid in grids]
    assert results[0] == results[1] == results[2]


def test_the_model_given_is_not_written_to(name: str) -> None:
    arrays = model()
    for values in arrays.values():
        values.flags.writeable = False
    run(name, FakeGrid(FLEET, FLEET.at_node), arrays)
    assert {key: values.tobytes() for key, values in arrays.items()} == {k: v.tobytes() for k, v in model().items()}


def test_replies_are_not_written_to(name: str) -> None:
    kept: list[tuple[np.ndarray, bytes]] = []

    def remember(message):
        reply = FLEET(message)
        if message.metadata.message_type == TRAIN:
            kept.extend((array.numpy(), array.numpy().tobytes()) for array in reply.content["arrays"].values())
        return reply

    run(name, FakeGrid(remember, FLEET.at_node))
    assert kept
    assert all(values.tobytes() == before for values, before in kept)


@pytest.mark.parametrize("behaviour", [failing(), silent], ids=["error", "silence"])
@pytest.mark.parametrize("message_type", [TRAIN, EVALUATE])
def test_one_failing_vehicle_does_not_stop_the_run(name: str, behaviour, message_type: str) -> None:
    grid = FakeGrid(FLEET, FLEET.at_node)
    grid.behaviour[3, message_type] = behaviour
    result = run(name, grid)
    assert bits(result).keys() == model().keys()
    assert all(np.isfinite(array.numpy()).all() for array in result.values())


@pytest.mark.parametrize("message_type", [TRAIN, EVALUATE])
def test_even_if_all_fail_the_run_ends(name: str, message_type: str) -> None:
    grid = FakeGrid(FLEET, FLEET.at_node)
    for node_id in FLEET.at_node:
        grid.behaviour[node_id, message_type] = failing()
    run(name, grid)
    assert len(grid.received(MessageType.TRAIN)) == 4 * 2 * 2  # rounds, RSUs, ceil(0.6 · 3) of three


def test_rounds_can_be_driven_without_start(name: str) -> None:
    grid, strategy = FakeGrid(FLEET, FLEET.at_node), BUILD[name](model())
    messages = list(strategy.configure_train(1, to_record(model()), ConfigRecord(), grid))
    assert messages
    assert {message.metadata.message_type for message in messages} == {TRAIN}
    _, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert metrics is not None
    strategy.summary()
