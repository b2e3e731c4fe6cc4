"""Whom vehicles are asked to find, and what is believed of their answers.

Those who sent landmarks are found by LiDAR, which is right to centimetres; the others by images. Vehicles that no LiDAR
ties to a place that is known look once more at all around them, as they are believed to lie.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from clients.gaussian_messages import ALL, IMAGES, LIDAR, AlignReply, AlignRequest
from geometry import Sim3
from recon.gaussians import Gaussians
from recon.merge import trim
from recon.plan import Plan
from recon.region import widened
from recon.register import RegisterConfig
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_placing import Link, agreeing, joined, near_seed, placed_vehicles, plausible
from strategies.gaussian_scene import around, near_rows, whole
from strategies.gaussian_state import BASE, FusionState

OLD_MARKS_WITHIN_M: Final = 60.0  # from a vehicle's waypoints: an earlier scene's landmarks within it are sent
SETTLED: Final = 0.95  # of its loss, which a vehicle that looks at all its neighbours must come below to be moved
FEWEST: Final = RegisterConfig().fewest  # landmarks that can be found; whoever has fewer is looked for by images


def pair_requests(state: FusionState, plan: Plan, config: FusionConfig, here: Iterable[str]) -> dict[str, AlignRequest]:
    """First, pair by pair: neighbours as they lie in their own worlds.

    Args:
        state: with what vehicles sent.
        plan, config: of the strategy.
        here: vehicles that can be asked.
    """
    parts = _trimmed(state, plan, config.align_margin_m)
    requests = {}
    for vehicle in sorted(set(parts) & set(here)):
        near = [name for name in plan.neighbours(vehicle, config.near_m) if name in parts]
        marks = _marks(state, plan, config, vehicle) if vehicle in state.landmarks else {}
        seen = _some({name: parts[name] for name in near} | _base_near(state, plan, config, vehicle))
        if marks or seen:
            requests[vehicle] = AlignRequest(seen, landmarks=marks)
    return requests


def settling_requests(
    state: FusionState, plan: Plan, config: FusionConfig, here: Iterable[str]
) -> dict[str, AlignRequest]:
    """Then, all around a vehicle at once, where it is believed to see them. See `pair_requests`."""
    parts = _trimmed(state, plan, 0.0)
    world_from = {**state.world_from, BASE: Sim3.identity()}
    requests = {}
    for vehicle in sorted(set(parts) & set(here) - set(state.tied)):
        if plan[vehicle].surveyed:
            continue
        near = [name for name in plan.neighbours(vehicle, config.near_m) if name in parts]
        seen = {name: parts[name] for name in near} | _base_near(state, plan, config, vehicle)
        own_from_world = world_from[vehicle].inverse()
        if seen := _some({n: other.transformed(own_from_world @ world_from[n]) for n, other in seen.items()}):
            requests[vehicle] = AlignRequest(seen, together=True)
    return requests


def named(request: AlignRequest) -> set[tuple[str, str]]:
    """Whom an answer may speak of, and found by what: names with `IMAGES` or `LIDAR`."""
    seen = [ALL] if request.together else request.others
    return {(name, IMAGES) for name in seen} | {(name, LIDAR) for name in request.landmarks}


def believed_links(
    replies: Mapping[str, AlignReply], names: Mapping[str, set[tuple[str, str]]], plan: Plan
) -> tuple[Link, ...]:
    """What vehicles found of those that they were asked for, where it is plausible and nobody else contradicts it.

    Args:
        replies: by vehicle.
        names: `named` of what each was asked.
        plan: of all.
    """
    links = [
        Link(vehicle, other, found.own_from_other, found.before, found.after, found.views, found.by)
        for vehicle, reply in sorted(replies.items())
        for other, found in reply.found.items()
        if (other, found.by) in names.get(vehicle, ())
    ]
    return tuple(agreeing([link for link in links if plausible(link, plan[link.a].centre_m)], plan))


def place(state: FusionState, plan: Plan, links: Iterable[Link]) -> None:
    """Lay all worlds out by what was found pair by pair."""
    links = list(links)
    state.world_from = placed_vehicles(plan, sorted(state.parts), links, BASE)
    known = _joined_to_known(plan, state.parts, [link for link in links if link.by == LIDAR])
    state.tied = sorted(known & set(state.landmarks))


def unplaced(plan: Plan, parts: Iterable[str], links: Iterable[Link]) -> list[str]:
    """Vehicles that no link joins, directly or over others, to a surveyed one or to an earlier scene, in order.

    Positioning alone says where these lie, of each group that links join that of its first.

    Args:
        plan: who is surveyed.
        parts: names of those that sent Gaussians.
        links: found pair by pair, by images or LiDAR.
    """
    parts = set(parts)
    return sorted(parts - _joined_to_known(plan, parts, links))


def settle(state: FusionState, plan: Plan, links: Iterable[Link]) -> None:
    """Where a vehicle sees all its neighbours is taken off where it is believed to be; links to others do not count.

    Who sees them no better than before stays where it was found pair by pair; and nobody comes to lie farther from
    where positioning has it than positioning errs.
    """
    for link in links:
        if link.b == ALL and link.after <= SETTLED * link.before:
            moved = state.world_from[link.a] @ link.a_from_b.inverse()
            if near_seed(moved, plan[link.a].centre_m):
                state.world_from[link.a] = moved


def _joined_to_known(plan: Plan, names: Iterable[str], links: Iterable[Link]) -> set[str]:
    """Of the names, the surveyed, and those that links join to one of them or to an earlier scene."""
    groups = joined([*names, BASE], [(link.a, link.b) for link in links])
    known = [group for group in groups if any(name == BASE or plan[name].surveyed for name in group)]
    return {name for group in known for name in group} - {BASE}


def _trimmed(state: FusionState, plan: Plan, margin_m: float) -> dict[str, Gaussians]:
    """What vehicles sent, within their regions and so far beyond."""
    return {n: trim(part, widened(plan.region(n), margin_m), 0.0) for n, part in state.parts.items()}


def _base_near(state: FusionState, plan: Plan, config: FusionConfig, vehicle: str) -> dict[str, Gaussians]:
    """What an earlier run left near a vehicle, if anything."""
    if not state.base:
        return {}
    everything, waypoints_m = whole(state.base), plan[vehicle].waypoints_m
    if not len(around(everything, waypoints_m, config.near_m).rows):
        return {}
    return {BASE: around(everything, waypoints_m, config.sight_m).gaussians}


def _marks(state: FusionState, plan: Plan, config: FusionConfig, vehicle: str) -> dict[str, Float32[ndarray, "_ 3"]]:
    """Landmarks for a vehicle to look for, where there are enough to be found."""
    near = [name for name in plan.neighbours(vehicle, config.felt_near_m) if name in state.landmarks]
    marks = {name: state.landmarks[name] for name in near} | _base_landmarks(state, plan, vehicle)
    return {name: points_m for name, points_m in marks.items() if len(points_m) >= FEWEST}


def _base_landmarks(state: FusionState, plan: Plan, vehicle: str) -> dict[str, Float32[ndarray, "_ 3"]]:
    """Landmarks of an earlier run around a vehicle, if any."""
    if BASE not in state.landmarks:
        return {}
    points_m = state.landmarks[BASE]
    kept = points_m[near_rows(points_m, plan[vehicle].waypoints_m, OLD_MARKS_WITHIN_M)]
    return {BASE: np.ascontiguousarray(kept)}


def _some(others: Mapping[str, Gaussians]) -> dict[str, Gaussians]:
    return {name: other for name, other in others.items() if len(other)}
