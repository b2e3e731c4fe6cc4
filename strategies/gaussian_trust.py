"""What is believed of Gaussians and updates that vehicles send: budgets, then values, then what others sent."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from numpy import ndarray

from clients.gaussian_messages import FitReply, RefineReply
from clients.gaussian_wire import MARKS, PART, decode_fit_reply
from clients.messages import MessageError, TrainReply
from recon.acceptance import accept, check_views
from recon.compressed import compressed_shapes, count_of
from recon.gaussians import Gaussians
from recon.plan import Stretch
from recon.refine import Update
from recon.refusal import (
    AcceptanceConfig,
    Budget,
    Refusal,
    UploadRefusedError,
    landmarks_refusal,
    oversized,
    refusal,
)
from recon.refusal import Cause as Refused
from strategies.gate import Cause
from strategies.report import Loss

CAUSES: Final = {
    Refused.FIELDS: Cause.KEYS,
    Refused.SHAPE: Cause.SHAPE,
    Refused.DTYPE: Cause.DTYPE,
    Refused.NOT_FINITE: Cause.NOT_FINITE,
    Refused.COUNT: Cause.BUDGET,
    Refused.BYTES: Cause.BUDGET,
}
FRAME_BYTES: Final = 64  # that an upload takes beside its rows
DEGREE: Final = 0  # of harmonics that vehicles are asked for; more would swell the scene of all
MOST_LENGTH: Final = 50.0  # of an update, whoever else sent one
MOST_GROWTH: Final = 10.0  # length of an update, over the median of all
MOST_VISIBILITY: Final = 4.0  # total that a vehicle may claim, over the median of all
FEWEST: Final = 3  # updates that a median says something of


def upload_of(
    reply: TrainReply, stretch: Stretch, config: AcceptanceConfig | None, landmarks: int = 0
) -> FitReply | Loss:
    """A vehicle's Gaussians, or why they are not taken. What is beyond the budget is neither decoded nor copied.

    Args:
        reply: as it came.
        stretch: of the vehicle.
        config: limits.
        landmarks: the most that were asked for.

    Raises:
        MessageError: the reply does not keep to the contract.
    """
    budget = Budget.of(stretch.max_gaussians)
    wrong = _beyond(reply.arrays, budget, landmarks)
    if wrong is None:
        decoded, limits = decode_fit_reply(reply), (config or AcceptanceConfig()).about(stretch.waypoints_m)
        wrong = refusal(decoded.gaussians, budget, limits) or landmarks_refusal(decoded.landmarks, limits)
        if wrong is None:
            return replace(decoded, gaussians=decoded.gaussians.with_degree(DEGREE))
    return Loss(stretch.vehicle, CAUSES.get(wrong.cause, Cause.VALUES), wrong.sentence)


def _beyond(arrays: Mapping[str, ndarray], budget: Budget, landmarks: int) -> Refusal | None:
    """What is wrong with an upload by what its bytes say they hold, before one of them is inflated."""
    if PART not in arrays or not set(arrays) <= {PART, MARKS}:
        return Refusal(Refused.FIELDS, f"an upload holds {PART!r} and perhaps {MARKS!r}, not {sorted(arrays)[:8]}")
    try:
        shapes = compressed_shapes(arrays[PART])
        held = 4 * sum(map(math.prod, shapes.values()))
        wrong = oversized(shapes, max(held, arrays[PART].nbytes - FRAME_BYTES), budget)
        count = count_of(arrays[MARKS]) if MARKS in arrays else 0
    except ValueError as error:
        raise MessageError(f"{PART} or {MARKS}: {error}") from None
    if wrong is None and count > landmarks:
        return Refusal(Refused.COUNT, f"{count} landmarks, at most {landmarks} were asked for")
    return wrong


def accepted_parts(
    parts: Mapping[str, Gaussians], stretches: Mapping[str, Stretch], config: AcceptanceConfig | None
) -> tuple[dict[str, Gaussians], dict[str, int], list[Loss]]:
    """What an RSU takes of its vehicles' Gaussians, in the world of all, how many it dropped by cause, and of whom all.

    Each is compared with all others as they came, so that the order does not matter.
    """
    if config is None:
        return dict(parts), {}, []
    kept, dropped, losses = {}, dict[str, int](), list[Loss]()
    budgets = {name: Budget.of(stretches[name].max_gaussians) for name in parts}
    for name, part in sorted(parts.items()):
        waypoints_m = stretches[name].waypoints_m
        neighbours = [(other, budgets[key]) for key, other in parts.items() if key != name]
        limits = _loosened(config.about(waypoints_m))
        try:
            taken = accept(part, budgets[name], limits, check_views(waypoints_m), neighbours)
        except UploadRefusedError as error:  # it passed in the vehicle's own world, so the world is what is wrong
            losses.append(Loss(name, Cause.VALUES, f"where it says to be: {error}"))
            continue
        kept[name] = taken.gaussians
        for cause, count in taken.dropped.items():
            dropped[str(cause)] = dropped.get(str(cause), 0) + count
    return kept, dropped, losses


def _loosened(config: AcceptanceConfig) -> AcceptanceConfig:
    """Limits that what passed in a vehicle's world keeps in that of all, which alignment makes larger or smaller."""
    wide = {name: 2 * getattr(config, name) for name in ("largest_m", "farthest_m")}
    return replace(config, smallest_m=config.smallest_m / 2, **wide)


def believed(replies: Mapping[str, RefineReply]) -> tuple[dict[str, RefineReply], list[Loss]]:
    """Updates without those that are much longer than the others', and with claims of visibility cut.

    A vehicle that says it saw everything would have the last word on all Gaussians.
    """
    lengths = {name: length_of(reply.update) for name, reply in replies.items()}
    claims = {name: float(reply.update.visibility.double().sum()) for name, reply in replies.items()}
    limit, most = MOST_LENGTH, math.inf
    if len(replies) >= FEWEST:
        typical = statistics.median(lengths.values())
        limit = min(limit, MOST_GROWTH * typical) if typical else limit
        most = MOST_VISIBILITY * statistics.median([claim for claim in claims.values() if claim] or [math.inf])
    kept, losses = {}, []
    for name, reply in replies.items():
        if lengths[name] > limit:
            detail = f"update length {lengths[name]:.3g}, allowed {limit:.3g}"
            losses.append(Loss(name, Cause.NORM, detail))
        else:
            share = min(1.0, most / claims[name]) if claims[name] else 1.0
            visibility = reply.update.visibility * share
            kept[name] = RefineReply(reply.rows, Update(reply.update.changes, visibility), reply.views, reply.metrics)
    return kept, losses


def length_of(update: Update) -> float:
    """Root mean square over Gaussians of how far they are moved and changed, all numbers alike."""
    rows = len(update.visibility)
    squares = sum(float(change.double().square().sum()) for change in update.changes.values())
    return math.sqrt(squares / rows) if rows else 0.0
