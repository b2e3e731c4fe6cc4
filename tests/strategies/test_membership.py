"""Who is there: waiting, greeting, and what changes between rounds."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from clients.messages import Hello, encode_hello
from strategies.gate import Cause
from strategies.membership import Door, HelloSchedule, NotEnoughVehicles, changes, greet, wait_for_nodes
from strategies.topology import GivenTopology, Member, assign
from tests.fakes import HELLO, NODE_UNAVAILABLE, Adder, Behaviour, FakeGrid, Fleet, failing, silent, twice

FLEET = Fleet(Adder("b", 10, 1.0, "north"), Adder("a", 20, 1.0, "south"))


def saying(hello: Hello) -> Behaviour:
    return lambda message, client: [encode_hello(hello, message)]


def test_everyone_is_greeted_and_sorted_by_name() -> None:
    grid = FakeGrid(FLEET, [1, 2])
    members, losses = greet(grid, [1, 2], 1.0, Door(1000))
    assert members == [Member("a", 2, "south", 20), Member("b", 1, "north", 10)]
    assert losses == []
    assert [message.metadata.message_type for message in grid.sent] == [HELLO, HELLO]


@pytest.mark.parametrize(
    ("behaviour", "who", "cause"),
    [
        (silent, "node-1", Cause.LATE),
        (failing(), "node-1", Cause.CLIENT_ERROR),
        (failing(NODE_UNAVAILABLE), "node-1", Cause.UNAVAILABLE),
        (saying(Hello("b", "north", 0)), "b", Cause.WEIGHT),
        (saying(Hello("b", "north", -9)), "b", Cause.WEIGHT),
        (saying(Hello("b", "north", 1001)), "b", Cause.WEIGHT),
        (lambda message, _: [Message(RecordDict(), reply_to=message)], "node-1", Cause.MALFORMED),
        (
            lambda message, _: [Message(RecordDict({"config": ConfigRecord({"vehicle": "b"})}), reply_to=message)],
            "node-1",
            Cause.MALFORMED,
        ),
    ],
)
def test_who_does_not_say_hello_is_a_loss_and_not_a_member(behaviour: Behaviour, who: str, cause: Cause) -> None:
    grid = FakeGrid(FLEET, [1, 2])
    grid.behaviour[1, HELLO] = behaviour
    members, losses = greet(grid, [1, 2], 1.0, Door(1000))
    assert [member.vehicle for member in members] == ["a"]
    assert [(loss.vehicle, loss.cause) for loss in losses] == [(who, cause)]


def test_a_name_is_given_once() -> None:
    grid = FakeGrid(FLEET, [1, 2])
    grid.behaviour[2, HELLO] = saying(Hello("b", "south", 20))
    members, losses = greet(grid, [1, 2], 1.0, Door(1000))
    assert members == [Member("b", 1, "north", 10)]
    assert [(loss.vehicle, loss.cause) for loss in losses] == [("b", Cause.STRANGER)]


def test_a_second_hello_changes_nothing() -> None:
    grid = FakeGrid(FLEET, [1, 2])
    grid.behaviour[1, HELLO] = twice
    members, _ = greet(grid, [1, 2], 1.0, Door(1000))
    assert [member.vehicle for member in members] == ["a", "b"]


def test_waiting_ends_when_enough_are_connected() -> None:
    class Filling(FakeGrid):
        def get_node_ids(self) -> list[int]:
            self.nodes.append(len(self.nodes) + 1)
            return self.nodes[::-1]

    assert wait_for_nodes(Filling(FLEET, []), 3, timeout_s=5.0, poll_s=0.001) == [1, 2, 3]


def test_waiting_ends_with_the_remedy_when_time_is_up() -> None:
    with pytest.raises(
        NotEnoughVehicles,
        match=r"2 of 3 vehicles connected after 0 s.*lower `vehicles`.*--federation-config \"num-supernodes=3\"",
    ):
        wait_for_nodes(FakeGrid(FLEET, [1, 2]), 3, timeout_s=0.01, poll_s=0.001)


def test_changes_name_the_gone_and_the_new() -> None:
    topology = assign([Member("a", 1, "n", 1), Member("b", 2, "n", 1), Member("c", 3, "n", 1)], 1)
    assert changes(topology, [3, 7, 5]) == (["a", "b"], [5, 7])
    assert changes(topology, [1, 2, 3]) == ([], [])


def test_the_operators_topology_is_kept_at_the_door() -> None:
    given = GivenTopology({"a": "rsu-0", "b": "rsu-0"}, {"b": 7})
    members, losses = greet(FakeGrid(FLEET, [1, 2]), [1, 2], 1.0, Door(1000, given))
    assert [member.vehicle for member in members] == ["a"]
    assert [(loss.vehicle, loss.cause) for loss in losses] == [("b", Cause.STRANGER)]
    assert "belongs to node 7, not to 1" in losses[0].detail


@pytest.mark.parametrize("kind", ["node_unavail", "msg_unavail"])
def test_the_superlinks_answer_for_a_dead_node_is_about_that_node(kind: str) -> None:
    grid = FakeGrid(FLEET, [1, 2])
    grid.behaviour[2, HELLO] = lambda message, _: [
        create_message_error_unavailable_res_message(message.metadata, kind)  # comes from node 1, which said hello
    ]
    members, losses = greet(grid, [1, 2], 1.0, Door(1000))
    assert [member.vehicle for member in members] == ["b"]
    assert [loss.vehicle for loss in losses] == ["node-2"]


def test_a_mute_node_is_asked_ever_more_rarely() -> None:
    schedule, asked = HelloSchedule(), []
    for period in range(40):
        due = schedule.select_due([5, 6], period)
        asked += [period] if 5 in due else []
        schedule.record(due, [6] if 6 in due else [], period)
    assert asked == [0, 2, 6, 14, 30]  # alone for 1, 3, 7, 15 periods
    assert schedule.select_due([6], 40) == [6]


def test_a_node_that_answers_at_last_starts_anew() -> None:
    schedule = HelloSchedule()
    schedule.record([5], [], 0)
    schedule.record([5], [5], 2)
    schedule.record([5], [], 3)
    assert schedule.select_due([5], 5) == [5]
