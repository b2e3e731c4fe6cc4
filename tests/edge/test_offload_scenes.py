"""Scenes by name: the crossing, Bologna, FCD files and traces."""

import gzip
import importlib.util
import shutil
import subprocess
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from edge.offload.scenes import SceneRequest, open_scene, trace_scene
from edge.offload.sumo_crossing import build_crossing
from geometry.trace import Trace

needs_sumo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("libsumo", "sumo")),
    reason="SUMO is not installed: pip install 'convoy[sumo]'",
)
SHORT = SceneRequest(seconds=4.0, step_s=1.0, seed=3)


def drive(name: str, start_s: float = 0.0) -> Trace:
    """100 m to the east in ten seconds."""
    times_s = start_s + np.arange(11.0)
    positions_m = np.column_stack([np.arange(11) * 10.0, np.zeros(11), np.zeros(11)])
    return Trace(
        name, "car", (4.5, 1.8, 1.5), times_s, positions_m, np.zeros(11), np.full(11, 10.0), np.zeros(11, np.int8)
    )


def test_traces_are_a_scene_of_their_own_time_with_rsus_along_the_way() -> None:
    scene = trace_scene("mine", [drive("a"), drive("b", 3.0)], replace(SHORT, reach_m=30.0))
    assert [states.time_s for states in scene.states()] == [0, 1, 2, 3]
    assert [len(states) for states in scene.states()] == [1, 1, 1, 2]
    sites_m = np.array([worker.position_m for worker in scene.workers])
    assert (np.abs(np.arange(0, 101, 10)[:, None] - sites_m[:, 0]).min(axis=1) <= 30).all()
    assert scene.table is not None


def test_a_scene_ends_where_its_traces_do() -> None:
    scene = trace_scene("mine", [drive("a")], replace(SHORT, start_s=8.0, seconds=60.0))
    assert [states.time_s for states in scene.states()] == [8, 9, 10]
    with pytest.raises(ValueError, match="mine: start_s is 11, but the traces end at 10 s"):
        trace_scene("mine", [drive("a")], replace(SHORT, start_s=11.0))


def test_rsus_stand_where_they_are_asked_for() -> None:
    scene = trace_scene("mine", [drive("a")], replace(SHORT, sites_m=((0.0, 50.0), (100.0, -50.0))))
    assert [worker.position_m for worker in scene.workers] == [(0, 50), (100, -50)]
    assert len(trace_scene("mine", [drive("a")], replace(SHORT, rsus=3)).workers) == 3
    with pytest.raises(ValueError, match="RSU 'rsu-0' is 250 m from the nearest road and reaches 200 m"):
        trace_scene("mine", [drive("a")], replace(SHORT, sites_m=((0.0, 250.0),)))


@needs_sumo
def test_the_crossing_recorded_and_live_is_the_same_traffic() -> None:
    recorded, live = open_scene("crossing", SHORT), open_scene("crossing", SHORT, live=True)
    assert recorded.workers == live.workers
    assert len(live.workers) == 8
    assert recorded.table is not None
    assert live.table is None
    for one, two in zip(recorded.states(), live.states(), strict=True):
        order = [one.names.index(name) for name in two.names]
        assert one.time_s == two.time_s
        assert one.position_m[order] == pytest.approx(two.position_m)
    assert one.time_s == 63
    assert recorded.table.span_s[1] == 67, "recorded for longer, so that turns at the end are known"


@needs_sumo
def test_a_live_scene_can_be_left_and_started_again() -> None:
    live = open_scene("crossing", SHORT, live=True)
    first = list(islice(live.states(), 2))
    again = list(islice(live.states(), 2))
    assert [states.names for states in first] == [states.names for states in again]


@needs_sumo
def test_an_fcd_file_with_its_network_beside_it(tmp_path: Path) -> None:
    import sumo

    run = build_crossing(tmp_path, seed=1)
    program = str(Path(sumo.SUMO_HOME) / "bin" / "sumo")
    options = ["-n", str(run.network), "-r", str(run.routes[0]), "--end", "30", "--no-step-log", "true"]
    subprocess.run([program, *options, "--fcd-output", "day.xml"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "day.xml.gz").write_bytes(gzip.compress((tmp_path / "day.xml").read_bytes()))
    bare = open_scene(str(tmp_path / "day.xml"), SHORT)
    assert bare.roads is None
    shutil.copy(run.network, tmp_path / "day.net.xml")
    for name in ("day.xml", "day.xml.gz"):
        scene = open_scene(str(tmp_path / name), replace(SHORT, start_s=20.0, reach_m=60.0))
        assert scene.roads is not None
        assert [states.time_s for states in scene.states()] == [20, 21, 22, 23]
        assert len(next(scene.states())) > 5
        assert {worker.position_m for worker in scene.workers} <= {(0, 0), (100, 0), (0, 100), (-100, 0), (0, -100)}


def test_bad_requests_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scene of that name; scenes are crossing, bologna"):
        open_scene("nowhere", SHORT)
    (tmp_path / "day.xml").write_text("<other/>")
    with pytest.raises(ValueError, match="want <fcd-export>"):
        open_scene(str(tmp_path / "day.xml"), SHORT)
    with pytest.raises(ValueError, match="a recorded file is not live"):
        open_scene(str(tmp_path / "day.xml"), SHORT, live=True)
    with pytest.raises(ValueError, match="rsus is -1"):
        SceneRequest(rsus=-1)
    with pytest.raises(ValueError, match="want 0 < step_s <= seconds"):
        SceneRequest(seconds=0.0)
