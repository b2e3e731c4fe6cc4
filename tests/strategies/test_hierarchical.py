"""The whole server side through a fake Grid, with vehicles whose training is arithmetic."""

import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp.strategy import FedAvg

from clients.messages import (
    Arrays,
    EvaluateReply,
    Hello,
    TrainReply,
    decode_request,
    encode_evaluate_reply,
    encode_hello,
    encode_train_reply,
    from_record,
    to_record,
)
from strategies.accumulator import RuleConfig
from strategies.gate import Cause, GateConfig
from strategies.hierarchical import Hierarchical
from strategies.hierarchical_config import HierarchicalConfig
from strategies.membership import NotEnoughVehicles
from strategies.report import EvaluateReport, RoundReport, Traffic
from strategies.rsu_round import Participation
from strategies.server_optimizer import ServerOptimizerConfig
from strategies.state import RunState
from strategies.topology import GivenTopology
from tests.fakes import (
    EVALUATE,
    HELLO,
    NODE_UNAVAILABLE,
    TRAIN,
    Adder,
    Behaviour,
    FakeGrid,
    Fleet,
    by_node,
    failing,
    lying,
    silent,
    train_reply,
    twice,
)


def start_model(value: float = 10.0) -> Arrays:
    return {"w": np.full((2, 2), value, np.float32), "b": np.full(4, value, np.float32), "n": np.array([3])}


MODEL_BYTES = 2 * 2 * 4 + 4 * 4 + 8

TWO_RSUS = Fleet(Adder("a", 1, 1.0, "north"), Adder("b", 2, 2.0, "south"))  # one vehicle each
FOUR = Fleet(  # two RSUs: a and b in the north, c and d in the south
    Adder("a", 1, 1.0, "north"), Adder("b", 3, 2.0, "north"), Adder("c", 2, 5.0, "south"), Adder("d", 2, 7.0, "south")
)
NORTH, SOUTH = (1 * 1 + 3 * 2) / 4, (2 * 5 + 2 * 7) / 4  # steps of the RSUs: 1.75 and 6, four examples each


class Driven:
    """A strategy that has been run, and everything that it reported."""

    def __init__(self, fleet: Fleet, config: HierarchicalConfig, state: RunState | None = None) -> None:
        self.grid = FakeGrid(fleet, fleet.at_node)
        self.state = state or RunState(start_model())
        self.rounds: list[RoundReport] = []
        self.evaluations: list[EvaluateReport] = []
        self.strategy = Hierarchical(
            config, self.state, on_round=self.rounds.append, on_evaluate=self.evaluations.append
        )

    def run(self, num_rounds: int) -> "Driven":
        self.strategy.start(self.grid, to_record(self.state.arrays), num_rounds=num_rounds, timeout=1.0)
        return self

    @property
    def moved_by(self) -> float:
        """How far the global model is from `start_model`, after checking that all float numbers moved alike."""
        moves = np.concatenate([(self.state.arrays[name] - start_model()[name]).ravel() for name in ("w", "b")])
        np.testing.assert_allclose(moves, moves[0], rtol=1e-6)
        return float(moves[0])

    def losses(self) -> list[tuple[str, Cause]]:
        return [(loss.vehicle, loss.cause) for report in self.rounds for loss in report.losses]


def config(vehicles: int, rsus: int, rsu_rounds: int = 1, **fields: object) -> HierarchicalConfig:
    return HierarchicalConfig(vehicles=vehicles, rsus=rsus, rsu_rounds=rsu_rounds, join_timeout_s=0.05, **fields)


# Sums


class Noisy:
    """Vehicles whose training is any function of model, vehicle and round: enough digits to tell sums apart."""

    def __init__(self, count: int) -> None:
        self.at_node = {i: f"v{i}" for i in range(1, count + 1)}

    def __call__(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        if message.metadata.message_type == HELLO:
            return encode_hello(Hello(self.at_node[node_id], "north", 7 * node_id), message)
        request = decode_request(message)
        rng = np.random.default_rng([node_id, int(request.config["server-round"])])
        arrays = {k: (v + 0.1 * rng.standard_normal(v.shape)).astype(v.dtype) for k, v in request.arrays.items()}
        return encode_train_reply(TrainReply(arrays, 7 * node_id, {"loss": 1.0}), message)


@pytest.mark.parametrize("flat", [True, False])
def test_one_rsu_and_kappa_2_of_one_is_flowers_fedavg_bit_for_bit(flat: bool) -> None:
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((5, 3)).astype(np.float32), "b": rng.standard_normal(7).astype(np.float32)}
    flowers = FedAvg(fraction_evaluate=0.0).start(
        FakeGrid(Noisy(4), range(1, 5), order=by_node), to_record(start), num_rounds=3
    )
    fleet = Noisy(4)
    ours = Driven(fleet, config(4, 1, flat=flat, evaluate_every=0), RunState(start))
    ours.grid.order = lambda replies: replies[::-1]  # who answers first must not matter
    result = ours.strategy.start(ours.grid, to_record(start), num_rounds=3, timeout=1.0)
    for name, array in flowers.arrays.items():
        assert ours.state.arrays[name].tobytes() == array.numpy().tobytes()
        assert result.arrays[name].numpy().tobytes() == array.numpy().tobytes()


