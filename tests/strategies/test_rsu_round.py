"""One RSU's round: whom it asks, in which order replies count, and what it makes of each."""

from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients.messages import to_record
from strategies.accumulator import RuleConfig
from strategies.arithmetic import Arrays
from strategies.gate import Cause, GateConfig
from strategies.profile import Profile, ProfileConfig
from strategies.rsu_round import Participation, Plan, RsuRound, plan_round
from strategies.topology import Member
from tests.fakes import error_reply, train_reply, train_request

REFERENCE = {"w": np.array([3, 4], np.float32)}  # length 5


def members(count: int, num_examples: int = 10) -> list[Member]:
    return [Member(f"v{i:02}", 100 + i, "north", num_examples) for i in range(count)]


def plan(count: int, participation: Participation, seed: int = 0, profile: Profile | None = None) -> Plan:
    return plan_round("rsu-0", members(count), participation, np.random.default_rng(seed), profile, (2, 1_000_000))


def new_round(count: int = 2, rule: str = "mean", **fields: object) -> RsuRound:
    asked = tuple(members(count))
    return RsuRound(Plan("rsu-0", asked, count), REFERENCE, GateConfig(), (rule, RuleConfig()), **fields)


def moved(by: float) -> Arrays:
    return {"w": REFERENCE["w"] + np.float32(by)}


# Whom to ask


@given(st.integers(0, 30), st.floats(0.01, 1.0), st.floats(0, 2), st.integers(0, 99))
def test_a_plan_asks_for_distinct_members_in_order_and_the_same_for_the_same_seed(
    count: int, fraction: float, over_selection: float, seed: int
) -> None:
    participation = Participation(fraction, over_selection)
    chosen = plan(count, participation, seed)
    assert chosen == plan(count, participation, seed)
    assert list(chosen.asked) == sorted(set(chosen.asked))
    assert set(chosen.asked) <= set(members(count))
    assert chosen.wanted <= len(chosen.asked) <= count


def test_different_rounds_ask_different_vehicles_and_all_get_their_turn() -> None:
    turns = Counter(member.vehicle for seed in range(60) for member in plan(6, Participation(0.5), seed).asked)
    assert sum(turns.values()) == 60 * 3
    assert len(turns) == 6


@pytest.mark.parametrize(
    ("fraction", "over_selection", "wanted", "asked"),
    [
        (1.0, 0.0, 5, 5),
        (0.5, 0.0, 3, 3),  # half of five, rounded up
        (0.4, 0.5, 2, 3),  # two and half as many more
        (0.1, 0.0, 1, 1),
        (1.0, 0.5, 5, 5),  # no more than there are
    ],
)
def test_fraction_and_over_selection(fraction: float, over_selection: float, wanted: int, asked: int) -> None:
    chosen = plan(5, Participation(fraction, over_selection))
    assert (chosen.wanted, len(chosen.asked), chosen.late, chosen.simulated_s) == (wanted, asked, (), 0.0)


def test_seven_of_a_hundred_are_seven() -> None:
    assert plan(100, Participation(fraction=0.07)).wanted == 7


# With a profile: 2 epochs of n examples at 40 / s, and 0.6 s for the radio (8 Mbit down and up, two hops).
PROFILE = Profile(ProfileConfig(), 0)
UNEQUAL = [Member("a", 1, "north", 200), Member("b", 2, "north", 20), Member("c", 3, "north", 100)]  # 10.6, 1.6, 5.6 s


def timed(participation: Participation) -> Plan:
    return plan_round("rsu-0", UNEQUAL, participation, np.random.default_rng(0), PROFILE, (2, 1_000_000))


def test_a_simulated_round_lasts_as_long_as_its_slowest_vehicle() -> None:
    chosen = timed(Participation())
    assert (chosen.asked, chosen.late, chosen.wanted) == (tuple(UNEQUAL), (), 3)
    assert chosen.simulated_s == pytest.approx(2 * 200 / 40 + 0.6)


