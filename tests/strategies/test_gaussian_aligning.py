"""Whom vehicles are asked to find, what is believed of their answers, and whose place is known in the end."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from numpy import ndarray

from clients.gaussian_messages import ALL, IMAGES, LIDAR, AlignReply, AlignRequest, Found
from geometry import Sim3
from recon.gaussians import Gaussians
from recon.plan import Plan, Stretch
from recon.register import RegisterConfig
from strategies.gaussian_aligning import (
    believed_links,
    named,
    pair_requests,
    place,
    settle,
    settling_requests,
    unplaced,
)
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_placing import Link
from strategies.gaussian_state import BASE, FusionState

HERE = Sim3.identity()
FEWEST = RegisterConfig().fewest
NEAR: dict[str, Any] = {"near_m": 5.0, "felt_near_m": 5.0}  # of vehicles those beside each other


def planned(surveyed: str = "a") -> Plan:
    """Vehicles a to d along a street from west to east, ten metres each, two to an RSU."""
    ways = [np.array([[10.0 * k, 5.0], [10.0 * k + 8, 5.0]]) for k in range(4)]
    named_ways = zip("abcd", "1122", ways, strict=True)
    return Plan(tuple(Stretch(name, rsu, way, 4, 40, name in surveyed) for name, rsu, way in named_ways))


PLAN = planned()


def shifted(east_m: float) -> Sim3:
    return Sim3(np.eye(3), np.array([east_m, 0.0, 0.0]))


def beside(vehicle: str) -> Gaussians:
    """One in the middle of a stretch."""
    return Gaussians.from_points(PLAN[vehicle].centre_m[None], np.full((1, 3), 0.5), opacity=0.8)


def marks(vehicle: str, count: int = FEWEST) -> Float32[ndarray, "_ 3"]:
    """All in the middle of a stretch."""
    return np.tile(PLAN[vehicle].centre_m, (count, 1)).astype(np.float32)


def state_of(vehicles: Iterable[str] = "abcd", sensing: Iterable[str] = "abcd", **changed: Any) -> FusionState:
    state = FusionState(parts={name: beside(name) for name in vehicles}, landmarks={n: marks(n) for n in sensing})
    return replace(state, **changed)


def asked(state: FusionState, plan: Plan = PLAN, **changed: Any) -> dict[str, tuple[str, str]]:
    """By vehicle: whom it looks for in images, and whom by LiDAR."""
    requests = pair_requests(state, plan, FusionConfig(**NEAR | changed), "abcd")
    return {name: (",".join(request.others), ",".join(request.landmarks)) for name, request in requests.items()}


def felt(pair: str, a_from_b: Sim3 = HERE) -> Link:
    return Link(pair[0], pair[1], a_from_b, 0.2, 0.01, 800, LIDAR)


def seen(pair: str, a_from_b: Sim3 = HERE) -> Link:
    return Link(pair[0], pair[1], a_from_b, 0.5, 0.1, 4)


def of_base(link: Link) -> Link:
    return replace(link, b=BASE)


# Who is asked for whom


def test_landmarks_of_those_who_have_lidar_and_gaussians_of_all() -> None:
    """Gaussians of all: who finds nobody by LiDAR looks for them in its images."""
    near = {"a": "b", "b": "a,c", "c": "b,d", "d": "c"}
    assert asked(state_of()) == {name: (others, others) for name, others in near.items()}
    assert asked(state_of(sensing="ab")) == {"a": ("b", "b"), "b": ("a,c", "a"), "c": ("b,d", ""), "d": ("c", "")}


@pytest.mark.parametrize(("count", "wanted"), [(FEWEST, "a,c"), (FEWEST - 1, "a"), (1, "a")])
def test_a_neighbour_with_too_few_landmarks_is_looked_for_by_images(count: int, wanted: str) -> None:
    state = state_of()
    state.landmarks["c"] = marks("c", count)
    found = asked(state)
    assert found["b"] == ("a,c", wanted)
    assert found["c"] == ("b,d", "b,d")  # it has LiDAR all the same


@pytest.mark.parametrize(("count", "wanted"), [(FEWEST, f"b,{BASE}"), (FEWEST - 1, "b"), (0, "b")])
def test_an_earlier_scene_with_too_few_landmarks_is_looked_for_by_images(count: int, wanted: str) -> None:
    """Those that lie 200 m east do not count: 192 m from where a's way ends."""
    state = state_of(base={"0": beside("a")})
    far = np.tile(np.array([[200.0, 5, 0]], np.float32), (FEWEST, 1))
    state.landmarks[BASE] = np.concatenate([marks("a", count), far])
    assert asked(state)["a"] == (f"b,{BASE}", wanted)


# What is believed of the answers


