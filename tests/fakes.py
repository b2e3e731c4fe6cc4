"""A Grid of a few lines that calls a client function directly, and vehicles whose arithmetic a reader can redo."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from clients.messages import (
    HELLO_ACTION,
    Arrays,
    EvaluateReply,
    Hello,
    TrainReply,
    decode_request,
    decode_train_reply,
    encode_evaluate_reply,
    encode_hello,
    encode_request,
    encode_train_reply,
    to_record,
)

Client = Callable[[Message], Message]
Behaviour = Callable[[Message, Client], list[Message]]
CLIENT_RAISED, NODE_UNAVAILABLE = 2, 5  # Flower's error codes
HELLO, TRAIN, EVALUATE = HELLO_ACTION, MessageType.TRAIN, MessageType.EVALUATE

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # who sends, as an engine would set it


def silent(message: Message, client: Client) -> list[Message]:
    """Never answers."""
    return []


def twice(message: Message, client: Client) -> list[Message]:
    """Answers, and answers again."""
    return [client(message), client(message)]


def failing(code: int = CLIENT_RAISED, reason: str = "made to fail") -> Behaviour:
    """Answers with an error."""
    return lambda message, client: [Message(Error(code, reason), reply_to=message)]


def lying(**changes: object) -> Behaviour:
    """Answers honestly but for some fields of the TrainReply; `arrays` may be a function of the honest arrays."""

    def behave(message: Message, client: Client) -> list[Message]:
        honest = decode_train_reply(client(message))
        values = {name: change(honest.arrays) if callable(change) else change for name, change in changes.items()}
        return [encode_train_reply(replace(honest, **values), message)]

    return behave


class FakeGrid(Grid):
    """Calls `client` for every message at once.

    Args:
        client: answers a message.
        nodes: ids of the connected nodes; may be changed between rounds.
        order: rearranges the replies of one send.

    `behaviour[node_id, message_type]` replaces a node's honest answer; `sent` keeps every message.
    """

    def __init__(
        self, client: Client, nodes: Iterable[int], order: Callable[[list[Message]], Iterable[Message]] = list
    ) -> None:
        self.client, self.nodes, self.order = client, list(nodes), order
        self.behaviour: dict[tuple[int, str], Behaviour] = {}
        self.sent: list[Message] = []
        self._run, self._pushed = Run.create_empty(1), {}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return iter(self.order([reply for message in messages for reply in self._answer(message)]))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            self._pushed[str(len(self.sent))] = self._answer(message)
        return list(self._pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for message_id in message_ids for reply in self._pushed.pop(message_id, [])]

    def received(self, message_type: str) -> list[Message]:
        """Messages of one type, in the order in which they were sent."""
        return [message for message in self.sent if message.metadata.message_type == message_type]

    def _answer(self, message: Message) -> list[Message]:
        self.sent.append(message)
        message.metadata.__dict__["_message_id"] = str(len(self.sent))  # as every Grid of Flower does
        node_id = message.metadata.dst_node_id
        if node_id not in self.nodes:
            return failing(NODE_UNAVAILABLE, "no such node")(message, self.client)
        behave = self.behaviour.get((node_id, message.metadata.message_type))
        return behave(message, self.client) if behave else [self.client(message)]


@dataclass(frozen=True)
class Adder:
    """A vehicle whose training adds `step` to every number of the model."""

    vehicle: str
    num_examples: int
    step: float
    region: str = "north"

    def train(self, arrays: Arrays) -> Arrays:
        return {name: np.asarray(values + np.asarray(self.step, values.dtype)) for name, values in arrays.items()}


class Fleet:
    """The client function of vehicles that sit at nodes 1, 2, ..."""

    def __init__(self, *vehicles: Adder) -> None:
        self.at_node = dict(enumerate(vehicles, start=1))

    def __call__(self, message: Message) -> Message:
        vehicle = self.at_node[message.metadata.dst_node_id]
        if message.metadata.message_type == HELLO:
            return encode_hello(Hello(vehicle.vehicle, vehicle.region, vehicle.num_examples), message)
        arrays = decode_request(message).arrays
        if message.metadata.message_type == EVALUATE:
            first = float(next(iter(arrays.values())).flat[0])
            return encode_evaluate_reply(EvaluateReply(vehicle.num_examples, {"first": first}), message)
        reply = TrainReply(vehicle.train(arrays), vehicle.num_examples, {"step": vehicle.step})
        return encode_train_reply(reply, message)


def train_request(node_id: int, arrays: Arrays | None = None) -> Message:
    """A train message to a node."""
    return Message(encode_request(to_record(arrays or {}), {}), node_id, TRAIN)


def train_reply(node_id: int, arrays: Arrays, num_examples: int = 1, **metrics: float) -> Message:
    """A train reply from a node."""
    return encode_train_reply(TrainReply(arrays, num_examples, metrics), train_request(node_id))


def error_reply(node_id: int, code: int = CLIENT_RAISED, reason: str = "made to fail") -> Message:
    """An error reply from a node."""
    return Message(Error(code, reason), reply_to=train_request(node_id))


def by_node(replies: list[Message]) -> list[Message]:
    """Replies in the order of their nodes."""
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
