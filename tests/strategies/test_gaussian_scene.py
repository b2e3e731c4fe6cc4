"""The scene as tiers hold it: looked up, merged, moved by updates. Neither order nor division into RSUs matters."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import Sim3
from recon.gaussians import Gaussians
from recon.merge import Duplicates
from recon.plan import Plan, Stretch
from recon.refine import Update
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_scene import (
    Around,
    around,
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

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = st.integers(0, 2**32 - 1)
PLAIN = FusionConfig(blend_m=2.0, duplicates=None)


def balls(east_m: Any, north_m: float = 0.0, grey: float = 0.5, size_m: float = 0.1) -> Gaussians:
    """In a row from west to east, one metre up, three quarters opaque."""
    east = np.atleast_1d(np.asarray(east_m, np.float64))
    places = np.column_stack([east, np.full(len(east), north_m), np.ones(len(east))])
    made = Gaussians.from_points(places, np.full(places.shape, grey), opacity=0.75)
    return replace(made, log_scales=torch.full((len(east), 3), math.log(size_m)))


def stretch(vehicle: str, rsu: str, west_m: float) -> Stretch:
    return Stretch(vehicle, rsu, np.column_stack([west_m + np.arange(0.5, 10), np.zeros(10)]), 4, 100)


# Each has ten metres and ten waypoints, half a metre from its ends: west 0..20 m for a, b; east 20..40 m for c, d.
PLAN = Plan((stretch("a", "west", 0), stretch("b", "west", 10), stretch("c", "east", 20), stretch("d", "east", 30)))


def depth_m(east: Any, own: tuple[float, float], others: tuple[float, float]) -> Any:
    """How far inside its part of the street a place lies: half of how much nearer its waypoints are than others'."""
    east, steps = np.atleast_1d(east), 0.5
    own_m, others_m = (np.abs(east[:, None] - np.arange(low + steps, high)).min(axis=1) for low, high in (own, others))
    return (others_m - own_m) / 2


def moved(
    scene: Mapping[str, Gaussians], updates: Mapping[str, Mapping[str, Update]], step: float, free: Any = None
) -> dict[str, Gaussians]:
    """Pooled at the RSUs, combined in the cloud."""
    return moved_by(scene, pooled_at_rsus(scene, updates), step, free)


def bits(gaussians: Gaussians) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in gaussians.tensors().values()]


def east_m(gaussians: Gaussians) -> list[float]:
    return sorted(round(value, 3) for value in gaussians.means[:, 0].tolist())


def updates_of(scene: Gaussians, seed: int, names: str, step: float = 0.1) -> dict[str, Update]:
    """Any changes of all Gaussians, each of which about half of the vehicles see."""
    rng = np.random.default_rng(seed)

    def one() -> Update:
        changes = {
            name: torch.tensor(step * rng.normal(size=tensor.shape)).float() for name, tensor in scene.tensors().items()
        }
        seen = rng.uniform(0.1, 50, len(scene)) * (rng.uniform(size=len(scene)) < 0.5)
        return Update(changes, torch.tensor(seen).float())

    return {name: one() for name in names}


def close(found: Gaussians, wanted: Gaussians, atol: float = 1e-5) -> None:
    for name, tensor in wanted.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, atol=atol, rtol=1e-5)


# Looking up


def test_the_whole_is_rsu_by_rsu_by_name() -> None:
    scene = {"west": balls([1, 2]), "east": balls([30])}
    assert whole(scene).means[:, 0].tolist() == [30, 1, 2]


def test_around_is_what_lies_within_sight_of_a_waypoint() -> None:
    # Waypoints from (0.5, 0) to (9.5, 0), sight 5 m: four metres beside the street that is 3 m beyond either end.
    row = balls([-2.6, -2.4, 5.0, 12.4, 12.6], north_m=4.0)
    there = around(row, PLAN["a"].waypoints_m, 5.0)
    assert there.rows.tolist() == [1, 2, 3]
    assert bits(there.gaussians) == bits(row.select(there.rows))
    assert len(around(row, PLAN["d"].waypoints_m, 5.0).rows) == 0
    assert len(around(Gaussians.empty(), PLAN["d"].waypoints_m, 5.0).rows) == 0


def test_height_is_no_part_of_sight() -> None:
    tower = replace(balls([5.0]), means=torch.tensor([[5.0, 0.0, 400.0]]))
    assert len(around(tower, PLAN["a"].waypoints_m, 4.5).rows) == 1


