"""A tiny town as many are to rebuild it: whose frame is whose, what is held back, who is off by how much."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl_app.holdings import held_by, replanned, survey_of
from fl_app.survey import MISPLACED, Survey, SurveyRequest, make_survey, misplacement, town_of
from fl_app.survey_split import vehicle_names
from geometry import Sim3
from perception.datasets.base import DataError
from recon.partition import optimum_s

TINY = SurveyRequest(size_px=(32, 48), frames=24, rsus=2, vehicles=4, overlap_m=15.0)  # some 13 m apart


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Frames are rendered once, into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def survey(cache: None) -> Survey:
    return make_survey(TINY)


def speeds(vehicles: int, ratio: float) -> list[float]:
    """Fastest, between, slowest, and again."""
    return [[ratio, (1 + ratio) / 2, 1.0][k % 3] for k in range(vehicles)]


def places_m(survey: Survey) -> np.ndarray:
    return np.array([frame.camera.world_from_cam.translation_m for frame in survey.frames])


def shared(survey: Survey, kind: str) -> list[list[int]]:
    """Which frames each vehicle holds, by their place along the way."""
    times = [frame.camera.world_from_cam.translation_m.tolist() for frame in survey.frames]
    held = [getattr(vehicle, kind) for vehicle in survey.vehicles]
    return [[times.index(frame.camera.world_from_cam.translation_m.tolist()) for frame in frames] for frames in held]


# Whose is what


def test_a_survey_says_what_it_is_of(survey: Survey) -> None:
    assert survey.name == "town (seed 0), a tour"
    assert "CC0" in survey.licence
    assert len(survey.frames) == 24
    assert survey.frames[0].image is not None
    assert survey.frames[0].image.shape == (32, 48, 3)
    assert [vehicle.vehicle for vehicle in survey.vehicles] == [stretch.vehicle for stretch in survey.plan.stretches]
    assert survey.sites_m.shape == (2, 2)
    assert set(survey.partitions) == {"Voronoi", "HWP"}


def test_every_frame_has_one_owner_and_stretches_follow_the_way(survey: Survey) -> None:
    assert survey.owner.shape == (24,)
    assert sorted(set(survey.owner.tolist())) == [0, 1, 2, 3]
    assert (np.diff(survey.owner) >= 0).all()
    assert [stretch.views for stretch in survey.plan.stretches] == np.bincount(survey.owner).tolist()


def test_waypoints_are_places_along_the_way_to_a_decimetre(survey: Survey) -> None:
    for number, stretch in enumerate(survey.plan.stretches):
        own_m = places_m(survey)[survey.owner == number, :2]
        assert np.abs(stretch.waypoints_m - own_m).max() <= 0.05 + 1e-9
        np.testing.assert_allclose(stretch.waypoints_m, stretch.waypoints_m.round(1), atol=1e-12)


def test_what_is_held_back_is_in_nobodys_training_set(survey: Survey) -> None:
    assert survey.judged == (4, 12, 20)  # every eighth, from the fourth on
    train, test = shared(survey, "train"), shared(survey, "test")
    assert not set(survey.judged) & {index for indices in train for index in indices}
    assert sorted(index for indices in test for index in indices) == list(survey.judged)
    assert all(survey.owner[index] == number for number, indices in enumerate(test) for index in indices)


def test_every_frame_is_learned_from_by_one_vehicle_near_it(survey: Survey) -> None:
    wide = make_survey(replace(TINY, overlap_m=40.0))
    np.testing.assert_array_equal(wide.owner, survey.owner)
    beyond = []
    for each, overlap_m in ((survey, 15.0), (wide, 40.0)):
        train = shared(each, "train")
        assert sorted(index for indices in train for index in indices) == sorted(set(range(24)) - set(each.judged))
        beyond.append(0)
        for number, indices in enumerate(train):
            own = np.flatnonzero(each.owner == number)
            away_m = np.linalg.norm(places_m(each)[:, None] - places_m(each)[own], axis=2).min(axis=1)
            assert max(away_m[indices]) <= overlap_m
            beyond[-1] += len(set(indices) - set(own.tolist()))
    assert beyond[1] > beyond[0] > 0


def test_without_overlap_each_keeps_to_its_own_stretch() -> None:
    strict = make_survey(replace(TINY, overlap_m=0.0))
    for number, indices in enumerate(shared(strict, "train")):
        assert indices == [k for k in range(24) if strict.owner[k] == number and k not in strict.judged]


# Speeds and budgets


@pytest.mark.parametrize(("vehicles", "ratio"), [(4, 4.0), (6, 2.0)])
def test_stretches_and_budgets_follow_speeds(vehicles: int, ratio: float) -> None:
    made = make_survey(replace(TINY, vehicles=vehicles, speed_ratio=ratio, gaussians_per_view=10))
    speed = speeds(vehicles, ratio)
    for rsu in made.plan.rsus:
        own = [k for k, stretch in enumerate(made.plan.stretches) if stretch.rsu == rsu]
        times_s = [made.plan.stretches[k].views / speed[k] for k in own]
        assert max(times_s) - min(times_s) <= 1.0  # a frame more or less of the slowest
    assert all(stretch.max_gaussians == 10 * stretch.views for stretch in made.plan.stretches)


def test_equal_speeds_give_equal_stretches() -> None:
    made = make_survey(replace(TINY, speed_ratio=1.0))
    views = [stretch.views for stretch in made.plan.stretches]
    assert sum(views) == 24
    assert max(views) - min(views) <= 2


def test_boundaries_by_speed_take_no_longer_than_the_nearest_rsu() -> None:
    made = make_survey(replace(TINY, vehicles=5, rsus=2))

    def longest_s(owner: np.ndarray) -> float:
        rates = [worker.views_per_s for worker in made.problem.workers]
        return max(count / rate for count, rate in zip(np.bincount(owner, minlength=2), rates, strict=True))

    assert longest_s(made.partitions["HWP"].owner) <= longest_s(made.partitions["Voronoi"].owner) + 1e-9


# Positioning


def test_whose_positioning_is_right() -> None:
    one, each = make_survey(replace(TINY, anchors="first")), make_survey(replace(TINY, anchors="rsu"))
    assert [stretch.surveyed for stretch in one.plan.stretches] == [True, False, False, False]
    for rsu, site_m in zip(each.plan.rsus, each.sites_m, strict=True):
        right = [stretch.vehicle for stretch in each.plan.of_rsu(rsu) if stretch.surveyed]
        away_m = {s.vehicle: np.linalg.norm(s.waypoints_m - site_m, axis=1).min() for s in each.plan.of_rsu(rsu)}
        assert right == [min(away_m, key=lambda vehicle: away_m[vehicle])]
    for made in (one, each):
        for vehicle in made.vehicles:
            is_right = np.array_equal(vehicle.own_from_data.matrix, np.eye(4))
            assert is_right is made.plan[vehicle.vehicle].surveyed


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0])
def test_the_others_are_off_by_what_is_said(times: float) -> None:
    request, centre_m = replace(TINY, misplaced=times), np.array([40.0, -20.0, 1.5])
    scale, angle_rad, metres = (times * value for value in MISPLACED)
    signs = set()
    for number in range(1, 9):
        off = misplacement(centre_m, request, number)
        assert np.linalg.norm(off.apply(centre_m[None])[0] - centre_m) == pytest.approx(metres)
        assert math.acos((np.trace(off.rotation) - 1) / 2) == pytest.approx(angle_rad)
        assert abs(math.log(off.scale)) == pytest.approx(math.log(1 + scale))
        signs.add(off.scale > 1)
    assert signs == {True, False}
    assert list(MISPLACED) == [0.03, math.radians(1.3), 0.6]


def test_without_misplacement_all_are_right() -> None:
    for vehicle in make_survey(replace(TINY, misplaced=0.0)).vehicles:
        np.testing.assert_allclose(vehicle.own_from_data.matrix, np.eye(4), atol=1e-9)


def test_views_lie_in_the_world_that_a_vehicle_believes_in(survey: Survey) -> None:
    vehicle = next(vehicle for vehicle in survey.vehicles if vehicle.own_from_data.scale != 1)
    frame, view = vehicle.train[0], vehicle.learned()[0]
    centre_m = -view.viewmat[:3, :3].double().T @ view.viewmat[:3, 3].double()
    there_m = vehicle.own_from_data.apply(frame.camera.world_from_cam.translation_m[None])[0]
    np.testing.assert_allclose(centre_m, there_m, atol=1e-4)
    assert len(vehicle.learned()) == len(vehicle.train)
    assert len(vehicle.judged()) == len(vehicle.test)
    assert view.depth_m is not None
    assert isinstance(vehicle.own_from_data, Sim3)


# Who takes part


def test_some_rsus_can_take_part_and_the_plan_stays(survey: Survey) -> None:
    part = make_survey(replace(TINY, rsu_names=("rsu-1",)))
    assert [vehicle.vehicle for vehicle in part.vehicles] == ["vehicle-2", "vehicle-3"]
    assert [s.vehicle for s in part.plan.stretches] == [s.vehicle for s in survey.plan.stretches]
    np.testing.assert_array_equal(part.owner, survey.owner)
    assert [s.vehicle for s in part.active_plan().stretches] == ["vehicle-2", "vehicle-3"]
    assert len(part.active_plan(["rsu-0"]).stretches) == 4
    assert len(survey.active_plan().stretches) == 4
    np.testing.assert_array_equal(part.vehicles[0].own_from_data.matrix, survey.vehicles[2].own_from_data.matrix)


def test_the_same_request_is_the_same_survey(survey: Survey) -> None:
    again = make_survey(TINY)
    np.testing.assert_array_equal(again.owner, survey.owner)
    for first, second in zip(survey.vehicles, again.vehicles, strict=True):
        np.testing.assert_array_equal(first.own_from_data.matrix, second.own_from_data.matrix)
    assert shared(again, "train") == shared(survey, "train")


# Who falls out or slows down


def names(survey: Survey) -> list[str]:
    """Of the owner of each frame."""
    return [survey.plan.stretches[number].vehicle for number in survey.owner]


def test_others_make_up_for_a_vehicle_that_is_gone(survey: Survey) -> None:
    again = make_survey(replace(TINY, without=("vehicle-1",)))
    had = names(survey).count("vehicle-1")
    assert [vehicle.vehicle for vehicle in again.vehicles] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    assert [stretch.vehicle for stretch in again.plan.stretches] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    assert sum(stretch.views for stretch in again.plan.stretches) == 24
    train = [index for indices in shared(again, "train") for index in indices]
    assert sorted(train) == sorted(set(range(24)) - set(again.judged))
    assert sorted(index for indices in shared(again, "test") for index in indices) == list(again.judged)
    assert again.moved == sum(a != b for a, b in zip(names(survey), names(again), strict=True)) >= had > 0
    assert again.makespan_s <= 1.05 * optimum_s(again.problem) + 1e-9
    assert survey.moved == 0


def test_who_is_left_errs_as_before(survey: Survey) -> None:
    """Signs and directions are drawn by a vehicle's number, not by its row in the plan."""
    again = make_survey(replace(TINY, without=("vehicle-0",)))
    before = {vehicle.vehicle: vehicle.own_from_data for vehicle in survey.vehicles}
    pairs = [(vehicle.own_from_data, before[vehicle.vehicle]) for vehicle in again.vehicles]
    both = [pair for pair in pairs if all(off.scale != 1 for off in pair)]
    assert both
    for now, then in both:
        np.testing.assert_array_equal(now.rotation, then.rotation)
        assert now.scale == then.scale