@pytest.mark.parametrize(("rsus", "rsu_rounds"), [(1, 1), (2, 1), (1, 2), (2, 2), (2, 4)])
def test_vehicles_that_add_1_and_2_with_1_and_2_examples(rsus: int, rsu_rounds: int) -> None:
    # Every round moves the mean by (1 · 1 + 2 · 2) / 3, however it is divided: 4 · 5 / 3 = 6.6667.
    driven = Driven(TWO_RSUS, config(2, rsus, rsu_rounds)).run(4)
    assert driven.moved_by == pytest.approx(4 * 5 / 3, rel=1e-6)
    assert driven.state.round == 4
    assert driven.state.accepted == 8


def test_each_rsu_drifts_on_its_own_between_cloud_rounds() -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=3)).run(2)
    assert driven.moved_by == 0.0
    for rsu, step in (("rsu-0", NORTH), ("rsu-1", SOUTH)):
        np.testing.assert_allclose(driven.state.rsu_arrays[rsu]["b"], 10 + 2 * step, rtol=1e-6)
    assert driven.state.rsu_examples == {"rsu-0": 8, "rsu-1": 8}


def test_each_vehicle_receives_its_own_rsus_model() -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=2)).run(3)
    received = {
        (message.content["config"]["server-round"], message.metadata.dst_node_id): decode_request(message)
        for message in driven.grid.received(TRAIN)
    }
    agreed = 10 + (2 * NORTH + 2 * SOUTH) / 2
    for node_id, rsu, step in ((1, "rsu-0", NORTH), (2, "rsu-0", NORTH), (3, "rsu-1", SOUTH), (4, "rsu-1", SOUTH)):
        for server_round, value in ((1, 10.0), (2, 10 + step), (3, agreed)):
            request = received[server_round, node_id]
            np.testing.assert_allclose(request.arrays["b"], value, rtol=1e-6)
            assert request.config["rsu"] == rsu
            assert request.config["local-epochs"] == 1


def test_integers_are_averaged_and_rounded_on_their_way() -> None:
    # Steps 1 (1 example) and 2 (2 examples): 5/3 more, rounded to 2 in each of two rounds.
    driven = Driven(TWO_RSUS, config(2, 1)).run(2)
    assert driven.state.arrays["n"].tolist() == [3 + 2 + 2]
    assert driven.state.arrays["n"].dtype == np.int64


def test_the_server_optimizer_works_on_the_merged_model() -> None:
    server = ServerOptimizerConfig("fedavgm", learning_rate=0.5, momentum=0.5)
    driven = Driven(TWO_RSUS, config(2, 2, server=server)).run(2)
    # delta 5/3 both times: v = 5/3, then 0.5 · 5/3 + 5/3; each times 0.5.
    assert driven.moved_by == pytest.approx(0.5 * 5 / 3 * (1 + 1.5), rel=1e-6)


def test_robust_rules_run_at_both_tiers() -> None:
    steps = (1.0, 2.0, 12.0)  # of the vehicles of each RSU; those of the third are ten times as large
    fleet = Fleet(
        *(Adder(f"v{3 * r + i}", 1, s * f, f"r{r}") for r, f in enumerate((1, 1, 9)) for i, s in enumerate(steps))
    )
    driven = Driven(fleet, config(9, 3, rsu_rule="median", cloud_rule="trimmed-mean")).run(2)
    assert driven.moved_by == pytest.approx(2 * 2.0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"rsu_rule": "median", "rsus": 3},
            r"rsu-rule = 'median' takes 3 updates .* an RSU asks 2 of 2 vehicles .*validated-mean",
        ),
        ({"rsu_rule": "trimmed-mean", "rule": RuleConfig(byzantine=2)}, "takes 5 updates"),
        ({"rsu_rule": "krum"}, "rsu-rule = 'krum' takes 5 updates"),
        (
            {"rsu_rule": "median", "participation": Participation(fraction=0.5)},
            r"asks 2 of 3 vehicles \(fraction 0.5\)",
        ),
        (
            {"cloud_rule": "median"},
            "cloud-rule = 'median' takes 3 updates to survive byzantine = 1, and there are 2 RSUs",
        ),
        ({"cloud_rule": "trimmed-mean"}, "cloud-rule"),
        ({"cloud_rule": "krum"}, "cloud-rule = 'krum' takes 5"),
        ({"cloud_rule": "median", "rsus": 1, "flat": True, "rsu_rounds": 1}, "merges its vehicles by rsu-rule"),
    ],
)
def test_a_rule_that_cannot_survive_its_liars_is_refused(fields: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        HierarchicalConfig(**{"vehicles": 6, "rsus": 2, **fields})


def test_a_rule_is_refused_where_the_division_leaves_an_rsu_too_few() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, 1.0, "north" if i < 4 else "south") for i in range(6)))
    with pytest.raises(NotEnoughVehicles, match="rsu-1 asks 2"):
        Driven(fleet, config(6, 2, rsu_rule="median")).run(1)


