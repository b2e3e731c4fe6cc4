"""Traffic of the town moved by SUMO, and SUMO's own words about it."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geometry.sumo import read_fcd, read_network
from perception.datasets.base import DataError
from perception.datasets.town import sumo_driver
from perception.datasets.town.config import PRESETS
from perception.datasets.town.layout import HALF_ROAD_M, Layout, plan_town
from perception.datasets.town.looks import kind_of
from perception.datasets.town.populace import Populace, populate
from perception.datasets.town.signals import Light, green, has_signals
from perception.datasets.town.sumo_driver import build_network, drive_sumo, run_job, sumo_job
from perception.datasets.town.traffic import plan_day, plan_holdout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("libsumo", "sumo")),
        reason="SUMO is not installed: pip install 'convoy[sumo]'",
    ),
]

HAMLET = replace(PRESETS["hamlet"], seed=3, driver="sumo")

# Steps a simulation by libsumo and prints what it says of every vehicle, while the same run writes an FCD file.
RECORD = """
import json, os, sys
os.environ["LIBSUMO_AS_TRACI"] = "quiet"
import libsumo
folder = sys.argv[1]
libsumo.start(["sumo", "-n", f"{folder}/net.net.xml", "-r", f"{folder}/routes.xml", "--fcd-output", f"{folder}/run.xml",
               "--fcd-output.signals", "true", "--step-length", "0.5", "--precision", "6", "--no-step-log", "true",
               "--no-warnings", "true"])
rows = []
for _ in range(60):
    libsumo.simulationStep()
    for name in libsumo.vehicle.getIDList():
        v = libsumo.vehicle
        rows.append([name, libsumo.simulation.getTime() - 0.5, *v.getPosition(name), v.getAngle(name), v.getSpeed(name),
                     v.getLength(name), v.getSignals(name)])
libsumo.close()
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def layout() -> Layout:
    return plan_town(HAMLET)


@pytest.fixture(scope="module")
def people(layout: Layout) -> Populace:
    return populate(layout, HAMLET, 0, 0, 2, 60.0)


