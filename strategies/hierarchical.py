"""Vehicle -> RSU -> cloud for models of arrays: HierFAVG (Liu et al. 2020, algorithm 1) as a Flower Strategy.

Every Flower round is a round of all RSUs; every `rsu_rounds`-th (kappa_2) is a cloud round. With kappa_2 = 1 and one
RSU it is FedAvg. This class plans, sends and counts; `aggregation`, `gate` and `server_optimizer` do the mathematics.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from clients.messages import copy_request, count_bytes, encode_request, to_record
from strategies.aggregation import RULES, merge
from strategies.arithmetic import Arrays, share_of
from strategies.evaluation import collect_evaluations, report_evaluations
from strategies.gate import remember_norms, typical_norm
from strategies.hierarchical_config import HierarchicalConfig
from strategies.profile import PROFILES, Profile
from strategies.replies import SentRequests, in_plan_order, stranger_loss
from strategies.report import EvaluateReport, Loss, RoundReport, RsuReport, tally, weighted_metrics
from strategies.roster import Roster
from strategies.rsu_round import RsuRound, plan_round
from strategies.server_optimizer import server_step
from strategies.state import RunState
from strategies.topology import Topology
from strategies.validated_mean import RootLoss
from strategies.weights import weight_limit

REORDER_BYTES = 128 << 20  # how much may wait so that sums are taken in a fixed order
logger = logging.getLogger("convoy")


class Hierarchical(Strategy):
    """The hierarchy's server side.

    Args:
        config: settings.
        state: where to start; its `round` is above 0 after a resume.
        on_round: called with a report after every RSU round, when `state` is complete.
        on_evaluate: called with what the vehicles measured.
        train_root: for rule "fltrust": trains a model on the tier's own frames; takes the model and the round.
        root_loss: for rule "validated-mean": the loss of a model on these frames.
    """

    def __init__(
        self,
        config: HierarchicalConfig,
        state: RunState,
        *,
        on_round: Callable[[RoundReport], None] = lambda _: None,
        on_evaluate: Callable[[EvaluateReport], None] = lambda _: None,
        train_root: Callable[[Arrays, int], Arrays] | None = None,
        root_loss: RootLoss | None = None,
    ) -> None:
        if "fltrust" in (config.rsu_rule, config.cloud_rule) and train_root is None:
            raise ValueError("rule 'fltrust' needs a root trainer: frames that the RSUs and the cloud hold themselves")
        self.config, self.state, self._roster = config, state, Roster(config)
        self._on_round, self._on_evaluate, self._train_root = on_round, on_evaluate, train_root
        self._root_loss = root_loss
        self._profile = Profile(PROFILES[config.profile], config.seed) if config.profile else None
        self._started_s = time.monotonic()
        self._rounds: dict[str, RsuRound] = {}
        self._sent = SentRequests()
        self._new_losses: list[Loss] = []

    @property
    def topology(self) -> Topology:
        """Who is under which RSU; empty before the first round."""
        return self._roster.topology

    def summary(self) -> None:
        """Log the hierarchy in one line."""
        c = self.config
        tiers = "flat" if c.flat else f"{c.rsus} RSUs, {c.rsu_rounds} RSU rounds per cloud round"
        logger.info("%d vehicles, %s, %d local epochs, %s", c.vehicles, tiers, c.local_epochs, c.server.name)

    # 1. Ask: each vehicle gets its own RSU's model.

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plan this round at every RSU and make its messages. A list: Flower's HTTP grid goes through them twice."""
        self._started_s = time.monotonic()
        self._new_losses += self._roster.refresh(grid, self.state.round)
        round_number = self.state.round + 1
        claims, gate = [member.num_examples for member in self._roster.everyone], self.config.gate
        limit = weight_limit(claims, gate.max_weight_ratio, gate.max_examples)
        self._rounds = {rsu: self._plan(rsu, i, round_number, limit) for i, rsu in enumerate(self.topology.rsus)}
        requests = list(self._requests(round_number, config))
        self._sent = SentRequests(requests)
        return [message for message, _ in requests]

    def _plan(self, rsu: str, index: int, round_number: int, limit: int) -> RsuRound:
        reference, config = self.state.model_of(rsu), self.config
        rng = np.random.default_rng([config.seed, round_number, index])
        work = (config.local_epochs, count_bytes(reference))
        plan = plan_round(rsu, self.topology.vehicles(rsu), config.participation, rng, self._profile, work)
        root = self._root(reference, round_number) if config.rsu_rule == "fltrust" else None
        rule, usual = (config.rsu_rule, config.rule), typical_norm(self.state.recent_norms.get(rsu, []))
        return RsuRound(plan, reference, config.gate, rule, usual, root, limit, self._root_loss)

    def _requests(self, round_number: int, config: ConfigRecord) -> Iterator[tuple[Message, str]]:
        for rsu, rsu_round in self._rounds.items():
            record = to_record(rsu_round.reference)
            settings = {**config, "server-round": round_number, "local-epochs": self.config.local_epochs, "rsu": rsu}
            content = encode_request(record, settings)  # type: ignore[arg-type]
            for member in rsu_round.plan.asked:
                message = Message(copy_request(content), member.node_id, MessageType.TRAIN, group_id=str(round_number))
                yield message, member.vehicle

    # 2. Gather: every RSU takes in its vehicles' replies as they come.

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round at every RSU and, every kappa_2-th time, agree in the cloud."""
        rsu_of = {member.vehicle: rsu for rsu, r in self._rounds.items() for member in r.plan.asked}
        for reply in self._in_order(replies):
            vehicle = self._sent.find_vehicle(reply)
            if vehicle is None:
                self._new_losses.append(stranger_loss(reply))
                continue
            self._rounds[rsu_of[vehicle]].take(vehicle, reply)
            if all(rsu_round.full for rsu_round in self._rounds.values()):
                break
        report = self._close_round(self.state.round + 1)
        self._on_round(report)
        metrics = weighted_metrics([pair for r in self._rounds.values() for pair in r.metrics.values()])
        self._rounds = {}
        return (to_record(self.state.arrays) if report.cloud_moved else None), MetricRecord(dict(metrics))

    def _in_order(self, replies: Iterable[Message]) -> Iterable[Message]:
        """Replies in the order of the plan; as they come where more were asked than are wanted, or the slowest would
        hold up all."""
        plans = [rsu_round.plan for rsu_round in self._rounds.values()]
        if any(len(plan.asked) > plan.wanted for plan in plans):
            return replies
        order = [member.node_id for plan in plans for member in plan.asked]
        held = max(1, REORDER_BYTES // max(1, count_bytes(self.state.arrays)))
        return in_plan_order(replies, order, held, self._sent.find_node)

    def _close_round(self, round_number: int) -> RoundReport:
        state, metrics, rsu_reports = self.state, {}, []
        for rsu, rsu_round in self._rounds.items():
            merged, report = rsu_round.close(self.config.participation.quorum)
            rsu_reports.append(report)
            self._new_losses += rsu_round.losses
            metrics.update({vehicle: dict(values) for vehicle, (values, _) in rsu_round.metrics.items()})
            if merged is not None:
                state.rsu_arrays[rsu] = merged
                state.rsu_examples[rsu] = state.rsu_examples.get(rsu, 0) + report.examples
            state.recent_norms[rsu] = remember_norms(state.recent_norms.get(rsu, []), rsu_round.norms)
            self._count_traffic(rsu_round)
            if self._profile is not None:
                state.clock = state.clock.advance(rsu, rsu_round.plan.simulated_s)
        state.round = round_number
        state.accepted += sum(report.accepted for report in rsu_reports)
        models = len(state.rsu_examples)
        cloud_moved = self._cloud_round() if round_number % self.config.rsu_rounds == 0 else None
        cloud_protected = not cloud_moved or models >= RULES[self.config.cloud_rule].count_needed(self.config.rule)
        self._warn_of_unprotected(round_number, rsu_reports, cloud_protected)
        losses, self._new_losses = tuple(self._new_losses), []
        state.losses = tally(state.losses, losses)
        for loss in losses:
            logger.warning("round %d: no update from %s: %s %s", round_number, loss.vehicle, loss.cause, loss.detail)
        return RoundReport(
            round=round_number,
            cloud_round=round_number // self.config.rsu_rounds,
            cloud_moved=cloud_moved,
            wall_s=time.monotonic() - self._started_s,
            simulated_s=state.clock.now_s if self._profile is not None else None,
            traffic=state.traffic,
            rsus=tuple(rsu_reports),
            vehicle_metrics=metrics,
            losses=losses,
            cloud_protected=cloud_protected,
        )

    def _warn_of_unprotected(self, round_number: int, rsu_reports: list[RsuReport], cloud_protected: bool) -> None:
        config, warning = self.config, "round %d: %s merged too few updates for %r to survive byzantine = %d"
        for report in rsu_reports:
            if not report.protected:
                logger.warning(warning, round_number, report.rsu, config.rsu_rule, config.rule.byzantine)
        if not cloud_protected:
            logger.warning(warning, round_number, "the cloud", config.cloud_rule, config.rule.byzantine)

    # 3. Agree: the cloud merges the RSUs' models and hands the result back to all of them.

    def _cloud_round(self) -> bool:
        moved = self._merge_models()
        self.state.last_cloud_moved = moved
        self.state.idle_cloud_rounds += not moved
        return moved

    def _merge_models(self) -> bool:
        state, config = self.state, self.config
        updates = [(state.rsu_arrays[rsu], float(state.rsu_examples[rsu])) for rsu in sorted(state.rsu_examples)]
        model_bytes = count_bytes(state.arrays)
        if not config.flat:
            state.traffic = state.traffic.plus(cloud_up=model_bytes * len(updates))
        if not updates or len(updates) < share_of(config.participation.quorum, len(self.topology.rsus)):
            logger.warning("round %d: %d RSUs have news, the cloud's quorum is not met", state.round, len(updates))
            return False
        changed = self._step(self._merge_in_cloud(updates))
        state.rsu_arrays, state.rsu_examples = {}, {}
        if not config.flat:
            state.traffic = state.traffic.plus(cloud_down=model_bytes * len(self.topology.rsus))
            if self._profile is not None:
                state.clock = state.clock.synchronise(self._profile.backhaul_s(model_bytes))
        return changed

    def _step(self, merged: Arrays) -> bool:
        """Takes the server's step, unless it leads nowhere; returns whether the global model is another one."""
        state, before = self.state, self.state.arrays
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            arrays, optimizer = server_step(self.config.server, state.optimizer, before, merged)
        if not all(np.isfinite(values).all() for values in arrays.values()):
            logger.warning("round %d: the step is not finite, the model stays: lower server-learning-rate", state.round)
            return False
        state.arrays, state.optimizer = arrays, optimizer
        if all(np.array_equal(values, before[name]) for name, values in arrays.items()):
            logger.warning("round %d: what was merged leaves the model as it was", state.round)
            return False
        return True

    def _merge_in_cloud(self, updates: list[tuple[Arrays, float]]) -> Arrays:
        config, start = self.config, self.state.arrays
        root = self._root(start, self.state.round) if config.cloud_rule == "fltrust" else None
        return merge(config.cloud_rule, updates, start, config.rule, root, self._root_loss)

    def _root(self, reference: Arrays, round_number: int) -> Arrays:
        assert self._train_root is not None  # the constructor checked
        return self._train_root(reference, round_number)

    def _count_traffic(self, rsu_round: RsuRound) -> None:
        plan = rsu_round.plan
        down = count_bytes(rsu_round.reference) * (len(plan.asked) + len(plan.late) + len(plan.surplus))
        up = rsu_round.bytes_up
        cloud = {"cloud_up": up, "cloud_down": down} if self.config.flat else {}
        self.state.traffic = self.state.traffic.plus(vehicle_up=up, vehicle_down=down, **cloud)

    # 4. Evaluate on the vehicles, after a cloud round.

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global model to every vehicle when an evaluation is due."""
        cloud_round, rest = divmod(self.state.round, self.config.rsu_rounds)
        every = self.config.evaluate_every
        if rest or not every or cloud_round % every:
            self._sent = SentRequests()
            return []
        record = to_record(self.state.arrays)
        settings, group = {**config, "server-round": self.state.round}, str(self.state.round)
        requests = [
            (Message(encode_request(record, settings), m.node_id, MessageType.EVALUATE, group_id=group), m.vehicle)  # type: ignore[arg-type]
            for m in self._roster.everyone
        ]
        self._sent = SentRequests(requests)
        return [message for message, _ in requests]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average what the vehicles measured, per RSU and over all, weighted by their test frames."""
        rows, losses = collect_evaluations(replies, self._sent, self.config.gate)
        if not rows and not losses:
            return None
        state = self.state
        for loss in losses:
            logger.warning("round %d: no evaluation from %s: %s %s", state.round, loss.vehicle, loss.cause, loss.detail)
        cloud_round = state.round // self.config.rsu_rounds
        self._on_evaluate(report_evaluations(state.round, cloud_round, rows, losses, self.topology))
        return MetricRecord(dict(weighted_metrics(list(rows.values()))))

    def evaluate_again(self, grid: Grid, timeout_s: float) -> None:
        """Evaluate outside of a round, if one is due: a run may have been broken off before it was done."""
        self._new_losses += self._roster.refresh(grid, self.state.round)
        requests = self.configure_evaluate(0, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_evaluate(0, grid.send_and_receive(requests, timeout=timeout_s))