def test_far_away_only_what_looks_large_is_in_sight() -> None:
    # 100 m beyond the last waypoint a hundredth of the way is a metre.
    row = replace(balls([109.5, 109.5, 5.0]), log_scales=torch.tensor([[0.1, 1.1, 0.1], [0.9] * 3, [0.1] * 3]).log())
    assert around(row, PLAN["a"].waypoints_m, 5.0, far_share=0.01).rows.tolist() == [0, 2]
    assert around(row, PLAN["a"].waypoints_m, 5.0).rows.tolist() == [2]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 40), st.permutations(range(6)))
def test_around_does_not_depend_on_order(seed: int, count: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    scene = balls(rng.uniform(-30, 30, count))
    ways = rng.uniform(-30, 30, (6, 2))
    there, mixed = around(scene, ways, 7.0), around(scene, ways[list(order)], 7.0)
    assert there.rows.tolist() == mixed.rows.tolist()
    away_m = np.linalg.norm(scene.means[:, None, :2].double().numpy() - ways, axis=2).min(axis=1, initial=np.inf)
    clear = np.abs(away_m - 7) > 1e-3
    assert set(np.flatnonzero((away_m < 7) & clear)) == set(np.flatnonzero(clear)) & set(there.rows.tolist())


def test_sight_is_as_sharp_far_from_the_origin() -> None:
    # Forty waypoints along a diagonal at four kilometres; things 2.9 m and 3.1 m beside the way, sight 3 m.
    ways = 4000.0 + np.arange(40.0)[:, None] * np.ones(2)
    aside = np.array([1.0, -1.0]) / math.sqrt(2)
    places = np.concatenate([ways + 2.9 * aside, ways + 3.1 * aside])
    row = replace(balls(np.zeros(80)), means=torch.tensor(np.column_stack([places, np.ones(80)])).float())
    assert around(row, ways, 3.0).rows.tolist() == list(range(40))


# Merging


def test_what_is_too_large_for_where_it_is_shrinks_unless_it_may_not_change() -> None:
    scene = {"west": balls([5.0], size_m=9.0), "east": balls([30.0, 139.5], size_m=9.0)}  # the last 100 m beyond d
    found = limited(scene, PLAN, PLAIN)
    assert [part.scales.tolist() for part in found.values()] == [
        [pytest.approx([4.0] * 3)],
        [pytest.approx([4.0] * 3), pytest.approx([9.0] * 3)],
    ]
    free = {"west": torch.tensor([False]), "east": torch.tensor([True, True])}
    kept = limited(scene, PLAN, PLAIN, free)
    assert bits(kept["west"]) == bits(scene["west"])
    assert bits(kept["east"]) == bits(found["east"])


def test_vehicles_keep_their_own_stretch_at_an_rsu() -> None:
    row = balls([3.0, 8.0, 12.0, 17.0])
    merged = fused_at_rsu("west", {"a": row, "b": row}, PLAN, PLAIN)
    assert east_m(merged) == [3, 8, 12, 17]
    assert torch.allclose(merged.opacities, torch.tensor(0.75))


def test_parts_of_an_rsu_may_come_in_any_order() -> None:
    parts = {"b": balls([5.0, 9.9, 15.0]), "a": balls([2.0, 10.1])}
    config = FusionConfig(duplicates=Duplicates())
    first = fused_at_rsu("west", parts, PLAN, config)
    assert bits(first) == bits(fused_at_rsu("west", dict(reversed(parts.items())), PLAN, config))


def test_other_rsus_do_not_matter_within_one() -> None:
    # b's region goes on eastwards at its RSU: c is another RSU's.
    assert east_m(fused_at_rsu("west", {"b": balls([15.0, 25.0, 35.0])}, PLAN, PLAIN)) == [15, 25, 35]


def test_the_cloud_trims_each_rsu_to_its_region() -> None:
    scene = {"west": balls([5.0, 15.0, 25.0]), "east": balls([15.0, 25.0, 35.0])}
    merged = fused_in_cloud(scene, PLAN, PLAIN)
    assert east_m(merged["west"]) == [5, 15]
    assert east_m(merged["east"]) == [25, 35]


def test_what_nobody_else_has_stays_although_it_lies_beyond() -> None:
    scene = {"west": balls([5.0, 25.0]), "east": balls([35.0])}
    assert east_m(fused_in_cloud(scene, PLAN, PLAIN)["west"]) == [5, 25]
    assert east_m(fused_in_cloud(scene, PLAN, replace(PLAIN, fill=math.inf))["west"]) == [5]


def test_nothing_of_a_part_is_left_and_nothing_breaks() -> None:
    empty = Gaussians.empty()
    assert len(fused_at_rsu("west", {"a": empty, "b": empty}, PLAN, FusionConfig())) == 0
    assert east_m(fused_at_rsu("west", {"a": empty, "b": balls([15.0])}, PLAN, FusionConfig())) == [15]
    merged = fused_in_cloud({"west": empty, "east": balls([35.0])}, PLAN, FusionConfig())
    assert [len(merged[rsu]) for rsu in ("west", "east")] == [0, 1]


def test_a_world_that_is_that_of_all_keeps_its_bits() -> None:
    part = balls([1.0, 2.0])
    half = Sim3(np.eye(3), np.array([0.5, 0, 0]), 1.0)
    out = in_world({"a": part, "b": part}, {"a": Sim3.identity(), "b": half})
    assert bits(out["a"]) == bits(part)
    assert east_m(out["b"]) == [1.5, 2.5]


# More regions


def test_old_regions_keep_their_bits_but_for_the_band() -> None:
    old = {"west": balls(np.arange(0.25, 30, 0.5))}  # its cameras looked ten metres into the east
    new = {"east": balls(np.arange(15.25, 40, 0.5), grey=0.9)}
    scene, free = joined_by(old, new, PLAN, PLAIN)
    deep = depth_m(old["west"].means[:, 0].numpy(), (0, 20), (20, 40)) > 1  # half of the band of two metres
    inside = old["west"].select(torch.from_numpy(deep))
    assert len(inside) > 30
    kept = scene["west"].select(~free["west"])
    assert bits(kept) == bits(inside)
    assert free["east"].all()
    beyond = scene["west"].select(free["west"])
    depths = depth_m(beyond.means[:, 0].numpy(), (0, 20), (20, 40))
    assert len(beyond) > 3
    assert (np.abs(depths) <= 1).all()
    # In the band a share of the optical depth is left, 0.5 + depth / 2: so much light passes as 0.25 to that power.
    np.testing.assert_allclose(beyond.opacities, 1 - 0.25 ** (0.5 + depths / 2), atol=1e-5)


def test_two_old_regions_and_a_new_one_between_them() -> None:
    middle = Plan((stretch("a", "1", 0), stretch("b", "2", 10), stretch("c", "3", 20)))
    old = {"1": balls(np.arange(0.5, 12)), "3": balls(np.arange(18.5, 30))}
    scene, free = joined_by(old, {"2": balls(np.arange(5.5, 25))}, middle, PLAIN)
    assert list(scene) == ["1", "2", "3"]
    for rsu, own, others in (("1", (0, 10), (10, 30)), ("3", (20, 30), (0, 20))):
        deep = torch.from_numpy(depth_m(old[rsu].means[:, 0].numpy(), own, others) > 1)
        assert 5 < deep.sum() < len(deep)
        assert bits(scene[rsu].select(~free[rsu])) == bits(old[rsu].select(deep))
    assert free["2"].all()
    assert set(np.arange(12.5, 18)) <= set(east_m(scene["2"])) <= set(np.arange(7.5, 23))


def test_an_old_region_out_of_sight_keeps_every_bit_also_beyond_its_border() -> None:
    """c's waypoints begin 11 m from a's last; what a has in c's region stays if that is out of sight."""
    apart = Plan((stretch("a", "1", 0), stretch("b", "2", 10), stretch("c", "3", 20)))
    old = {"1": balls(np.arange(0.5, 25)), "2": balls(np.arange(8.5, 25))}
    new = {"3": balls(np.arange(15.5, 30))}
    scene, free = joined_by(old, new, apart, replace(PLAIN, sight_m=5.0))
    assert bits(scene["1"]) == bits(old["1"])
    assert not free["1"].any()
    assert len(scene["2"]) < len(old["2"])
    near, _ = joined_by(old, new, apart, replace(PLAIN, sight_m=15.0))
    assert len(near["1"]) < len(old["1"])


def test_duplicates_at_a_border_do_not_touch_the_old_regions_interior() -> None:
    row = balls(np.arange(10.25, 30, 0.5))
    scene, free = joined_by({"west": row}, {"east": row}, PLAN, FusionConfig(duplicates=Duplicates()))
    deep = torch.from_numpy(depth_m(row.means[:, 0].numpy(), (0, 20), (20, 40)) > 1)
    assert bits(scene["west"].select(~free["west"])) == bits(row.select(deep))


def test_only_free_rows_move() -> None:
    scene = {"west": balls([1.0, 2.0]), "east": balls([30.0])}
    updates = {"east": updates_of(whole(scene), 1, "cd"), "west": updates_of(whole(scene), 2, "ab")}
    all_move = moved(scene, updates, 1.0)
    free = {"west": torch.tensor([False, True]), "east": torch.tensor([True])}
    changed = moved(scene, updates, 1.0, free)
    assert bits(changed["east"]) == bits(all_move["east"])
    assert bits(changed["west"].select(free["west"])) == bits(all_move["west"].select(free["west"]))
    assert bits(changed["west"].select(~free["west"])) == bits(scene["west"].select(~free["west"]))


# Updates


def shift(count: int, metres: float, visibility: list[float]) -> Update:
    """All Gaussians east by so much, nothing else."""
    changes = {name: torch.zeros_like(t) for name, t in balls(np.arange(count)).tensors().items()}
    changes["means"][:, 0] = metres
    return Update(changes, torch.tensor(visibility).float())


def test_a_round_moves_by_the_mean_weighted_by_visibility() -> None:
    # Row 0: (1 · 3 + 2 · 1) / 4 = 1.25 m. Row 1: b alone, 2 m. Row 2: nobody.
    scene = {"west": balls([0.0, 10.0, 20.0])}
    updates = {"west": {"a": shift(3, 1.0, [3, 0, 0]), "b": shift(3, 2.0, [1, 5, 0])}}
    assert moved(scene, updates, 1.0)["west"].means[:, 0].tolist() == pytest.approx([1.25, 12, 20])
    assert moved(scene, updates, 1.5)["west"].means[:, 0].tolist() == pytest.approx([1.875, 13, 20])


def test_what_nobody_sees_keeps_its_bits() -> None:
    scene = {"west": balls([0.1, 0.7])}
    changed = moved(scene, {"west": {"a": shift(2, 1.0, [0, 0]), "b": shift(2, 1.0, [0, 0])}}, 1.5)
    assert bits(changed["west"]) == bits(scene["west"])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 12), st.permutations("abcd"), st.floats(0.1, 2.0))
