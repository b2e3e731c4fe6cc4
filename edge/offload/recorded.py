"""Recorded motion: traces as states at any time, states as traces, and who truly turned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Int8
from numpy import ndarray

from edge.offload.states import VehicleStates
from geometry.trace import Trace

WITHOUT_SENSORS: Final = ("pedestrian", "bicycle", "motorcycle")
VEHICLE_SIZE_M: Final = (4.5, 1.8, 1.5)


@dataclass(frozen=True, eq=False)
class TraceTable:
    """Samples of many traces behind each other, so that all vehicles of a time are looked up at once.

    Make it with `TraceTable.of`. `m` traces have `s` samples together.

    Args:
        names: of the traces.
        first: index of each trace's first sample, and `s` at the end, [m + 1].
        times_s, speed_mps, indicator: of the samples, [s].
        position_m: east and north, [s, 2].
        heading_rad: without jumps of a full turn within a trace, [s].
    """

    names: tuple[str, ...]
    first: Int[ndarray, "m1"]
    times_s: Float[ndarray, "s"]
    position_m: Float[ndarray, "s 2"]
    heading_rad: Float[ndarray, "s"]
    speed_mps: Float[ndarray, "s"]
    indicator: Int8[ndarray, "s"]

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "TraceTable":
        """A table of traces; who walks or rides is left out, for they have no sensors to share.

        Raises:
            ValueError: there is no vehicle, or a name comes twice.
        """
        kept = [trace for trace in traces if trace.kind not in WITHOUT_SENSORS]
        names = tuple(trace.name for trace in kept)
        if not kept:
            raise ValueError(f"traces hold no vehicle: pass at least one that is none of {', '.join(WITHOUT_SENSORS)}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"trace {twice!r} is there twice: names must be unique")
        return cls(
            names=names,
            first=np.concatenate([[0], np.cumsum([len(trace) for trace in kept])]),
            times_s=np.concatenate([trace.times_s for trace in kept]),
            position_m=np.concatenate([trace.positions_m[:, :2] for trace in kept]),
            heading_rad=np.concatenate([np.unwrap(trace.yaw_rad) for trace in kept]),
            speed_mps=np.concatenate([trace.speed_mps for trace in kept]),
            indicator=np.concatenate([trace.indicator for trace in kept]),
        )

    @property
    def span_s(self) -> tuple[float, float]:
        """The first and the last time of all."""
        return float(self.times_s.min()), float(self.times_s.max())

    def at(self, time_s: float) -> VehicleStates:
        """Those that are on the road at a time, interpolated, in the order of the traces."""
        starts_s, ends_s = self.times_s[self.first[:-1]], self.times_s[self.first[1:] - 1]
        present = np.flatnonzero((starts_s <= time_s) & (time_s <= ends_s))
        before, after, share = self._between(present, np.full(len(present), time_s))
        blend = lambda column: (column[before].T * (1 - share) + column[after].T * share).T  # noqa: E731
        return VehicleStates(
            time_s=time_s,
            names=tuple(self.names[i] for i in present),
            position_m=blend(self.position_m),
            heading_rad=blend(self.heading_rad),
            speed_mps=blend(self.speed_mps),
            indicator=self.indicator[before],
        )

    def ticks(self, start_s: float, seconds: float, step_s: float = 1.0) -> Iterator[VehicleStates]:
        """States at `start_s` and every `step_s` after it, for less than `seconds`.

        Raises:
            ValueError: `seconds` or `step_s` is not positive.
        """
        if not (seconds > 0 and step_s > 0):
            raise ValueError(f"seconds is {seconds} and step_s is {step_s}: both must be positive")
        for step in range(int(np.ceil(seconds / step_s - 1e-9))):
            yield self.at(start_s + step * step_s)

    def turns_ahead(
        self, time_s: float, names: Sequence[str], window_s: float = 4.0, least_rad: float = np.pi / 6
    ) -> Int8[ndarray, "n"]:
        """Who turns within a window of time, as the record knows it: `Indicator` values.

        Args:
            time_s: now.
            names: of vehicles.
            window_s: how far to look ahead; a trace that ends earlier is looked at until its end.
            least_rad: a heading that changes by less is straight on.

        Raises:
            ValueError: a name is not in the table.
        """
        places = {name: place for place, name in enumerate(self.names)}
        if unknown := [name for name in names if name not in places]:
            raise ValueError(f"vehicle {unknown[0]!r} is not in the traces: pass those that the states come from")
        rows = np.array([places[name] for name in names], int)
        times_s = time_s + np.linspace(0, window_s, 1 + max(1, round(window_s / 0.5)))
        grid = np.stack([self._heading_at(rows, np.full(len(rows), t)) for t in times_s])
        change_rad = grid - grid[0]
        strongest = change_rad[np.abs(change_rad).argmax(axis=0), np.arange(len(rows))]
        return np.where(np.abs(strongest) >= least_rad, np.sign(strongest), 0).astype(np.int8)

    def _heading_at(self, rows: Int[ndarray, "n"], times_s: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
        before, after, share = self._between(rows, times_s)
        return self.heading_rad[before] * (1 - share) + self.heading_rad[after] * share

    def _between(
        self, rows: Int[ndarray, "n"], times_s: Float[ndarray, "n"]
    ) -> tuple[Int[ndarray, "n"], Int[ndarray, "n"], Float[ndarray, "n"]]:
        """The samples of some traces around a time each, and how far between them it lies; held at the ends."""
        low, high = self.first[rows], self.first[rows + 1] - 1
        at_s = np.clip(times_s, self.times_s[low], self.times_s[high])
        before, after = low.copy(), high.copy()
        while (open_ := after - before > 1).any():  # halve the open ranges until the neighbours are left
            middle = (before + after) // 2
            later = self.times_s[middle] > at_s
            after, before = np.where(open_ & later, middle, after), np.where(open_ & ~later, middle, before)
        length_s = self.times_s[after] - self.times_s[before]
        share = np.divide(at_s - self.times_s[before], length_s, out=np.zeros(len(rows)), where=length_s > 0)
        exact = share >= 1
        return np.where(exact, after, before), after, np.where(exact, 0.0, share)


def record(source: Iterable[VehicleStates]) -> tuple[Trace, ...]:
    """States as traces, each from a vehicle's first to its last appearance, as cars of usual size.

    Raises:
        ValueError: times do not increase.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    for states in source:
        columns = (states.position_m, states.heading_rad[:, None], states.speed_mps[:, None], states.indicator[:, None])
        table = np.concatenate(columns, axis=1, dtype=np.float64).tolist()
        for name, row in zip(states.names, table, strict=True):
            rows.setdefault(name, []).append((states.time_s, *row))
    return tuple(_trace(name, np.array(samples)) for name, samples in rows.items())


def _trace(name: str, samples: Float[ndarray, "t 6"]) -> Trace:
    ground_m = np.concatenate([samples[:, 1:3], np.zeros((len(samples), 1))], axis=1)
    heading_rad, speed_mps, indicator = samples[:, 3], samples[:, 4], samples[:, 5].astype(np.int8)
    return Trace(name, "car", VEHICLE_SIZE_M, samples[:, 0], ground_m, heading_rad, speed_mps, indicator)
