"""Whose reply a message is, and in which order replies count."""

from collections import Counter
from collections.abc import Iterator

import pytest
from flwr.app import Message
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from hypothesis import given
from hypothesis import strategies as st

from strategies.gate import Cause
from strategies.replies import SentRequests, error_loss, in_plan_order
from tests.fakes import error_reply, train_reply, train_request


def sent_to(*node_ids: int) -> tuple[list[Message], SentRequests]:
    """Requests to nodes whose vehicles are "v" and the node's id, with the ids that a grid would give them."""
    messages = [train_request(node_id) for node_id in node_ids]
    for message in messages:
        message.metadata.__dict__["_message_id"] = f"message-{message.metadata.dst_node_id}"
    return messages, SentRequests((message, f"v{message.metadata.dst_node_id}") for message in messages)


# Whose reply it is


@pytest.mark.parametrize("kind", ["node_unavail", "msg_unavail"])
def test_an_error_of_the_superlink_is_about_the_vehicle_that_was_asked(kind: str) -> None:
    messages, sent = sent_to(1, 5, 7)  # node 1 has the id under which a SuperLink answers
    reply = create_message_error_unavailable_res_message(messages[1].metadata, kind)
    assert reply.metadata.src_node_id == 1
    assert (sent.find_vehicle(reply), sent.find_node(reply)) == ("v5", 5)


def test_a_reply_belongs_to_its_sender_and_to_this_round() -> None:
    messages, sent = sent_to(5, 7)
    assert sent.find_vehicle(Message(messages[0].content, reply_to=messages[0])) == "v5"
    assert sent.find_vehicle(train_reply(5, {})) is None  # to a message of another round
    assert sent.find_vehicle(error_reply(9)) is None


def test_nobody_answers_for_another() -> None:
    messages, sent = sent_to(5, 7)
    forged = Message(messages[0].content, reply_to=messages[1])
    forged.metadata.__dict__["_reply_to_message_id"] = messages[0].metadata.message_id
    assert sent.find_vehicle(forged) is None


# Order of replies


def nodes(replies: Iterator[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def from_nodes(ids: list[int]) -> list[Message]:
    return [error_reply(node_id) for node_id in ids]


@given(st.lists(st.integers(1, 12), max_size=15), st.permutations(range(1, 9)), st.integers(1, 10))
def test_no_reply_is_lost_or_made_up(ids: list[int], order: list[int], max_held: int) -> None:
    replies = from_nodes(ids)  # with duplicates, strangers (9 to 12) and gaps
    out = list(in_plan_order(replies, list(order), max_held))
    assert Counter(map(id, out)) == Counter(map(id, replies))


@given(st.permutations(range(1, 9)), st.permutations(range(1, 9)))
def test_replies_come_in_the_order_of_the_plan(ids: list[int], order: list[int]) -> None:
    assert nodes(in_plan_order(from_nodes(ids), order, len(order))) == order


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_the_order_holds_when_some_never_answer(order: list[int], missing: set[int]) -> None:
    ids = [node_id for node_id in range(1, 9) if node_id not in missing]
    expected = [node_id for node_id in order if node_id not in missing]
    assert nodes(in_plan_order(from_nodes(ids), order, len(order))) == expected


@given(st.permutations(range(1, 13)), st.integers(1, 5))
def test_no_more_are_held_than_allowed(ids: list[int], max_held: int) -> None:
    taken = given_back = 0

    def source() -> Iterator[Message]:
        nonlocal taken
        for reply in from_nodes(ids):
            assert taken - given_back <= max_held
            taken += 1
            yield reply

    for _ in in_plan_order(source(), list(range(1, 13)), max_held):
        given_back += 1
    assert given_back == taken == 12


def test_with_one_place_the_awaited_is_given_up_on_and_taken_when_it_comes() -> None:
    assert nodes(in_plan_order(from_nodes([2, 3, 4, 1]), [1, 2, 3, 4], 1)) == [2, 3, 4, 1]
    assert nodes(in_plan_order(from_nodes([2, 1, 4, 3]), [1, 2, 3, 4], 1)) == [1, 2, 3, 4]


def test_duplicates_and_strangers_pass_through_at_once() -> None:
    assert nodes(in_plan_order(from_nodes([1, 1, 99, 2]), [1, 2], 5)) == [1, 1, 99, 2]


def test_a_duplicate_never_overtakes_the_first_answer() -> None:
    first, second, other = from_nodes([2, 2, 1])
    out = list(in_plan_order([first, second, other], [1, 2], 5))
    assert [id(reply) for reply in out if reply.metadata.src_node_id == 2] == [id(first), id(second)]


# Causes


@pytest.mark.parametrize(
    ("code", "cause"),
    [(5, Cause.UNAVAILABLE), (3, Cause.LOST), (4, Cause.LOST), (2, Cause.CLIENT_ERROR), (0, Cause.CLIENT_ERROR)],
)
def test_causes_of_error_codes(code: int, cause: Cause) -> None:
    loss = error_loss("v", error_reply(1, code, "x" * 400 + "the end \n"))
    assert (loss.cause, len(loss.detail), loss.detail[-7:]) == (cause, 300, "the end")