def test_the_order_of_vehicles_and_rsus_does_not_matter(seed: int, count: int, order: list[str], step: float) -> None:
    scene = {"west": balls(np.arange(count)), "east": balls([30.0, 31.0])}
    updates = updates_of(whole(scene), seed, "abcd")
    by_rsu = {"west": {n: updates[n] for n in "ab"}, "east": {n: updates[n] for n in "cd"}}
    mixed: dict[str, dict[str, Update]] = {}
    for name in order:
        mixed.setdefault("west" if name in "ab" else "east", {})[name] = updates[name]
    one, other = moved(scene, by_rsu, step), moved(dict(reversed(scene.items())), mixed, step)
    assert all(bits(one[rsu]) == bits(other[rsu]) for rsu in scene)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(1, 12), st.floats(0.1, 2.0))
def test_one_rsu_is_flat(seed: int, count: int, step: float) -> None:
    scene = balls(np.arange(count))
    updates = updates_of(scene, seed, "abc")
    total = sum(update.visibility.double() for update in updates.values())
    changed = moved({"all": scene}, {"all": updates}, step)["all"]
    for name, before in scene.tensors().items():
        shares = [u.visibility.double() / total.clamp_min(1e-12) for u in updates.values()]  # type: ignore[union-attr]
        rows = [share.reshape(-1, *[1] * (before.ndim - 1)) for share in shares]
        mean = sum(share * u.changes[name] for share, u in zip(rows, updates.values(), strict=True))
        torch.testing.assert_close(changed.tensors()[name].double(), before + step * mean, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 12), st.lists(st.sampled_from(["1", "2", "3"]), min_size=5, max_size=5), st.floats(0.5, 2))
