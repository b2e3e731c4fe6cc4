"""What vehicles say of a scene, and what of it is believed."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from clients.messages import EvaluateReply, MessageError
from recon.plan import Plan, Stretch
from strategies.gate import Cause
from strategies.report import EvaluateReport, Loss, weighted_metrics

Decoded = TypeVar("Decoded")


def decoded(losses: list[Loss], vehicle: str, decode: Callable[..., Decoded], *content: object) -> Decoded | None:
    """What `decode` makes of something a vehicle sent; None if it makes nothing of it, which is added to the losses."""
    try:
        return decode(*content)
    except (MessageError, ValueError, TypeError) as error:
        losses.append(Loss(vehicle, Cause.MALFORMED, str(error)))
        return None


def capped(row: EvaluateReply, stretch: Stretch) -> EvaluateReply:
    """An answer that counts for no more images than its vehicle's stretch has."""
    return replace(row, num_examples=min(max(row.num_examples, 0), stretch.views))


def evaluate_report(
    round_number: int, rows: Mapping[str, EvaluateReply], losses: tuple[Loss, ...], plan: Plan
) -> EvaluateReport:
    """What vehicles measured, averaged over their images, those near borders among themselves."""
    by_rsu: dict[str, list[EvaluateReply]] = {}
    for vehicle, row in sorted(rows.items()):
        by_rsu.setdefault(plan[vehicle].rsu, []).append(row)
    return EvaluateReport(
        round=round_number,
        cloud_round=round_number,
        vehicle_metrics={vehicle: dict(row.metrics) for vehicle, row in sorted(rows.items())},
        rsu_metrics={rsu: mean_metrics(group) for rsu, group in by_rsu.items()},
        metrics=mean_metrics([rows[vehicle] for vehicle in sorted(rows)]),
        losses=losses,
    )


def mean_metrics(rows: Iterable[EvaluateReply]) -> dict[str, float]:
    """Means weighted by images; of border images by their own number, which is summed."""
    rows = list(rows)
    border = [(row.metrics, _count(row.metrics.get("border-views", 0.0), row.num_examples)) for row in rows]
    means = weighted_metrics([(row.metrics, max(row.num_examples, 0)) for row in rows])
    means.pop("border-psnr-db", None)
    means["border-views"] = float(sum(count for _, count in border))
    found = weighted_metrics([(m, count) for m, count in border if "border-psnr-db" in m]).get("border-psnr-db")
    return means if found is None else {**means, "border-psnr-db": found}


def _count(claimed: float, most: int) -> int:
    """A number of images that a vehicle claims, as far as it can be."""
    return round(min(max(claimed, 0), most)) if math.isfinite(claimed) else 0
