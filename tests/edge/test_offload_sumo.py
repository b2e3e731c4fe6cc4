"""Vehicles from SUMO: the paper's crossing live and recorded, and Bologna where its files are."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from edge.offload.bologna import bologna_folder, bologna_run, bologna_workers
from edge.offload.mobility import IndicatorPredictor, TurnCount
from edge.offload.recorded import TraceTable, record
from edge.offload.states import VehicleStates
from edge.offload.sumo_crossing import CrossingConfig, build_crossing, crossing_workers
from edge.offload.sumo_live import SumoRun, netconvert, watch
from geometry.sumo import read_fcd, read_network

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("libsumo", "sumo")),
    reason="SUMO is not installed: pip install 'convoy[sumo]'",
)
needs_bologna = pytest.mark.skipif(
    not (Path(os.environ.get("CONVOY_DATA", "/nowhere")) / "sumo_bologna" / "joined").is_dir(),
    reason="CONVOY_DATA names no folder with sumo_bologna/joined",
)


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> SumoRun:
    """Half a minute of traffic after the first minute."""
    return build_crossing(tmp_path_factory.mktemp("crossing"), seconds=30.0, step_s=0.5, seed=2)


@pytest.fixture(scope="module")
def seen(crossing: SumoRun) -> list[VehicleStates]:
    return list(watch(crossing))


def test_the_crossing_is_two_hundred_metres_wide_with_two_lanes_a_direction(crossing: SumoRun) -> None:
    network = read_network(crossing.network)
    corners_m = np.array(list(network.junctions.values()))
    assert (corners_m.min(axis=0).tolist(), corners_m.max(axis=0).tolist()) == ([-100, -100], [100, 100])
    assert len(network.edges) == 8
    assert {len(edge.lanes) for edge in network.edges.values()} == {2}
    assert {lane.speed_mps for edge in network.edges.values() for lane in edge.lanes} == {11.11}


def test_states_come_step_by_step_from_the_time_asked_for(seen: list[VehicleStates]) -> None:
    assert [states.time_s for states in seen] == pytest.approx(np.arange(60, 90, 0.5))
    assert all(30 <= len(states) <= 80 for states in seen), "some forty to sixty at a time"
    assert all(np.abs(states.position_m).max() < 101 for states in seen)
    assert {side for states in seen for side in states.indicator.tolist()} == {-1, 0, 1}


def test_vehicles_go_where_they_head(seen: list[VehicleStates]) -> None:
    """The centre moves by speed times time along the heading, but for the acceleration within a step and for turns."""
    table = TraceTable.of(record(seen))
    for before, after in pairwise(seen):
        later = table.at(after.time_s)
        names = [name for name in before.names if name in set(later.names)]
        one, two = ([s.names.index(name) for name in names] for s in (before, later))
        moved_m = later.position_m[two] - before.position_m[one]
        ahead = np.stack([np.cos(later.heading_rad[two]), np.sin(later.heading_rad[two])], axis=1)
        straight = np.abs(later.heading_rad[two] - before.heading_rad[one]) < 0.01
        along_m = (moved_m * ahead).sum(axis=1)
        assert along_m[straight] == pytest.approx(0.5 * later.speed_mps[two][straight], abs=0.15)


def test_vehicles_come_in_the_order_in_which_they_entered(seen: list[VehicleStates]) -> None:
    order = list(dict.fromkeys(name for states in seen for name in states.names))
    assert all(list(states.names) == [name for name in order if name in set(states.names)] for states in seen)
    flows = [name.partition(".")[0] for name in seen[0].names]
    assert len(set(flows[:12])) > 4, "from all arms, not one arm after the other"


def test_the_same_seed_gives_the_same_traffic(crossing: SumoRun, seen: list[VehicleStates]) -> None:
    again = next(watch(crossing))
    assert again.names == seen[0].names
    assert np.array_equal(again.position_m, seen[0].position_m)


def test_indicators_announce_every_turn(seen: list[VehicleStates]) -> None:
    table, count, predictor = TraceTable.of(record(seen)), TurnCount(), IndicatorPredictor()
    for states in seen[:40]:
        count += TurnCount.of(predictor.observe(states).turn, table.turns_ahead(states.time_s, states.names))
    assert count.turning > 40
    assert count.recall > 0.95


def test_one_simulation_at_a_time_and_the_next_after_it(crossing: SumoRun) -> None:
    running = watch(crossing)
    next(running)
    with pytest.raises(RuntimeError, match="running in this process already"):
        next(watch(crossing))
    assert next(running).time_s == 60.5, "the first goes on"
    running.close()
    assert next(watch(crossing)).time_s == 60


def test_sumos_own_words_reach_the_user(crossing: SumoRun, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<routes><vehicle id='v' depart='0'><route edges='nowhere'/></vehicle></routes>")
    with pytest.raises(ValueError, match=r"SUMO failed.*nowhere"):
        next(watch(SumoRun(crossing.network, (tmp_path / "bad.xml",))))
    with pytest.raises(ValueError, match="netconvert failed"):
        netconvert(tmp_path, ["--node-files=missing.xml"])


def test_states_are_what_sumo_writes_of_the_same_run(crossing: SumoRun, tmp_path: Path) -> None:
    import sumo

    short = replace(crossing, start_s=20.0, seconds=5.0)
    options = ["-n", short.network, "-r", short.routes[0], "--seed", short.seed, "--step-length", short.step_s]
    output = ["--end", 26, "--fcd-output", "run.xml", "--fcd-output.signals", "true", "--precision", 6]
    program = Path(sumo.SUMO_HOME) / "bin" / "sumo"
    command = [str(word) for word in (program, *options, *output, "--no-step-log", "true")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    table = TraceTable.of(read_fcd(tmp_path / "run.xml"))
    for states in watch(short):
        written = table.at(states.time_s)
        order = [written.names.index(name) for name in states.names]
        assert len(written) == len(states) > 5
        assert written.position_m[order] == pytest.approx(states.position_m, abs=1e-4)
        assert np.exp(1j * written.heading_rad[order]) == pytest.approx(np.exp(1j * states.heading_rad), abs=1e-5)
        assert written.speed_mps[order] == pytest.approx(states.speed_mps, abs=1e-5)
        assert written.indicator[order].tolist() == states.indicator.tolist()


def test_bicycles_are_left_out(crossing: SumoRun, tmp_path: Path) -> None:
    kinds = '<vType id="bike" vClass="bicycle"/><vType id="car"/>'
    route = '<route edges="from-east to-west"/>'
    both = "".join(f'<vehicle id="{name}" type="{name}" depart="0">{route}</vehicle>' for name in ("bike", "car"))
    (tmp_path / "routes.xml").write_text(f"<routes>{kinds}{both}</routes>")
    states = list(watch(SumoRun(crossing.network, (tmp_path / "routes.xml",), seconds=3.0)))
    assert states[-1].names == ("car",)
    assert [s.time_s for s in states] == [0, 1, 2]


def test_without_sumo_the_error_names_the_remedy(
    crossing: SumoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libsumo", None)
    monkeypatch.setitem(sys.modules, "sumo", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'convoy\[sumo\]'"):
        next(watch(crossing))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'convoy\[sumo\]'"):
        netconvert(tmp_path, [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lanes": 0}, "lanes must be finite and positive"),
        ({"vehicles_per_h": -1.0}, "vehicles_per_h must be finite and positive, got -1"),
        ({"left": 0.7, "right": 0.5}, "want shares of at most 1"),
    ],
)
def test_bad_crossings_are_one_error(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CrossingConfig(**settings)


def test_bad_runs_are_one_error(crossing: SumoRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        SumoRun(tmp_path / "none.net.xml", crossing.routes)
    with pytest.raises(ValueError, match="step_s is 0"):
        SumoRun(crossing.network, crossing.routes, step_s=0.0)
    with pytest.raises(ValueError, match="seed is -1"):
        SumoRun(crossing.network, crossing.routes, seed=-1)
    with pytest.raises(ValueError, match="rsus is 0"):
        crossing_workers(0)


@needs_bologna
def test_bologna_has_hundreds_of_vehicles_and_rsus_within_reach() -> None:
    folder = bologna_folder()
    states = list(islice(watch(bologna_run(folder, start_s=300.0, seconds=3.0)), 3))
    assert [s.time_s for s in states] == [300, 301, 302]
    assert 400 < len(states[0]) < 1000
    workers = bologna_workers(folder)
    assert 20 < len(workers) < 80
    sites_m = np.array([worker.position_m for worker in workers])
    nearest_m = np.linalg.norm(states[0].position_m[:, None] - sites_m, axis=2).min(axis=1)
    assert (nearest_m <= 200).mean() > 0.95


def test_without_bologna_the_error_says_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CONVOY_DATA", raising=False)
    with pytest.raises(ValueError, match="CONVOY_DATA, which is not set"):
        bologna_folder()
    with pytest.raises(ValueError, match=r"has no joined_buslanes\.net\.xml"):
        bologna_folder(tmp_path)
