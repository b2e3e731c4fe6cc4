"""Where vehicles' worlds lie, from what they found of each other: exact links give exact answers, others are spread."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.gaussian_messages import IMAGES, LIDAR
from geometry import Sim3
from recon.chart import rotation_matrix
from recon.plan import Plan, Stretch
from strategies.gaussian_placing import AGREE_M, Link, agreeing, joined, placed_vehicles, plausible

HERE = Sim3.identity()
OLD = "scene"  # an earlier one
CENTRE = np.zeros(3)


def planned(rsus: str = "112233", surveyed: str = "") -> Plan:
    """Vehicles a, b, ... along a street from west to east, ten metres each."""
    ways = [np.array([[10.0 * k, 5.0], [10.0 * k + 8, 5.0]]) for k in range(len(rsus))]
    names = "abcdef"[: len(rsus)]
    stretches = zip(names, rsus, ways, strict=True)
    return Plan(tuple(Stretch(name, rsu, way, 4, 40, name in surveyed) for name, rsu, way in stretches))


PLAN = planned()


def shifted(east_m: float, north_m: float = 0.0, up_m: float = 0.0, scale: float = 1.0) -> Sim3:
    return Sim3(np.eye(3), np.array([east_m, north_m, up_m], float), scale)


def turned(degrees: float, axis: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Sim3:
    vector = math.radians(degrees) * np.array(axis, float) / np.linalg.norm(axis)
    return Sim3(rotation_matrix(torch.tensor(vector)).numpy(), np.zeros(3))


def off(seed: int, name: str) -> Sim3:
    """A world that is off by up to 0.6 m, 1.3 degrees and 3 %, about the middle of a vehicle's stretch."""
    rng = np.random.default_rng([seed, ord(name)])
    centre = PLAN[name].centre_m
    turn = turned(1.3, tuple(rng.normal(size=3)))
    there = Sim3(turn.rotation, rng.uniform(-0.3, 0.3, 3), float(np.exp(rng.uniform(-0.03, 0.03))))
    return shifted(*centre) @ there @ shifted(*-centre)


def found(pair: str, world_from: dict[str, Sim3]) -> Link:
    """What an alignment without error finds: two letters, the first finds the second."""
    a, b = pair[0], pair[1]
    return Link(a, b, world_from[a].inverse() @ world_from[b], 0.5, 0.1, 4)


