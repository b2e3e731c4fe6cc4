"""Reads the operator's file of who belongs to which RSU."""

import tomllib
from pathlib import Path
from typing import Any

from clients.messages import VEHICLE_NAME
from strategies.topology import GivenTopology

EXAMPLE = '[rsus]\nnorth = ["car-1", "car-2"]\n[nodes]\ncar-1 = 1234'


def read_topology(path: Path) -> GivenTopology:
    """Reads a TOML file: under [rsus] the vehicles of each RSU, under [nodes], if given, the nodes that own names.

    Raises:
        ValueError: the file cannot be read, or names the entry that is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"topology: {path} cannot be read ({error}); want a TOML file such as\n{EXAMPLE}") from None
    if unknown := sorted(tables.keys() - {"rsus", "nodes"}):
        raise ValueError(f"topology: {path} has [{unknown[0]}]; known are [rsus] and [nodes]")
    rsus, nodes = tables.get("rsus", {}), tables.get("nodes", {})
    if not isinstance(rsus, dict) or not isinstance(nodes, dict):
        raise ValueError(f"topology: {path}: [rsus] and [nodes] are tables, such as\n{EXAMPLE}")
    rsu_of: dict[str, str] = {}
    for rsu, vehicles in rsus.items():
        _add_vehicles(path, rsu, vehicles, rsu_of)
    for vehicle, node_id in nodes.items():
        if type(node_id) is not int or not 0 < node_id < 2**64:
            raise ValueError(f"topology: {path}: [nodes] {vehicle} = {node_id!r}: want the number of a node")
    try:
        return GivenTopology(rsu_of, nodes)
    except ValueError as error:
        raise ValueError(f"topology: {path}: {error}") from None


def _add_vehicles(path: Path, rsu: str, vehicles: Any, rsu_of: dict[str, str]) -> None:
    where = f"topology: {path}: [rsus] {rsu}"
    if not VEHICLE_NAME.fullmatch(rsu):
        raise ValueError(f"{where}: no name for an RSU: want {VEHICLE_NAME.pattern}")
    if not isinstance(vehicles, list) or not vehicles:
        raise ValueError(f"{where} = {vehicles!r}: want a list of vehicles' names")
    for vehicle in vehicles:
        if not isinstance(vehicle, str) or not VEHICLE_NAME.fullmatch(vehicle):
            raise ValueError(f"{where}: {vehicle!r} is no name of a vehicle: want {VEHICLE_NAME.pattern}")
        if vehicle in rsu_of:
            raise ValueError(f"{where}: {vehicle} is listed twice, first under {rsu_of[vehicle]}")
        rsu_of[vehicle] = rsu
