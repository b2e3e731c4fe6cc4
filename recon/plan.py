"""Who is to cover which part of a street: decided before the drive, known to vehicles, roadside units (RSUs) and cloud.

A plan holds places that vehicles are sent to, not where they were: it gives no pose away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from recon.region import Region, waypoint_region


@dataclass(frozen=True, eq=False)
class Stretch:
    """What one vehicle is asked to cover.

    Args:
        vehicle: its name.
        rsu: that it belongs to.
        waypoints_m: east, north of the planned way, at least one, [k, 2].
        views: that it takes on its own stretch, beside those beyond its borders.
        max_gaussians: its budget.
        surveyed: whether it passes a place that is known exactly, as an RSU's, so that its positioning is right.

    Raises:
        ValueError: no waypoints, one that is not finite, or a number below 1.
    """

    vehicle: str
    rsu: str
    waypoints_m: Float[ndarray, "k 2"]
    views: int
    max_gaussians: int
    surveyed: bool = False

    def __post_init__(self) -> None:
        shape = np.shape(self.waypoints_m)
        if shape[1:] != (2,) or not shape[0] or not np.isfinite(self.waypoints_m).all():
            raise ValueError(
                f"Stretch of {self.vehicle!r}: waypoints_m must be finite, east and north of one place at least, "
                f"[k, 2]; got shape {shape}"
            )
        if min(self.views, self.max_gaussians) < 1:
            raise ValueError(
                f"Stretch of {self.vehicle!r}: views and max_gaussians must be at least 1, got {self.views} and "
                f"{self.max_gaussians}"
            )

    @property
    def centre_m(self) -> Float[ndarray, "3"]:
        """Mean of the waypoints, at height 0."""
        return np.append(self.waypoints_m.mean(axis=0), 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    """All stretches.

    Args:
        stretches: of vehicles with different names.

    Raises:
        ValueError: none, or two of one vehicle.
    """

    stretches: tuple[Stretch, ...]

    def __post_init__(self) -> None:
        names = [stretch.vehicle for stretch in self.stretches]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a plan needs stretches of different vehicles, got {names}")

    def __contains__(self, vehicle: object) -> bool:
        return vehicle in self._by_vehicle

    def __getitem__(self, vehicle: str) -> Stretch:
        return self._by_vehicle[vehicle]

    @cached_property
    def _by_vehicle(self) -> Mapping[str, Stretch]:
        return {stretch.vehicle: stretch for stretch in self.stretches}

    @cached_property
    def rsus(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(sorted({stretch.rsu for stretch in self.stretches}))

    def of_rsu(self, rsu: str) -> list[Stretch]:
        """Its vehicles' stretches, in order of their names."""
        return sorted((s for s in self.stretches if s.rsu == rsu), key=lambda stretch: stretch.vehicle)

    def waypoints_of(self, rsus: Iterable[str]) -> Float[ndarray, "k 2"]:
        """Of all vehicles of some RSUs."""
        wanted = set(rsus)
        return np.concatenate([np.zeros((0, 2)), *(s.waypoints_m for s in self.stretches if s.rsu in wanted)])

    def others_m(self, vehicle: str, *, same_rsu: bool = False) -> Float[ndarray, "k 2"]:
        """Waypoints of all other vehicles, or of those of the same RSU."""
        own = self[vehicle]
        others = [s for s in self.stretches if s is not own and (s.rsu == own.rsu or not same_rsu)]
        return np.concatenate([np.zeros((0, 2)), *(stretch.waypoints_m for stretch in others)])

    def region(self, vehicle: str, *, same_rsu: bool = False) -> Region:
        """What lies nearest to a vehicle's waypoints, among all vehicles or those of its RSU."""
        return waypoint_region(self[vehicle].waypoints_m, self.others_m(vehicle, same_rsu=same_rsu))

    def rsu_region(self, *rsus: str) -> Region:
        """What lies nearest to the waypoints of the vehicles of one RSU, or of several."""
        return waypoint_region(self.waypoints_of(rsus), self.waypoints_of(set(self.rsus) - set(rsus)))

    def neighbours(self, vehicle: str, within_m: float) -> list[str]:
        """Other vehicles with a waypoint within a distance of one of its own, in order of names."""
        own_m = self[vehicle].waypoints_m
        near = [s.vehicle for s in self.stretches if s.vehicle != vehicle and gap_m(own_m, s.waypoints_m) <= within_m]
        return sorted(near)


def gap_m(a_m: Float[ndarray, "k 2"], b_m: Float[ndarray, "j 2"]) -> float:
    """Distance of the two nearest waypoints of two stretches."""
    return float(np.linalg.norm(a_m[:, None] - b_m, axis=2).min())
