"""Finding out who is there: the hello that every new node is asked for, and the topology that follows."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from clients.messages import CONFIG, HELLO_ACTION, Hello, MessageError, decode_hello
from strategies.gate import Cause
from strategies.replies import SentRequests, error_loss, stranger_loss
from strategies.report import Loss
from strategies.topology import GivenTopology, Member, Topology

MOST_DOUBLINGS = 10  # a node that never answers is still asked now and then


class NotEnoughVehicles(RuntimeError):
    """Too few vehicles connected before the time was up."""


def wait_for_nodes(
    grid: Grid, count: int, timeout_s: float, poll_s: float = 0.5, least: int | None = None
) -> list[int]:
    """Node ids once `count` of them are connected, or after `timeout_s` if at least `least`, by default all, are.

    Raises:
        NotEnoughVehicles: fewer are there by then.
    """
    ends = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() >= ends:
            if len(nodes) >= (count if least is None else least):
                break
            raise NotEnoughVehicles(
                f"{len(nodes)} of {count} vehicles connected after {timeout_s:.0f} s: start the missing SuperNodes, "
                f"or lower `vehicles`; where `flwr run` simulates, it wants "
                f'--federation-config "num-supernodes={count}"'
            )
        time.sleep(poll_s)
    return nodes


@dataclass(frozen=True)
class Door:
    """Who may join.

    Args:
        max_examples: largest number of examples that a hello may claim.
        given: who belongs where, as the operator says; None lets in who comes.
        planned: the vehicles that have something to do; None for all.
    """

    max_examples: int
    given: GivenTopology | None = None
    planned: frozenset[str] | None = None

    def refuse(self, hello: Hello, node_id: int, taken: Collection[str]) -> tuple[Cause, str] | None:
        """Returns cause and detail of why a node may not join, or None if it may.

        Args:
            hello: what the node says of itself.
            node_id: its id.
            taken: names of vehicles that have joined.
        """
        if not 0 < hello.num_examples <= self.max_examples:
            return Cause.WEIGHT, f"hello claims {hello.num_examples} examples, allowed 1 to {self.max_examples}"
        if hello.vehicle in taken:
            return Cause.STRANGER, "the name is taken by another node"
        if self.planned is not None and hello.vehicle not in self.planned:
            return Cause.STRANGER, "is not in the plan"
        if self.given is not None and (why := self.given.refuse(hello.vehicle, node_id)):
            return Cause.STRANGER, why
        return None


def greet(
    grid: Grid, node_ids: list[int], timeout_s: float, door: Door, taken: Collection[str] = ()
) -> tuple[list[Member], list[Loss]]:
    """Ask nodes who they are. One that errs, stays silent, talks nonsense or is refused at the door is a loss.

    Of several that claim one name, it is that of the smallest id.
    """
    requests = [Message(RecordDict({CONFIG: ConfigRecord()}), node_id, HELLO_ACTION) for node_id in node_ids]
    sent = SentRequests((message, f"node-{message.metadata.dst_node_id}") for message in requests)
    members: dict[str, Member] = {}
    losses, silent, names = [], set(node_ids), set(taken)
    replies = [(sent.find_node(reply), reply) for reply in grid.send_and_receive(requests, timeout=timeout_s)]
    known = [(node_id, reply) for node_id, reply in replies if node_id is not None]
    for node_id, reply in sorted(known, key=lambda pair: pair[0]):
        silent.discard(node_id)
        name = f"node-{node_id}"
        if reply.has_error():
            losses.append(error_loss(name, reply))
            continue
        try:
            hello = decode_hello(reply)
        except MessageError as error:
            losses.append(Loss(name, Cause.MALFORMED, str(error)))
            continue
        if refusal := door.refuse(hello, node_id, names):
            losses.append(Loss(hello.vehicle, *refusal))
        else:
            members[hello.vehicle] = Member(hello.vehicle, node_id, hello.region, hello.num_examples)
            names.add(hello.vehicle)
    losses += [stranger_loss(reply) for node_id, reply in replies if node_id is None]
    losses += [Loss(f"node-{node_id}", Cause.LATE, "no hello") for node_id in sorted(silent)]
    return sorted(members.values()), losses


def gather_members(
    grid: Grid, count: int, timeout_s: float, door: Door, least: int | None = None
) -> tuple[list[Member], list[Loss], list[int]]:
    """Waits for nodes and asks each who it is, until `count` have come that are not turned away at the door.

    Args:
        grid: where the nodes are.
        count: nodes to wait for.
        timeout_s: for so long.
        door: who may join.
        least: nodes that will do when the time is up, by default all.

    Returns:
        Who joins, who does not and why, and the nodes that were asked.

    Raises:
        NotEnoughVehicles: fewer than `least` nodes came.
    """
    ends_s = time.monotonic() + timeout_s
    members: list[Member] = []
    losses: list[Loss] = []
    asked: list[int] = []
    turned_away = 0
    while len(asked) - turned_away < count:
        left_s, will_do = max(0.0, ends_s - time.monotonic()), count if least is None else least
        try:
            nodes = wait_for_nodes(grid, count + turned_away, left_s, least=will_do + turned_away)
        except NotEnoughVehicles:
            if asked:
                break
            raise
        new = [node_id for node_id in nodes if node_id not in set(asked)]
        if not new:
            break
        joined, lost = greet(grid, new, timeout_s, door, [member.vehicle for member in members])
        members, losses, asked = sorted(members + joined), losses + lost, asked + new
        turned_away += sum(loss.cause == Cause.STRANGER for loss in lost)
    return members, losses, asked


class HelloSchedule:
    """Spaces out hellos to nodes that gave none: after k failures in a row a node is left alone for 2^k - 1 periods.

    Each hello to a node that stays silent costs everybody the time that silence takes.
    """

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}
        self._due: dict[int, int] = {}

    def select_due(self, node_ids: Iterable[int], period: int) -> list[int]:
        """Returns the nodes that may be asked in a period, counted from 0."""
        return [node_id for node_id in node_ids if self._due.get(node_id, 0) <= period]

    def record(self, asked: Iterable[int], joined: Iterable[int], period: int) -> None:
        """Takes note of who was asked in a period, and who of them joined."""
        done = set(joined)
        for node_id in asked:
            if node_id in done:
                self._failures.pop(node_id, None)
                continue
            self._failures[node_id] = min(self._failures.get(node_id, 0) + 1, MOST_DOUBLINGS)
            self._due[node_id] = period + 2 ** self._failures[node_id]


def changes(topology: Topology, node_ids: list[int]) -> tuple[list[str], list[int]]:
    """Vehicles that are gone and nodes that are new, given the nodes that are connected now."""
    present, known = set(node_ids), {member.node_id for member in topology.members.values()}
    gone = sorted(name for name, member in topology.members.items() if member.node_id not in present)
    return gone, sorted(present - known)
