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
WORST: Final = 1e3  # of any loss, and of metres from surfaces; beyond it deviations overflow
BETTER: Final = 1.02  # a loss may rise by this factor
TYPICAL_LOSS: Final = 0.06  # that a good alignment leaves
SIGMA_RAD, SIGMA_LOG_SCALE, SIGMA_M = 0.003, 0.003, 0.03  # of one that leaves it
LIDAR_SHARE: Final = 0.1  # of that is what one by LiDAR errs by, where it is typical:
LIDAR_TYPICAL_M, LIDAR_TYPICAL_COUNT = 0.01, 800  # so many landmarks so near to surfaces
AGREE_M: Final = 0.3  # two vehicles that found each other by LiDAR may contradict each other by so much


@dataclass(frozen=True, eq=False)
class Link:
    """What vehicle `a` found of `b`; see `Found`.

    Args:
        a, b: names.
        a_from_b: where b's world lies in a's.
        before, after: losses; by LiDAR, mean distance of landmarks from surfaces in metres.
        views: images that showed b's Gaussians; by LiDAR, how many of b's landmarks lie on surfaces of a.
        by: `IMAGES` or `LIDAR`.
    """

    a: str
    b: str
    a_from_b: Sim3
    before: float
    after: float
    views: int
    by: str = IMAGES


def plausible(link: Link, centre_m: Float[ndarray, "3"]) -> bool:
    """Whether it improves what it should, and is no farther from the seed (the identity) than positioning errs."""
    if not (0 <= link.before <= WORST and 0 <= link.after <= WORST):
        return False
    return near_seed(link.a_from_b, centre_m) and link.after <= BETTER * link.before and link.views > 0


def near_seed(sim3: Sim3, centre_m: Float[ndarray, "3"]) -> bool:
    """Whether a similarity moves what lies around a place no farther than positioning errs."""
    log_scale, degrees, metres = FURTHEST
    if np.abs(sim3.translation_m).max() > FARTHEST_M:
        return False
    cosine = np.clip((np.trace(sim3.rotation) - 1) / 2, -1, 1)
    moved_m = np.linalg.norm(sim3.apply(centre_m[None])[0] - centre_m)
    turned = np.degrees(np.arccos(cosine))
    return bool(abs(np.log(sim3.scale)) <= log_scale and turned <= degrees and moved_m <= metres)


def agreeing(links: Sequence[Link], plan: Plan) -> list[Link]:
    """Without those by LiDAR whose two vehicles found each other and say different things of it: neither is believed.

    What only one of the two found stays.
    """
    felt = {(link.a, link.b): link for link in links if link.by == LIDAR}

    def astray_m(there: Link, back: Link) -> float:
        """How far from itself the middle of a stretch comes to lie, there and back again."""
        centre_m = plan[there.a].centre_m
        return float(np.linalg.norm((there.a_from_b @ back.a_from_b).apply(centre_m[None])[0] - centre_m))

    def believed(link: Link) -> bool:
        back = felt.get((link.b, link.a)) if link.by == LIDAR else None
        return back is None or max(astray_m(link, back), astray_m(back, link)) <= AGREE_M

    return [link for link in links if believed(link)]


def placed_vehicles(plan: Plan, vehicles: Sequence[str], links: Sequence[Link], base: str = "") -> dict[str, Sim3]:
    """World from each vehicle's own world.

    Each RSU solves the pose graph of its vehicles; where links do not join all of them, of each group that they do
    join. The cloud solves the graph of these groups. Worlds of surveyed vehicles and of an earlier scene are that of
    all; where there is none, that of the first is. What nothing joins to these stays where its positioning has it.
    Where LiDAR found the earlier scene an RSU takes it into its graph; what images found of it is for the cloud.

    Args:
        plan: stretches of the vehicles.
        vehicles: that sent Gaussians.
        links: that are plausible.
        base: name of an earlier scene among the links, if there is one.
    """
    old = [base] if base else []
    here, right = {*vehicles, *old}, {*old, *(name for name in vehicles if plan[name].surveyed)}
    links = [link for link in links if {link.a, link.b} <= here]
    pairs = [(link.a, link.b) for link in links if base not in (link.a, link.b) or link.by == LIDAR]
    in_group: dict[str, Sim3] = {}
    group_of: dict[str, str] = {}
    for rsu in plan.rsus:
        members = [s.vehicle for s in plan.of_rsu(rsu) if s.vehicle in here]
        for group in joined([*members, *old], pairs):
            anchors = [name for name in group if name in right] or group[:1]
            in_group |= _laid_out(group, _edges_within(group, links), plan, anchors)
            group_of |= dict.fromkeys(group, anchors[0])
    between, world_from = _edges_between(links, group_of, in_group), dict[str, Sim3]()
    for groups in joined(sorted(set(group_of.values())), [(edge.a, edge.b) for edge in between]):
        anchors = [name for name in groups if name in right] or groups[:1]
        world_from |= _laid_out(groups, [edge for edge in between if edge.a in groups], plan, anchors)
    return {vehicle: world_from[group_of[vehicle]] @ in_group[vehicle] for vehicle in sorted(vehicles)}


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
        fewer = max(LIDAR_TYPICAL_COUNT / link.views, 1.0)
        times = LIDAR_SHARE * max(link.after / LIDAR_TYPICAL_M, 1.0) ** 2 * fewer
    else:
        times = max(link.after / TYPICAL_LOSS, 0.1) ** 2
    return Edge(a, b, a_from_b, SIGMA_RAD * times, SIGMA_LOG_SCALE * times, SIGMA_M * times)


def _laid_out(names: Sequence[str], edges: Sequence[Edge], plan: Plan, anchors: Sequence[str]) -> dict[str, Sim3]:
    """World from that of each name, by a pose graph in which the worlds of all anchors are one node.

    Worlds are moved to their stretches first: far from the origin a small turn would look like a large shift. That of
    the anchors, which may lie far apart, stays where it is: what was found of it is turned to say where others lie in
    it, which is the same shift however far its origin is.
    """
    node = {name: anchors[0] if name in anchors else name for name in names}
    centre = {name: np.zeros(3) if name in anchors else plan[name].centre_m for name in names}
    turned = [_turned(edge) if edge.b in anchors else edge for edge in edges]
    moved = [
        replace(
            edge,
            a=node[edge.a],
            b=node[edge.b],
            a_from_b=_shift(-centre[edge.a]) @ edge.a_from_b @ _shift(centre[edge.b]),
        )
        for edge in turned
        if node[edge.a] != node[edge.b]
    ]
    if not moved:
        return {name: Sim3.identity() for name in names}
    moved.sort(key=lambda edge: edge.sigma_m)  # the first guess goes along the best
    solved = solve(moved, anchors[0], robust="cauchy")
    return {name: solved[node[name]] @ _shift(-centre[name]) for name in names}


def _turned(edge: Edge) -> Edge:
    """The same as measured from its other end."""
    return replace(edge, a=edge.b, b=edge.a, a_from_b=edge.a_from_b.inverse())


def _shift(metres: Float[ndarray, "3"]) -> Sim3:
    return Sim3(np.eye(3), metres, 1.0)
