"""Where each vehicle's world lies in that of all, by what vehicles found of each other: arithmetic on similarities.

An RSU lays out its vehicles, the cloud lays out the RSUs; neither learns where a vehicle was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from clients.gaussian_messages import IMAGES, LIDAR
from geometry import Sim3
from recon.plan import Plan
from recon.pose_graph import Edge, solve

FURTHEST: Final = (0.3, 15.0, 5.0)  # log of scale, degrees and metres that an alignment may differ from the seed
FARTHEST_M: Final = 1e6  # of any translation; beyond it squares overflow
BETTER: Final = 1.02  # a loss may rise by this factor
TYPICAL_LOSS: Final = 0.06  # that a good alignment leaves
SIGMA_RAD, SIGMA_LOG_SCALE, SIGMA_M = 0.003, 0.003, 0.03  # of one that leaves it
FELT, FELT_M, MANY = 0.1, 0.01, 800  # one by LiDAR errs by so much of that, if it leaves so many so near to surfaces


@dataclass(frozen=True, eq=False)
class Link:
    """What vehicle `a` found of `b`: where b's world lies in a's, losses before and after; see `Found`."""

    a: str
    b: str
    a_from_b: Sim3
    before: float
    after: float
    views: int
    by: str = IMAGES


def plausible(link: Link, centre_m: Float[ndarray, "3"]) -> bool:
    """Whether it improves what it should, and is no farther from the seed (the identity) than positioning errs."""
    log_scale, degrees, metres = FURTHEST
    if np.abs(link.a_from_b.translation_m).max() > FARTHEST_M:
        return False
    cosine = np.clip((np.trace(link.a_from_b.rotation) - 1) / 2, -1, 1)
    moved_m = np.linalg.norm(link.a_from_b.apply(centre_m[None])[0] - centre_m)
    near = abs(np.log(link.a_from_b.scale)) <= log_scale and np.degrees(np.arccos(cosine)) <= degrees
    return bool(near and moved_m <= metres and link.after <= BETTER * link.before and link.views > 0)


def placed_vehicles(plan: Plan, vehicles: Sequence[str], links: Sequence[Link]) -> dict[str, Sim3]:
    """World from each vehicle's own world.

    Each RSU solves the pose graph of its vehicles; where links do not join all of them, of each group that they do
    join. The cloud solves the graph of these groups. Worlds of surveyed vehicles are that of all; where there is none,
    that of the first. What nothing joins to these stays where its positioning has it.

    Args:
        plan: stretches of the vehicles.
        vehicles: that sent Gaussians.
        links: that are plausible.
    """
    here = set(vehicles)
    links = [link for link in links if {link.a, link.b} <= here]
    in_group: dict[str, Sim3] = {}
    group_of: dict[str, str] = {}
    for rsu in plan.rsus:
        members = [s.vehicle for s in plan.of_rsu(rsu) if s.vehicle in here]
        for group in joined(members, [(link.a, link.b) for link in links]):
            right = [name for name in group if plan[name].surveyed] or group[:1]
            in_group |= _laid_out(group, _edges_within(group, links), plan, right)
            group_of |= dict.fromkeys(group, right[0])
    groups = sorted(set(group_of.values()))
    right = [group for group in groups if plan[group].surveyed] or groups[:1]
    between = _edges_between(links, group_of, in_group)
    world_from = {name: Sim3.identity() for name in groups}
    for members in joined(groups, [(edge.a, edge.b) for edge in between]):
        anchors = [name for name in members if name in right] or members[:1]
        world_from |= _laid_out(members, [edge for edge in between if edge.a in members], plan, anchors)
    return {vehicle: world_from[group_of[vehicle]] @ in_group[vehicle] for vehicle in sorted(here)}


def placed_beside(base: str, plan: Plan, vehicles: Sequence[str], links: Sequence[Link]) -> dict[str, Sim3]:
    """`placed_vehicles` where there may be an earlier scene, whose world is that of all.

    Vehicles that see it are tied to it, others through them. What nothing joins to them is placed by itself.

    Args:
        base: name of the earlier scene among the links.
        plan, vehicles, links: see `placed_vehicles`.
    """
    to_base = {link.a: link.a_from_b.inverse() for link in links if link.b == base}
    between = [link for link in links if link.b != base]
    if not to_base:
        return placed_vehicles(plan, vehicles, between)
    first = next(iter(to_base))
    tied = [Link(first, n, to_base[first].inverse() @ pose, 1, 1, 1) for n, pose in to_base.items() if n != first]
    every = [*between, *tied]
    (group,) = (names for names in joined(vehicles, [(link.a, link.b) for link in every]) if first in names)
    relative = placed_vehicles(plan, group, every)
    there = {name: to_base[first] @ relative[first].inverse() @ pose for name, pose in relative.items()}
    return there | placed_vehicles(plan, sorted(set(vehicles) - set(group)), between)


def joined(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups that pairs of the names join, directly or not; names in order, groups by their first name."""
    group = {name: {name} for name in names}
    for a, b in pairs:
        if a in group and b in group and group[a] is not group[b]:
            both = group[a] | group[b]
            group |= dict.fromkeys(both, both)
    return sorted({id(members): sorted(members) for members in group.values()}.values())


def _edges_within(group: Sequence[str], links: Sequence[Link]) -> list[Edge]:
    return [_edge(link, link.a, link.b, link.a_from_b) for link in links if {link.a, link.b} <= set(group)]


def _edges_between(links: Sequence[Link], group_of: Mapping[str, str], in_group: Mapping[str, Sim3]) -> list[Edge]:
    """Between groups, from links between vehicles of different ones."""
    return [
        _edge(link, *ends, in_group[link.a] @ link.a_from_b @ in_group[link.b].inverse())
        for link in links
        if (ends := (group_of[link.a], group_of[link.b]))[0] != ends[1]
    ]


def _edge(link: Link, a: str, b: str, a_from_b: Sim3) -> Edge:
    """As uncertain as the loss that was left is large, and landmarks that were found are few."""
    if link.by == LIDAR:
        times = FELT * max(link.after / FELT_M, 1.0) ** 2 * max(MANY / link.views, 1.0)
    else:
        times = max(link.after / TYPICAL_LOSS, 0.1) ** 2
    return Edge(a, b, a_from_b, SIGMA_RAD * times, SIGMA_LOG_SCALE * times, SIGMA_M * times)


def _laid_out(names: Sequence[str], edges: Sequence[Edge], plan: Plan, anchors: Sequence[str]) -> dict[str, Sim3]:
    """World from that of each name, by a pose graph in which the worlds of all anchors are one node.

    Worlds are moved to their stretches first: far from the origin a small turn would look like a large shift.
    """
    node = {name: anchors[0] if name in anchors else name for name in names}
    centre = {name: plan[node[name]].centre_m for name in names}
    moved = [
        replace(
            edge,
            a=node[edge.a],
            b=node[edge.b],
            a_from_b=_shift(-centre[edge.a]) @ edge.a_from_b @ _shift(centre[edge.b]),
        )
        for edge in edges
        if node[edge.a] != node[edge.b]
    ]
    if not moved:
        return {name: Sim3.identity() for name in names}
    moved.sort(key=lambda edge: edge.sigma_m)  # the first guess goes along the best
    solved = solve(moved, anchors[0], robust="cauchy")
    back = _shift(centre[anchors[0]])
    return {name: back @ solved[node[name]] @ _shift(-centre[name]) for name in names}


def _shift(metres: Float[ndarray, "3"]) -> Sim3:
    return Sim3(np.eye(3), metres, 1.0)
