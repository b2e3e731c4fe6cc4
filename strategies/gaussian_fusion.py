"""Vehicle -> RSU -> cloud for a scene of Gaussians, as a Flower Strategy: fit, align and merge, refine.

First every vehicle fits its stretch. Then vehicles say where their neighbours lie in their own worlds; RSUs and the
cloud lay all worlds out, and after the last such round merge. Further rounds refine at the vehicles' images. Sets
change their size, so nothing is averaged by position in an array: a place belongs to the region that it lies in. No
image and no pose is sent. This class asks and counts; what answers come to is in `gaussian_closing`, and the
mathematics in `gaussian_placing`, `gaussian_scene` and `gaussian_trust`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from clients.gaussian_messages import ALIGN, FIT, REFINE
from clients.gaussian_wire import MISSING, TEACHER, encode_align
from clients.messages import (
    TrainReply,
    TrainRequest,
    count_bytes,
    decode_evaluate_reply,
    decode_train_reply,
    encode_request,
    to_record,
)
from recon.plan import Plan
from strategies.arithmetic import share_of
from strategies.gate import Cause
from strategies.gaussian_aligning import named, pair_requests, settling_requests
from strategies.gaussian_asking import (
    bytes_between_rsus,
    bytes_to_rsus,
    chosen,
    fit_requests,
    judge_requests,
    refine_requests,
    seen_by,
)
from strategies.gaussian_closing import Closed, close_align, close_fit, close_refine
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_judging import capped, decoded, evaluate_report
from strategies.gaussian_report import FusionReport
from strategies.gaussian_scene import Around, whole
from strategies.gaussian_state import FusionState
from strategies.membership import Door, NotEnoughVehicles, gather_members
from strategies.replies import SentRequests, error_loss, stranger_loss
from strategies.report import EvaluateReport, Loss, tally

logger = logging.getLogger("convoy")
MOST_VIEWS = 1_000_000
Answer = TypeVar("Answer")


class GaussianFusion(Strategy):
    """The server side of a reconstruction.

    Args:
        config: settings.
        plan: who covers what; with the stretches of `state.base`, whose vehicles need not be there.
        state: where to start; its `round` is above 0 after a resume.
        replan: makes the plan again without some vehicles; None leaves their stretches to nobody.
        on_round, on_evaluate: called with a report after each, when `state` is complete.
    """

    def __init__(
        self,
        config: FusionConfig,
        plan: Plan,
        state: FusionState,
        *,
        replan: Callable[[Sequence[str]], Plan] | None = None,
        on_round: Callable[[FusionReport], None] = lambda _: None,
        on_evaluate: Callable[[EvaluateReport], None] = lambda _: None,
    ) -> None:
        self.config, self.plan, self.state = config, plan, state
        self._replan, self._on_round, self._on_evaluate = replan, on_round, on_evaluate
        self._nodes: dict[str, int] = {}
        self._asked: set[str] = set()
        self._requests = SentRequests()
        self._sent: dict[str, Around] = {}
        self._named: dict[str, set[tuple[str, str]]] = {}
        self._losses: list[Loss] = []
        self._began_s = time.monotonic()

    def summary(self) -> None:
        """Log the reconstruction in one line."""
        c = self.config
        logger.info("%d vehicles, %d RSUs, %d rounds of refinement", c.vehicles, len(self.plan.rsus), c.refine_rounds)

    @property
    def job(self) -> str:
        """What the next round is for."""
        if self.state.round == 0:
            return FIT
        return ALIGN if self.state.round <= self.config.align_rounds else REFINE

    @property
    def _refine_round(self) -> int:
        return self.state.round - 1 - self.config.align_rounds

    # 1. Ask.

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The requests of this round, a list: Flower's HTTP grid goes through them twice."""
        self._began_s = time.monotonic()
        if not self._nodes:
            self._meet(grid)
        requests = {FIT: self._fit_requests, ALIGN: self._align_requests, REFINE: self._refine_requests}[self.job]()
        return self._messages(requests, MessageType.TRAIN)

    def _meet(self, grid: Grid) -> None:
        """Find out who is there; before the first round, others make up for those who are not."""
        config, expected = self.config, {s.vehicle for s in self.plan.stretches if s.rsu not in self.state.base}
        count = min(config.vehicles, len(expected))
        least = max(1, share_of(config.quorum, count))
        door = Door(MOST_VIEWS, config.given, frozenset(expected))
        members, losses, _ = gather_members(grid, count, config.join_timeout_s, door, least)
        self._losses += losses
        self._nodes = {member.vehicle: member.node_id for member in members}
        if len(self._nodes) < least:
            why = "; ".join(f"{loss.vehicle}: {loss.cause} {loss.detail}" for loss in self._losses[:5])
            raise NotEnoughVehicles(f"{len(self._nodes)} of {count} planned vehicles are there, want {least}: {why}")
        if missing := sorted(expected - set(self._nodes)):
            self._make_up_for(missing)

    def _make_up_for(self, missing: list[str]) -> None:
        """Plan again where nobody has driven yet; else the missing count as lost."""
        if self._replan is None or self.state.round:
            self._losses += [Loss(vehicle, Cause.UNAVAILABLE, "did not join") for vehicle in missing]
            return
        self.plan, self.state.missing = self._replan(missing), missing
        self._nodes = {vehicle: node for vehicle, node in self._nodes.items() if vehicle in self.plan}

    def _messages(self, requests: Mapping[str, TrainRequest], kind: str) -> list[Message]:
        self._asked = set(requests)
        group, down = str(self.state.round + 1), sum(count_bytes(request.arrays) for request in requests.values())
        self.state.traffic = self.state.traffic.plus(vehicle_down=down)
        more = {MISSING: ",".join(self.state.missing)} if self.state.missing else {}
        messages = []
        for vehicle, request in sorted(requests.items()):
            content = encode_request(to_record(request.arrays), {**request.config, **more})
            messages.append((Message(content, self._nodes[vehicle], kind, group_id=group), vehicle))
        self._requests = SentRequests(messages)
        return [message for message, _ in messages]

    def _fit_requests(self) -> dict[str, TrainRequest]:
        places = self.plan.waypoints_of(self.plan.rsus).nbytes
        self.state.traffic = self.state.traffic.plus(cloud_down=places * len(self.plan.rsus))
        return fit_requests(self.plan, self.config, self._nodes)

    def _align_requests(self) -> dict[str, TrainRequest]:
        """Pair by pair at first; then those that are left, at all around them at once."""
        ask = pair_requests if self.state.round == 1 else settling_requests
        asked = ask(self.state, self.plan, self.config, self._nodes)
        self._named = {vehicle: named(request) for vehicle, request in asked.items()}
        requests = {vehicle: encode_align(request) for vehicle, request in asked.items()}
        self.state.traffic = self.state.traffic.plus(**bytes_between_rsus(requests, self.plan))
        return requests

    def _refine_requests(self) -> dict[str, TrainRequest]:
        state, plan, config, number = self.state, self.plan, self.config, self._refine_round
        vehicles = chosen(state, plan, config, self._nodes, number) if state.scene else []
        self._sent = seen_by(state, plan, config, vehicles) if vehicles else {}
        requests = refine_requests(state, plan, config, self._sent, number)
        taught = any(TEACHER in request.arrays for request in requests.values())
        for scene in (state.scene, state.teacher if taught else {}):
            if self._sent and scene:
                state.traffic = state.traffic.plus(cloud_down=bytes_to_rsus(whole(scene), plan, self._sent))
        return requests

    # 2. Gather.

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the answers in and bring the scene a step further."""
        job, wanted = self.job, len(self._asked)
        answers = self._answers(replies, decode_train_reply)
        self.state.traffic = self.state.traffic.plus(vehicle_up=sum(count_bytes(r.arrays) for r in answers.values()))
        closed = self._closed(job, answers)
        self._losses += closed.losses
        self.state.round += 1
        self.state.accepted += len(closed.accepted)
        losses = self._counted_losses()
        held = self.state.scene or self.state.parts
        report = FusionReport(
            round=self.state.round,
            job=job,
            wall_s=time.monotonic() - self._began_s,
            wanted=wanted,
            accepted=len(closed.accepted),
            gaussians={name: len(gaussians) for name, gaussians in sorted(held.items())},
            traffic=self.state.traffic,
            vehicle_metrics={vehicle: dict(answers[vehicle].metrics) for vehicle in closed.accepted},
            losses=losses,
            dropped=closed.dropped,
            links=closed.links,
            unplaced=closed.unplaced,
        )
        self._on_round(report)
        return None, MetricRecord({"accepted": len(closed.accepted), "gaussians": sum(report.gaussians.values())})

    def _counted_losses(self) -> tuple[Loss, ...]:
        """What was lost since the last time, logged and counted."""
        losses, self._losses = tuple(self._losses), []
        self.state.losses = tally(self.state.losses, losses)
        for loss in losses:
            logger.warning("round %d: nothing from %s: %s %s", self.state.round, loss.vehicle, loss.cause, loss.detail)
        return losses

    def _answers(self, replies: Iterable[Message], decode: Callable[[Message], Answer]) -> dict[str, Answer]:
        """One answer a vehicle; what is late, lost, twice or no answer at all is counted."""
        answers: dict[str, Answer] = {}
        waiting = sorted(self._asked)
        for message in replies:
            vehicle = self._requests.find_vehicle(message)
            if vehicle is None:
                self._losses.append(stranger_loss(message))
                continue
            if vehicle not in waiting:
                self._losses.append(Loss(vehicle, Cause.STRANGER, "a second reply in one round"))
                continue
            waiting.remove(vehicle)
            if message.has_error():
                self._losses.append(error_loss(vehicle, message))
            elif (answer := decoded(self._losses, vehicle, decode, message)) is not None:
                answers[vehicle] = answer
        self._losses += [Loss(vehicle, Cause.LATE, "no answer before the deadline") for vehicle in waiting]
        return answers

    def _closed(self, job: str, answers: Mapping[str, TrainReply]) -> Closed:
        facts = (self.state, self.plan, self.config, answers)
        if job == FIT:
            return close_fit(*facts)
        if job == ALIGN:
            return close_align(*facts, self._named)
        return close_refine(*facts, self._sent, self._refine_round)

    # 3. Evaluate at the vehicles, once there is a scene.

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the merge and after every refinement, all whose world is known judge the scene."""
        self._asked = set()
        if not self.state.scene:
            return []
        there = sorted(set(self.state.world_from) & set(self._nodes))
        requests = judge_requests(self.state, self.plan, self.config, there)
        traffic = self.state.traffic  # what judging sends is no part of the method
        messages = self._messages(requests, MessageType.EVALUATE)
        self.state.traffic = traffic
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Means over all images that vehicles held back."""
        answers = self._answers(replies, decode_evaluate_reply)
        rows = {vehicle: capped(answer, self.plan[vehicle]) for vehicle, answer in answers.items()}
        losses = self._counted_losses()
        if not rows and not losses:
            return None
        report = evaluate_report(self.state.round, rows, losses, self.plan)
        self._on_evaluate(report)
        return MetricRecord(dict(report.metrics))

    def judge(self, grid: Grid, timeout_s: float) -> None:
        """Have the scene judged outside of a round: a run may have been broken off before it was."""
        if not self._nodes:
            self._meet(grid)
        requests = self.configure_evaluate(0, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_evaluate(0, grid.send_and_receive(requests, timeout=timeout_s))
