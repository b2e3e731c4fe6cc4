"""What the controller hears of vehicles in one tick."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Int8
from numpy import ndarray

from geometry.trace import Indicator


@dataclass(frozen=True, eq=False)
class VehicleStates:
    """All vehicles that are on the road at one time.

    Args:
        time_s: of the simulation or the clock.
        names: one for each vehicle, unique.
        position_m: centre, east and north, [n, 2].
        heading_rad: counter-clockwise from east, [n].
        speed_mps: along the heading, not negative, [n].
        indicator: `geometry.trace.Indicator` values, int8 [n].

    Raises:
        ValueError: lengths differ, a name comes twice, a value is NaN or infinite, a speed is negative, or an
            indicator is unknown; the message names the vehicle and the field.
    """

    time_s: float
    names: tuple[str, ...]
    position_m: Float[ndarray, "n 2"]
    heading_rad: Float[ndarray, "n"]
    speed_mps: Float[ndarray, "n"]
    indicator: Int8[ndarray, "n"]

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise ValueError(f"time_s is {self.time_s}: give a finite number of seconds")
        for field in ("position_m", "heading_rad", "speed_mps", "indicator"):
            self._check_column(field, getattr(self, field))
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"vehicle {twice!r} is there twice at {self.time_s:g} s: names must be unique")
        self._check_values("speed_mps", self.speed_mps < 0, "negative: give the speed along the heading")
        unknown = ~np.isin(self.indicator, [side.value for side in Indicator])
        self._check_values("indicator", unknown, "unknown: give -1 (right), 0 (off) or 1 (left)")

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Int[ndarray, "k"]) -> "VehicleStates":
        """Some of the vehicles, in the order given."""
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            position_m=self.position_m[indices],
            heading_rad=self.heading_rad[indices],
            speed_mps=self.speed_mps[indices],
            indicator=self.indicator[indices],
        )

    def _check_column(self, field: str, column: ndarray) -> None:
        shape = (len(self.names), 2) if field == "position_m" else (len(self.names),)
        if column.shape != shape:
            raise ValueError(f"{field} has shape {column.shape}, want {shape}: one row for each of the names")
        bad = ~np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
        self._check_values(field, bad, "NaN or infinite: leave the vehicle out or correct it")

    def _check_values(self, field: str, bad: ndarray, problem: str) -> None:
        if bad.any():
            raise ValueError(f"vehicle {self.names[int(bad.argmax())]!r} at {self.time_s:g} s: {field} is {problem}")


def noisy(
    source: Iterable[VehicleStates], position_m: float, heading_rad: float = 0.0, seed: int = 0
) -> Iterator[VehicleStates]:
    """The same states as sensors would report them, with Gaussian noise that the seed decides.

    Args:
        source: true states.
        position_m: standard deviation on each axis.
        heading_rad: standard deviation.
        seed: of the generator.

    Raises:
        ValueError: a deviation is negative or not finite.
    """
    for field, deviation in (("position_m", position_m), ("heading_rad", heading_rad)):
        if not 0 <= deviation < math.inf:
            raise ValueError(f"noise {field} is {deviation}: give a finite standard deviation, 0 or more")
    rng = np.random.default_rng(seed)
    for states in source:
        shift_m = rng.normal(0, position_m, (len(states), 2))
        turned_rad = rng.normal(0, heading_rad, len(states))
        yield replace(states, position_m=states.position_m + shift_m, heading_rad=states.heading_rad + turned_rad)
