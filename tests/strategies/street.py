"""Four vehicles on one street under two RSUs, whose answers are worked out: a fake for tests of the strategy."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message

from clients.gaussian_messages import (
    ALIGN,
    ALL,
    FIT,
    REFINE,
    AlignReply,
    FitReply,
    Found,
    RefineReply,
)
from clients.gaussian_wire import (
    JOB,
    decode_align,
    decode_fit,
    decode_fit_reply,
    decode_judge,
    decode_refine,
    decode_refine_reply,
    encode_align_reply,
    encode_fit_reply,
    encode_refine_reply,
)
from clients.messages import (
    EvaluateReply,
    Hello,
    TrainReply,
    TrainRequest,
    decode_request,
    decode_train_reply,
    encode_evaluate_reply,
    encode_hello,
    encode_train_reply,
)
from geometry import Sim3
from recon.chart import rotation_matrix
from recon.compressed import STEPS, compress_gaussians
from recon.gaussians import Gaussians
from recon.plan import Plan, Stretch
from recon.refine import Update
from strategies.gate import Cause
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_fusion import GaussianFusion
from strategies.gaussian_report import FusionReport
from strategies.gaussian_state import BASE, FusionState
from strategies.report import EvaluateReport
from tests.fakes import (
    EVALUATE,
    HELLO,
    TRAIN,
    Behaviour,
    FakeGrid,
)

RSU_OF = {"a": "north", "b": "north", "c": "south", "d": "south"}
WEST_M = {name: 10.0 * k for k, name in enumerate("abcd")}  # each drives ten metres of one street
HOUSES = 20  # of a vehicle: on both sides of its ten metres
RISE_M = 0.125  # that every update would lift what a vehicle sees; 512 steps of the grid of changes
HALF_M = STEPS["means"] / 2 * 1.02  # that a place is off once it has travelled, in worlds a percent larger
AXIS = np.array([1.0, 2.0, 2.0]) / 3


def stretch(vehicle: str, **changed: Any) -> Stretch:
    way = np.column_stack([WEST_M[vehicle] + np.arange(0.5, 10), np.zeros(10)])
    return replace(Stretch(vehicle, RSU_OF[vehicle], way, 4, 40, surveyed=vehicle == "a"), **changed)


PLAN = Plan(tuple(stretch(vehicle) for vehicle in "abcd"))


def houses(vehicle: str) -> Gaussians:
    """What there is along a vehicle's ten metres, in the world of all: a ball each metre, on both sides."""
    east = np.repeat(WEST_M[vehicle] + np.arange(0.5, 10), 2)
    places = np.column_stack([east, np.tile([-4.0, 4.0], 10), np.full(20, 2.0)])
    made = Gaussians.from_points(places, np.full((20, 3), 0.5), opacity=0.8)
    return replace(made, log_scales=torch.full((20, 3), math.log(0.3)))


def world_from_own(vehicle: str) -> Sim3:
    """Positioning of all but `a` is off by half a metre, half a degree and a percent, about its stretch."""
    if vehicle == "a":
        return Sim3.identity()
    sign = (-1.0) ** ord(vehicle)
    turn = rotation_matrix(torch.tensor(sign * math.radians(0.5) * AXIS)).numpy()
    centre, scale = PLAN[vehicle].centre_m, 1 + sign * 0.01
    return Sim3(turn, centre + sign * np.array([0.3, 0.4, 0.0]) - scale * turn @ centre, scale)


@dataclass
class Street:
    """The client function of four vehicles at nodes 1, 2, ... Answers are worked out, not fitted."""

    names: tuple[str, ...] = ("a", "b", "c", "d")

    def __call__(self, message: Message) -> Message:
        vehicle = self.names[message.metadata.dst_node_id - 1]
        if message.metadata.message_type == HELLO:
            return encode_hello(Hello(vehicle, RSU_OF.get(vehicle, "?"), 4), message)
        request = decode_request(message)
        if message.metadata.message_type == EVALUATE:
            return encode_evaluate_reply(self.judged(vehicle, request), message)
        jobs: dict[object, Callable[[str, TrainRequest], TrainReply]] = {
            FIT: self.fitted,
            ALIGN: self.aligned,
            REFINE: self.refined,
        }
        return encode_train_reply(jobs[request.config[JOB]](vehicle, request), message)

    def fitted(self, vehicle: str, request: TrainRequest) -> TrainReply:
        decode_fit(request)
        own = houses(vehicle).transformed(world_from_own(vehicle).inverse())
        return encode_fit_reply(FitReply(own, 4, {"fit-cpu-s": 1.0}))

    def aligned(self, vehicle: str, request: TrainRequest) -> TrainReply:
        """Pair by pair it knows; of all together it looks which house each is nearest to."""
        own_from_world, asked = world_from_own(vehicle).inverse(), decode_align(request)
        found = {}
        if asked.together:
            shown = np.concatenate([other.means.double().numpy() for other in asked.others.values()])
            true = own_from_world.apply(np.concatenate([houses(name).means.double().numpy() for name in "abcd"]))
            nearest = np.linalg.norm(shown[:, None] - true, axis=2).argmin(axis=1)
            found[ALL] = Found(Sim3.from_points(shown, true[nearest]), 0.1, 0.05, 4)
        else:
            for other in asked.others:
                place = Sim3.identity() if other == BASE else world_from_own(other)
                found[other] = Found(own_from_world @ place, 0.5, 0.05, 4)
        return encode_align_reply(AlignReply(found, {"align-cpu-s": 1.0}))

    def refined(self, vehicle: str, request: TrainRequest) -> TrainReply:
        """Lifts what lies within twelve metres of the middle of its stretch."""
        scene = decode_refine(request).scene
        away_m = (scene.means[:, 0] - float(PLAN[vehicle].centre_m[0])).abs()
        rows = torch.nonzero(away_m < 12)[:, 0]
        changes = {name: torch.zeros_like(tensor[rows]) for name, tensor in scene.tensors().items()}
        changes["means"][:, 2] = RISE_M
        update = Update(changes, torch.full((len(rows),), 5.0))
        metrics = {"psnr-db": 20.0, "ssim": 0.5} if decode_refine(request).report_quality else {}
        return encode_refine_reply(RefineReply(rows, update, 4, {"refine-cpu-s": 1.0, **metrics}))

    def judged(self, vehicle: str, request: TrainRequest) -> EvaluateReply:
        count = len(decode_judge(request).scene)
        number = "abcd".index(vehicle)
        border = {"border-views": 1.0, "border-psnr-db": 10.0 + number} if number % 2 else {"border-views": 0.0}
        return EvaluateReply(number + 1, {"psnr-db": 20.0 + number, "gaussians": float(count), **border})