def reply(**found: Found) -> AlignReply:
    return AlignReply(found)


def test_named_says_who_is_to_be_found_by_what() -> None:
    request = AlignRequest({"b": beside("b"), BASE: beside("a")}, landmarks={"c": marks("c")})
    assert named(request) == {("b", IMAGES), (BASE, IMAGES), ("c", LIDAR)}
    assert named(AlignRequest({"b": beside("b")}, together=True)) == {(ALL, IMAGES)}


@pytest.mark.parametrize("name", ["b", "c", "d", ALL, BASE])
@pytest.mark.parametrize("by", [IMAGES, LIDAR, "magic"])
@pytest.mark.parametrize("together", [False, True])
def test_nothing_is_believed_that_was_not_asked_for(name: str, by: str, together: bool) -> None:
    """a is asked for b by images and for c by LiDAR, or for all together."""
    one_by_one = AlignRequest({"b": beside("b")}, landmarks={"c": marks("c")})
    request = AlignRequest({"b": beside("b")}, together=True) if together else one_by_one
    wanted = [(ALL, IMAGES)] if together else [("b", IMAGES), ("c", LIDAR)]
    replies = {"a": AlignReply({name: Found(shifted(1), 0.5, 0.1, 200, by)})}
    links = believed_links(replies, {"a": named(request)}, PLAN)
    assert [(link.a, link.b, link.by) for link in links] == [("a", *each) for each in wanted if each == (name, by)]
    assert believed_links(replies, {}, PLAN) == ()


@pytest.mark.parametrize("by", [IMAGES, LIDAR])
@pytest.mark.parametrize("loss", [1e200, 1e154, 1e150, 2e3, float("inf"), float("nan"), -1.0])
def test_a_loss_that_cannot_be_ends_no_run(loss: float, by: str) -> None:
    """Squared it would be beyond the largest number, 1.8e308, or give an edge an infinite deviation."""
    state, names = state_of("abc"), {"a": {("b", by)}, "b": {("c", IMAGES)}}
    found = Found(shifted(1), 0.5, 0.1, 4)
    replies = {"a": reply(b=Found(shifted(1), loss, loss, 4, by)), "b": reply(c=found)}
    links = believed_links(replies, names, PLAN)
    assert [(link.a, link.b) for link in links] == [("b", "c")]
    place(state, PLAN, links)
    np.testing.assert_allclose(state.world_from["c"].translation_m, [1, 0, 0], atol=1e-6)


def test_two_that_contradict_each_other_by_lidar_are_not_believed() -> None:
    """b says that a lies 3 m west of where a says that b has it; what c alone found stays."""
    names = {"a": {("b", LIDAR)}, "b": {("a", LIDAR)}, "c": {("b", LIDAR)}}
    honest, wrong = Found(shifted(0.2), 0.2, 0.01, 800, LIDAR), Found(shifted(-3.2), 0.2, 0.01, 800, LIDAR)
    replies = {"a": reply(b=honest), "b": reply(a=wrong), "c": reply(b=honest)}
    assert [(link.a, link.b) for link in believed_links(replies, names, PLAN)] == [("c", "b")]
    replies["b"] = reply(a=Found(shifted(-0.2), 0.2, 0.01, 800, LIDAR))
    assert [(link.a, link.b) for link in believed_links(replies, names, PLAN)] == [("a", "b"), ("b", "a"), ("c", "b")]
    replies["b"] = reply(a=Found(shifted(-9), 0.2, 0.01, 800, LIDAR))  # too far off to count at all
    assert [(link.a, link.b) for link in believed_links(replies, names, PLAN)] == [("a", "b"), ("c", "b")]


# Whose place is known


@pytest.mark.parametrize(
    ("surveyed", "links", "tied"),
    [
        ("a", "ab bc cd", "abcd"),
        ("a", "ba cb", "abc"),
        ("a", "cd", "a"),  # c and d know of each other, not where they are
        ("", "ab bc cd", ""),
        ("d", "ab", "d"),
        ("ad", "ab cd", "abcd"),
        ("", "a? cd", "a"),
        ("", "c? ab cd", "cd"),
        ("a", "", "a"),
    ],
)
def test_who_is_tied_is_joined_by_lidar_to_a_place_that_is_known(surveyed: str, links: str, tied: str) -> None:
    """? is the earlier scene. What images find ties nobody."""
    state, plan = state_of(), planned(surveyed)
    by_lidar = [of_base(felt(pair)) if "?" in pair else felt(pair) for pair in links.split()]
    by_images = [of_base(seen("a?")), seen("ab"), seen("bc"), seen("cd")]
    place(state, plan, [*by_lidar, *by_images])
    assert state.tied == list(tied)
    settling = settling_requests(state, plan, FusionConfig(**NEAR), "abcd")
    assert set(settling) == set("abcd") - set(tied) - set(surveyed)


