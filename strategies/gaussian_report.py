"""What happened in a round of a reconstruction, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from strategies.gaussian_placing import Link
from strategies.report import Loss, Traffic


@dataclass(frozen=True)
class FusionReport:
    """One round.

    Args:
        round: from 1.
        job: "fit", "align" or "refine".
        wall_s: it took.
        wanted, accepted: vehicles asked, and answers that counted.
        gaussians: of the scene, by RSU; of the uploads by vehicle before there is a scene.
        traffic: bytes so far.
        dropped: Gaussians that RSUs did not take, by cause.
        links: what vehicles found of each other, those that are believed.
        unplaced: vehicles that no link joins to a surveyed one or an earlier scene; they stay as positioned.
        vehicle_metrics: what vehicles measured.
        losses: answers that did not count.
    """

    round: int
    job: str
    wall_s: float
    wanted: int
    accepted: int
    gaussians: Mapping[str, int]
    traffic: Traffic
    vehicle_metrics: Mapping[str, Mapping[str, float]]
    losses: tuple[Loss, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    unplaced: tuple[str, ...] = ()
