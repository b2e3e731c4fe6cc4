"""Who belongs to which RSU. A topology is a value: joining, leaving and handing over give a new one."""

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


def assign(members: Iterable[Member], num_rsus: int) -> Topology:
    """Divide vehicles among RSUs: whole regions first (largest first, to the emptiest RSU), then evened out.

    A region is only split when an RSU would otherwise stay empty.

    Raises:
        ValueError: no RSU, or fewer vehicles than RSUs.
    """
    members = sorted(members)
    if num_rsus < 1:
        raise ValueError(f"there must be at least one RSU, got {num_rsus}")
    if len(members) < num_rsus:
        raise ValueError(f"{num_rsus} RSUs need at least as many vehicles, got {len(members)}")
    regions = {region: [m for m in members if m.region == region] for region in sorted({m.region for m in members})}
    groups: list[list[Member]] = [[] for _ in range(min(num_rsus, len(regions)))]
    for _, region_members in sorted(regions.items(), key=lambda item: -len(item[1])):
        min(groups, key=len).extend(region_members)
    groups = _split(groups, num_rsus)
    topology = Topology(tuple(f"rsu-{i}" for i in range(num_rsus)))
    for i, group in enumerate(sorted(groups, key=lambda group: min(group))):
        for member in group:
            topology = topology.join(member, f"rsu-{i}")
    return topology


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
