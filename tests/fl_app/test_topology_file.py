"""The operator's file of who belongs where."""

from pathlib import Path

import pytest

from fl_app.run_config import ConfigError, parse, parse_at_vehicle
from fl_app.topology_file import read_topology

GOOD = """
[rsus]
north = ["car-1", "car-2"]
south = ["car-3"]
[nodes]
car-3 = 42
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "topology.toml"
    path.write_text(text)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    given = read_topology(write(tmp_path, GOOD))
    assert given.rsu_of == {"car-1": "north", "car-2": "north", "car-3": "south"}
    assert (given.rsus, given.node_of) == (("north", "south"), {"car-3": 42})


def test_a_run_takes_its_rsus_from_the_file(tmp_path: Path) -> None:
    path = str(write(tmp_path, GOOD))
    assert parse({"topology": path, "vehicles": 3, "rsus": 7}).hierarchical.rsus == 2
    flat = parse({"topology": path, "vehicles": 3, "hierarchy": "flat"}).hierarchical
    assert (flat.rsus, set(flat.given.rsu_of.values()), flat.given.node_of) == (1, {"rsu-0"}, {"car-3": 42})
    with pytest.raises(ConfigError, match="vehicles = 6, but the topology lists 3"):
        parse({"topology": path, "vehicles": 6})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no vehicle"),
        ("[rsus]\nnorth = []", "want a list of vehicles' names"),
        ('[rsus]\nnorth = "car-1"', "want a list of vehicles' names"),
        ("[rsus]\nnorth = [1]", "1 is no name of a vehicle"),
        ('[rsus]\n"[/x]" = ["a"]', "no name for an RSU"),
        ('[rsus]\nnorth = ["../a"]', "is no name of a vehicle"),
        ('[rsus]\na = ["x"]\nb = ["x"]', "x is listed twice, first under a"),
        ('[rsus]\na = ["x"]\n[nodes]\ny = 1', "under no RSU: y"),
        ('[rsus]\na = ["x"]\n[nodes]\nx = "key"', "want the number of a node"),
        ('[rsu]\na = ["x"]', r"has \[rsu\]"),
        ("rsus = 3", "are tables"),
        ("[rsus", "cannot be read"),
        ("a = " + "[" * 20_000, "cannot be read"),
        ('[rsus]\na = ["x", "y"]\n[nodes]\nx = 1\ny = 1', "one node to two"),
        ('[rsus]\na = ["x"]\n[nodes]\nx = -1', "want the number of a node"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        parse({"topology": str(path), "vehicles": 1})
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        parse({"topology": str(tmp_path / "none.toml")})


def test_vehicles_do_not_need_the_servers_file() -> None:
    assert parse_at_vehicle({"topology": "only-on-the-server.toml", "vehicles": 3}).vehicles == 3
