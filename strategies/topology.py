"""Who belongs to which RSU. A topology is a value: joining, leaving and handing over give a new one."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, order=True)
class Member:
    """A vehicle of the fleet: its name, Flower's id of its node, its region, and the frames that it says it holds."""

    vehicle: str
    node_id: int
    region: str
    num_examples: int


@dataclass(frozen=True)
class Topology:
    """Vehicles under RSUs.

    Args:
        rsus: names of the RSUs, in order.
        members: by vehicle name.
        rsu_of: RSU of each vehicle.
    """

    rsus: tuple[str, ...]
    members: Mapping[str, Member] = field(default_factory=dict)
    rsu_of: Mapping[str, str] = field(default_factory=dict)

    def vehicles(self, rsu: str) -> list[Member]:
        """Members under one RSU, sorted by name, so that the order does not depend on the engine's node ids."""
        return sorted(self.members[vehicle] for vehicle, own in self.rsu_of.items() if own == rsu)

    def join(self, member: Member, rsu: str | None = None) -> "Topology":
        """With one more vehicle; without a named RSU it goes where its region's vehicles are, else where fewest are.

        Raises:
            ValueError: unknown RSU.
        """
        rsu = rsu or self._rsu_for(member.region)
        if rsu not in self.rsus:
            raise ValueError(f"no RSU {rsu!r}; there are {list(self.rsus)}")
        members, rsu_of = {**self.members, member.vehicle: member}, {**self.rsu_of, member.vehicle: rsu}
        return replace(self, members=members, rsu_of=rsu_of)

    def leave(self, vehicle: str) -> "Topology":
        """Without a vehicle; unknown names are no error, it may have left already."""
        members = {name: member for name, member in self.members.items() if name != vehicle}
        return replace(self, members=members, rsu_of={v: r for v, r in self.rsu_of.items() if v != vehicle})

    def hand_over(self, vehicle: str, rsu: str) -> "Topology":
        """With a vehicle moved under another RSU.

        Raises:
            ValueError: unknown RSU or vehicle.
        """
        if vehicle not in self.members:
            raise ValueError(f"no vehicle {vehicle!r} to hand over")
        return self.join(self.members[vehicle], rsu)

    def _rsu_for(self, region: str) -> str:
        here = [self.rsu_of[name] for name, member in self.members.items() if member.region == region]
        if here:
            return max(self.rsus, key=here.count)
        return min(self.rsus, key=lambda rsu: len(self.vehicles(rsu)))


@dataclass(frozen=True)
class GivenTopology:
    """Who belongs to which RSU, as the operator says; what vehicles claim of their regions is then ignored.

    Args:
        rsu_of: RSU by vehicle; who is not listed does not take part.
        node_of: the only node that may use a vehicle's name. With SuperNode authentication its id belongs to a key.

    Raises:
        ValueError: no vehicle, a node of a vehicle that is not listed, or one node for two.
    """

    rsu_of: Mapping[str, str]
    node_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rsu_of:
            raise ValueError("the topology lists no vehicle")
        if unknown := sorted(self.node_of.keys() - self.rsu_of.keys()):
            raise ValueError(f"the topology gives nodes of vehicles that are under no RSU: {', '.join(unknown)}")
        if len(set(self.node_of.values())) < len(self.node_of):
            raise ValueError("the topology gives one node to two vehicles")

    @property
    def rsus(self) -> tuple[str, ...]:
        """Names of the RSUs, in the order in which they are given."""
        return tuple(dict.fromkeys(self.rsu_of.values()))

    def as_one_group(self) -> "GivenTopology":
        """Returns the same vehicles and nodes under one RSU, for a run without RSUs."""
        return GivenTopology(dict.fromkeys(self.rsu_of, "rsu-0"), self.node_of)

    def refuse(self, vehicle: str, node_id: int) -> str:
        """Returns why a node may not take part under a vehicle's name, or "" if it may."""
        if vehicle not in self.rsu_of:
            return "is not in the topology"
        if self.node_of.get(vehicle, node_id) != node_id:
            return f"the name belongs to node {self.node_of[vehicle]}, not to {node_id}"
        return ""


def assign(members: Iterable[Member], num_rsus: int, given: GivenTopology | None = None) -> Topology:
    """Divides vehicles among RSUs as the operator says, else by the regions that they claim.

    By claims: whole regions first (largest first, to the emptiest RSU), then evened out. A region counts if enough
    vehicles share it, see `shared_regions`; whoever claims another one goes where fewest are, so that nobody becomes an
    RSU on its own by claiming a new region. A region is only split when an RSU would otherwise stay empty.

    Raises:
        ValueError: no RSU, or fewer vehicles than RSUs.
    """
    members = sorted(members)
    if given is not None:
        topology = Topology(given.rsus)
        for member in members:
            topology = topology.join(member, given.rsu_of[member.vehicle])
        return topology
    if num_rsus < 1:
        raise ValueError(f"there must be at least one RSU, got {num_rsus}")
    if len(members) < num_rsus:
        raise ValueError(f"{num_rsus} RSUs need at least as many vehicles, got {len(members)}")
    groups = _split(_group_by_region(members, num_rsus), num_rsus)
    topology = Topology(tuple(f"rsu-{i}" for i in range(num_rsus)))
    for i, group in enumerate(sorted(groups, key=lambda group: min(group))):
        for member in group:
            topology = topology.join(member, f"rsu-{i}")
    return topology


def shared_regions(members: list[Member], num_rsus: int) -> list[str]:
    """Returns the regions that at least half of an RSU's even share of the vehicles claim, but no fewer than two."""
    even = len(members) / num_rsus
    least = min(int(even), max(2, math.ceil(even / 2)))
    counts = Counter(member.region for member in members)
    return sorted(region for region, count in counts.items() if count >= least)


def _group_by_region(members: list[Member], num_rsus: int) -> list[list[Member]]:
    """At most `num_rsus` groups: shared regions as a whole, then everybody else one by one where fewest are."""
    shared, claimed = set(shared_regions(members, num_rsus)), sorted({member.region for member in members})
    by_region = {region: [m for m in members if m.region == region] for region in claimed}
    groups: list[list[Member]] = [[] for _ in range(min(num_rsus, len(shared) or len(claimed)))]
    for region in sorted(shared, key=lambda region: (-len(by_region[region]), region)):
        min(groups, key=len).extend(by_region[region])
    for member in (member for region in claimed if region not in shared for member in by_region[region]):
        min(groups, key=len).append(member)
    return [sorted(group) for group in groups]


def _split(groups: list[list[Member]], count: int) -> list[list[Member]]:
    """Cut groups into `count` parts in all, the largest most often, each into parts of equal size (+-1)."""
    parts = [1] * len(groups)
    while sum(parts) < count:
        fullest = max(range(len(groups)), key=lambda i: len(groups[i]) / parts[i])
        parts[fullest] += 1
    return [
        group[i * len(group) // n : (i + 1) * len(group) // n]
        for group, n in zip(groups, parts, strict=True)
        for i in range(n)
    ]
