"""LocalGrid: the in-process engine, with well-behaved and with misbehaving vehicles."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from clients.messages import from_record, to_record
from fl_app.local_grid import LocalGrid
from tests.fl_app import toy


def _ask(grid: LocalGrid, nodes: list[int], timeout: float | None = None) -> dict[int, Message]:
    messages = [Message(RecordDict({"config": ConfigRecord()}), node, "query.hello") for node in nodes]
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}


def _grid(train, num_nodes: int, workers: int = 2) -> LocalGrid:
    app = ClientApp()
    app.query("hello")(train)
    return LocalGrid(app, num_nodes, {"key": "value"}, workers=workers)


def test_every_node_answers_once_with_its_own_context() -> None:
    seen = {}

    def answer(message: Message, context: Context) -> Message:
        seen[context.node_id] = (context.node_config["partition-id"], context.run_config["key"])
        return Message(RecordDict(), reply_to=message)

    replies = _ask(_grid(answer, 5), [1, 2, 3, 4, 5])
    assert sorted(replies) == [1, 2, 3, 4, 5]
    assert seen == {node: (node - 1, "value") for node in range(1, 6)}


def test_state_stays_with_its_node() -> None:
    def count(message: Message, context: Context) -> Message:
        before = context.state["n"]["n"] if "n" in context.state else 0
        context.state["n"] = ConfigRecord({"n": before + 1})
        return Message(RecordDict({"n": ConfigRecord({"n": before + 1})}), reply_to=message)

    grid = _grid(count, 2)
    _ask(grid, [1])
    assert {node: reply.content["n"]["n"] for node, reply in _ask(grid, [1, 2]).items()} == {1: 2, 2: 1}


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_client_raises_is_its_own_error_reply(error: BaseException) -> None:
    def answer(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            raise error
        return Message(RecordDict(), reply_to=message)

    replies = _ask(_grid(answer, 3), [1, 2, 3])
    assert {node: reply.has_error() for node, reply in replies.items()} == {1: False, 2: True, 3: False}
    assert type(error).__name__ in replies[2].error.reason


def _stranger(message: Message) -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type=message.metadata.message_type)


@pytest.mark.parametrize(
    "answer",
    [lambda _: None, lambda _: 3, lambda _: {"content": 1}, lambda _: Message, lambda message: message, _stranger],
    ids=["None", "number", "dict", "class", "request", "stranger"],
)
def test_what_is_no_reply_is_its_vehicles_own_error(answer: Callable[[Message], object]) -> None:
    def client(message: Message, context: Context) -> object:
        return answer(message) if context.node_id == 2 else Message(RecordDict(), reply_to=message)

    grid = LocalGrid(client, 3, {}, workers=1)  # type: ignore[arg-type]
    for _ in range(2):
        replies = _ask(grid, [1, 2, 3], timeout=5)
        assert {node: reply.has_error() for node, reply in replies.items()} == {1: False, 2: True, 3: False}
        assert replies[2].error.code == 2
        assert "the ClientApp returned" in replies[2].error.reason


def test_a_client_that_hangs_costs_itself_only_and_is_unavailable_until_it_is_done() -> None:
    release = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if context.node_id == 1:
            release.wait(10)
        return Message(RecordDict(), reply_to=message)

    grid = _grid(answer, 6, workers=1)
    began = time.monotonic()
    assert sorted(_ask(grid, [1, 2, 3, 4, 5, 6], timeout=0.3)) == [2, 3, 4, 5, 6]
    assert time.monotonic() - began < 5
    replies = _ask(grid, [1, 2], timeout=0.3)
    assert replies[1].error.code == 5
    assert replies[2].has_content()
    release.set()
    time.sleep(0.2)
    assert _ask(grid, [1], timeout=5)[1].has_content()


def test_an_unknown_node_is_unavailable() -> None:
    grid = _grid(lambda message, context: Message(RecordDict(), reply_to=message), 1)
    assert _ask(grid, [99])[99].error.code == 5


def test_no_more_vehicles_run_than_there_are_workers_and_unread_replies_hold_the_rest_back() -> None:
    running, most, started, lock = 0, 0, 0, threading.Lock()

    def answer(message: Message, context: Context) -> Message:
        nonlocal running, most, started
        with lock:
            running, started = running + 1, started + 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return Message(RecordDict(), reply_to=message)

    grid = _grid(answer, 50, workers=2)
    messages = [Message(RecordDict(), node, "query.hello") for node in range(1, 51)]
    replies = grid.send_and_receive(messages)
    next(replies)
    time.sleep(0.1)
    assert started <= 3  # the one that was read and the two that may run meanwhile
    assert len(list(replies)) == 49
    assert most == 2


def test_replies_that_nobody_reads_any_more_do_not_stop_later_rounds() -> None:
    grid = _grid(lambda message, context: Message(RecordDict(), reply_to=message), 8)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query.hello") for node in range(1, 9)])
    next(replies)
    replies.close()
    time.sleep(0.1)
    assert all(reply.has_content() for reply in _ask(grid, list(range(1, 9))).values())


def test_arrays_are_handed_over_without_a_copy_and_read_only() -> None:
    sent, got = toy.model(), {}
    app = ClientApp()

    @app.query("hello")
    def answer(message: Message, context: Context) -> Message:
        got.update(from_record(message.content["arrays"]))
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    list(LocalGrid(app, 1, {}).send_and_receive([Message(RecordDict({"arrays": to_record(sent)}), 1, "query.hello")]))
    assert np.shares_memory(got["w"], sent["w"])
    with pytest.raises(ValueError, match="read-only"):
        got["w"] += 1


def test_push_and_pull_answer_as_send_and_receive_does() -> None:
    grid = _grid(lambda message, context: Message(RecordDict(), reply_to=message), 3)
    ids = set(grid.push_messages([Message(RecordDict(), node, "query.hello") for node in (1, 2, 3)]))
    pulled, ends = [], time.monotonic() + 5
    while len(pulled) < 3 and time.monotonic() < ends:
        pulled += grid.pull_messages(ids)
    assert {reply.metadata.reply_to_message_id for reply in pulled} == ids


def test_stock_flower_strategies_run_on_it() -> None:
    # Vehicles add 1, 2, 3 and weigh 1, 2, 3: the mean moves by (1 + 4 + 9) / 6 = 14 / 6 a round.
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=3, min_train_nodes=3)
    arrays = {name: values for name, values in toy.model().items() if name != "steps"}
    result = strategy.start(LocalGrid(toy.client_app(), 3, {}), to_record(arrays), num_rounds=2)
    np.testing.assert_allclose(result.arrays["w"].numpy(), 10 + 2 * 14 / 6, rtol=1e-6)


@pytest.mark.parametrize(("nodes", "workers"), [(0, 1), (1, 0)])
def test_it_needs_a_node_and_a_worker(nodes: int, workers: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LocalGrid(toy.client_app(), nodes, {}, workers=workers)
