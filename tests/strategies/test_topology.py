"""Assignment of vehicles to RSUs and its changes."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.topology import GivenTopology, Member, Topology, assign, shared_regions

regions = st.lists(st.sampled_from(["north", "south", "east", "west", "mid"]), min_size=1, max_size=14)


def fleet(regions_of: list[str]) -> list[Member]:
    return [Member(f"v{i:02}", 100 - i, region, 10 + i) for i, region in enumerate(regions_of)]


def names(topology: Topology, rsu: str) -> list[str]:
    return [member.vehicle for member in topology.vehicles(rsu)]


def test_regions_stay_together_and_rsus_are_named_after_their_first_vehicle() -> None:
    topology = assign(fleet(["a", "b", "a", "c", "b", "a"]), 2)
    assert topology.rsus == ("rsu-0", "rsu-1")
    assert names(topology, "rsu-0") == ["v00", "v02", "v05"]  # region a
    assert names(topology, "rsu-1") == ["v01", "v03", "v04"]  # b and c, 2 + 1


def test_a_single_region_is_split_when_an_rsu_would_be_empty() -> None:
    topology = assign(fleet(["a", "a", "a"]), 3)
    assert [names(topology, rsu) for rsu in topology.rsus] == [["v00"], ["v01"], ["v02"]]


def test_a_split_region_is_evened_out() -> None:
    topology = assign(fleet(["a"] * 6), 2)
    assert [len(topology.vehicles(rsu)) for rsu in topology.rsus] == [3, 3]


@given(regions, st.integers(1, 5), st.randoms())
def test_every_vehicle_has_one_rsu_and_every_rsu_a_vehicle(own: list[str], num_rsus: int, random) -> None:
    num_rsus = min(num_rsus, len(own))
    members = fleet(own)
    topology = assign(members, num_rsus)
    groups = [names(topology, rsu) for rsu in topology.rsus]
    assert all(groups)
    assert sorted(chain.from_iterable(groups)) == [member.vehicle for member in members]
    shared = shared_regions(members, num_rsus)
    if len(shared) >= num_rsus:
        for region in shared:
            assert len({topology.rsu_of[m.vehicle] for m in members if m.region == region}) == 1
    random.shuffle(members)
    assert assign(members, num_rsus) == topology


@pytest.mark.parametrize(("liars", "num_rsus", "honest"), [(1, 2, 3), (1, 2, 5), (1, 3, 8), (2, 3, 13), (1, 4, 11)])
def test_nobody_becomes_an_rsu_by_claiming_a_new_region(liars: int, num_rsus: int, honest: int) -> None:
    members = [*fleet(["town"] * honest), *(Member(f"liar-{i}", i, f"new-{i}", 10) for i in range(liars))]
    topology = assign(members, num_rsus)
    for rsu in topology.rsus:
        group = names(topology, rsu)
        assert len(group) >= 2
        assert sum(name.startswith("liar") for name in group) * 2 <= len(group)


def test_a_region_counts_when_enough_share_it() -> None:
    assert shared_regions(fleet(["a"] * 4 + ["b"] * 2), 2) == ["a", "b"]  # two of an even share of three
    assert shared_regions(fleet(["a"] * 5 + ["b"]), 2) == ["a"]
    assert shared_regions(fleet(["a", "b", "c"]), 2) == ["a", "b", "c"]  # an even share is not even two
    assert shared_regions(fleet(["a"] * 9 + ["b"] * 3 + ["c"] * 2), 2) == ["a"]  # four of seven
    assert shared_regions(fleet(["a"] * 8 + ["b"] * 4 + ["c"] * 2), 2) == ["a", "b"]


GIVEN = GivenTopology({"v00": "south", "v01": "north", "v02": "south"}, {"v01": 99})


def test_the_operators_topology_wins_over_claims() -> None:
    topology = assign(fleet(["north", "north", "north"]), 7, GIVEN)
    assert topology.rsus == ("south", "north")
    assert [names(topology, rsu) for rsu in topology.rsus] == [["v00", "v02"], ["v01"]]


def test_the_operators_topology_says_who_may_use_a_name() -> None:
    assert GIVEN.refuse("v01", 99) == GIVEN.refuse("v00", 5) == ""
    assert "belongs to node 99" in GIVEN.refuse("v01", 5)
    assert "not in the topology" in GIVEN.refuse("stranger", 99)
    with pytest.raises(ValueError, match="under no RSU: v03"):
        GivenTopology({"v00": "south"}, {"v03": 1})
    with pytest.raises(ValueError, match="no vehicle"):
        GivenTopology({})


@pytest.mark.parametrize(
    ("count", "num_rsus", "text"), [(3, 0, "at least one RSU"), (2, 3, "3 RSUs need"), (0, 1, "1 RSUs")]
)
def test_impossible_assignments_say_why(count: int, num_rsus: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        assign(fleet(["a"] * count), num_rsus)


def test_a_newcomer_goes_to_its_region_else_where_fewest_are() -> None:
    topology = assign(fleet(["a", "a", "b"]), 2)
    assert topology.join(Member("new", 1, "a", 5)).rsu_of["new"] == "rsu-0"
    assert topology.join(Member("new", 1, "b", 5)).rsu_of["new"] == "rsu-1"
    assert topology.join(Member("new", 1, "unknown", 5)).rsu_of["new"] == "rsu-1"
    assert topology.join(Member("new", 1, "b", 5), "rsu-0").rsu_of["new"] == "rsu-0"


def test_a_newcomer_follows_the_majority_of_a_split_region() -> None:
    topology = assign(fleet(["a", "a", "a"]), 2)
    crowded = max(topology.rsus, key=lambda rsu: len(topology.vehicles(rsu)))
    assert topology.join(Member("new", 1, "a", 5)).rsu_of["new"] == crowded


def test_leave_and_hand_over() -> None:
    topology = assign(fleet(["a", "a", "b"]), 2)
    assert names(topology.hand_over("v00", "rsu-1"), "rsu-1") == ["v00", "v02"]
    assert names(topology.hand_over("v00", "rsu-1"), "rsu-0") == ["v01"]
    assert names(topology.leave("v00"), "rsu-0") == ["v01"]
    assert "v00" not in topology.leave("v00").members
    assert topology.leave("nobody") == topology
    assert topology.leave("v00").leave("v01").vehicles("rsu-0") == []


def test_unknown_names_are_refused() -> None:
    topology = assign(fleet(["a"]), 1)
    with pytest.raises(ValueError, match="no RSU 'rsu-9'"):
        topology.join(Member("new", 1, "a", 5), "rsu-9")
    with pytest.raises(ValueError, match="no RSU 'rsu-9'"):
        topology.hand_over("v00", "rsu-9")
    with pytest.raises(ValueError, match="no vehicle 'nobody'"):
        topology.hand_over("nobody", "rsu-0")


steps = st.tuples(st.sampled_from(["join", "leave", "hand over"]), st.integers(0, 9), st.integers(0, 2))


@given(regions.filter(lambda own: len(own) >= 3), st.lists(steps, max_size=12))
def test_changes_make_new_topologies_and_leave_the_old_alone(own: list[str], changes: list[tuple]) -> None:
    topology = assign(fleet(own), 3)
    for kind, number, rsu in changes:
        before = (dict(topology.members), dict(topology.rsu_of), topology.rsus)
        vehicle = f"v{number:02}"
        if kind == "join":
            changed = topology.join(Member(vehicle, number, "mid", 1))
        elif kind == "leave":
            changed = topology.leave(vehicle)
        else:
            changed = topology.hand_over(vehicle, f"rsu-{rsu}") if vehicle in topology.members else topology
        assert (dict(topology.members), dict(topology.rsu_of), topology.rsus) == before
        assert set(changed.rsu_of) == set(changed.members)
        assert sorted(chain.from_iterable(names(changed, rsu) for rsu in changed.rsus)) == sorted(changed.members)
        topology = changed