def test_a_surveyed_vehicle_without_landmarks_is_right_and_has_nothing_to_hand_on() -> None:
    state = state_of(sensing="bc")
    place(state, PLAN, [felt("bc")])
    assert state.tied == []
    assert state.all_landmarks().shape == (0, 3)
    assert set(settling_requests(state, PLAN, FusionConfig(**NEAR), "abcd")) == set("bcd")


def test_a_run_of_one_surveyed_vehicle_hands_its_landmarks_on() -> None:
    state = state_of("a", "a")
    place(state, PLAN, [])
    np.testing.assert_array_equal(state.added_to().landmarks[BASE], marks("a"))


@pytest.mark.parametrize(
    ("surveyed", "links", "wanted"),
    [
        ("a", [], "bcd"),
        ("a", [felt("ab"), seen("cb"), seen("cd")], ""),
        ("a", [felt("ab"), seen("cd")], "cd"),
        ("", [felt("ab"), seen("cd")], "abcd"),
        ("", [of_base(seen("b?")), felt("ab"), seen("cd")], "cd"),
        ("abcd", [], ""),
    ],
)
def test_whom_nothing_joins_to_a_place_that_is_known_is_named(surveyed: str, links: list[Link], wanted: str) -> None:
    assert unplaced(planned(surveyed), "dcba", links) == list(wanted)


def test_one_who_sent_nothing_joins_nobody() -> None:
    assert unplaced(PLAN, "acd", [seen("ab"), seen("bc"), seen("cd")]) == ["c", "d"]


# Where all lie


def test_all_that_is_known_of_an_earlier_scene_counts_by_how_well_it_is_known() -> None:
    """a has it 0.5 m off by images, c has it right by LiDAR; all three lie right in each other's worlds."""
    state, plan = state_of("abc"), planned("")
    wrong = replace(of_base(seen("a?", shifted(-0.5))), after=0.12)
    place(state, plan, [wrong, felt("ab"), felt("bc"), of_base(felt("c?"))])
    for world_from in state.world_from.values():
        np.testing.assert_allclose(world_from.translation_m, 0, atol=0.01)


def test_only_what_was_found_of_all_together_settles_a_vehicle() -> None:
    state = state_of("abc", world_from=dict.fromkeys("abc", shifted(1)))
    of_all = replace(seen("b?", shifted(0.25)), b=ALL)
    settle(state, PLAN, [of_all, seen("ca", shifted(0.25)), of_base(seen("a?", shifted(9)))])
    east_m = {name: float(place.translation_m[0]) for name, place in state.world_from.items()}
    assert east_m == {"a": 1, "b": 0.75, "c": 1}


@pytest.mark.parametrize(("after", "east_m"), [(0.47, 0.75), (0.48, 1.0)])
def test_who_sees_its_neighbours_no_better_stays(after: float, east_m: float) -> None:
    """0.475 is 95 % of the loss before."""
    state = state_of("b", world_from={"b": shifted(1)})
    settle(state, PLAN, [replace(seen("b?", shifted(0.25)), b=ALL, after=after)])
    assert float(state.world_from["b"].translation_m[0]) == east_m


def test_nobody_settles_farther_off_than_positioning_errs() -> None:
    """Each answer is within 5 m of where the vehicle was believed to lie, but after two it would lie 6 m off."""
    state, off = state_of("ab", world_from=dict.fromkeys("ab", HERE)), replace(seen("b?", shifted(-3)), b=ALL)
    for _ in range(3):
        settle(state, PLAN, [off])
    assert float(state.world_from["b"].translation_m[0]) == 3


# What a state keeps of it


def test_landmarks_of_those_that_are_tied_are_handed_on_where_there_are_any() -> None:
    state = FusionState(tied=["a", "b", "c"], landmarks={"a": marks("a", 1), "c": marks("c", 1)})
    state.world_from = {"a": shifted(1), "b": HERE}
    np.testing.assert_allclose(state.all_landmarks(), [[5, 5, 0]])  # a's way is 8 m long; its world lies 1 m east


def test_checkpoints_of_older_runs_know_of_nobody_tied_or_missing() -> None:
    state = FusionState(round=3, tied=["a"], missing=["b"], parts={"a": Gaussians.empty()})
    kept = FusionState.restore(state.arrays(), state.counters())
    assert (kept.tied, kept.missing) == (["a"], ["b"])
    older = {name: value for name, value in state.counters().items() if name not in ("tied", "missing")}
    restored = FusionState.restore(state.arrays(), older)
    assert (restored.round, restored.tied, restored.missing) == (3, [], [])
    assert torch.equal(restored.parts["a"].means, state.parts["a"].means)