def test_simulated_vehicles_beyond_the_deadline_are_late_and_the_round_lasts_until_then() -> None:
    chosen = timed(Participation(deadline_s=6.0))
    assert [member.vehicle for member in chosen.asked] == ["b", "c"]
    assert [member.vehicle for member in chosen.late] == ["a"]
    assert (chosen.wanted, chosen.simulated_s) == (3, 6.0)


def test_over_selection_keeps_the_fastest_and_ends_with_them() -> None:
    chosen = timed(Participation(fraction=0.5, over_selection=0.5))  # two wanted, three asked
    assert [member.vehicle for member in chosen.asked] == ["b", "c"]
    assert (chosen.late, chosen.wanted) == ((), 2)
    assert chosen.simulated_s == pytest.approx(2 * 100 / 40 + 0.6)


def test_over_selection_makes_up_for_the_late() -> None:
    chosen = timed(Participation(fraction=0.5, over_selection=0.5, deadline_s=6.0))
    assert [member.vehicle for member in chosen.late] == ["a"]
    assert chosen.simulated_s == pytest.approx(5.6)


def test_an_rsu_without_vehicles_plans_an_empty_round() -> None:
    chosen = plan_round("rsu-0", [], Participation(), np.random.default_rng(0), PROFILE, (1, 1))
    assert (chosen.asked, chosen.wanted, chosen.simulated_s) == ((), 0, 0.0)


@pytest.mark.parametrize(
    "fields",
    [{"fraction": 0.0}, {"fraction": 1.1}, {"over_selection": -0.1}, {"quorum": 1.1}, {"deadline_s": 0.0}]
    + [{name: float("nan")} for name in ("fraction", "over_selection", "quorum", "deadline_s")],
)
def test_participation_out_of_range(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="participation out of range"):
        Participation(**fields)


# What becomes of a reply


def test_replies_become_the_weighted_mean() -> None:
    rsu_round = new_round()
    rsu_round.take("v00", train_reply(100, moved(1), 1, loss=1.0))
    assert not rsu_round.full
    rsu_round.take("v01", train_reply(101, moved(4), 2, loss=4.0))
    assert rsu_round.full
    merged, report = rsu_round.close(quorum=1.0)
    assert merged is not None
    np.testing.assert_allclose(merged["w"], moved((1 * 1 + 2 * 4) / 3)["w"], rtol=1e-6)
    assert (report.rsu, report.wanted, report.accepted, report.examples, report.moved) == ("rsu-0", 2, 2, 3, True)
    assert report.metrics == {"loss": (1 * 1 + 2 * 4) / 3}
    assert rsu_round.norms == pytest.approx([np.sqrt(2), 4 * np.sqrt(2)])
    assert rsu_round.bytes_up == 2 * 2 * 4
    assert rsu_round.losses == []


def test_an_error_reply_is_a_loss_and_the_others_count() -> None:
    rsu_round = new_round()
    rsu_round.take("v00", error_reply(100, reason="camera unplugged"))
    rsu_round.take("v01", train_reply(101, moved(4), 2))
    merged, _ = rsu_round.close(quorum=0.5)
    assert [(loss.vehicle, loss.cause, loss.detail) for loss in rsu_round.losses] == [
        ("v00", Cause.CLIENT_ERROR, "camera unplugged")
    ]
    assert merged is not None
    np.testing.assert_allclose(merged["w"], moved(4)["w"], rtol=1e-6)


def answer(*records: ArrayRecord | MetricRecord) -> Message:
    return Message(RecordDict({f"r{i}": record for i, record in enumerate(records)}), reply_to=train_request(100))


@pytest.mark.parametrize(
    "message",
    [
        answer(),
        answer(MetricRecord({"num-examples": 1})),
        answer(to_record(REFERENCE)),
        answer(to_record(REFERENCE), MetricRecord({})),
        answer(to_record(REFERENCE), MetricRecord({"num-examples": 1.0})),
        answer(to_record(REFERENCE), MetricRecord({"num-examples": [1, 2]})),
        answer(to_record(REFERENCE), to_record(REFERENCE), MetricRecord({"num-examples": 1})),
    ],
    ids=["empty", "no arrays", "no metrics", "no weight", "float weight", "list weight", "two models"],
)
def test_a_malformed_reply_is_a_loss(message: Message) -> None:
    rsu_round = new_round()
    rsu_round.take("v00", message)
    assert [(loss.vehicle, loss.cause) for loss in rsu_round.losses] == [("v00", Cause.MALFORMED)]
    assert rsu_round.close(0.0)[0] is None