def test_five_that_add_one_and_a_liar() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, -25.0 if i == 4 else 1.0, f"r{i % 2}") for i in range(6)))
    for rule in ("median", "trimmed-mean"):
        driven = Driven(fleet, config(6, 2, rsu_rule=rule)).run(1)
        assert driven.moved_by == pytest.approx(1.0)
        assert all(rsu.protected for rsu in driven.rounds[0].rsus)


def test_a_round_with_too_few_replies_goes_on_and_says_that_it_is_unprotected(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convoy"), "propagate", True)  # a command run in this process turns it off
    caplog.set_level(logging.WARNING, logger="convoy")
    fleet = Fleet(*(Adder(f"v{i}", 1, 1.0, f"r{i % 2}") for i in range(6)))
    driven = Driven(fleet, config(6, 2, rsu_rule="median"))
    driven.grid.behaviour[1, TRAIN] = silent
    driven.run(1)
    assert [rsu.protected for rsu in driven.rounds[0].rsus] == [False, True]
    assert "rsu-0 merged too few updates for 'median' to survive byzantine = 1" in caplog.text
    assert driven.moved_by == pytest.approx(1.0)


@pytest.mark.parametrize("rule", ["mean", "median", "norm-clip"])
def test_a_weight_is_held_against_the_hello(rule: str) -> None:
    fleet = Fleet(*(Adder(f"v{i}", 20, 1.0) for i in range(5)), Adder("liar", 20, -1.0))
    driven = Driven(fleet, config(6, 1, rsu_rule=rule, rule=RuleConfig(clip_norm=100.0)))
    driven.grid.behaviour[6, TRAIN] = lying(num_examples=1_000_000)
    driven.run(1)
    assert driven.moved_by == pytest.approx(1.0 if rule == "median" else 4 / 6, rel=1e-6)
    assert driven.rounds[0].rsus[0].examples == 120


def test_a_hello_of_a_million_weighs_no_more_than_three_of_the_usual() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 20, 1.0) for i in range(5)), Adder("liar", 1_000_000, -1.0))
    assert Driven(fleet, config(6, 1)).run(1).moved_by == pytest.approx((5 * 20 - 60) / 160, rel=1e-6)
    free = config(6, 1, gate=GateConfig(max_weight_ratio=0.0))
    assert Driven(fleet, free).run(1).moved_by == pytest.approx(-1.0, rel=1e-3)


def test_vehicles_that_collude_in_one_rsu_do_not_outweigh_the_others_in_the_cloud() -> None:
    liars = [Adder(f"liar-{i}", 1_000_000, -1.0, "south") for i in range(2)]
    fleet = Fleet(*(Adder(f"v{i}", 20, 1.0, "north") for i in range(4)), *liars)
    assert Driven(fleet, config(6, 2)).run(1).moved_by == pytest.approx((4 * 20 - 2 * 60) / 200, rel=1e-6)


def test_claiming_a_new_region_makes_nobody_an_rsu() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 20, 1.0) for i in range(6)), Adder("liar", 20, -25.0, "a region of its own"))
    assert Driven(fleet, config(7, 2, rsu_rule="median")).run(1).moved_by == pytest.approx(1.0)


def test_a_dead_node_counts_once_and_under_its_own_name() -> None:
    driven = Driven(FOUR, config(4, 2))
    for kind in (TRAIN, EVALUATE):
        driven.grid.behaviour[3, kind] = lambda message, _: [
            create_message_error_unavailable_res_message(message.metadata, "node_unavail")
        ]
    driven.run(1)
    assert driven.losses() == [("c", Cause.UNAVAILABLE)]
    assert [(loss.vehicle, loss.cause) for loss in driven.evaluations[0].losses] == [("c", Cause.UNAVAILABLE)]


def test_over_selection_takes_the_first_that_come_and_no_more_than_wanted() -> None:
    four = Fleet(*(Adder(f"v{i}", 1, 1.0 + i, "one") for i in range(4)))
    driven = Driven(four, config(4, 1, participation=Participation(fraction=0.5, over_selection=1.0)))
    seen: list[int] = []

    def slowest_first(replies: list[Message]) -> Iterator[Message]:
        for reply in reversed(replies):
            seen.append(reply.metadata.src_node_id)
            yield reply

    driven.grid.order = slowest_first
    driven.strategy.configure_train(1, to_record({}), ConfigRecord(), driven.grid)
    seen.clear()
    driven.run(1)
    assert seen[:2] == [4, 3]  # and nobody was waited for after them
    assert seen[2:] == [4, 3, 2, 1]  # evaluation
    assert driven.moved_by == pytest.approx((3 + 4) / 2)