def same(place: Sim3, wanted: Sim3, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(place.matrix, wanted.matrix, atol=atol)


def worlds(seed: int, fixed: str = "a", names: str = "abcdef") -> dict[str, Sim3]:
    return {name: HERE if name in fixed else off(seed, name) for name in names}


# Plausible links


@pytest.mark.parametrize(
    ("a_from_b", "wanted"),
    [
        (HERE, True),
        (shifted(4.9), True),
        (shifted(0, 3, -4.1), False),  # 5.08 m
        (turned(14.9), True),
        (turned(15.1), False),
        (turned(180, (1, 0, 0)), False),
        (shifted(0, 0, 0, math.exp(0.29)), True),
        (shifted(0, 0, 0, math.exp(-0.31)), False),
    ],
)
def test_a_link_lies_as_near_to_its_seed_as_positioning_errs(a_from_b: Sim3, wanted: bool) -> None:
    assert plausible(Link("a", "b", a_from_b, 0.5, 0.4, 3), CENTRE) is wanted


def test_a_turn_far_from_the_origin_is_judged_at_the_stretch() -> None:
    # Five degrees about the origin move what is 1000 m away by 2 · 1000 m · sin 2.5° = 87 m.
    assert plausible(Link("a", "b", turned(5), 0.5, 0.4, 3), CENTRE)
    assert not plausible(Link("a", "b", turned(5), 0.5, 0.4, 3), np.array([1000.0, 0, 0]))
    about = shifted(1000) @ turned(5) @ shifted(-1000)
    assert plausible(Link("a", "b", about, 0.5, 0.4, 3), np.array([1000.0, 0, 0]))


def test_a_link_that_makes_the_loss_worse_or_has_no_views_is_left_out() -> None:
    link = Link("a", "b", shifted(0.5), before=0.5, after=0.505, views=3)
    assert plausible(link, CENTRE)
    assert not plausible(replace(link, after=0.52), CENTRE)
    assert not plausible(replace(link, views=0), CENTRE)


@pytest.mark.parametrize("by", [IMAGES, LIDAR])
@pytest.mark.parametrize(("before", "after", "wanted"), [
    (1e3, 1e3, True),
    (1, 0, True),
    *((loss, loss, False) for loss in (1.001e3, 1e150, 1e200, math.inf, math.nan, -0.1)),
    (math.inf, 1, False),
    (1e4, 1, False),
    (1, -1, False),
])  # fmt: skip
def test_losses_are_such_as_can_be_and_links_with_them_can_be_laid_out(
    before: float, after: float, wanted: bool, by: str
) -> None:
    link = Link("a", "b", shifted(0.5), before, after, 1, by)
    assert plausible(link, CENTRE) is wanted
    if wanted:
        same(placed_vehicles(PLAN, "ab", [link])["b"], shifted(0.5))


# Two that found each other


def felt(pair: str, a_from_b: Sim3, by: str = LIDAR) -> Link:
    return Link(pair[0], pair[1], a_from_b, 0.2, 0.01, 800, by)


@pytest.mark.parametrize(
    ("there", "back", "kept"),
    [
        (shifted(1), shifted(-1), True),
        (shifted(1), shifted(-0.8), True),  # 0.2 m
        (shifted(1), shifted(-0.6), False),  # 0.4 m
        (shifted(0, 3), shifted(0, 0, 0), False),
        # Of the middles 4 m and 14 m east and 5 m north, a turn by 1 degree about the origin moves the first, 6.4 m
        # away, by 0.11 m, the other, 14.9 m away, by 0.26 m; by 2 degrees the other by 0.52 m.
        (turned(1), HERE, True),
        (turned(2), HERE, False),
    ],
)
def test_two_that_found_each_other_by_lidar_must_agree(there: Sim3, back: Sim3, kept: bool) -> None:
    links, besides = [felt("ab", there), felt("ba", back)], [felt("bc", shifted(9)), felt("ca", shifted(9))]
    assert AGREE_M == 0.3
    assert agreeing([*links, *besides], PLAN) == [*(links if kept else []), *besides]
    assert agreeing(links[::-1], PLAN) == (links[::-1] if kept else [])


def test_what_images_found_may_differ_and_contradicts_no_lidar() -> None:
    links = [felt("ab", HERE, IMAGES), felt("ba", shifted(2), IMAGES), felt("bc", HERE), felt("cb", shifted(2), IMAGES)]
    assert agreeing(links, PLAN) == links


def test_what_one_alone_found_of_a_vehicle_or_an_earlier_scene_stays() -> None:
    links = [felt("ab", shifted(5)), replace(felt("a?", shifted(5)), b=OLD)]
    assert agreeing(links, PLAN) == links


# Groups


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ("", ["a", "b", "c", "d"]),
        ("ab cd", ["ab", "cd"]),
        ("da", ["ad", "b", "c"]),
        ("ab bc cd da", ["abcd"]),
        ("cb ba", ["abc", "d"]),
        ("ax xb", ["a", "b", "c", "d"]),  # x is none of them
    ],
)
def test_groups_are_what_pairs_join(pairs: str, wanted: list[str]) -> None:
    assert joined("abcd", [(pair[0], pair[1]) for pair in pairs.split()]) == [list(group) for group in wanted]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"))), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_pairs(pairs: list[tuple[str, str]], random) -> None:
    groups = joined("abcdef", pairs)
    assert sorted(name for group in groups for name in group) == list("abcdef")
    mixed = [pair[::-1] for pair in pairs]
    random.shuffle(mixed)
    assert joined("fedcba", mixed) == groups


# Exact links


GOOD = 0.06  # what a good alignment leaves of the loss
CHAIN = ["ab", "bc", "cd", "de", "ef"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "pairs", [CHAIN, [*CHAIN, "fa", "ca", "db"], [pair[::-1] for pair in CHAIN], ["ab", "ab", *CHAIN]]
)
def test_exact_links_give_exact_places(seed: int, pairs: list[str]) -> None:
    true = worlds(seed)
    places = placed_vehicles(PLAN, "abcdef", [found(pair, true) for pair in pairs])
    assert list(places) == list("abcdef")
    for name, place in places.items():
        same(place, true[name])


