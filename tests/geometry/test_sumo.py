"""SUMO's files: conventions checked by hand, a real network against sumolib's reader."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from geometry.sumo import SIZES_M, kind_of_type, read_fcd, read_network
from geometry.trace import KINDS, Indicator

FCD = """<?xml version="1.0" encoding="UTF-8"?>
<fcd-export>
    <timestep time="0.00">
        <vehicle id="a" x="10.0" y="20.0" angle="90.0" type="passenger" speed="3.0" signals="1"/>
        <vehicle id="b" x="0.0" y="6.0" angle="0.0" type="city_bus" speed="0.0" signals="2"/>
    </timestep>
    <timestep time="0.50">
        <vehicle id="a" x="11.5" y="20.0" angle="90.0" type="passenger" speed="3.0" signals="11"/>
        <person id="p" x="1.0" y="2.0" angle="270.0" speed="1.2"/>
    </timestep>
</fcd-export>
"""

NETWORK = """<net version="1.20">
    <location netOffset="-100.0,-200.0" projParameter="+proj=utm +zone=32"/>
    <edge id=":n_0" function="internal"><lane id=":n_0_0" index="0" speed="5" length="3" shape="0,0 1,1"/></edge>
    <edge id="e" from="m" to="n">
        <lane id="e_0" index="0" speed="13.9" length="50" width="2.5" shape="0.0,-1.0 50.0,-1.0"/>
        <lane id="e_1" index="1" speed="8.3" length="50" shape="0.0,1.5,7.0 50.0,1.5,7.0"/>
    </edge>
    <tlLogic id="n" type="static" programID="0" offset="0"/>
    <tlLogic id="n" type="static" programID="1" offset="0"/>
    <junction id="m" type="dead_end" x="0" y="0"/>
    <junction id="n" type="traffic_light" x="50" y="0"/>
    <junction id=":n_1" type="internal" x="51" y="0"/>
