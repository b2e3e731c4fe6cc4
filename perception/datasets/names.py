"""Names of vehicles: valid in messages, metrics and files, and distinct."""

import re
import zlib
from collections.abc import Iterable
from typing import Final

VEHICLE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LONGEST: Final = 64


def is_vehicle_name(text: str) -> bool:
    """Says whether a text can name a vehicle."""
    return VEHICLE_NAME.fullmatch(text) is not None


def to_vehicle_name(text: str) -> str:
    """Turns a text into a valid name: the text itself if it is one, else what is valid of it and a checksum."""
    if is_vehicle_name(text):
        return text
    checksum = f"{zlib.crc32(text.encode()):08x}"
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-")[: LONGEST - len(checksum) - 1]
    return f"{kept}-{checksum}" if kept else f"vehicle-{checksum}"


def vehicle_names(names: Iterable[str]) -> list[str]:
    """Makes names valid and distinct; those that are both stay as they are, repeated ones get "-2", "-3", ..."""
    taken: dict[str, None] = {}
    for name in names:
        valid, place = to_vehicle_name(name), 1
        while valid in taken:
            place += 1
            valid = to_vehicle_name(f"{name}-{place}")
        taken[valid] = None
    return list(taken)