def test_a_chain_of_shifts_adds_up() -> None:
    # b lies half a metre east in a's world, c another quarter north in b's: c's world is off by both.
    links = [Link("a", "b", shifted(0.5), 1, 0.5, 1), Link("b", "c", shifted(0, 0.25), 1, 0.5, 1)]
    places = placed_vehicles(PLAN, "abc", links)
    same(places["b"], shifted(0.5))
    same(places["c"], shifted(0.5, 0.25))


def test_scales_multiply_along_a_chain() -> None:
    twice, third = (shifted(0, 0, 0, scale) for scale in (1.02, 1.03))
    places = placed_vehicles(PLAN, "abc", [Link("a", "b", twice, 1, 0, 1), Link("b", "c", third, 1, 0, 1)])
    assert places["c"].scale == pytest.approx(1.02 * 1.03)


def test_two_that_say_different_things_meet_half_way() -> None:
    links = [Link("a", "b", shifted(0.01 * k), 1, GOOD, 1) for k in (1, 3)]
    same(placed_vehicles(PLAN, "ab", links)["b"], shifted(0.02), 1e-4)


def test_the_link_that_left_the_smaller_loss_counts_more() -> None:
    links = [Link("a", "b", shifted(0.01), 1, GOOD, 1), Link("a", "b", shifted(0.03), 1, 2 * GOOD, 1)]
    assert 0.01 <= placed_vehicles(PLAN, "ab", links)["b"].translation_m[0] < 0.015


@pytest.mark.parametrize(
    "worse",
    [Link("a", "b", shifted(0.03), 1, GOOD, 8), *(
        Link("a", "b", shifted(0.03), 0.2, after, views, LIDAR) for after, views in ((0.02, 1000), (0.01, 200)))],
)  # fmt: skip
def test_lidar_counts_more_than_images_and_most_where_much_lies_close(worse: Link) -> None:
    best = Link("a", "b", shifted(0.01), 0.2, 0.01, 1000, LIDAR)
    assert 0.01 <= placed_vehicles(PLAN, "ab", [worse, best])["b"].translation_m[0] < 0.015


def test_a_wrong_link_of_a_loop_is_left_out_however_sure_it_seems() -> None:
    """By LiDAR; b lies 5 m beyond where the other links have it, which twenty landmarks too few give away."""
    true = worlds(1)
    links = [replace(found(pair, true), after=0.01, views=1200, by=LIDAR) for pair in (*CHAIN, "ac", "bd", "ce", "df")]
    wrong = Link("a", "b", shifted(5.0) @ found("ab", true).a_from_b, 0.2, 0.01, 780, LIDAR)
    one_rsu = Plan(tuple(replace(stretch, rsu="1") for stretch in PLAN.stretches))
    places = placed_vehicles(one_rsu, "abcdef", [wrong, *links])
    for name, place in places.items():
        same(place, true[name], 0.01)


def test_a_loop_that_does_not_close_is_spread_over_its_links() -> None:
    # Along a-b-c-a 0.03 m are left over, which three links alike share: each is 0.01 m off. All three vehicles are in
    # one place, for turns have a lever otherwise.
    links = [
        Link(pair[0], pair[1], place, 1, GOOD, 1) for pair, place in (("ab", HERE), ("bc", HERE), ("ca", shifted(0.03)))
    ]
    crossing = Plan(tuple(replace(PLAN[name], rsu="1", waypoints_m=PLAN["a"].waypoints_m) for name in "abc"))
    places = placed_vehicles(crossing, "abc", links)
    same(places["a"], HERE)
    east_m = [places[name].translation_m[0] for name in "bc"]
    np.testing.assert_allclose(east_m, [-0.01, -0.02], atol=1e-3)


def test_one_wrong_link_of_many_loops_moves_nothing_far() -> None:
    true = worlds(7)
    links = [replace(found(pair, true), after=GOOD) for pair in (*CHAIN, "ac", "bd", "ce", "df")]
    wrong = Link("a", "c", shifted(1.0) @ true["c"], 1, GOOD, 1)
    one_rsu = planned("111111")
    places = placed_vehicles(one_rsu, "abcdef", [*links, wrong])
    for name in "abcdef":
        centre = one_rsu[name].centre_m[None]
        assert np.linalg.norm(places[name].apply(centre) - true[name].apply(centre)) < 0.05


# Anchors, and who has none


