"""Gathers what vehicles measured with the global model on their own test frames."""

from collections.abc import Iterable, Mapping

from flwr.app import Message

from clients.messages import EvaluateReply, MessageError, decode_evaluate_reply
from strategies.gate import Cause, GateConfig
from strategies.replies import SentRequests, error_loss, stranger_loss
from strategies.report import EvaluateReport, Loss, weighted_metrics
from strategies.topology import Topology
from strategies.weights import cap_weights

Measured = tuple[Mapping[str, float], int]  # metrics, and the weight that they have in means


def collect_evaluations(
    replies: Iterable[Message], sent: SentRequests, gate: GateConfig
) -> tuple[dict[str, Measured], tuple[Loss, ...]]:
    """Returns one measurement a vehicle with its bounded weight, and what was lost, silence included.

    Args:
        replies: of all vehicles that were asked, and of others.
        sent: who was asked.
        gate: bounds the weights.
    """
    answers: dict[str, EvaluateReply] = {}
    losses, waiting = [], sent.vehicles
    for reply in replies:
        vehicle = sent.find_vehicle(reply)
        if vehicle is None:
            losses.append(stranger_loss(reply))
            continue
        if vehicle not in waiting:
            losses.append(Loss(vehicle, Cause.STRANGER, "a second reply in one round"))
            continue
        waiting.discard(vehicle)
        if reply.has_error():
            losses.append(error_loss(vehicle, reply))
            continue
        try:
            answers[vehicle] = decode_evaluate_reply(reply)
        except (MessageError, ValueError, TypeError) as error:
            losses.append(Loss(vehicle, Cause.MALFORMED, str(error)))
    losses += [Loss(vehicle, Cause.LATE, "no evaluation before the deadline") for vehicle in sorted(waiting)]
    claims = {vehicle: answer.num_examples for vehicle, answer in answers.items()}
    weights = cap_weights(claims, gate.max_weight_ratio, gate.max_examples)
    return {vehicle: (answer.metrics, weights[vehicle]) for vehicle, answer in answers.items()}, tuple(losses)


def report_evaluations(
    round_number: int, cloud_round: int, rows: Mapping[str, Measured], losses: tuple[Loss, ...], topology: Topology
) -> EvaluateReport:
    """Returns the means over each RSU's vehicles and over all, weighted by their test frames."""
    by_rsu = {
        rsu: weighted_metrics([rows[m.vehicle] for m in topology.vehicles(rsu) if m.vehicle in rows])
        for rsu in topology.rsus
    }
    return EvaluateReport(
        round=round_number,
        cloud_round=cloud_round,
        vehicle_metrics={vehicle: dict(metrics) for vehicle, (metrics, _) in sorted(rows.items())},
        rsu_metrics=by_rsu,
        metrics=weighted_metrics([rows[vehicle] for vehicle in sorted(rows)]),
        losses=losses,
    )
