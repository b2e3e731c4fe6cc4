"""Finding out who is there: the hello that every new node is asked for, and the topology that follows."""

import time
from collections.abc import Collection

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from clients.messages import CONFIG, HELLO_ACTION, MessageError, decode_hello
from strategies.gate import Cause
from strategies.report import Loss
from strategies.rsu_round import error_loss
from strategies.topology import Member, Topology


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


def greet(
    grid: Grid, node_ids: list[int], timeout_s: float, max_examples: int, taken: Collection[str] = ()
) -> tuple[list[Member], list[Loss]]:
    """Ask nodes who they are. One that errs, stays silent, talks nonsense or takes a name of `taken` is a loss.

    Of several that claim one name, it is that of the smallest id.
    """
    requests = [Message(RecordDict({CONFIG: ConfigRecord()}), node_id, HELLO_ACTION) for node_id in node_ids]
    members, losses, silent = {}, [], set(node_ids)
    replies = grid.send_and_receive(requests, timeout=timeout_s)
    for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
        node_id = reply.metadata.src_node_id
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
        if not 0 < hello.num_examples <= max_examples:
            losses.append(Loss(hello.vehicle, Cause.WEIGHT, f"hello claims {hello.num_examples} examples"))
        elif hello.vehicle in members or hello.vehicle in taken:
            losses.append(Loss(hello.vehicle, Cause.STRANGER, "the name is taken by another node"))
        else:
            members[hello.vehicle] = Member(hello.vehicle, node_id, hello.region, hello.num_examples)
    losses += [Loss(f"node-{node_id}", Cause.LATE, "no hello") for node_id in sorted(silent)]
    return sorted(members.values()), losses


def changes(topology: Topology, node_ids: list[int]) -> tuple[list[str], list[int]]:
    """Vehicles that are gone and nodes that are new, given the nodes that are connected now."""
    present, known = set(node_ids), {member.node_id for member in topology.members.values()}
    gone = sorted(name for name, member in topology.members.items() if member.node_id not in present)
    return gone, sorted(present - known)