def test_the_first_vehicle_that_is_there_is_the_world() -> None:
    true = worlds(1, fixed="b", names="bcd")
    links = [found("dc", true), found("cb", true)]
    places = placed_vehicles(PLAN, "dcb", links)
    for name in "bcd":
        same(places[name], true[name])


def test_each_rsus_first_vehicle_can_be_right() -> None:
    true = worlds(2, fixed="ace")
    places = placed_vehicles(planned(surveyed="ace"), "abcdef", [found(pair, true) for pair in CHAIN])
    for name in "abcdef":
        same(places[name], true[name])


def test_what_links_say_of_those_whose_positioning_is_right_does_not_move_them() -> None:
    wrong = [Link("a", "b", shifted(0.2), 1, 0.5, 1), Link("b", "c", shifted(0.3), 1, 0.5, 1)]
    places = placed_vehicles(planned(surveyed="ac"), "abc", wrong)
    same(places["a"], HERE)
    same(places["c"], HERE)
    same(placed_vehicles(planned(surveyed="a"), "abc", wrong)["c"], shifted(0.5))
    same(placed_vehicles(planned(surveyed="c"), "abc", wrong)["a"], shifted(-0.5))


@pytest.mark.parametrize("fixed", ["c", "f", "bd", "abcdef", "af"])
@pytest.mark.parametrize("rsus", ["112233", "111111", "123456"])
def test_whoever_is_right_all_others_follow(fixed: str, rsus: str) -> None:
    true = worlds(8, fixed=fixed)
    places = placed_vehicles(planned(rsus, fixed), "abcdef", [found(pair, true) for pair in [*CHAIN, "fa"]])
    for name in "abcdef":
        same(places[name], true[name])


def test_whom_nothing_joins_stays_where_its_positioning_has_it() -> None:
    true = worlds(3)
    links = [found("ab", true), found("cd", true)]
    places = placed_vehicles(PLAN, "abcdef", links)
    same(places["b"], true["b"])
    same(places["e"], HERE)
    same(places["f"], HERE)
    same(places["c"], HERE)  # the first of its group
    same(places["d"], true["c"].inverse() @ true["d"])


@pytest.mark.parametrize("surveyed", ["", "a", "ce"])
def test_without_links_all_stay(surveyed: str) -> None:
    for place in placed_vehicles(planned(surveyed=surveyed), "fdb", []).values():
        same(place, HERE, 0)


def test_an_rsu_whose_vehicles_only_others_join_is_laid_out_by_the_cloud() -> None:
    # c and d are of one RSU and do not see each other; b sees c, e sees d, and b sees e.
    true = worlds(4, names="abcde")
    links = [found(pair, true) for pair in ("ab", "bc", "ed", "be")]
    places = placed_vehicles(PLAN, "abcde", links)
    for name in "abcde":
        same(places[name], true[name])


def test_links_of_vehicles_that_sent_nothing_are_left_out() -> None:
    true = worlds(5)
    places = placed_vehicles(PLAN, "ac", [found("ab", true), found("bc", true)])
    assert sorted(places) == ["a", "c"]
    same(places["c"], HERE)


@settings(max_examples=10, deadline=None)
@given(st.permutations([*CHAIN, "fa"]), st.permutations("abcdef"))
def test_the_order_of_links_and_vehicles_does_not_matter(pairs: list[str], vehicles: list[str]) -> None:
    true = worlds(6)
    places = placed_vehicles(PLAN, vehicles, [found(pair, true) for pair in pairs])
    for name in "abcdef":
        same(places[name], true[name])


def test_a_link_to_a_right_world_counts_the_same_from_either_side_however_far_that_world_reaches() -> None:
    """a and c are right and 1000 m apart. Of b, at c, c says nothing new, and b that it is turned by 0.1 degree."""
    ways = [np.array([[east, 5.0], [east + 8, 5.0]]) for east in (0.0, 1000.0, 1000.0)]
    plan = Plan(tuple(Stretch(n, "1", way, 4, 40, n in "ac") for n, way in zip("abc", ways, strict=True)))
    there = shifted(*plan["b"].centre_m) @ turned(0.1) @ shifted(*-plan["b"].centre_m)
    links = [Link("b", "c", there, 1, GOOD, 4), Link("c", "b", HERE, 1, GOOD, 4)]
    joining = Link("a", "c", HERE, 1, GOOD, 4)  # all three are one group, of which a is the first
    placed = placed_vehicles(plan, "abc", [*links, joining])["b"]
    turn = math.degrees(math.atan2(placed.rotation[1, 0], placed.rotation[0, 0]))
    assert turn == pytest.approx(-0.05, abs=1e-3)  # half of it, the other way round
    centre = plan["b"].centre_m[None]
    np.testing.assert_allclose(placed.apply(centre), centre, atol=1e-3)