def test_an_rsu_that_is_full_takes_no_more_while_another_waits() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, 1.0 + i, f"r{i // 2}") for i in range(4)))
    driven = Driven(fleet, config(4, 2, participation=Participation(fraction=0.5, over_selection=1.0)))
    driven.run(1)  # v0, v1 of the first RSU come before v2
    assert [rsu.accepted for rsu in driven.rounds[0].rsus] == [1, 1]
    assert driven.moved_by == pytest.approx((1 + 3) / 2)


def test_the_norm_limit_follows_honest_vehicles_that_move_on() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, 0.01) for i in range(3)))
    driven = Driven(fleet, config(3, 1)).run(2)
    grown = Driven(Fleet(*(Adder(f"v{i}", 1, 1.0) for i in range(3))), config(3, 1), driven.state)
    grown.run(4)
    assert [report.accepted for report in grown.rounds] == [0, 3, 3, 3]


def test_a_minority_of_long_updates_never_moves_the_norm_limit() -> None:
    fleet = Fleet(Adder("a", 1, 0.1), Adder("b", 1, 0.1), Adder("liar", 1, 2.0))
    driven = Driven(fleet, config(3, 1)).run(6)
    assert [report.accepted for report in driven.rounds[1:]] == [2] * 5


def test_a_mute_newcomer_is_left_alone_ever_longer() -> None:
    driven = Driven(Fleet(Adder("a", 1, 1.0), Adder("b", 1, 1.0), Adder("c", 1, 1.0)), config(2, 1))
    driven.grid.nodes = [1, 2]
    driven.run(1)
    driven.grid.nodes, driven.grid.behaviour[3, HELLO] = [1, 2, 3], silent
    driven.run(8)
    assert [m.metadata.dst_node_id for m in driven.grid.received(HELLO)].count(3) == 3  # in periods 1, 3 and 7


def test_fltrust_asks_for_roots_at_its_tier() -> None:
    asked: list[tuple[float, int]] = []

    def train_root(arrays: Arrays, round_number: int) -> Arrays:
        asked.append((float(arrays["b"][0]), round_number))
        return {name: values + np.ones_like(values) for name, values in arrays.items()}

    fleet = Fleet(Adder("a", 1, 5.0), Adder("b", 100, -5.0))
    state = RunState(start_model())
    strategy = Hierarchical(config(2, 1, rsu_rule="fltrust"), state, train_root=train_root)
    strategy.start(FakeGrid(fleet, [1, 2]), to_record(state.arrays), num_rounds=2, timeout=1.0)
    # b goes the other way: no trust. a's update is cut to the root's length, 1 per number.
    np.testing.assert_allclose(state.arrays["b"], 10 + 2 * 1, rtol=1e-5)
    assert asked == [(10.0, 1), (pytest.approx(11.0), 2)]
    with pytest.raises(ValueError, match="root trainer"):
        Hierarchical(config(2, 1, cloud_rule="fltrust"), state)


# Vehicles that fail


LIES: dict[str, tuple[Behaviour, Cause]] = {
    "nan": (lying(arrays=lambda a: {**a, "b": a["b"] * np.float32(np.nan)}), Cause.NOT_FINITE),
    "inf": (lying(arrays=lambda a: {**a, "b": a["b"] * np.float32(np.inf)}), Cause.NOT_FINITE),
    "shape": (lying(arrays=lambda a: {**a, "b": a["b"][:3]}), Cause.SHAPE),
    "dtype": (lying(arrays=lambda a: {**a, "b": a["b"].astype(np.float64)}), Cause.DTYPE),
    "extra key": (lying(arrays=lambda a: {**a, "more": a["b"]}), Cause.KEYS),
    "missing key": (lying(arrays=lambda a: {"w": a["w"]}), Cause.KEYS),
    "a billion examples": (lying(num_examples=10**9), Cause.WEIGHT),
    "-9 examples": (lying(num_examples=-9), Cause.WEIGHT),
    "no examples": (lying(num_examples=0), Cause.WEIGHT),
    "100 times": (lying(arrays=lambda a: {**a, "w": a["w"] * np.float32(100)}), Cause.NORM),
    "raises": (failing(), Cause.CLIENT_ERROR),
    "gone": (failing(NODE_UNAVAILABLE), Cause.UNAVAILABLE),
    "silent": (silent, Cause.LATE),
}


@pytest.mark.parametrize(("behaviour", "cause"), LIES.values(), ids=LIES)
def test_a_bad_vehicle_costs_its_own_update_and_nothing_else(behaviour: Behaviour, cause: Cause) -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=2))
    driven.grid.behaviour[2, TRAIN] = behaviour
    driven.run(2)
    assert driven.losses() == [("b", cause), ("b", cause)]
    assert driven.state.losses == {"b": {str(cause): 2}}
    # Without b the north steps by 1 with 1 example a round, the south as before.
    assert driven.moved_by == pytest.approx((2 * 1 * (2 * 1) + 8 * (2 * SOUTH)) / (2 + 8), rel=1e-6)
    assert driven.state.accepted == 6


def test_two_answers_count_once() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[2, TRAIN] = twice
    driven.run(1)
    assert driven.losses() == [("b", Cause.STRANGER)]
    assert driven.moved_by == pytest.approx((NORTH + SOUTH) / 2, rel=1e-6)


