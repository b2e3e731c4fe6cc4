"""Tells which vehicle a reply is about, and brings the replies of a round into the order of the plan."""

from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message

from strategies.gate import Cause
from strategies.report import Loss

NODE_UNAVAILABLE, MESSAGE_UNAVAILABLE, REPLY_UNAVAILABLE = 5, 3, 4  # Flower's error codes


class SentRequests:
    """Maps the replies of one round to the vehicles that were asked.

    A SuperLink answers for a node that is gone, under an id of its own, so that the sender of an error says nothing.
    What it is about is the message that it replies to.

    Args:
        requests: each message as it is handed to the grid, which gives it its id later, and the vehicle it goes to.
    """

    def __init__(self, requests: Iterable[tuple[Message, str]] = ()) -> None:
        self._sent = {message.metadata.dst_node_id: (message.metadata, vehicle) for message, vehicle in requests}

    @property
    def vehicles(self) -> set[str]:
        """Names of those who were asked."""
        return {vehicle for _, vehicle in self._sent.values()}

    def find_node(self, reply: Message) -> int | None:
        """Returns the id of the node that a reply is from or, of an error, about; None when it was not asked."""
        metadata = reply.metadata
        sent, _ = self._sent.get(metadata.src_node_id, (None, ""))
        if sent is not None and sent.message_id == metadata.reply_to_message_id:
            return metadata.src_node_id
        if reply.has_error():
            for node_id, (request, _) in self._sent.items():
                if request.message_id == metadata.reply_to_message_id:
                    return node_id
        return None

    def find_vehicle(self, reply: Message) -> str | None:
        """Returns the name of the vehicle that a reply is from or about; None when it was not asked."""
        node_id = self.find_node(reply)
        return None if node_id is None else self._sent[node_id][1]


def stranger_loss(reply: Message) -> Loss:
    """Returns the loss that a reply from a node that was not asked stands for."""
    return Loss(f"node-{reply.metadata.src_node_id}", Cause.STRANGER, "was not asked")


def error_loss(vehicle: str, message: Message) -> Loss:
    """The loss that an error reply stands for."""
    code, reason = message.error.code, (message.error.reason or "").strip()
    causes = {NODE_UNAVAILABLE: Cause.UNAVAILABLE, MESSAGE_UNAVAILABLE: Cause.LOST, REPLY_UNAVAILABLE: Cause.LOST}
    return Loss(vehicle, causes.get(code, Cause.CLIENT_ERROR), reason[-300:])


def source_node(reply: Message) -> int:
    """Returns the id of the node that a message came from."""
    return reply.metadata.src_node_id


def in_plan_order(
    replies: Iterable[Message],
    order: list[int],
    max_held: int,
    node_of: Callable[[Message], int | None] = source_node,
) -> Iterator[Message]:
    """Replies in the order of the plan, so that sums do not depend on who finished first.

    A reply that is ahead of its turn is held back; when more than `max_held` wait, the one they wait for is given up
    on and taken whenever it comes.
    """
    held: dict[int, Message] = {}
    repeated: list[Message] = []
    rank = {node_id: position for position, node_id in enumerate(order)}
    position = 0
    for reply in replies:
        node_id = node_of(reply)
        if node_id in held:
            repeated.append(reply)
            continue
        if node_id is None or rank.get(node_id, -1) < position:
            yield reply
            continue
        held[node_id] = reply
        del reply
        while held and (len(held) > max_held or (position < len(order) and order[position] in held)):
            if order[position] in held:
                yield held.pop(order[position])
            position += 1
    yield from (held[node_id] for node_id in sorted(held, key=rank.__getitem__))
    yield from repeated