def test_bytes_that_are_no_array_are_malformed() -> None:
    record = ArrayRecord([np.zeros(2, np.float32)])
    record["0"].data = b"not an array"
    rsu_round = new_round()
    rsu_round.take("v00", answer(record, MetricRecord({"num-examples": 1})))
    assert [loss.cause for loss in rsu_round.losses] == [Cause.MALFORMED]


def test_a_second_reply_and_one_that_was_not_asked_for_do_not_count() -> None:
    rsu_round = new_round()
    rsu_round.take("v00", train_reply(100, moved(1)))
    rsu_round.take("v00", train_reply(100, moved(50)))
    rsu_round.take("intruder", train_reply(9, moved(50)))
    rsu_round.take("v01", train_reply(101, moved(1)))
    merged, report = rsu_round.close(1.0)
    assert [(loss.vehicle, loss.cause) for loss in rsu_round.losses] == [
        ("v00", Cause.STRANGER),
        ("intruder", Cause.STRANGER),
    ]
    assert report.accepted == 2
    assert merged is not None
    np.testing.assert_allclose(merged["w"], moved(1)["w"])


def test_a_second_chance_after_a_refusal_is_not_given() -> None:
    rsu_round = new_round(1)
    rsu_round.take("v00", train_reply(100, moved(np.nan)))
    rsu_round.take("v00", train_reply(100, moved(1)))
    assert [loss.cause for loss in rsu_round.losses] == [Cause.NOT_FINITE, Cause.STRANGER]
    assert rsu_round.close(0.0)[0] is None


def test_who_did_not_answer_is_late_at_the_end_and_the_simulated_late_from_the_start() -> None:
    asked, late = members(3)[:2], members(3)[2:]
    rsu_round = RsuRound(Plan("rsu-0", tuple(asked), 3, tuple(late)), REFERENCE, GateConfig(), ("mean", RuleConfig()))
    assert [(loss.vehicle, loss.cause) for loss in rsu_round.losses] == [("v02", Cause.LATE)]
    rsu_round.take("v01", train_reply(101, moved(1)))
    rsu_round.close(0.0)
    assert [(loss.vehicle, loss.cause) for loss in rsu_round.losses] == [("v02", Cause.LATE), ("v00", Cause.LATE)]


def test_the_gate_knows_the_typical_length() -> None:
    rsu_round = new_round(1, typical_norm=0.1)  # allowed: 10 · 0.1
    rsu_round.take("v00", train_reply(100, moved(1)))  # √2
    assert [loss.cause for loss in rsu_round.losses] == [Cause.NORM]


@pytest.mark.parametrize(
    ("wanted", "quorum", "accepted", "moves"),
    [
        (4, 0.5, 1, False),
        (4, 0.5, 2, True),
        (5, 0.5, 2, False),  # half of five is 2.5: three
        (5, 0.5, 3, True),
        (3, 1.0, 2, False),
        (3, 1.0, 3, True),
        (3, 0.0, 0, False),  # without any update there is nothing to move to
        (3, 0.0, 1, True),
    ],
)
def test_quorum(wanted: int, quorum: float, accepted: int, moves: bool) -> None:
    rsu_round = new_round(wanted)
    for i in range(accepted):
        rsu_round.take(f"v{i:02}", train_reply(100 + i, moved(1)))
    merged, report = rsu_round.close(quorum)
    assert (report.moved, merged is not None) == (moves, moves)
    assert len(rsu_round.losses) == wanted - accepted


def test_a_quorum_of_28_percent_of_25_is_7() -> None:
    rsu_round = new_round(25)
    for i in range(7):
        rsu_round.take(f"v{i:02}", train_reply(100 + i, moved(1)))
    assert rsu_round.close(0.28)[1].moved
