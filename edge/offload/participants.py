"""Who takes part in offloading: workers, users and their tasks."""

import math
from dataclasses import dataclass
from typing import Final

UNIT_BITS: Final = {"bit": 1, "kbit": 1_000, "kbyte": 8_000, "mbit": 1_000_000, "mbyte": 8_000_000}
"""Bits in a unit of size; "200 Kb" of features is 200 kbit or, read otherwise, 200 kbyte."""


@dataclass(frozen=True)
class Worker:
    """One that fuses views: the computer of a roadside unit (RSU).

    Args:
        name: unique among the workers of a slot.
        position_m: east, north.
        cycles_per_s: of its processor, shared evenly by those who offload to it.
        reach_m: a user further away cannot offload to it.

    Raises:
        ValueError: a value is out of range; the message names worker and field.
    """

    name: str
    position_m: tuple[float, float]
    cycles_per_s: float
    reach_m: float = math.inf

    def __post_init__(self) -> None:
        _check_finite("Worker", self.name, "position_m", *self.position_m)
        _check_positive("Worker", self.name, "cycles_per_s", self.cycles_per_s)
        if not self.reach_m > 0:
            raise ValueError(f"Worker {self.name!r}: reach_m must be positive, got {self.reach_m}: give metres or inf")


@dataclass(frozen=True)
class User:
    """A vehicle that asks for a fused view.

    Args:
        name: unique among the users of a slot.
        position_m: east, north.
        heading_rad: counter-clockwise from east.
        speed_mps: along the heading, not negative.

    Raises:
        ValueError: a value is out of range; the message names user and field.
    """

    name: str
    position_m: tuple[float, float]
    heading_rad: float
    speed_mps: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("User", self.name, "position_m", *self.position_m)
        _check_finite("User", self.name, "heading_rad", self.heading_rad)
        if not 0 <= self.speed_mps < math.inf:
            raise ValueError(f"User {self.name!r}: speed_mps must be finite, 0 or more, got {self.speed_mps}: drop it")


@dataclass(frozen=True)
class Task:
    """What a user wants fused, and by when.

    Args:
        bits: what it sends.
        cycles: of the worker's processor, for this user's share of the fusion.
        deadline_s: from the first bit sent to the end of the fusion.

    Raises:
        ValueError: a value is not finite and positive.
    """

    bits: float
    cycles: float
    deadline_s: float

    def __post_init__(self) -> None:
        for field in ("bits", "cycles", "deadline_s"):
            _check_positive("Task", None, field, getattr(self, field))

    @classmethod
    def of_size(cls, size: float, unit: str, *, cycles: float, deadline_s: float) -> "Task":
        """A task whose size is given in a unit of `UNIT_BITS`.

        Raises:
            ValueError: unknown unit, or a value is not finite and positive.
        """
        if unit not in UNIT_BITS:
            raise ValueError(f"Task: unit is {unit!r}, want one of {', '.join(UNIT_BITS)}")
        return cls(size * UNIT_BITS[unit], cycles, deadline_s)


def _check_finite(kind: str, name: str, field: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{kind} {name!r}: {field} must be finite, got {values if len(values) > 1 else values[0]}")


def _check_positive(kind: str, name: str | None, field: str, value: float) -> None:
    if not 0 < value < math.inf:
        who = kind if name is None else f"{kind} {name!r}"
        raise ValueError(f"{who}: {field} must be finite and positive, got {value}")