def test_an_answer_from_someone_who_was_not_asked_does_not_count() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.order = lambda replies: (
        [train_reply(77, start_model(500.0), 9), *replies] if replies[0].metadata.message_type == TRAIN else replies
    )
    driven.run(1)
    assert driven.losses() == [("node-77", Cause.STRANGER)]
    assert driven.moved_by == pytest.approx((NORTH + SOUTH) / 2, rel=1e-6)


def test_an_rsu_that_loses_all_its_vehicles_keeps_its_model_and_the_cloud_goes_on() -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=2))
    driven.grid.behaviour[1, TRAIN] = driven.grid.behaviour[2, TRAIN] = failing()
    driven.run(2)
    assert driven.moved_by == pytest.approx(2 * SOUTH, rel=1e-6)
    assert [rsu.moved for rsu in driven.rounds[0].rsus] == [False, True]
    assert driven.rounds[1].cloud_moved is True


def test_an_rsu_below_its_quorum_keeps_its_model() -> None:
    driven = Driven(FOUR, config(4, 2, participation=Participation(quorum=1.0)))
    driven.grid.behaviour[2, TRAIN] = silent
    driven.run(1)
    assert [(rsu.accepted, rsu.moved) for rsu in driven.rounds[0].rsus] == [(1, False), (2, True)]
    # One RSU of two has news, the cloud's quorum asks for both.
    assert driven.rounds[0].cloud_moved is False
    assert driven.moved_by == 0.0


def test_news_wait_for_the_next_cloud_round_when_its_quorum_is_not_met() -> None:
    driven = Driven(TWO_RSUS, config(2, 2, participation=Participation(quorum=1.0)))
    driven.grid.behaviour[2, TRAIN] = silent
    driven.run(1)
    assert driven.state.rsu_examples == {"rsu-0": 1}
    np.testing.assert_allclose(driven.state.rsu_arrays["rsu-0"]["b"], 11.0)
    del driven.grid.behaviour[2, TRAIN]
    second = Hierarchical(driven.strategy.config, driven.state)
    second.start(driven.grid, to_record(driven.state.arrays), num_rounds=1, timeout=1.0)
    # a: 2 steps of 1 with 2 examples; b: one step of 2 with 2 examples.
    assert driven.moved_by == pytest.approx((2 * 2 + 2 * 2) / 4, rel=1e-6)


def test_nobody_answers_and_nothing_moves() -> None:
    driven = Driven(FOUR, config(4, 2))
    for node_id in FOUR.at_node:
        driven.grid.behaviour[node_id, TRAIN] = silent
    result = driven.strategy.start(driven.grid, to_record(driven.state.arrays), num_rounds=2, timeout=1.0)
    assert driven.moved_by == 0.0
    assert driven.state.losses == {name: {"late": 2} for name in "abcd"}
    assert [report.cloud_moved for report in driven.rounds] == [False, False]
    assert len(result.arrays) == 0  # Flower's result: no round gave a model


def test_an_update_ten_times_the_usual_is_refused_from_the_second_round_on() -> None:
    driven = Driven(TWO_RSUS, config(2, 2))
    driven.run(1)
    assert driven.state.recent_norms["rsu-0"] == pytest.approx([1 * np.sqrt(8)])
    assert driven.state.recent_norms["rsu-1"] == pytest.approx([2 * np.sqrt(8)])
    driven.grid.behaviour[1, TRAIN] = lying(arrays=lambda a: {**a, "w": a["w"] + np.float32(15)})  # 30 > 10 · √8
    Hierarchical(driven.strategy.config, driven.state).start(
        driven.grid, to_record(driven.state.arrays), num_rounds=1, timeout=1.0
    )
    assert driven.state.losses == {"a": {"norm": 1}}


# Bytes


@pytest.mark.parametrize("flat", [True, False])
def test_bytes_of_the_links(flat: bool) -> None:
    rsus, rsu_rounds = (1, 1) if flat else (2, 2)
    driven = Driven(FOUR, config(4, rsus, rsu_rounds, flat=flat)).run(4)
    radio = 4 * 4 * MODEL_BYTES  # four vehicles, four rounds
    cloud = radio if flat else 2 * 2 * MODEL_BYTES  # else two RSUs, two cloud rounds
    assert driven.state.traffic == Traffic(radio, radio, cloud, cloud)
    assert driven.rounds[-1].traffic == driven.state.traffic


def test_bytes_of_failed_vehicles() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[1, TRAIN] = failing()  # was sent a model, sent none
    driven.grid.behaviour[2, TRAIN] = lying(num_examples=-9)  # sent one in vain
    driven.run(1)
    assert driven.state.traffic.vehicle_down == 4 * MODEL_BYTES
    assert driven.state.traffic.vehicle_up == 3 * MODEL_BYTES
    assert driven.state.traffic.cloud_up == 1 * MODEL_BYTES  # the north has no news


# Rounds