SETTINGS: dict[str, Any] = {
    "align_rounds": 1,
    "refine_rounds": 2,
    "acceptance": None,
    "duplicates": None,
    "vehicles": 4,
    "join_timeout_s": 0.05,
}


class Driven:
    """A strategy on a fake Grid, and everything that it reported."""

    def __init__(
        self, street: Street | None = None, *, plan: Plan = PLAN, state: FusionState | None = None, **changed: Any
    ) -> None:
        street = street or Street()
        self.grid = FakeGrid(street, range(1, len(street.names) + 1))
        self.config = FusionConfig(**{**SETTINGS, "vehicles": len(street.names), **changed})
        self.state = state or FusionState()
        self.rounds: list[FusionReport] = []
        self.evaluations: list[EvaluateReport] = []
        self.strategy = GaussianFusion(
            self.config, plan, self.state, on_round=self.rounds.append, on_evaluate=self.evaluations.append
        )

    def run(self, num_rounds: int | None = None) -> "Driven":
        logging.getLogger("convoy").setLevel(logging.CRITICAL)
        left = self.config.num_rounds - self.state.round if num_rounds is None else num_rounds
        self.strategy.start(self.grid, ArrayRecord(), num_rounds=left, timeout=1.0)
        return self

    def requests(self, job: str) -> dict[str, TrainRequest]:
        """Of one job, by vehicle, those of the last round."""
        names = self.grid.client.names  # type: ignore[attr-defined]
        sent = [(names[m.metadata.dst_node_id - 1], decode_request(m)) for m in self.grid.received(TRAIN)]
        return {vehicle: request for vehicle, request in sent if request.config[JOB] == job}

    def losses(self) -> list[tuple[int, str, Cause]]:
        return [(report.round, loss.vehicle, loss.cause) for report in self.rounds for loss in report.losses]


def only(job: str, behave: Behaviour) -> Behaviour:
    """A behaviour in one kind of round; honest in the others."""

    def maybe(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        return behave(message, client) if decode_request(message).config[JOB] == job else [client(message)]

    return maybe


def with_arrays(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Behaviour:
    """An honest answer with other arrays."""

    def behave(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        honest = decode_train_reply(client(message))
        return [encode_train_reply(replace(honest, arrays=change(dict(honest.arrays))), message)]

    return behave


def with_gaussians(change: Callable[[Gaussians], Gaussians]) -> Behaviour:
    """An honest answer to a fit with other Gaussians."""

    def changed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"part": compress_gaussians(change(decode_fit_reply(TrainReply(arrays, 4)).gaussians))}

    return with_arrays(changed)


def with_update(change: Callable[[RefineReply], RefineReply]) -> Behaviour:
    """An honest answer to a refinement with another update."""

    def behave(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        scene = decode_refine(decode_request(message)).scene
        honest = decode_refine_reply(decode_train_reply(client(message)), scene)
        return [encode_train_reply(encode_refine_reply(change(honest)), message)]

    return behave


def with_means_times(factor: float, visibility: float = 1.0) -> Behaviour:
    """An update whose places are moved and whose claims are made so many times as much."""

    def change(reply: RefineReply) -> RefineReply:
        changes = {**reply.update.changes, "means": reply.update.changes["means"] * factor}
        return replace(reply, update=Update(changes, reply.update.visibility * visibility))

    return with_update(change)


def with_metrics(**metrics: float) -> Behaviour:
    """An honest answer with other metrics."""

    def behave(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        honest = decode_train_reply(client(message))
        return [encode_train_reply(replace(honest, metrics={**honest.metrics, **metrics}), message)]

    return behave


def bits(scene: dict[str, Gaussians]) -> dict[str, list[bytes]]:
    return {rsu: [tensor.numpy().tobytes() for tensor in part.tensors().values()] for rsu, part in scene.items()}


def restored(state: FusionState) -> FusionState:
    """Through what a checkpoint holds."""
    return FusionState.restore(state.arrays(), json.loads(json.dumps(state.counters())))