@pytest.fixture(scope="module")
def folder(layout: Layout, people: Populace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulation of 40 s with its files."""
    folder = tmp_path_factory.mktemp("sumo")
    run_job(sumo_job(build_network(layout, [people], folder), [people], 40.0, [1]), folder)
    return folder


def test_one_seed_gives_the_same_traces_twice_and_longer_ones_begin_alike(layout: Layout, people: Populace) -> None:
    (one,), (again,), (longer,) = (drive_sumo(layout, [people], seconds, [1]) for seconds in (20.0, 20.0, 30.0))
    assert [trace.name for trace in one] == [f"region-0/driver-{i}" for i in range(len(people.drivers))]
    for a, b, c in zip(one, again, longer, strict=True):
        for name in ("times_s", "positions_m", "yaw_rad", "speed_mps", "indicator"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(getattr(a, name), getattr(c, name)[: len(a)])


def test_drivers_start_where_the_town_puts_them_and_keep_to_their_routes(
    layout: Layout, people: Populace, folder: Path
) -> None:
    kinds = {f"region-0/driver-{i}": kind_of(look[0]) for i, look in enumerate(people.driver_looks)}
    sizes = {f"region-0/driver-{i}": tuple(look[1].tolist()) for i, look in enumerate(people.driver_looks)}
    traces = {trace.name: trace for trace in read_fcd(folder / "fcd.xml", kinds, sizes)}
    for i, driver in enumerate(people.drivers):
        trace = traces[f"region-0/driver-{i}"]
        start = driver.path.at(np.array([driver.start_m]))[0]
        np.testing.assert_allclose(trace.positions_m[0, :2], start[:2], atol=0.02)
        assert np.cos(trace.yaw_rad[0] - start[2]) > 1 - 1e-6
        assert trace.kind == kinds[trace.name]
        away = np.linalg.norm(driver.path.points_m[None] - trace.positions_m[::5, None, :2], axis=-1).min(axis=1)
        assert away.max() < HALF_ROAD_M / 2  # SUMO rounds corners its own way
    moved = [np.linalg.norm(np.diff(trace.positions_m, axis=0), axis=1).sum() for trace in traces.values()]
    assert np.median(moved) > 2.0 * 40


def test_the_network_has_the_towns_streets_lanes_and_lights(layout: Layout, folder: Path) -> None:
    network = read_network(folder / "net.net.xml")
    assert len(network.edges) == 24  # 3 x 3 junctions: 12 streets, both ways
    assert set(network.traffic_lights) == {f"{i}x{j}" for i, j in layout.nodes_of(0) if has_signals((i, j))}
    for (i, j), name in (((0, 0), "0x0"), ((2, 1), "2x1")):
        np.testing.assert_allclose(network.junctions[name], layout.at((i, j)), atol=0.01)
    cycle, car = network.edges["0x0-1x0"].lanes  # eastward: the right-hand side is south of the axis
    np.testing.assert_allclose(car.shape_m[:, 1] - layout.ys_m[0], -1.4, atol=0.01)
    np.testing.assert_allclose(cycle.shape_m[:, 1] - layout.ys_m[0], -3.15, atol=0.01)


def test_sumo_obeys_the_towns_lights(layout: Layout, people: Populace, folder: Path) -> None:
    """Whoever passes from a street onto a junction with lights does so while its light is not red."""
    names = {f"{i}x{j}": (i, j) for i, j in layout.nodes_of(0)}
    lights = {name: names[name] for name in read_network(folder / "net.net.xml").traffic_lights}
    before: dict[str, str] = {}
    passed = 0
    for step in _steps(folder / "fcd.xml"):
        for name, lane, time_s in step:
            was, street = before.get(name, ""), lane.rsplit("_", 1)[0]
            node = was.split("-")[-1]
            if was and not was.startswith(":") and street != was and node in lights:
                ends = [int(n.split("x")[0]) for n in was.split("-")]
                assert green(lights[node], int(ends[0] == ends[1]), time_s - 0.2) != Light.RED
                passed += 1
            before[name] = street
    assert passed > 5


def _steps(path: Path) -> list[list[tuple[str, str, float]]]:
    """Name, lane and time of every vehicle at every step."""
    from xml.etree import ElementTree

    steps = ElementTree.parse(path).getroot().findall("timestep")
    return [[(v.attrib["id"], v.attrib["lane"], float(step.attrib["time"])) for v in step] for step in steps]


def test_fcd_agrees_with_what_libsumo_says(folder: Path) -> None:
    """30 s of the town: centre = front - half a length along the bearing (sin, cos)."""
    out = subprocess.run([sys.executable, "-c", RECORD, str(folder)], capture_output=True, text=True, check=True)
    rows = json.loads(out.stdout.splitlines()[-1])
    lengths = {row[0]: row[6] for row in rows}
    traces = {t.name: t for t in read_fcd(folder / "run.xml", {}, {name: (n, 2, 1) for name, n in lengths.items()})}
    assert len(rows) == sum(len(trace) for trace in traces.values()) > 500
    for name, time_s, x, y, angle, speed, length, signals in rows:
        trace = traces[name]
        k = int(np.searchsorted(trace.times_s, time_s - 0.1))
        bearing = np.radians(angle)
        centre = [x - length / 2 * np.sin(bearing), y - length / 2 * np.cos(bearing)]
        np.testing.assert_allclose(trace.positions_m[k, :2], centre, atol=1e-4)
        np.testing.assert_allclose(np.exp(1j * trace.yaw_rad[k]), np.sin(bearing) + 1j * np.cos(bearing), atol=1e-5)
        assert trace.speed_mps[k] == pytest.approx(speed, abs=1e-5)
        assert trace.indicator[k] == (signals >> 1 & 1) - (signals & 1)


def test_a_day_by_sumo_has_everybody_but_those_who_cross(layout: Layout) -> None:
    day = plan_day(layout, HAMLET, 0, 6)
    kinds = {trace.kind for trace in day.traces()}
    assert {"car", "bicycle", "pedestrian"} <= kinds
    assert [layout.region_at(*day.actors[i].track[0, :2]) for i in day.sensing] == [0, 1]
    assert not any("walker" in trace.name for trace in day.traces())


def test_the_tour_by_sumo_meets_every_region(layout: Layout) -> None:
    day = plan_holdout(layout, HAMLET)
    track = day.actors[day.sensing[0]].track
    assert {layout.region_at(x, y) for x, y in track[:, :2]} == {0, 1}


def test_without_sumo_the_error_names_the_extra(
    layout: Layout, people: Populace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'convoy\[sumo\]'"):
        drive_sumo(layout, [people], 5.0, [1])


def test_netconverts_own_words_reach_the_user(
    layout: Layout, people: Populace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sumo_driver, "edge_element", lambda a, b: f'<edge id="{a}{b}" from="nowhere" to="0x0"/>')
    with pytest.raises(DataError, match=r"netconvert failed: .*nowhere"):
        build_network(layout, [people], tmp_path)