def test_a_resumed_run_goes_on_counting() -> None:
    whole = Driven(FOUR, config(4, 2, rsu_rounds=2)).run(6)
    first = Driven(FOUR, config(4, 2, rsu_rounds=2)).run(2)
    counters = json.loads(json.dumps(first.state.counters()))
    second = Driven(FOUR, config(4, 2, rsu_rounds=2), RunState.restore(first.state.arrays, {}, counters)).run(4)
    assert [report.round for report in second.rounds] == [3, 4, 5, 6]
    assert [report.cloud_round for report in second.rounds] == [1, 2, 2, 3]
    sent = [message.content["config"]["server-round"] for message in second.grid.received(TRAIN)]
    assert sorted(set(sent)) == [3, 4, 5, 6]
    assert {message.metadata.group_id for message in second.grid.received(TRAIN)} == {"3", "4", "5", "6"}
    for name, values in whole.state.arrays.items():
        assert values.tobytes() == second.state.arrays[name].tobytes()
    assert whole.state.counters() == second.state.counters()


@pytest.mark.parametrize(("every", "at"), [(0, []), (1, [2, 4, 6, 8]), (2, [4, 8]), (3, [6])])
def test_vehicles_evaluate_every_nth_cloud_round(every: int, at: list[int]) -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=2, evaluate_every=every)).run(8)
    assert [report.round for report in driven.evaluations] == at
    assert len(driven.grid.received(EVALUATE)) == 4 * len(at)


def test_vehicles_evaluate_the_global_model() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[1, EVALUATE] = lambda message, _: [
        encode_evaluate_reply(EvaluateReply(2, {"first": 100.0}), message)
    ]
    driven.grid.behaviour[4, EVALUATE] = failing()
    driven.run(1)
    report, value = driven.evaluations[0], float(driven.state.arrays["w"][0, 0])
    assert report.vehicle_metrics == {"a": {"first": 100.0}, "b": {"first": value}, "c": {"first": value}}
    assert report.rsu_metrics["rsu-0"]["first"] == pytest.approx((2 * 100 + 3 * value) / 5)
    assert report.rsu_metrics["rsu-1"]["first"] == pytest.approx(value)
    assert report.metrics["first"] == pytest.approx((2 * 100 + 3 * value + 2 * value) / 7)
    assert [(loss.vehicle, loss.cause) for loss in report.losses] == [("d", Cause.CLIENT_ERROR)]


@pytest.mark.parametrize(("num_examples", "weight"), [(-9, 0), (10**9, 6)])  # three times the median, 2
def test_weights_of_evaluations_are_capped(num_examples: int, weight: int) -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[1, EVALUATE] = lambda message, _: [
        encode_evaluate_reply(EvaluateReply(num_examples, {"first": 0.0}), message)
    ]
    driven.run(1)
    value = float(driven.state.arrays["w"][0, 0])
    assert driven.evaluations[0].metrics["first"] == pytest.approx(7 * value / (7 + weight), rel=1e-5)


def test_evaluations_of_strangers_do_not_count() -> None:
    driven = Driven(FOUR, config(4, 2)).run(1)
    request = driven.grid.received(EVALUATE)[0]
    request.metadata.dst_node_id = 77
    stranger = encode_evaluate_reply(EvaluateReply(100, {"first": 1e6}), request)
    honest = FOUR(driven.grid.received(EVALUATE)[1])
    metrics = driven.strategy.aggregate_evaluate(1, [honest, stranger])
    assert metrics is not None
    assert metrics["first"] < 100


def test_train_metrics_reach_flowers_result() -> None:
    driven = Driven(FOUR, config(4, 2))
    result = driven.strategy.start(driven.grid, to_record(driven.state.arrays), num_rounds=1, timeout=1.0)
    assert result.train_metrics_clientapp[1]["step"] == pytest.approx((NORTH + SOUTH) / 2)
    assert driven.rounds[0].vehicle_metrics == {"a": {"step": 1}, "b": {"step": 2}, "c": {"step": 5}, "d": {"step": 7}}


def test_a_profile_drives_the_clock() -> None:
    driven = Driven(FOUR, config(4, 2, rsu_rounds=2, profile="uniform", local_epochs=4)).run(2)
    bits = 8 * MODEL_BYTES
    radio_s = bits / 50e6 + bits / 20e6 + 2 * 0.02
    slowest_s = 2 * (4 * 3 / 40 + radio_s)  # the north waits for b: 4 epochs of 3 examples, twice
    assert driven.rounds[0].simulated_s == pytest.approx(slowest_s / 2)
    assert driven.rounds[1].simulated_s == pytest.approx(slowest_s + 2 * (bits / 100e6 + 0.02))
    assert len(set(driven.state.clock.at_s.values())) == 1


def test_simulated_late_vehicles_are_not_asked_but_counted() -> None:
    late = Participation(deadline_s=0.1)  # 3 examples at 40 / s and 0.04 s of latency are more
    driven = Driven(FOUR, config(4, 2, profile="uniform", participation=late)).run(1)
    assert driven.losses() == [("b", Cause.LATE)]
    assert {message.metadata.dst_node_id for message in driven.grid.received(TRAIN)} == {1, 3, 4}
    assert driven.moved_by == pytest.approx((1 * 1 + 4 * SOUTH) / 5, rel=1e-6)