def test_how_vehicles_are_divided_into_rsus_does_not_matter(
    seed: int, count: int, rsu_of: list[str], step: float
) -> None:
    scene = balls(np.arange(count))
    updates = updates_of(scene, seed, "abcde")
    flat = moved({"all": scene}, {"all": updates}, step)["all"]
    by_rsu: dict[str, dict[str, Update]] = {}
    for name, rsu in zip("abcde", rsu_of, strict=True):
        by_rsu.setdefault(rsu, {})[name] = updates[name]
    close(moved({"all": scene}, by_rsu, step)["all"], flat)


def test_inputs_are_left_alone() -> None:
    scene = {"west": balls([0.0, 1.0])}
    updates = {"west": updates_of(scene["west"], 3, "ab")}
    before, first = bits(scene["west"]), updates["west"]["a"]
    visibility, sh = first.visibility.clone(), first.changes["sh"].clone()
    moved(scene, updates, 1.5, {"west": torch.tensor([True, False])})
    weighed(updates["west"], {name: {"psnr-db": db, "ssim": 0.5} for name, db in (("a", 20), ("b", 10))})
    smoothed(scene, moved(scene, updates, 1.0), 0.5)
    assert bits(scene["west"]) == before
    assert torch.equal(first.visibility, visibility)
    assert torch.equal(first.changes["sh"], sh)


