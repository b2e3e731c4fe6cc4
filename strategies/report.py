"""What happened in a round, as values: the strategy makes them, whoever logs or draws takes them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from strategies.gate import Cause

LONGEST_DETAIL = 300


def to_printable_line(text: str) -> str:
    """Returns the start of a text from outside as one line that moves no cursor and clears no screen."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:LONGEST_DETAIL]).strip()


@dataclass(frozen=True)
class Loss:
    """One update that is not in the aggregate, why, and what was wrong: a short line of printable text."""

    vehicle: str
    cause: Cause
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", to_printable_line(self.detail))


@dataclass(frozen=True)
class Traffic:
    """Payload bytes so far, by link: vehicle <-> RSU and RSU <-> cloud."""

    vehicle_up: int = 0
    vehicle_down: int = 0
    cloud_up: int = 0
    cloud_down: int = 0

    def plus(self, **more: int) -> "Traffic":
        """With bytes added to the named links."""
        return Traffic(**{name: getattr(self, name) + more.get(name, 0) for name in self.__dataclass_fields__})

    @property
    def cloud(self) -> int:
        """Both directions between RSUs and cloud."""
        return self.cloud_up + self.cloud_down


@dataclass(frozen=True)
class RsuReport:
    """One RSU's part of a round: vehicles wanted, updates that entered, their examples, and whether its model moved.

    `protected` is False when the model moved on fewer updates than its rule needs to survive the liars it is set for.
    """

    rsu: str
    wanted: int
    accepted: int
    examples: int
    moved: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    protected: bool = True


@dataclass(frozen=True)
class RoundReport:
    """One RSU round. `cloud_moved` is None between cloud rounds, else whether the cloud's quorum was met.

    `cloud_protected` is False when the cloud merged fewer models than its rule needs to survive its liars.
    """

    round: int
    cloud_round: int
    cloud_moved: bool | None
    wall_s: float
    simulated_s: float | None
    traffic: Traffic
    rsus: tuple[RsuReport, ...]
    vehicle_metrics: Mapping[str, Mapping[str, float]]
    losses: tuple[Loss, ...]
    cloud_protected: bool = True

    @property
    def accepted(self) -> int:
        """Updates that entered an aggregate in this round."""
        return sum(rsu.accepted for rsu in self.rsus)


@dataclass(frozen=True)
class EvaluateReport:
    """What the vehicles measured with the global model on their own test frames."""

    round: int
    cloud_round: int
    vehicle_metrics: Mapping[str, Mapping[str, float]]
    rsu_metrics: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    losses: tuple[Loss, ...]


def tally(losses: Mapping[str, Mapping[str, int]], new: tuple[Loss, ...]) -> dict[str, dict[str, int]]:
    """Losses by vehicle and cause, with the new ones counted in."""
    counted = {vehicle: Counter(causes) for vehicle, causes in losses.items()}
    for loss in new:
        counted.setdefault(loss.vehicle, Counter())[str(loss.cause)] += 1
    return {vehicle: dict(causes) for vehicle, causes in sorted(counted.items())}


def weighted_metrics(rows: list[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """Mean of each metric over the rows that have it, weighted by examples; NaN and infinity are left out."""
    names = sorted({name for metrics, _ in rows for name in metrics})
    out = {}
    for name in names:
        pairs = [(m[name], weight) for m, weight in rows if name in m and math.isfinite(m[name])]
        total = sum(weight for _, weight in pairs)
        if total > 0:
            out[name] = sum(value * weight for value, weight in pairs) / total
    return out