def test_only_a_fraction_is_asked_and_the_seed_decides_who() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, float(i), "one") for i in range(8)))

    def asked(seed: int) -> list[int]:
        driven = Driven(fleet, config(8, 1, seed=seed, participation=Participation(fraction=0.25))).run(3)
        return [message.metadata.dst_node_id for message in driven.grid.received(TRAIN)]

    assert asked(1) == asked(1)
    assert len(asked(1)) == 3 * 2
    assert len({tuple(asked(seed)) for seed in range(5)}) > 1


def test_a_round_ends_when_enough_have_answered() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, 1.0, "one") for i in range(4)))
    driven = Driven(fleet, config(4, 1, participation=Participation(fraction=0.5, over_selection=1.0))).run(1)
    assert driven.rounds[0].rsus[0].wanted == 2
    assert driven.rounds[0].accepted == 2
    assert len(driven.grid.received(TRAIN)) == 4


def test_surplus_vehicles_are_no_losses() -> None:
    fleet = Fleet(*(Adder(f"v{i}", 1, 1.0, "one") for i in range(4)))
    driven = Driven(fleet, config(4, 1, participation=Participation(fraction=0.5, over_selection=1.0))).run(1)
    assert driven.losses() == []


# Membership


def step(driven: Driven, server_round: int) -> None:
    """One round of a strategy that keeps its topology, as `start` would do it."""
    messages = driven.strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), driven.grid)
    driven.strategy.aggregate_train(server_round, driven.grid.send_and_receive(messages))


def test_vehicles_come_and_go_between_rounds() -> None:
    fleet = Fleet(*FOUR.at_node.values(), Adder("e", 4, 3.0, "south"))
    driven = Driven(fleet, config(4, 2))
    driven.grid.nodes = [1, 2, 3, 4]
    step(driven, 1)
    driven.grid.nodes = [1, 3, 4, 5]  # b leaves, e comes
    step(driven, 2)
    assert sorted(driven.strategy.topology.members) == ["a", "c", "d", "e"]
    assert driven.strategy.topology.rsu_of["e"] == "rsu-1"
    second = (1 * 1 + 2 * 5 + 2 * 7 + 4 * 3) / 9
    assert driven.moved_by == pytest.approx((NORTH + SOUTH) / 2 + second, rel=1e-6)
    driven.grid.nodes = [1, 2, 3, 4, 5]  # b is back, under its region's RSU
    step(driven, 3)
    assert driven.strategy.topology.rsu_of["b"] == "rsu-0"
    assert len(driven.grid.received(HELLO)) == 4 + 1 + 1


def test_an_rsu_may_run_empty() -> None:
    driven = Driven(FOUR, config(4, 2))
    step(driven, 1)
    driven.grid.nodes = [3, 4]
    step(driven, 2)
    assert [(rsu.wanted, rsu.moved) for rsu in driven.rounds[1].rsus] == [(0, False), (2, True)]
    assert driven.moved_by == pytest.approx((NORTH + SOUTH) / 2 + SOUTH, rel=1e-6)


def test_everyone_leaves_and_nothing_moves() -> None:
    driven = Driven(FOUR, config(4, 2))
    step(driven, 1)
    driven.grid.nodes = []
    step(driven, 2)
    assert driven.rounds[1].accepted == 0
    assert driven.moved_by == pytest.approx((NORTH + SOUTH) / 2, rel=1e-6)


def test_a_newcomer_cannot_take_a_members_name() -> None:
    fleet = Fleet(*FOUR.at_node.values(), Adder("a", 1000, -50.0, "north"))
    driven = Driven(fleet, config(4, 2))
    driven.grid.nodes = [1, 2, 3, 4]
    step(driven, 1)
    driven.grid.nodes = [1, 2, 3, 4, 5]
    step(driven, 2)
    assert driven.strategy.topology.members["a"].node_id == 1


def test_a_node_without_a_hello_stays_out() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[2, HELLO] = failing()
    driven.run(1)
    assert sorted(driven.strategy.topology.members) == ["a", "c", "d"]
    assert driven.losses() == [("node-2", Cause.CLIENT_ERROR)]
    assert driven.moved_by == pytest.approx((1 * 1 + 4 * SOUTH) / 5, rel=1e-6)


def test_too_few_vehicles_end_the_run_with_the_reasons() -> None:
    missing = Driven(TWO_RSUS, config(3, 2))
    with pytest.raises(NotEnoughVehicles, match="2 of 3 vehicles"):
        missing.run(1)
    mute = Driven(TWO_RSUS, config(2, 2))
    mute.grid.behaviour[1, HELLO] = silent
    with pytest.raises(NotEnoughVehicles, match="1 vehicles for 2 RSUs; node-1: late no hello"):
        mute.run(1)


