"""Where a road user was over time. What drives a simulation, an FCD file or a tracker all give the same `Trace`."""

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Final

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

KINDS: Final = ("car", "van", "bus", "truck", "motorcycle", "bicycle", "pedestrian", "tram")


class Indicator(IntEnum):
    """Which turn indicator blinks."""

    RIGHT = -1
    OFF = 0
    LEFT = 1


@dataclass(frozen=True, eq=False)
class Trace:
    """Samples of one road user's motion.

    Args:
        name: unique among the traces of a scene.
        kind: one of `KINDS`.
        size_m: length, width, height.
        times_s: increasing, [t].
        positions_m: x y z of the point on the ground below the centre; world is ENU, [t, 3].
        yaw_rad: heading, counter-clockwise from east, [t].
        speed_mps: along the heading, not negative, [t].
        indicator: `Indicator` values, int8 [t].

    Raises:
        ValueError: lengths differ, no samples, times that do not increase, a value that is not finite, unknown kind.
    """

    name: str
    kind: str
    size_m: tuple[float, float, float]
    times_s: Float[ndarray, "t"]
    positions_m: Float[ndarray, "t 3"]
    yaw_rad: Float[ndarray, "t"]
    speed_mps: Float[ndarray, "t"]
    indicator: Int8[ndarray, "t"]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"trace {self.name}: kind is {self.kind!r}, want one of {', '.join(KINDS)}")
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "kind", "size_m")}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or not len(self.times_s):
            raise ValueError(f"trace {self.name}: columns need one length of at least 1, got {lengths}")
        for name, column in columns.items():
            if not np.isfinite(column).all():
                raise ValueError(f"trace {self.name}: {name} holds NaN or infinity")
        if (np.diff(self.times_s) <= 0).any():
            raise ValueError(f"trace {self.name}: times_s must increase")

    def __len__(self) -> int:
        return len(self.times_s)

    def at(self, times_s: Float[ndarray, "k"]) -> "Trace":
        """The trace at other times, interpolated; headings take the shorter way. Outside its time it stands still.

        The indicator is that of the last sample before each time.
        """
        pick = lambda column: np.interp(times_s, self.times_s, column)  # noqa: E731
        before = np.clip(np.searchsorted(self.times_s, times_s, side="right") - 1, 0, None)
        outside = (times_s < self.times_s[0]) | (times_s > self.times_s[-1])
        return replace(
            self,
            times_s=np.asarray(times_s, float),
            positions_m=np.stack([pick(column) for column in self.positions_m.T], axis=1),
            yaw_rad=pick(np.unwrap(self.yaw_rad)),
            speed_mps=np.where(outside, 0.0, pick(self.speed_mps)),
            indicator=self.indicator[before],
        )
