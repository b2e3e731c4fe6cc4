"""Slots from states: who takes part, what links carry, where RSUs stand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edge.offload.mobility import Prediction
from edge.offload.model import Worker
from edge.offload.scenario import ScenarioConfig, link_rates_bps, situation
from edge.offload.scenario_random import crossing_grid, random_scenario, rsu_sites
from edge.offload.sites import check_reach, junctions_of, points_along, spread_sites, workers_at
from edge.offload.states import VehicleStates
from geometry.sumo import Edge, Lane, RoadNetwork

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")

WORKERS = (Worker("near", (0.0, 0.0), 3e9, 60.0), Worker("far", (500.0, 0.0), 3e9, 60.0))


def meeting() -> tuple[VehicleStates, Prediction]:
    """`a` drives east and turns left; `b` comes from the north and sees where `a` will go; `c` goes on far away."""
    position_m = np.array([[0.0, 0.0], [7.0, 25.0], [480.0, 0.0]])
    heading_rad = np.array([0.0, -math.pi / 2, 0.0])
    states = VehicleStates(5.0, ("a", "b", "c"), position_m, heading_rad, np.full(3, 5.0), np.zeros(3, np.int8))
    return states, Prediction(position_m, heading_rad, np.array([1, -1, 0], np.int8))


def test_only_who_turns_takes_part() -> None:
    seen = situation(*meeting(), WORKERS, ScenarioConfig())
    assert [user.name for user in seen.slot.users] == ["a", "b"]
    assert seen.slot.time_s == 5
    assert seen.slot.allowed.tolist() == [[True, False], [True, False]]
    assert seen.slot.value[0, 1] > 0.3, "b looks at a's region"
    everybody = situation(*meeting(), WORKERS, ScenarioConfig(participants="all"))
    assert [user.name for user in everybody.slot.users] == ["a", "b", "c"]
    assert everybody.slot.allowed[2].tolist() == [False, True]


def test_nobody_may_use_a_worker_that_is_down() -> None:
    slot = situation(*meeting(), WORKERS, ScenarioConfig(), down={"near"}).slot
    assert not slot.allowed.any()
    assert len(slot.workers) == 2


def test_only_the_first_vehicles_are_looked_at() -> None:
    assert len(situation(*meeting(), WORKERS, ScenarioConfig(max_vehicles=1)).slot) == 1
    assert len(situation(*meeting(), WORKERS, ScenarioConfig(max_vehicles=0)).slot) == 2


@pytest.mark.parametrize(("unit", "bits"), [("kbit", 200e3), ("kbyte", 1600e3)])
def test_the_unit_of_the_features_is_a_setting(unit: str, bits: float) -> None:
    slot = situation(*meeting(), WORKERS, ScenarioConfig(size_unit=unit, uplink_bps=(16e6, 16e6))).slot
    assert slot.bits.tolist() == [bits, bits]
    assert slot.transmission_s[0, 0] == pytest.approx(bits / 16e6)
    assert math.isinf(slot.transmission_s[0, 1]), "out of reach"


def test_raster_and_exact_areas_are_close() -> None:
    exact, raster = (
        situation(*meeting(), WORKERS, ScenarioConfig(area=area)).slot.value for area in ("exact", "raster")
    )
    assert raster == pytest.approx(exact, abs=0.1)
    assert not np.array_equal(raster, exact)


def test_union_coverage_of_a_pair_is_the_sum() -> None:
    seen = situation(*meeting(), WORKERS, ScenarioConfig())
    assert seen.union_coverage()([np.array([0, 1])])[0] == pytest.approx(seen.slot.value.sum(), abs=0.02)


def test_a_vehicle_keeps_its_rate() -> None:
    rates = link_rates_bps(tuple(map(str, range(2000))), (15e6, 18e6), 0)
    assert 15e6 <= rates.min() < 15.1e6
    assert 17.9e6 < rates.max() < 18e6
    assert rates.mean() == pytest.approx(16.5e6, rel=0.01)
    assert link_rates_bps(("7",), (15e6, 18e6), 0)[0] == rates[7]
    assert link_rates_bps(("7",), (15e6, 18e6), 1)[0] != rates[7]


def test_a_random_scenario_is_its_seeds() -> None:
    one, same, other = (random_scenario(40, 8, seed) for seed in (3, 3, 4))
    assert np.array_equal(one.slot.value, same.slot.value)
    assert not np.array_equal(one.states.position_m[:5], other.states.position_m[:5])
    assert 20 <= len(one.slot) <= 36, "seven in ten of forty turn"
    assert one.slot.allowed.all()
    assert set(one.slot.cycles_per_s) <= {3e9, 4e9, 5e9}


def test_a_large_random_scenario_has_more_crossings_and_a_reach() -> None:
    seen = random_scenario(400, 40, 0)
    assert 0 < seen.slot.allowed.mean() < 0.5
    assert len(seen.slot.workers) == 40
    assert len(random_scenario(0, 1).slot) == 0


def test_eight_rsus_stand_twice_on_every_arm() -> None:
    sites_m = rsu_sites(8, crossing_grid(1))
    expected = {(25, 0), (75, 0), (-25, 0), (-75, 0), (0, 25), (0, 75), (0, -25), (0, -75)}
    assert {(round(x), round(y)) for x, y in sites_m} == expected
    assert np.abs(rsu_sites(100, crossing_grid(4))).max() < 300


def test_sites_are_few_and_leave_nobody_out() -> None:
    line_m = np.column_stack([np.arange(0, 1001, 100.0), np.zeros(11)])
    chosen_m = spread_sites(line_m, 200.0)
    assert (np.abs(line_m[:, None, 0] - chosen_m[:, 0]).min(axis=1) <= 200).all()
    assert chosen_m[:, 0].tolist() == [500, 0, 1000], "the middle, then always the farthest"
    assert spread_sites(line_m, 200.0, 2)[:, 0].tolist() == [500, 0]
    assert len(spread_sites(line_m, 200.0, 99)) == 11


def test_places_of_a_network() -> None:
    bend = Lane("e_0", 10.0, 3.2, np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 5.0]]))
    network = RoadNetwork(
        {"e": Edge("e", "a", "b", (bend,))}, {"a": np.zeros(2), "b": np.ones(2)}, (), np.zeros(2), "!"
    )
    assert points_along(network, 5.0).tolist() == [[0, 0], [5, 0], [10, 0], [10, 5]]
    assert junctions_of(network).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="no junctions"):
        junctions_of(replace(network, junctions={}))
    with pytest.raises(ValueError, match="step_m is 0"):
        points_along(network, 0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deadline_s": 0.0}, "deadline_s must be finite and positive, got 0"),
        ({"size_unit": "Kb"}, "unit is 'Kb', want one of bit, kbit"),
        ({"uplink_bps": (-1.0, 18e6)}, "uplink_bps is -1.0 to"),
        ({"uplink_bps": (18e6, 15e6)}, "want two rising rates"),
        ({"participants": "some"}, "participants is 'some', want turners or all"),
        ({"area": "round"}, "area is 'round', want exact or raster"),
        ({"max_vehicles": -1}, "max_vehicles is -1"),
        ({"cell_m": 0.0}, "cell_m"),
    ],
)
def test_bad_settings_are_one_error(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScenarioConfig(**settings)


def test_bad_scenes_are_one_error() -> None:
    states, expected = meeting()
    with pytest.raises(ValueError, match="workers is empty"):
        situation(states, expected, (), ScenarioConfig())
    with pytest.raises(ValueError, match="of 3 vehicles, the states are of 2"):
        situation(states.pick(np.array([0, 1])), expected, WORKERS, ScenarioConfig())
    with pytest.raises(ValueError, match="rsus is 0"):
        random_scenario(10, 0)
    with pytest.raises(ValueError, match="candidates_m is empty"):
        spread_sites(np.zeros((0, 2)), 200.0)
    with pytest.raises(ValueError, match="reach_m is -1"):
        spread_sites(np.zeros((1, 2)), -1.0)


def test_an_rsu_that_hears_no_road_is_refused() -> None:
    roads_m = np.array([[0.0, 0.0], [100.0, 0.0]])
    check_reach(workers_at(roads_m), roads_m)
    lost = replace(WORKERS[0], name="lost", position_m=(100.0, 61.0))
    with pytest.raises(ValueError, match="RSU 'lost' is 61 m from the nearest road and reaches 60 m"):
        check_reach((WORKERS[0], lost), roads_m)
    with pytest.raises(ValueError, match="roads_m is empty"):
        check_reach(WORKERS, np.zeros((0, 2)))