def test_a_vehicles_rows_are_found_again_in_the_whole() -> None:
    # It was sent rows 4, 7 and 9 of twelve, and saw the first and the last of these.
    there = Around(balls([4.0, 7.0, 9.0]), torch.tensor([4, 7, 9]))
    update = spread_over(shift(2, 0.5, [2, 3]), torch.tensor([0, 2]), there, 12)
    assert update.visibility.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0]
    assert update.changes["means"][:, 0].tolist() == [0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0]
    assert update.changes["quats"].shape == (12, 4)


def test_worse_images_count_more() -> None:
    # b lies 2 dB below: 2 - exp(-2² / 2) = 1.8647. c lies 0.02 in SSIM below, which counts as 2 dB do.
    updates = {name: shift(1, 1.0, [10]) for name in "abc"}
    told = {"a": (22, 0.8), "b": (20, 0.8), "c": (22, 0.78)}
    out = weighed(updates, {name: {"psnr-db": db, "ssim": ssim} for name, (db, ssim) in told.items()})
    assert out["a"].visibility.item() == pytest.approx(10)
    assert out["b"].visibility.item() == pytest.approx(10 * (2 - math.exp(-2)))
    assert out["c"].visibility.item() == pytest.approx(10 * (2 - math.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("metrics", [{}, {"psnr-db": 20.0}, {"psnr-db": math.nan, "ssim": 0.8}])
def test_who_does_not_say_how_it_is_shown_counts_once(metrics: dict[str, float]) -> None:
    good = {"psnr-db": 22.0, "ssim": 0.8}
    out = weighed({name: shift(1, 1.0, [10]) for name in "ab"}, {"a": good, "b": metrics})
    assert [out[name].visibility.item() for name in "ab"] == [10, 10]


def test_the_teacher_keeps_its_share() -> None:
    # 0.75 of 0 and a quarter of 4 is 1; again: 0.75 + 1 = 1.75.
    first = smoothed(None, {"west": balls([0.0])}, 0.75)
    second = smoothed(first, {"west": balls([4.0])}, 0.75)
    third = smoothed(second, {"west": balls([4.0])}, 0.75)
    assert [teacher["west"].means[0, 0].item() for teacher in (first, second, third)] == pytest.approx([0, 1, 1.75])
    assert second["west"].means[0, 1:].tolist() == [0, 1]


def test_new_gaussians_do_not_settle_among_those_of_a_region_out_of_sight() -> None:
    """Both have a ball at 5 m, in a's region; c's is left out, be a in sight or not. At 3 m there is none yet."""
    apart = Plan((stretch("a", "1", 0), stretch("b", "2", 10), stretch("c", "3", 20)))
    old, new = {"1": balls([5.0, 8.0]), "2": balls([15.0])}, {"3": balls([5.0, 25.0])}
    for sight_m in (5.0, 1000.0):
        scene, _ = joined_by(old, new, apart, replace(PLAIN, sight_m=sight_m))
        assert scene["3"].means[:, 0].tolist() == [25.0]
    scene, _ = joined_by(old, {"3": balls([3.0, 25.0])}, apart, replace(PLAIN, sight_m=5.0))
    assert scene["3"].means[:, 0].tolist() == [3.0, 25.0]