# Beside an earlier scene


def saw(vehicle: str, world_from: Sim3, after: float = 0.01, by: str = LIDAR) -> Link:
    """A vehicle's world lies so in that of an earlier scene, as it found."""
    return Link(vehicle, OLD, world_from.inverse(), 0.2, after, 800, by)


@pytest.mark.parametrize("rsus", ["112233", "111111", "123456"])
@pytest.mark.parametrize("seeing", ["a", "c", "af", "abcdef"])
def test_all_are_laid_out_around_those_that_see_an_earlier_scene(rsus: str, seeing: str) -> None:
    true = worlds(9, fixed="")
    links = [found(pair, true) for pair in CHAIN]
    for by in (IMAGES, LIDAR):
        places = placed_vehicles(planned(rsus), "fedcba", [*links, *(saw(n, true[n], by=by) for n in seeing)], OLD)
        assert list(places) == list("abcdef")
        for name in "abcdef":
            same(places[name], true[name])


def test_an_earlier_scene_and_those_whose_positioning_is_right_share_a_world() -> None:
    true = worlds(10, fixed="d")
    links = [found(pair, true) for pair in CHAIN if pair != "bc"]
    places = placed_vehicles(planned(surveyed="d"), "abcdef", [*links, saw("a", true["a"])], OLD)
    for name in "abcdef":
        same(places[name], true[name])
    wrong = placed_vehicles(planned(surveyed="d"), "d", [saw("d", shifted(0.5))], OLD)
    same(wrong["d"], HERE, 0)


def test_whom_nothing_joins_to_an_earlier_scene_is_placed_by_itself() -> None:
    true = worlds(11, fixed="ce")
    links = [found("ab", true), found("cd", true), found("ef", true), saw("b", true["b"])]
    places = placed_vehicles(planned(), "abcdef", links, OLD)
    for name in "abcdef":  # c and e are the first of their groups
        same(places[name], true[name])
    for base in ("", OLD):
        same(placed_vehicles(PLAN, "ab", [found("ab", worlds(11))], base)["b"], worlds(11)["b"])


@pytest.mark.parametrize("rsus", ["11", "12"])
@pytest.mark.parametrize("sure", ["a", "b"])
def test_what_is_known_best_of_an_earlier_scene_counts_most(rsus: str, sure: str) -> None:
    """Both are in their true places; by images one has it half a metre east, by LiDAR the other has it right."""
    doubtful = "b" if sure == "a" else "a"
    links = [felt("ab", HERE), saw(doubtful, shifted(0.5), 0.12, IMAGES), saw(sure, HERE)]
    places = placed_vehicles(planned(rsus), "ab", links, OLD)
    for name in "ab":
        same(places[name], HERE, 0.01)


def test_two_that_see_an_earlier_scene_differently_share_what_is_left_over() -> None:
    # Around a, b and the scene 3 mm are left over, which three links alike share; see the loop above.
    crossing = Plan(tuple(replace(PLAN[name], rsu="1", waypoints_m=PLAN["a"].waypoints_m) for name in "ab"))
    links = [felt("ab", HERE), saw("a", HERE), saw("b", shifted(0.003))]
    places = placed_vehicles(crossing, "ab", links, OLD)
    east_m = [places[name].translation_m[0] for name in "ab"]
    np.testing.assert_allclose(east_m, [0.001, 0.002], atol=1e-4)


def test_a_vehicle_that_lidar_joins_to_a_right_one_is_not_drawn_off_by_its_rsus_view_of_an_earlier_scene() -> None:
    """b is right; c, of the next RSU, lies on it by LiDAR. d, beside c, sees the earlier scene by images, 0.3 m off."""
    links = [felt("cb", HERE), Link("c", "d", HERE, 0.5, 0.1, 4), saw("d", shifted(0.3), 0.12, IMAGES)]
    places = placed_vehicles(planned(surveyed="b"), "bcd", links, OLD)
    same(places["c"], HERE, 0.01)