@pytest.mark.parametrize(
    "changed",
    [
        {"without": ("rsu-1",)},
        {"without": ("vehicle-2", "vehicle-3")},
        {"slowed": (("vehicle-2", 1e-9), ("vehicle-3", 1e-9))},  # who would be given no frame falls out as well
    ],
)
def test_an_rsu_that_nobody_drives_for_is_gone(survey: Survey, changed: dict) -> None:
    again = make_survey(replace(TINY, **changed))
    assert again.plan.rsus == ("rsu-0",)
    assert [vehicle.vehicle for vehicle in again.vehicles] == ["vehicle-0", "vehicle-1"]
    np.testing.assert_array_equal(again.sites_m, survey.sites_m[:1])
    lost = sum(stretch.views for stretch in survey.plan.of_rsu("rsu-1"))
    assert again.moved == sum(a != b for a, b in zip(names(survey), names(again), strict=True)) >= lost


def test_a_slower_vehicle_covers_less(survey: Survey) -> None:
    again = make_survey(replace(TINY, slowed=(("vehicle-0", 0.25),)))
    assert [vehicle.vehicle for vehicle in again.vehicles] == vehicle_names(4)
    assert again.plan["vehicle-0"].views < survey.plan["vehicle-0"].views
    assert again.makespan_s <= 1.05 * optimum_s(again.problem) + 1e-9


