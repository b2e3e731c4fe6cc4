"""What a round's answers make of the state of a reconstruction: uploads, worlds, the merged scene, the refined one."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from clients.gaussian_messages import RefineReply
from clients.gaussian_wire import decode_align_reply, decode_refine_reply
from clients.messages import TrainReply, count_bytes
from recon.compressed import compress_gaussians, compress_update, expand_gaussians, expand_update
from recon.gaussians import Gaussians
from recon.plan import Plan
from recon.refine import Update, seen_rows, spread
from strategies.arithmetic import share_of
from strategies.gate import Cause
from strategies.gaussian_aligning import believed_links, place, settle, unplaced
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_judging import decoded
from strategies.gaussian_placing import Link
from strategies.gaussian_scene import (
    Around,
    fused_at_rsu,
    fused_in_cloud,
    in_world,
    joined_by,
    limited,
    moved_by,
    pooled_at_rsus,
    smoothed,
    spread_over,
    weighed,
    whole,
)
from strategies.gaussian_state import FusionState
from strategies.gaussian_trust import accepted_parts, believed, upload_of
from strategies.report import Loss

logger = logging.getLogger("convoy")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Closed:
    """What came of a round's answers, beside the state.

    Args:
        accepted: vehicles whose answer counts, in order.
        losses: of the others.
        links: what vehicles found of each other, those that are believed.
        unplaced: vehicles that no link joins to a surveyed one or an earlier scene.
        dropped: Gaussians that RSUs did not take, by cause.
    """

    accepted: list[str]
    losses: list[Loss]
    links: tuple[Link, ...] = ()
    unplaced: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def _read(
    losses: list[Loss], answers: Mapping[str, TrainReply], decode: Callable[[str, TrainReply], Reply]
) -> dict[str, Reply]:
    """The answers that can be read, in order of names; adds to the losses."""
    read = {vehicle: decoded(losses, vehicle, decode, vehicle, answer) for vehicle, answer in sorted(answers.items())}
    return {vehicle: reply for vehicle, reply in read.items() if reply is not None}


def close_fit(state: FusionState, plan: Plan, config: FusionConfig, answers: Mapping[str, TrainReply]) -> Closed:
    """Take uploads in, as far as budgets and limits allow."""
    accepted, losses = list[str](), list[Loss]()
    for vehicle, answer in sorted(answers.items()):
        upload = decoded(losses, vehicle, upload_of, answer, plan[vehicle], config.acceptance, config.landmarks)
        if isinstance(upload, Loss):
            losses.append(upload)
        elif upload is not None and not len(upload.gaussians):
            losses.append(Loss(vehicle, Cause.VALUES, "sent no Gaussian"))
        elif upload is not None:
            state.parts[vehicle] = upload.gaussians
            if len(upload.landmarks):
                state.landmarks[vehicle] = upload.landmarks
            accepted.append(vehicle)
    return Closed(accepted, losses)


def close_align(
    state: FusionState,
    plan: Plan,
    config: FusionConfig,
    answers: Mapping[str, TrainReply],
    named: Mapping[str, set[tuple[str, str]]],
) -> Closed:
    """Lay worlds out by what vehicles found of each other; after the last such round, merge.

    Args:
        state, plan, config: of the strategy.
        answers: by vehicle.
        named: whom each was asked for, see `strategies.gaussian_aligning.named`.
    """
    losses, alone = list[Loss](), tuple[str, ...]()
    replies = _read(losses, answers, lambda _, answer: decode_align_reply(answer))
    links = believed_links(replies, named, plan)
    if state.round == 1:
        place(state, plan, links)
        alone = tuple(unplaced(plan, state.parts, links))
    else:
        settle(state, plan, links)
    dropped = _merge(state, plan, config, losses) if state.round == config.align_rounds else {}
    return Closed(sorted(replies), losses, links, alone, dropped)


def _merge(state: FusionState, plan: Plan, config: FusionConfig, losses: list[Loss]) -> dict[str, int]:
    """Look at what was sent, merge at RSUs and in the cloud. Adds to the losses; returns what was dropped, by cause."""
    parts, dropped = in_world(state.parts, state.world_from), dict[str, int]()
    scene: dict[str, Gaussians] = {}
    for rsu in plan.rsus:
        own = {s.vehicle: s for s in plan.of_rsu(rsu) if s.vehicle in parts}
        kept, causes, refused = accepted_parts({name: parts[name] for name in own}, own, config.acceptance)
        losses += refused
        if kept:
            scene[rsu] = fused_at_rsu(rsu, kept, plan, config)
        dropped = {cause: dropped.get(cause, 0) + causes.get(cause, 0) for cause in {**dropped, **causes}}
    if not scene:
        state.scene = dict(state.base)
        return dropped
    sent = {rsu: compress_gaussians(gaussians) for rsu, gaussians in scene.items()}
    state.traffic = state.traffic.plus(cloud_up=count_bytes(sent))
    scene = {rsu: expand_gaussians(data) for rsu, data in sent.items()}
    if state.base:
        state.scene, state.free = joined_by(state.base, scene, plan, config)
    else:
        state.scene = fused_in_cloud(scene, plan, config)
    state.scene = limited(state.scene, plan, config, state.free or None)
    return dropped


def close_refine(
    state: FusionState,
    plan: Plan,
    config: FusionConfig,
    answers: Mapping[str, TrainReply],
    sent: Mapping[str, Around],
    number: int,
) -> Closed:
    """Move the scene by what vehicles would change, RSU by RSU.

    Args:
        state, plan, config: of the strategy.
        answers: by vehicle.
        sent: the part of the scene that each vehicle was sent.
        number: of the refinement, from 0.
    """
    losses = list[Loss]()
    arrived = _read(losses, answers, lambda vehicle, answer: decode_refine_reply(answer, sent[vehicle].gaussians))
    replies, disbelieved = believed(arrived)
    losses += disbelieved
    if len(replies) < max(1, share_of(config.quorum, len(sent))):
        logger.warning("round %d: %d updates, the quorum is not met", state.round + 1, len(replies))
        return Closed([], losses)
    pooled = pooled_at_rsus(state.scene, _by_rsu(state, plan, config, replies, sent))
    moved = moved_by(state.scene, _sent_to_cloud(state, pooled), config.step_at(number), state.free or None)
    state.scene = limited(moved, plan, config, state.free or None)
    if config.momentum:
        state.teacher = smoothed(state.teacher or None, state.scene, config.momentum)
    return Closed(sorted(replies), losses)


def _by_rsu(
    state: FusionState,
    plan: Plan,
    config: FusionConfig,
    replies: Mapping[str, RefineReply],
    sent: Mapping[str, Around],
) -> dict[str, dict[str, Update]]:
    """Updates of all of the scene's Gaussians, by RSU and vehicle."""
    count = sum(len(gaussians) for gaussians in state.scene.values())
    updates = {name: spread_over(r.update, r.rows, sent[name], count) for name, r in replies.items()}
    if config.block_weighting:
        updates = weighed(updates, {name: reply.metrics for name, reply in replies.items()})
    out: dict[str, dict[str, Update]] = {}
    for name, update in updates.items():
        out.setdefault(plan[name].rsu, {})[name] = update
    return out


def _sent_to_cloud(state: FusionState, updates: Mapping[str, Update]) -> dict[str, Update]:
    """RSUs' updates as they arrive, counted."""
    sent = {rsu: compress_update(*seen_rows(update)) for rsu, update in updates.items()}
    state.traffic = state.traffic.plus(cloud_up=count_bytes(sent))
    everything = whole(state.scene)
    arrived = {rsu: expand_update(data, everything) for rsu, data in sent.items()}
    return {rsu: spread(update, rows, len(everything)) for rsu, (rows, update) in arrived.items()}
