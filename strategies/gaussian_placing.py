"""Where each vehicle's world lies in that of all, by what vehicles found of each other: arithmetic on similarities.

An RSU lays out its vehicles, the cloud lays out the RSUs; neither learns where a vehicle was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import Sim3
from recon.plan import Plan
from recon.pose_graph import Edge, solve

FURTHEST: Final = (0.3, 15.0, 5.0)  # log of scale, degrees and metres that an alignment may differ from the seed
BETTER: Final = 1.02  # a loss may rise by this factor


@dataclass(frozen=True, eq=False)
class Link:
    """What vehicle `a` found of the Gaussians of `b`: where b's world lies in a's, and the losses before and after."""

    a: str
    b: str
    a_from_b: Sim3
    before: float
    after: float
    views: int


def plausible(link: Link, centre_m: Float[ndarray, "3"]) -> bool:
    """Whether it improves what it should, and is no farther from the seed (the identity) than positioning errs."""
    log_scale, degrees, metres = FURTHEST
    cosine = np.clip((np.trace(link.a_from_b.rotation) - 1) / 2, -1, 1)
    moved_m = np.linalg.norm(link.a_from_b.apply(centre_m[None])[0] - centre_m)
    near = abs(np.log(link.a_from_b.scale)) <= log_scale and np.degrees(np.arccos(cosine)) <= degrees
    return bool(near and moved_m <= metres and link.after <= BETTER * link.before and link.views > 0)


def placed_vehicles(plan: Plan, vehicles: Sequence[str], links: Sequence[Link], anchors: str) -> dict[str, Sim3]:
    """World from each vehicle's own world.

    Each RSU solves the pose graph of its vehicles; where links do not join all of them, of each group that they do
    join. The cloud solves the graph of these groups. A group that nothing joins to an anchor stays where its
    positioning has it.

    Args:
        plan: stretches of the vehicles.
        vehicles: that sent Gaussians.
        links: that are plausible.
        anchors: "first" for one vehicle whose world is that of all, "rsu" for one in each RSU.
    """
    here = set(vehicles)
    links = [link for link in links if {link.a, link.b} <= here]
    in_group: dict[str, Sim3] = {}
    group_of: dict[str, str] = {}
    for rsu in plan.rsus:
        members = [s.vehicle for s in plan.of_rsu(rsu) if s.vehicle in here]
        for group in joined(members, [(link.a, link.b) for link in links]):
            in_group |= _laid_out(group, links, plan)
            group_of |= dict.fromkeys(group, group[0])
    fixed = _anchors(plan, group_of, anchors)
    groups = _laid_out_groups(plan, group_of, in_group, links, fixed)
    return {vehicle: groups[group_of[vehicle]] @ in_group[vehicle] for vehicle in sorted(here)}


def joined(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups that pairs of the names join, directly or not; names in order, groups by their first name."""
    group = {name: {name} for name in names}
    for a, b in pairs:
        if a in group and b in group and group[a] is not group[b]:
            both = group[a] | group[b]
            group |= dict.fromkeys(both, both)
    return sorted({id(members): sorted(members) for members in group.values()}.values())


def _anchors(plan: Plan, group_of: Mapping[str, str], anchors: str) -> list[str]:
    """Groups whose world is that of all."""
    firsts = [[s.vehicle for s in plan.of_rsu(rsu) if s.vehicle in group_of][:1] for rsu in plan.rsus]
    found = [group_of[vehicle] for first in firsts for vehicle in first]
    return found if anchors == "rsu" else found[:1]


def _laid_out(group: Sequence[str], links: Sequence[Link], plan: Plan) -> dict[str, Sim3]:
    """World of a group's first vehicle from that of each."""
    centre = {name: plan[name].centre_m for name in group}
    edges = [_edge(link.a, link.b, link.a_from_b, centre) for link in links if link.a in centre and link.b in centre]
    if not edges:
        return {name: Sim3.identity() for name in group}
    return _uncentred(solve(edges, group[0]), centre, group[0])


def _laid_out_groups(
    plan: Plan,
    group_of: Mapping[str, str],
    in_group: Mapping[str, Sim3],
    links: Sequence[Link],
    fixed: Sequence[str],
) -> dict[str, Sim3]:
    """World of all from each group's, by the links between vehicles of different groups."""
    centre = {group: plan[group].centre_m for group in sorted(set(group_of.values()))}
    between = [link for link in links if group_of[link.a] != group_of[link.b]]
    edges = [
        _edge(
            group_of[link.a],
            group_of[link.b],
            in_group[link.a] @ link.a_from_b @ in_group[link.b].inverse(),
            centre,
        )
        for link in between
    ]
    out = {group: Sim3.identity() for group in centre}
    for members in joined(sorted(centre), [(edge.a, edge.b) for edge in edges]):
        anchors = [group for group in members if group in fixed]
        own = [edge for edge in edges if edge.a in members]
        if own:
            out |= _anchored(own, anchors or members[:1], centre)
    return out


def _anchored(edges: Sequence[Edge], anchors: Sequence[str], centre: Mapping[str, ndarray]) -> dict[str, Sim3]:
    """Several anchors are one node: what leads to any of them leads to the first."""
    first = anchors[0]

    def moved(edge: Edge) -> Edge | None:
        a_from_b, a, b = edge.a_from_b, edge.a, edge.b
        if a in anchors[1:]:
            a_from_b, a = _shift(centre[a] - centre[first]) @ a_from_b, first
        if b in anchors[1:]:
            a_from_b, b = a_from_b @ _shift(centre[first] - centre[b]), first
        return None if a == b else Edge(a, b, a_from_b)

    kept = [edge for edge in map(moved, edges) if edge is not None]
    found = {first: Sim3.identity(), **(_uncentred(solve(kept, first), centre, first) if kept else {})}
    return {**found, **dict.fromkeys(anchors, Sim3.identity())}


def _edge(a: str, b: str, a_from_b: Sim3, centre: Mapping[str, ndarray]) -> Edge:
    """Between worlds moved to their stretches: far from the origin a small turn would look like a large shift."""
    return Edge(a, b, _shift(-centre[a]) @ a_from_b @ _shift(centre[b]))


def _uncentred(solved: Mapping[str, Sim3], centre: Mapping[str, ndarray], fixed: str) -> dict[str, Sim3]:
    return {name: _shift(centre[fixed]) @ pose @ _shift(-centre[name]) for name, pose in solved.items()}


def _shift(metres: Float[ndarray, "3"]) -> Sim3:
    return Sim3(np.eye(3), metres, 1.0)
