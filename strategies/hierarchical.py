"""Vehicle -> RSU -> cloud for models of arrays: HierFAVG (Liu et al. 2020, algorithm 1) as a Flower Strategy.

Every Flower round is a round of all RSUs; every `rsu_rounds`-th (kappa_2) is a cloud round. With kappa_2 = 1 and one
RSU it is FedAvg. This class plans, sends and counts; `aggregation`, `gate` and `server_optimizer` do the mathematics.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from clients.messages import MessageError, copy_request, count_bytes, decode_evaluate_reply, encode_request, to_record
from strategies.aggregation import merge
from strategies.arithmetic import Arrays
from strategies.gate import Cause
from strategies.hierarchical_config import HierarchicalConfig
from strategies.membership import NotEnoughVehicles, changes, greet, wait_for_nodes
from strategies.profile import PROFILES, Profile
from strategies.report import EvaluateReport, Loss, RoundReport, tally, weighted_metrics
from strategies.rsu_round import RsuRound, error_loss, in_plan_order, plan_round, share_of
from strategies.server_optimizer import server_step
from strategies.state import RunState
from strategies.topology import Member, Topology, assign

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
    """

    def __init__(
        self,
        config: HierarchicalConfig,
        state: RunState,
        *,
        on_round: Callable[[RoundReport], None] = lambda _: None,
        on_evaluate: Callable[[EvaluateReport], None] = lambda _: None,
        train_root: Callable[[Arrays, int], Arrays] | None = None,
    ) -> None:
        if "fltrust" in (config.rsu_rule, config.cloud_rule) and train_root is None:
            raise ValueError("rule 'fltrust' needs a root trainer: frames that the RSUs and the cloud hold themselves")
        self.config, self.state, self.topology = config, state, Topology(())
        self._on_round, self._on_evaluate, self._train_root = on_round, on_evaluate, train_root
        self._profile = Profile(PROFILES[config.profile], config.seed) if config.profile else None
        self._started_s = time.monotonic()
        self._rounds: dict[str, RsuRound] = {}
        self._new_losses: list[Loss] = []

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
        self._refresh_members(grid)
        round_number = self.state.round + 1
        self._rounds = {rsu: self._plan(rsu, i, round_number) for i, rsu in enumerate(self.topology.rsus)}
        return list(self._requests(round_number, config))

    def _plan(self, rsu: str, index: int, round_number: int) -> RsuRound:
        reference, config = self.state.model_of(rsu), self.config
        rng = np.random.default_rng([config.seed, round_number, index])
        work = (config.local_epochs, count_bytes(reference))
        plan = plan_round(rsu, self.topology.vehicles(rsu), config.participation, rng, self._profile, work)
        root = self._root(reference, round_number) if config.rsu_rule == "fltrust" else None
        rule, typical_norm = (config.rsu_rule, config.rule), self.state.typical_norm.get(rsu, 0.0)
        return RsuRound(plan, reference, config.gate, rule, typical_norm, root)

    def _requests(self, round_number: int, config: ConfigRecord) -> Iterator[Message]:
        for rsu, rsu_round in self._rounds.items():
            record = to_record(rsu_round.reference)
            settings = {**config, "server-round": round_number, "local-epochs": self.config.local_epochs, "rsu": rsu}
            content = encode_request(record, settings)  # type: ignore[arg-type]
            for member in rsu_round.plan.asked:
                yield Message(copy_request(content), member.node_id, MessageType.TRAIN, group_id=str(round_number))

    # 2. Gather: every RSU takes in its vehicles' replies as they come.

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round at every RSU and, every kappa_2-th time, agree in the cloud."""
        rsu_of_node = {m.node_id: (rsu, m) for rsu, r in self._rounds.items() for m in r.plan.asked}
        order, held = list(rsu_of_node), max(1, REORDER_BYTES // max(1, count_bytes(self.state.arrays)))
        for reply in in_plan_order(replies, order, held):
            rsu, member = rsu_of_node.get(reply.metadata.src_node_id, (None, None))
            if rsu is None or member is None:
                self._new_losses.append(Loss(f"node-{reply.metadata.src_node_id}", Cause.STRANGER, "was not asked"))
                continue
            self._rounds[rsu].take(member.vehicle, reply)
            if all(rsu_round.full for rsu_round in self._rounds.values()):
                break
        report = self._close_round(self.state.round + 1)
        self._on_round(report)
        metrics = weighted_metrics([pair for r in self._rounds.values() for pair in r.metrics.values()])
        self._rounds = {}
        return (to_record(self.state.arrays) if report.cloud_moved else None), MetricRecord(dict(metrics))

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
                state.typical_norm[rsu] = statistics.median(rsu_round.norms)
            self._count_traffic(rsu_round)
            if self._profile is not None:
                state.clock = state.clock.advance(rsu, rsu_round.plan.simulated_s)
        state.round = round_number
        state.accepted += sum(report.accepted for report in rsu_reports)
        cloud_moved = self._cloud_round() if round_number % self.config.rsu_rounds == 0 else None
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
        )

    # 3. Agree: the cloud merges the RSUs' models and hands the result back to all of them.

    def _cloud_round(self) -> bool:
        state, config = self.state, self.config
        updates = [(state.rsu_arrays[rsu], float(state.rsu_examples[rsu])) for rsu in sorted(state.rsu_examples)]
        model_bytes = count_bytes(state.arrays)
        if not config.flat:
            state.traffic = state.traffic.plus(cloud_up=model_bytes * len(updates))
        if not updates or len(updates) < share_of(config.participation.quorum, len(self.topology.rsus)):
            logger.warning("round %d: %d RSUs have news, the cloud's quorum is not met", state.round, len(updates))
            return False
        merged = self._merge_in_cloud(updates)
        state.arrays, state.optimizer = server_step(config.server, state.optimizer, state.arrays, merged)
        state.rsu_arrays, state.rsu_examples = {}, {}
        if not config.flat:
            state.traffic = state.traffic.plus(cloud_down=model_bytes * len(self.topology.rsus))
            if self._profile is not None:
                state.clock = state.clock.synchronise(self._profile.backhaul_s(model_bytes))
        return True

    def _merge_in_cloud(self, updates: list[tuple[Arrays, float]]) -> Arrays:
        config, start = self.config, self.state.arrays
        root = self._root(start, self.state.round) if config.cloud_rule == "fltrust" else None
        return merge(config.cloud_rule, updates, start, config.rule, root)

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
            return []
        record = to_record(self.state.arrays)
        settings = {**config, "server-round": self.state.round}
        return [
            Message(encode_request(record, settings), m.node_id, MessageType.EVALUATE, group_id=str(self.state.round))  # type: ignore[arg-type]
            for m in self._everyone()
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average what the vehicles measured, per RSU and over all, weighted by their test frames."""
        vehicle_of_node = {member.node_id: member.vehicle for member in self._everyone()}
        rows, losses = {}, []
        for reply in replies:
            vehicle = vehicle_of_node.get(reply.metadata.src_node_id)
            if vehicle is None:
                losses.append(Loss(f"node-{reply.metadata.src_node_id}", Cause.STRANGER, "was not asked"))
                continue
            try:
                answer = decode_evaluate_reply(reply) if reply.has_content() else None
            except (MessageError, ValueError, TypeError) as error:
                losses.append(Loss(vehicle, Cause.MALFORMED, str(error)))
                continue
            if answer is None:
                losses.append(error_loss(vehicle, reply))
            else:
                rows[vehicle] = (answer.metrics, min(max(answer.num_examples, 0), self.config.gate.max_examples))
        if not rows and not losses:
            return None
        self._on_evaluate(self._evaluate_report(rows, tuple(losses)))
        return MetricRecord(dict(weighted_metrics(list(rows.values()))))

    def _evaluate_report(self, rows: dict, losses: tuple[Loss, ...]) -> EvaluateReport:
        by_rsu = {
            rsu: weighted_metrics([rows[m.vehicle] for m in self.topology.vehicles(rsu) if m.vehicle in rows])
            for rsu in self.topology.rsus
        }
        return EvaluateReport(
            round=self.state.round,
            cloud_round=self.state.round // self.config.rsu_rounds,
            vehicle_metrics={vehicle: dict(metrics) for vehicle, (metrics, _) in sorted(rows.items())},
            rsu_metrics=by_rsu,
            metrics=weighted_metrics([rows[vehicle] for vehicle in sorted(rows)]),
            losses=losses,
        )

    def evaluate_again(self, grid: Grid, timeout_s: float) -> None:
        """Evaluate outside of a round, if one is due: a run may have been broken off before it was done."""
        self._refresh_members(grid)
        requests = self.configure_evaluate(0, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_evaluate(0, grid.send_and_receive(requests, timeout=timeout_s))

    # Membership: vehicles may come and go between rounds.

    def _refresh_members(self, grid: Grid) -> None:
        config = self.config
        if not self.topology.rsus:
            nodes = wait_for_nodes(grid, config.vehicles, config.join_timeout_s)
            members, losses = greet(grid, nodes, config.join_timeout_s, config.gate.max_examples)
            self._new_losses += losses
            if len(members) < config.rsus:
                reasons = "; ".join(f"{loss.vehicle}: {loss.cause} {loss.detail}" for loss in losses[:5])
                raise NotEnoughVehicles(f"{len(members)} vehicles for {config.rsus} RSUs; {reasons}")
            self.topology = assign(members, config.rsus)
            return
        gone, new = changes(self.topology, sorted(grid.get_node_ids()))
        for vehicle in gone:
            self.topology = self.topology.leave(vehicle)
        if new and self.state.round % config.rsu_rounds == 0:  # newcomers join where a cloud period begins
            taken = self.topology.members
            members, losses = greet(grid, new, config.join_timeout_s, config.gate.max_examples, taken)
            self._new_losses += losses
            for member in members:
                self.topology = self.topology.join(member)

    def _everyone(self) -> list[Member]:
        return list(chain.from_iterable(self.topology.vehicles(rsu) for rsu in self.topology.rsus))
