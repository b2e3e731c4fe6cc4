"""Reads a node's config: which data are its vehicle's, and what it is called."""

import difflib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clients.perception_client import VehicleData
from perception.datasets import DataError
from perception.datasets.names import VEHICLE_NAME, is_vehicle_name

KEYS = ("partition-id", "num-partitions", "data-path", "vehicle", "region")


def read_node_config(values: Mapping[str, Any]) -> VehicleData:
    """Reads what `flower-supernode --node-config` says of a vehicle; a simulation's engine gives the partition alone.

    With "data-path", a folder, all frames in there are the vehicle's; without, its share of the fleet is the one with
    the number "partition-id". A vehicle with a folder is called "vehicle-PARTITION" unless "vehicle" names it.

    Raises:
        DataError: a value of another type, a name that is none, neither name nor number, or a misspelt key.
    """
    for key in values:
        close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
        if key not in KEYS and close:
            raise DataError(f"node config: unknown key {key!r}; did you mean {close[0]!r}?")
    number, name = values.get("partition-id"), _text(values, "vehicle")
    folder, region = _text(values, "data-path"), _text(values, "region")
    if number is not None and (type(number) is not int or number < 0):
        raise DataError(f"node config: partition-id = {number!r}: want a whole number, 0 or more")
    if name and not is_vehicle_name(name):
        raise DataError(f"node config: vehicle = {name!r}: want a name that matches {VEHICLE_NAME.pattern}")
    path = Path(folder).expanduser() if folder else None
    if number is not None:
        return VehicleData(number, path, name or (f"vehicle-{number}" if path else ""), region)
    if path and name:
        return VehicleData(zlib.crc32(name.encode()), path, name, region)
    raise DataError('node config: want partition-id=NUMBER, or data-path="FOLDER" and vehicle="NAME"')


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise DataError(f'node config: {key} = {value!r}: want a text in quotes, as {key}="...", or leave it out')
    return value or ""