</net>
"""


def _file(folder: Path, text: str, name: str = "file.xml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_fcd_gives_centres_and_headings_from_east(tmp_path: Path) -> None:
    """A car of 4.5 m that heads east (90 degrees) with its front at x = 10 has its centre at 7.75."""
    car, bus, person = read_fcd(_file(tmp_path, FCD))
    assert [trace.name for trace in (car, bus, person)] == ["a", "b", "p"]
    assert [trace.kind for trace in (car, bus, person)] == ["car", "bus", "pedestrian"]
    np.testing.assert_allclose(car.positions_m, [[7.75, 20, 0], [9.25, 20, 0]], atol=1e-12)
    np.testing.assert_allclose(car.yaw_rad, 0, atol=1e-12)
    np.testing.assert_allclose(bus.positions_m, [[0, 0, 0]], atol=1e-12)  # 12 m long, heading north
    np.testing.assert_allclose(bus.yaw_rad, np.pi / 2)
    np.testing.assert_allclose(person.positions_m, [[1, 2, 0]])
    assert abs(person.yaw_rad[0]) == pytest.approx(np.pi)  # 270 degrees is west
    np.testing.assert_array_equal(car.times_s, [0, 0.5])
    np.testing.assert_array_equal(car.speed_mps, [3, 3])
    assert car.indicator.tolist() == [Indicator.RIGHT, Indicator.OFF]  # 11 = right + left + brake lights
    assert bus.indicator.tolist() == [Indicator.LEFT]


def test_types_can_be_mapped_by_hand_and_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fcd.xml.gz"
    with gzip.open(path, "wt") as file:
        file.write(FCD)
    car, _, _ = read_fcd(path, {"passenger": "van"}, {"passenger": (6.0, 2.1, 2.5)})
    assert (car.kind, car.size_m) == ("van", (6.0, 2.1, 2.5))
    np.testing.assert_allclose(car.positions_m[0], [7, 20, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DEFAULT_VEHTYPE", "car"),
        ("DEFAULT_PEDTYPE", "pedestrian"),
        ("DEFAULT_BIKETYPE", "bicycle"),
        ("motorcycle", "motorcycle"),
        ("trailer_1", "truck"),
        ("tram", "tram"),
        ("bus3", "bus"),
        ("delivery", "van"),
    ],
)
def test_names_of_types_tell_the_kind(name: str, kind: str) -> None:
    assert kind_of_type(name) == kind
    assert set(SIZES_M) == set(KINDS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('x="11.5"', 'x="nan"', r"file.xml, line 8: <vehicle> x is 'nan', want a finite number"),
        ('x="11.5"', 'x="left"', r"line 8: <vehicle> x is 'left'"),
        (' angle="0.0"', "", r"line 5: <vehicle> has no attribute 'angle'"),
        ('time="0.50"', 'time="0.00"', r"line 7: <timestep> time is 0.0, not after 0.0"),
        ("</fcd-export>", "", r"file.xml, line \d+: not well-formed XML"),
        ("fcd-export", "routes", r"line 2: the root is <routes>, want <fcd-export>"),
        ('signals="2"', 'signals="inf"', r"signals is 'inf'"),
    ],
)
def test_bad_fcd_names_file_line_and_attribute(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_fcd(_file(tmp_path, FCD.replace(old, new)))


def test_unknown_kind_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'passenger' is mapped to 'lorry'"):
        read_fcd(_file(tmp_path, FCD), {"passenger": "lorry"})
    with pytest.raises(ValueError, match=r"absent.xml: cannot be read"):
        read_fcd(tmp_path / "absent.xml")
    with pytest.raises(ValueError, match=r"cannot be read"):
        read_fcd(_file(tmp_path, FCD, "not-gzipped.xml.gz"))


def test_a_small_network(tmp_path: Path) -> None:
    network = read_network(_file(tmp_path, NETWORK))
    assert list(network.edges) == ["e"]
    edge = network.edges["e"]
    assert (edge.start, edge.end) == ("m", "n")
    assert [(lane.name, lane.speed_mps, lane.width_m) for lane in edge.lanes] == [("e_0", 13.9, 2.5), ("e_1", 8.3, 3.2)]
    np.testing.assert_array_equal(edge.lanes[1].shape_m, [[0, 1.5], [50, 1.5]])  # a third coordinate is dropped
    assert sorted(network.junctions) == ["m", "n"]
    np.testing.assert_array_equal(network.junctions["n"], [50, 0])
    assert network.traffic_lights == ("n",)  # two programs of one light
    np.testing.assert_array_equal(network.offset_m, [-100, -200])
    assert network.projection == "+proj=utm +zone=32"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('shape="0.0,-1.0 50.0,-1.0"', 'shape="0.0,-1.0 50.0,nan"', r"line 5: <lane> shape is no list of finite x,y"),
        ('shape="0.0,-1.0 50.0,-1.0"', 'shape="0 1"', r"line 5: <lane> shape is no list of finite x,y"),
        (' shape="0.0,-1.0 50.0,-1.0"', "", r"line 5: <lane> has no attribute 'shape'"),
        (' to="n"', "", r"line 4: <edge> has no attribute 'to'"),
        ('speed="13.9"', 'speed="fast"', r"line 5: <lane> speed is 'fast'"),
        ("<net ", "<additional ", r"not well-formed XML|the root is <additional>"),
    ],
)
def test_bad_networks_name_file_line_and_attribute(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_network(_file(tmp_path, NETWORK.replace(old, new, 1)))


def test_an_edge_without_lanes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="edge 'x' has no lane"):
        read_network(_file(tmp_path, NETWORK.replace("<tlLogic", '<edge id="x" from="n" to="m"/><tlLogic', 1)))


@pytest.fixture(scope="module")
def bologna() -> Path:
    root = os.environ.get("CONVOY_DATA")
    if not root:
        pytest.skip("CONVOY_DATA is not set: no real road network to read")
    path = Path(root) / "sumo_bologna" / "joined" / "joined_buslanes.net.xml"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_bologna_has_267_edges_and_13_traffic_lights(bologna: Path) -> None:
    network = read_network(bologna)
    assert (len(network.edges), len(network.traffic_lights)) == (267, 13)
    np.testing.assert_array_equal(network.offset_m, [-683195.58, -4928877.56])
    assert "+proj=utm +zone=32" in network.projection


def test_bologna_reads_as_sumolib_reads_it(bologna: Path) -> None:
    sumolib = pytest.importorskip("sumolib", reason="sumolib is not installed: pip install 'convoy[sumo]'")
    ours, theirs = read_network(bologna), sumolib.net.readNet(str(bologna))
    assert set(ours.edges) == {edge.getID() for edge in theirs.getEdges(withInternal=False)}
    assert set(ours.junctions) == {node.getID() for node in theirs.getNodes()}
    assert set(ours.traffic_lights) == {light.getID() for light in theirs.getTrafficLights()}
    for edge in theirs.getEdges(withInternal=False):
        mine = ours.edges[edge.getID()]
        assert (mine.start, mine.end) == (edge.getFromNode().getID(), edge.getToNode().getID())
        assert len(mine.lanes) == edge.getLaneNumber()
        for lane, other in zip(mine.lanes, edge.getLanes(), strict=True):
            assert (lane.name, lane.speed_mps, lane.width_m) == (other.getID(), other.getSpeed(), other.getWidth())
            np.testing.assert_allclose(lane.shape_m, np.array(other.getShape())[:, :2], atol=1e-9)