# Config


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"vehicles": 0}, "vehicles must be at least 1, got 0"),
        ({"rsus": 0}, "rsus must be at least 1"),
        ({"rsu_rounds": 0}, "rsu_rounds must be at least 1"),
        ({"local_epochs": -1}, "local_epochs must be at least 1"),
        ({"vehicles": 2, "rsus": 3}, "3 RSUs need at least as many vehicles, got 2"),
        ({"flat": True, "rsus": 2}, "flat run has one group"),
        ({"flat": True, "rsus": 1, "rsu_rounds": 2}, "flat run has one group"),
        ({"rsu_rule": "best"}, "unknown rule 'best'; known: mean"),
        ({"cloud_rule": ""}, "unknown rule ''"),
        ({"profile": "fast"}, "unknown profile 'fast'; known: uniform"),
    ],
)
def test_config_names_the_field_and_its_limit(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        HierarchicalConfig(**fields)


def test_config_refuses_a_negative_evaluate_every() -> None:
    with pytest.raises(ValueError, match="evaluate_every"):
        replace(HierarchicalConfig(), evaluate_every=-1)


def test_the_model_sent_is_not_copied() -> None:
    driven = Driven(FOUR, config(4, 2))
    sums = {name: zlib.crc32(values.tobytes()) for name, values in driven.state.arrays.items()}
    original = driven.state.arrays
    driven.run(2)
    sent = from_record(driven.grid.received(TRAIN)[0].content["arrays"])
    assert all(np.shares_memory(sent[name], values) for name, values in original.items())
    assert {name: zlib.crc32(values.tobytes()) for name, values in original.items()} == sums


# What an attacker found


def test_steps_that_change_and_change_again_are_let_in() -> None:
    steps = {1: 0.01, 0: 1.0}  # odd rounds, even rounds
    state = RunState(start_model())
    accepted = []
    for number in range(1, 9):
        fleet = Fleet(*(Adder(f"v{i}", 1, steps[number % 2]) for i in range(4)))
        accepted.append(Driven(fleet, config(4, 1), state).run(1).rounds[0].accepted)
    assert accepted == [4, 0, 4, 4, 4, 4, 4, 4]


def test_liars_that_send_nothing_new_do_not_freeze_a_tier_that_checks_on_its_own_frames() -> None:
    def distance(arrays: Arrays) -> float:
        return float(np.abs(arrays["w"] - 30.0).mean())

    fleet = Fleet(*(Adder(f"v{i}", 1, 0.0 if i in (0, 1) else 1.0, f"r{i % 2}") for i in range(6)))
    rules = config(6, 2, rsu_rule="validated-mean", cloud_rule="validated-mean")
    driven = Driven(fleet, rules)
    driven.strategy = Hierarchical(rules, driven.state, on_round=driven.rounds.append, root_loss=distance)
    assert driven.run(3).moved_by > 1.9  # two of three move by 1 in each of three rounds


def test_a_cloud_round_that_leaves_the_model_as_it_was_is_idle() -> None:
    driven = Driven(Fleet(Adder("a", 1, 0.0), Adder("b", 1, 0.0)), config(2, 1))
    driven.run(2)
    assert [report.cloud_moved for report in driven.rounds] == [False, False]
    assert (driven.state.idle_cloud_rounds, driven.state.last_cloud_moved) == (2, False)


def test_a_step_that_is_not_finite_leaves_the_model_alone() -> None:
    server = ServerOptimizerConfig("fedavg", learning_rate=1e39)
    driven = Driven(TWO_RSUS, config(2, 1, server=server)).run(1)
    assert driven.rounds[0].cloud_moved is False
    assert driven.moved_by == 0.0


def test_who_gives_no_evaluation_is_counted() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour |= {(node_id, EVALUATE): silent for node_id in (1, 2, 3, 4)}
    driven.run(1)
    assert [(loss.vehicle, loss.cause) for loss in driven.evaluations[0].losses] == [
        (name, Cause.LATE) for name in "abcd"
    ]


def test_a_stranger_that_comes_first_takes_nobodys_place() -> None:
    fleet = Fleet(Adder("stranger", 1, 1.0), Adder("a", 1, 1.0), Adder("b", 1, 1.0))
    given = GivenTopology({"a": "north", "b": "south"})
    driven = Driven(fleet, replace(config(2, 2, given=given), join_timeout_s=5.0))

    class Arriving(FakeGrid):
        def get_node_ids(self) -> list[int]:
            self.looks = getattr(self, "looks", 0) + 1
            return [1, 2] if self.looks < 3 else [1, 2, 3]

    driven.grid = Arriving(fleet, [1, 2, 3])
    assert driven.run(1).rounds[0].accepted == 2


def test_what_a_vehicle_says_of_its_error_is_one_short_line() -> None:
    driven = Driven(FOUR, config(4, 2))
    driven.grid.behaviour[1, TRAIN] = failing(reason="boo\n\x1b[2Jround 9: all fine\r" + "x" * 10_000)
    driven.run(1)
    detail = driven.rounds[0].losses[0].detail
    assert detail.isprintable()
    assert len(detail) <= 300
