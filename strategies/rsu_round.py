"""One RSU's round: whom it asks, and how the replies become its next model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from clients.messages import MessageError, TrainReply, count_bytes, decode_train_reply
from strategies.accumulator import RuleConfig
from strategies.aggregation import RULES, new_accumulator
from strategies.arithmetic import Arrays, share_of
from strategies.gate import Cause, GateConfig, ReplyGate
from strategies.packing import Layout
from strategies.profile import Profile
from strategies.replies import error_loss
from strategies.report import Loss, RsuReport, weighted_metrics
from strategies.topology import Member
from strategies.validated_mean import RootLoss


@dataclass(frozen=True)
class Participation:
    """How many vehicles take part.

    Args:
        fraction: share of an RSU's vehicles wanted each round, in (0, 1].
        over_selection: share asked on top, so that the round need not wait for the slowest (Bonawitz et al. 2019).
        quorum: share of the wanted updates without which the model stays as it was, in [0, 1].
        deadline_s: seconds after which an update is late: simulated with a profile, else on the wall clock.

    Raises:
        ValueError: a value outside its range.
    """

    fraction: float = 1.0
    over_selection: float = 0.0
    quorum: float = 0.5
    deadline_s: float = 600.0

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and self.over_selection >= 0 and 0 <= self.quorum <= 1 and self.deadline_s > 0):
            raise ValueError(f"participation out of range: {self}")


@dataclass(frozen=True)
class Plan:
    """Whom one RSU asks in one round.

    With a profile, `asked` are those whose update will be used. `late` would miss the deadline and `surplus` would come
    after enough others: both are sent the model in vain.
    """

    rsu: str
    asked: tuple[Member, ...]
    wanted: int
    late: tuple[Member, ...] = ()
    surplus: tuple[Member, ...] = ()
    simulated_s: float = 0.0


def plan_round(
    rsu: str,
    members: list[Member],
    participation: Participation,
    rng: np.random.Generator,
    profile: Profile | None,
    work: tuple[int, int],
) -> Plan:
    """Choose vehicles for a round.

    Args:
        rsu: the RSU's name.
        members: its vehicles, sorted.
        participation: shares and deadline.
        rng: decides the choice.
        profile: simulated speeds, or None for the wall clock.
        work: local epochs and model bytes, which the simulated time depends on.
    """
    wanted = share_of(participation.fraction, len(members))
    count = min(len(members), share_of(1 + participation.over_selection, wanted))
    chosen = [members[i] for i in sorted(rng.choice(len(members), count, replace=False))]
    if profile is None:
        return Plan(rsu, tuple(chosen), wanted)
    epochs, model_bytes = work
    seconds = {m.vehicle: profile.round_s(m.vehicle, epochs * m.num_examples, model_bytes) for m in chosen}
    in_time = [
        m for m in sorted(chosen, key=lambda m: seconds[m.vehicle]) if seconds[m.vehicle] <= participation.deadline_s
    ]
    kept = sorted(in_time[:wanted])
    late = tuple(m for m in chosen if seconds[m.vehicle] > participation.deadline_s)
    surplus = tuple(sorted(in_time[wanted:]))
    closes_s = max((seconds[m.vehicle] for m in kept), default=0.0)
    return Plan(rsu, tuple(kept), wanted, late, surplus, closes_s if len(kept) == wanted else participation.deadline_s)


@dataclass
class RsuRound:
    """Collects one RSU's replies. Built when the round is planned, fed as replies come, closed at the end.

    Args:
        plan: whom the RSU asked.
        reference: the RSU's model at the start of the round, which it sent.
        gate: limits of the reply gate.
        rule: key of `RULES` and its settings.
        typical_norm: usual length of the RSU's updates, see `gate.typical_norm`.
        root: for rule "fltrust", the model trained on the tier's own frames.
        root_loss: for rule "validated-mean", the loss of a model on these frames.
        weight_limit: largest weight of one vehicle, in examples.

    Afterwards `norms` holds the lengths of all finite updates, those refused for their length included.
    """

    plan: Plan
    reference: Arrays
    gate: GateConfig
    rule: tuple[str, RuleConfig]
    typical_norm: float = 0.0
    root: Arrays | None = None
    weight_limit: int = GateConfig.max_examples
    root_loss: RootLoss | None = None
    norms: list[float] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    metrics: dict[str, tuple[Mapping[str, float], int]] = field(default_factory=dict)
    bytes_up: int = 0

    def __post_init__(self) -> None:
        self._layout = Layout(self.reference)
        self._gate = ReplyGate(self.reference, self.gate, self.typical_norm, self._layout)
        self._weights = {member.vehicle: min(member.num_examples, self.weight_limit) for member in self.plan.asked}
        expected_weight = float(sum(self._weights.values())) or 1.0
        rule, config = self.rule
        reference, root = self._layout.pack(self.reference), self.root and self._layout.pack(self.root)
        loss = self._loss_of_packed if self.root_loss is not None else None
        self._accumulator = new_accumulator(rule, reference, config, expected_weight, root, loss)
        self._waiting = set(self._weights)
        self.losses += [Loss(member.vehicle, Cause.LATE, "simulated") for member in self.plan.late]

    @property
    def full(self) -> bool:
        """Whether as many updates are in as were wanted."""
        return self._accumulator.count >= self.plan.wanted

    def take(self, vehicle: str, message: Message) -> None:
        """Let one reply in, or count why not; what comes after enough others is surplus and has no effect.

        The reply's arrays are not kept by the streaming rules.
        """
        if vehicle not in self._waiting:
            self.losses.append(Loss(vehicle, Cause.STRANGER, "a second reply in one round"))
            return
        self._waiting.discard(vehicle)
        if self.full:
            return
        if message.has_error():
            self.losses.append(error_loss(vehicle, message))
            return
        try:
            reply = decode_train_reply(message)
        except (MessageError, ValueError, TypeError) as error:
            self.losses.append(Loss(vehicle, Cause.MALFORMED, str(error)))
            return
        self._judge(vehicle, reply)

    def close(self, quorum: float) -> tuple[Arrays | None, RsuReport]:
        """The RSU's next model, or None when the quorum was not met, and what happened."""
        if not self.full:
            late = sorted(self._waiting)
            self.losses += [Loss(vehicle, Cause.LATE, "no reply before the deadline") for vehicle in late]
        count, examples = self._accumulator.count, int(self._accumulator.weight)
        moved = count > 0 and count >= share_of(quorum, self.plan.wanted)
        metrics = weighted_metrics(list(self.metrics.values()))
        protected = count >= RULES[self.rule[0]].count_needed(self.rule[1])
        report = RsuReport(self.plan.rsu, self.plan.wanted, count, examples, moved, metrics, protected or not moved)
        return (self._layout.unpack(self._accumulator.result()) if moved else None), report

    def _loss_of_packed(self, packed: Arrays) -> float:
        assert self.root_loss is not None  # else it is not asked for
        return self.root_loss(self._layout.unpack(packed))

    def _judge(self, vehicle: str, reply: TrainReply) -> None:
        self.bytes_up += count_bytes(reply.arrays)
        verdict = self._gate.inspect_form(reply.arrays, reply.num_examples)
        if verdict.cause is None:
            packed = self._layout.pack(reply.arrays)
            verdict = self._gate.inspect_length(packed, reply.arrays)
        if verdict.cause is None or verdict.norm > 0:
            self.norms.append(verdict.norm)
        if verdict.cause is not None:
            self.losses.append(Loss(vehicle, verdict.cause, verdict.detail))
            return
        weight = min(reply.num_examples, self._weights[vehicle])
        self._accumulator.add(packed, weight)
        self.metrics[vehicle] = (reply.metrics, weight)
