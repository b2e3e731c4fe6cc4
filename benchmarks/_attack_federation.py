"""A federation with liars in it: the real strategy and gate, and a grid in which some vehicles send attacks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, MessageType
from flwr.clientapp import ClientApp

from clients.attacks import ATTACKS
from clients.messages import (
    Arrays,
    Hello,
    TrainReply,
    decode_request,
    decode_train_reply,
    encode_hello,
    encode_train_reply,
    to_record,
)
from fl_app.local_grid import LocalGrid
from strategies.accumulator import RuleConfig
from strategies.gate import GateConfig
from strategies.hierarchical import Hierarchical
from strategies.hierarchical_config import HierarchicalConfig
from strategies.state import RunState

VEHICLES, RSUS, ATTACKERS = 10, 2, 2
PER_RSU = VEHICLES // RSUS
FALSE_WEIGHT = 1_000_000


@dataclass(frozen=True)
class Lie:
    """How attackers lie.

    Args:
        craft: key of `ATTACKS`, "" for a model honestly trained on what they hold, or "absent" for no answer.
        flips_labels: whether what they hold is wrongly labelled.
        together: whether all sit under one RSU; else they are spread evenly.
        claims: number of examples that they claim, 0 for the truth.
        region: that they claim, "" for the truth.
    """

    craft: str = ""
    flips_labels: bool = False
    together: bool = False
    claims: int = 0
    region: str = ""

    @property
    def attackers(self) -> tuple[int, ...]:
        """Indices of the vehicles that lie."""
        if self.together:
            return tuple(range(ATTACKERS))
        return tuple(k % RSUS * PER_RSU + k // RSUS for k in range(ATTACKERS))


ABSENT = "liars are absent"  # no attack, but the floor that no defence can go below: their data are missing
LIES: Mapping[str, Lie] = {
    ABSENT: Lie("absent"),
    "sign flip": Lie("sign-flip"),
    "sign flip x 4": Lie("sign-flip-4"),
    "scaling x 9": Lie("scaling"),
    "label flip": Lie(flips_labels=True),
    "free rider": Lie("free-rider"),
    "colluding in one RSU": Lie("ipm", together=True),
    "false weight": Lie("sign-flip", claims=FALSE_WEIGHT),
    "false region": Lie("ipm", region="a region of their own"),
    "ALIE": Lie("alie"),
    "ALIE, other side": Lie("alie-minus"),
    "IPM 2": Lie("ipm"),
    "IPM 0.5": Lie("ipm-weak"),
}


@dataclass(frozen=True)
class Setting:
    """A user's answer to liars, as run-config keys would say it."""

    rsu_rule: str = "mean"
    cloud_rule: str = "mean"
    max_weight_ratio: float = 3.0


SETTINGS: Mapping[str, Setting] = {
    "mean": Setting(),
    "recommended": Setting("validated-mean", "validated-mean", 1.0),
}


@dataclass(frozen=True)
class Task:
    """What is learned.

    Args:
        start: the first model.
        fit: trains a model at a vehicle: takes it, the vehicle, whether its labels are flipped, and the round.
        sizes: examples of each vehicle.
        loss: of a model on the tiers' own frames.
        score: of a model on frames that nobody trains on or holds, in points.
        rounds: RSU rounds.
        rsu_rounds: RSU rounds a cloud round.
    """

    start: Arrays
    fit: Callable[[Arrays, int, bool, int], Arrays]
    sizes: tuple[int, ...]
    loss: Callable[[Arrays], float]
    score: Callable[[Arrays], dict[str, float]]
    rounds: int
    rsu_rounds: int = 2


class AttackedGrid(LocalGrid):
    """Replaces what attackers trained by what they send, once their RSU's honest vehicles have answered."""

    def __init__(self, app: ClientApp, lie: Lie | None) -> None:
        super().__init__(app, VEHICLES, {}, workers=1)
        self._lie, self._liars = lie, {index + 1 for index in (lie.attackers if lie else ())}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        replies = sorted(super().send_and_receive(asked, timeout=timeout), key=lambda r: r.metadata.src_node_id)
        if asked and asked[0].metadata.message_type == MessageType.TRAIN and self._lie is not None:
            crafted = [self._craft(reply, asked, replies) for reply in replies]
            replies = [reply for reply in crafted if reply is not None]
        return iter(replies)

    def _craft(self, reply: Message, asked: list[Message], replies: list[Message]) -> Message | None:
        node_id, lie = reply.metadata.src_node_id, self._lie
        if node_id not in self._liars or lie is None or not lie.craft:
            return reply
        if lie.craft == "absent":
            return None
        request = next(message for message in asked if message.metadata.dst_node_id == node_id)
        rsu_of = {message.metadata.dst_node_id: message.content["config"]["rsu"] for message in asked}
        honest = [r for r in replies if r.metadata.src_node_id not in self._liars]
        if failed := [r.error.reason for r in replies if r.has_error()]:
            raise RuntimeError(f"training failed: {failed[0]}")
        near = [r for r in honest if rsu_of[r.metadata.src_node_id] == rsu_of[node_id]]
        peers = [decode_train_reply(r).arrays for r in near or honest]
        own = decode_train_reply(reply)
        arrays = ATTACKS[lie.craft](decode_request(request).arrays, own.arrays, peers)
        return encode_train_reply(TrainReply(arrays, lie.claims or own.num_examples), request)


def run_attacked(task: Task, setting: Setting, lie: Lie | None, seed: int) -> dict[str, float]:
    """Returns mean scores over the last quarter of the cloud rounds, and how many updates were refused."""
    config = HierarchicalConfig(
        vehicles=VEHICLES,
        rsus=RSUS,
        rsu_rounds=task.rsu_rounds,
        evaluate_every=0,
        gate=GateConfig(max_weight_ratio=setting.max_weight_ratio),
        rsu_rule=setting.rsu_rule,
        cloud_rule=setting.cloud_rule,
        rule=RuleConfig(),
        seed=seed,
    )
    state, scores = RunState(task.start), list[dict[str, float]]()
    cloud_rounds = task.rounds // task.rsu_rounds
    scored = max(1, cloud_rounds // 4)

    def on_round(report: Any) -> None:
        if report.cloud_moved is not None and report.cloud_round > cloud_rounds - scored:
            scores.append(task.score(state.arrays))

    strategy = Hierarchical(config, state, on_round=on_round, root_loss=task.loss)
    grid = AttackedGrid(_client_app(task, lie), lie)
    strategy.start(grid, to_record(task.start), task.rounds)
    grid.close()
    means = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    return means | {"refused": float(sum(sum(causes.values()) for causes in state.losses.values()))}


def _client_app(task: Task, lie: Lie | None) -> ClientApp:
    app, liars = ClientApp(), set(lie.attackers if lie else ())

    @app.query("hello")
    def hello(message: Message, context: Any) -> Message:
        index = int(context.node_config["partition-id"])
        lies = lie if lie is not None and index in liars else Lie()
        region = lies.region or f"region-{index // PER_RSU}"
        return encode_hello(Hello(f"vehicle-{index:02d}", region, lies.claims or task.sizes[index]), message)

    @app.train()
    def train(message: Message, context: Any) -> Message:
        index, request = int(context.node_config["partition-id"]), decode_request(message)
        flipped = index in liars and lie is not None and lie.flips_labels
        arrays = task.fit(request.arrays, index, flipped, int(request.config["server-round"]))
        return encode_train_reply(TrainReply(arrays, task.sizes[index]), message)

    return app
