"""Replies of a deployment, as they come."""

import time
from collections.abc import Iterable

import pytest
from flwr.app import Message

from fl_app.local_grid import LocalGrid
from fl_app.streaming_grid import StreamingGrid, stream_replies
from tests.fakes import Adder, FakeGrid, Fleet, train_request
from tests.fl_app.toy import client_app

FLEET = Fleet(Adder("a", 1, 1.0), Adder("b", 1, 2.0), Adder("c", 1, 3.0))


class Slow(FakeGrid):
    """A reply is there after as many looks as its node has in `looks`; one that is not listed never is."""

    looks: dict[int, int]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.replies = [(m.metadata.dst_node_id, reply) for m in messages for reply in self._answer(m)]
        return [reply.metadata.reply_to_message_id for _, reply in self.replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.looks = {node: left - 1 for node, left in self.looks.items()}
        wanted = set(message_ids)
        ready = [
            (node, reply)
            for node, reply in self.replies
            if self.looks.get(node, 1) <= 0 and reply.metadata.reply_to_message_id in wanted
        ]
        return [reply for _, reply in ready]


def slow(looks: dict[int, int]) -> StreamingGrid:
    grid = Slow(FLEET, [1, 2, 3])
    grid.looks = looks
    return StreamingGrid(grid, poll_s=0.01)


def ask(grid: StreamingGrid, timeout: float | None) -> Iterable[int]:
    messages = [train_request(node_id) for node_id in (1, 2, 3)]
    return (reply.metadata.src_node_id for reply in grid.send_and_receive(messages, timeout=timeout))


def test_the_first_reply_does_not_wait_for_the_last() -> None:
    replies = iter(ask(slow({2: 1, 3: 2}), None))  # node 1 never answers, and nobody has to
    assert [next(replies), next(replies)] == [2, 3]


def test_all_come_once_and_then_it_ends() -> None:
    assert list(ask(slow({1: 3, 2: 1, 3: 2}), 5.0)) == [2, 3, 1]


def test_it_ends_with_the_time() -> None:
    began_s = time.monotonic()
    assert list(ask(slow({3: 1}), 0.1)) == [3]
    assert time.monotonic() - began_s < 2


def test_the_local_grid_streams_by_itself() -> None:
    local, other = LocalGrid(client_app(), 2, {}, workers=1), FakeGrid(FLEET, [1])
    assert stream_replies(local) is local
    assert isinstance(stream_replies(other), StreamingGrid)
    assert stream_replies(other).run is other.run
    local.close()


@pytest.mark.parametrize("nodes", [[1, 2], [7]])
def test_nodes_are_those_of_the_grid(nodes: list[int]) -> None:
    assert StreamingGrid(FakeGrid(FLEET, nodes)).get_node_ids() == nodes