def test_a_node_keeps_its_vehicle_when_others_are_missing() -> None:
    assert replanned(TINY, ()) is TINY
    assert replanned(replace(TINY, without=("rsu-0",)), ["vehicle-3"]).without == ("rsu-0", "vehicle-3")
    before, after = held_by(TINY, 2)[0], held_by(TINY, 2, ("vehicle-1",))[0]
    assert before.vehicle == after.vehicle == "vehicle-2"
    again = survey_of(replanned(TINY, ["vehicle-1"]))
    assert after is again.vehicles[1]
    for number, words in ((1, "vehicle-1 has no stretch: others make up for it"), (4, "4 take part")):
        with pytest.raises(DataError, match=words):
            held_by(TINY, number, ("vehicle-1",))


@pytest.mark.parametrize(("rsus", "regions"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_the_town_grows_with_the_rsus(rsus: int, regions: int) -> None:
    town = town_of(replace(TINY, rsus=rsus, frames=0))
    assert (town.rsus, town.holdout_frames) == (regions, 240 * regions)  # as dense with one RSU as with four
    assert town_of(TINY).holdout_frames == 24


# Requests that cannot be met


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vehicles": 1}, "2 RSUs need at least as many vehicles, got 1"),
        ({"rsu_names": ("rsu-2",)}, "regions: there is no rsu-2; there are rsu-0, rsu-1"),
        ({"vehicles": 7}, "24 frames for 7 vehicles; want 28, or fewer vehicles"),
        ({"path": Path("no/such/folder")}, "no/such/folder"),
        ({"without": ("vehicle-4",)}, "without: there is no vehicle-4; there are rsu-0, rsu-1, vehicle-0, .*vehicle-3"),
        ({"slowed": (("rsu-0", 0.5),)}, "slowed: there is no rsu-0; there are vehicle-0, .*vehicle-3"),
        ({"without": ("rsu-0", "vehicle-2", "vehicle-3")}, "without: no vehicle is left"),
        ({"without": ("vehicle-0",), "rsu_names": ("rsu-1",)}, "without, slowed: .* leave `regions` empty"),
        ({"slowed": (("vehicle-0", 2.0),), "rsu_names": ("rsu-1",)}, "without, slowed: .* leave `regions` empty"),
    ],
)
def test_what_cannot_be_surveyed_is_named(changed: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_survey(replace(TINY, **changed))


def test_a_vehicle_whose_only_frames_are_held_back_is_named() -> None:
    with pytest.raises(DataError, match="vehicle"):
        make_survey(replace(TINY, vehicles=6, holdout=2, overlap_m=1.0))
