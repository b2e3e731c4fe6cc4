"""From states of vehicles to a slot that can be decided: who takes part, what they gain, what their links carry."""

import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

from edge.offload.mobility import Prediction
from edge.offload.model import Slot, Task, User, Worker, within_reach
from edge.offload.roi import FovConfig, RoiConfig, fields_of_view, regions_of_interest
from edge.offload.states import VehicleStates
from edge.offload.value import UnionCoverage, exact_value, raster_value

PARTICIPANTS: Final = ("turners", "all")
AREAS: Final = ("exact", "raster")


@dataclass(frozen=True)
class ScenarioConfig:
    """Tasks, links and geometry of a slot; the defaults are the paper's.

    Args:
        deadline_s: of each task, from the first bit sent to the end of the fusion.
        feature_size: of what a vehicle sends, in `size_unit`.
        size_unit: one of `edge.offload.model.UNIT_BITS`; the paper's "200 Kb" is kbit, or kbyte.
        cycles: of the worker's processor for each task.
        uplink_bps: range of the vehicles' rates; a vehicle keeps its rate, which its name and the seed decide.
        participants: "turners" are those predicted to turn, "all" are all.
        max_vehicles: only the first so many of the states are looked at; 0 is all.
        fov, roi: fields of view and regions of interest.
        area: "exact" polygons or the paper's "raster".
        cell_m: side of the raster's cells.
        seed: of the links.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    deadline_s: float = 0.4
    feature_size: float = 200.0
    size_unit: str = "kbit"
    cycles: float = 2e8
    uplink_bps: tuple[float, float] = (15e6, 18e6)
    participants: str = "turners"
    max_vehicles: int = 0
    fov: FovConfig = field(default_factory=FovConfig)
    roi: RoiConfig = field(default_factory=RoiConfig)
    area: str = "exact"
    cell_m: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        self.task()
        low, high = self.uplink_bps
        if not 0 < low <= high < math.inf:
            raise ValueError(f"ScenarioConfig: uplink_bps is {low} to {high}, want two rising rates above 0")
        for name, allowed in (("participants", PARTICIPANTS), ("area", AREAS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"ScenarioConfig: {name} is {getattr(self, name)!r}, want {' or '.join(allowed)}")
        if self.max_vehicles < 0:
            raise ValueError(f"ScenarioConfig: max_vehicles is {self.max_vehicles}, want 0 (all) or more")
        if not 0 < self.cell_m < math.inf:
            raise ValueError(f"ScenarioConfig: cell_m must be finite and positive, got {self.cell_m}")

    def task(self) -> Task:
        """What every vehicle asks for."""
        return Task.of_size(self.feature_size, self.size_unit, cycles=self.cycles, deadline_s=self.deadline_s)


@dataclass(frozen=True, eq=False)
class Situation:
    """A slot with the geometry that it was made from; rows are the slot's users.

    Args:
        slot: what is to be decided.
        states: of the users.
        everybody: on the road, users and others.
        turn: as predicted, -1 right, 0 straight on, 1 left, int8 [n].
        roi_m, fov_m: corners of regions of interest and fields of view.
    """

    slot: Slot
    states: VehicleStates
    everybody: VehicleStates
    turn: Int8[ndarray, "n"]
    roi_m: Float[ndarray, "n 3 2"]
    fov_m: Float[ndarray, "n k 2"]

    def union_coverage(self) -> UnionCoverage:
        """The objective that counts overlapping views once.

        Raises:
            ValueError: a field of view is not convex.
        """
        return UnionCoverage.of(self.roi_m, self.fov_m)


def situation(
    states: VehicleStates,
    expected: Prediction,
    workers: tuple[Worker, ...],
    config: ScenarioConfig,
    down: Collection[str] = (),
) -> Situation:
    """The slot of one tick. A vehicle may offload to the workers within whose reach it stands.

    Args:
        states: all vehicles on the road.
        expected: of the same vehicles.
        workers: the roadside units' computers.
        config: tasks, links and geometry.
        down: names of workers to which nobody may offload now.

    Raises:
        ValueError: states and prediction are of different vehicles, or there are no workers.
        ModuleNotFoundError: exact areas are wanted and shapely is not installed.
    """
    if len(expected.turn) != len(states):
        raise ValueError(f"the prediction is of {len(expected.turn)} vehicles, the states are of {len(states)}")
    wanted = (expected.turn != 0) | (config.participants == "all")
    wanted[config.max_vehicles or len(states) :] = False
    chosen = np.flatnonzero(wanted)
    users, turn = states.pick(chosen), expected.turn[chosen]
    roi_m = regions_of_interest(users.position_m, users.heading_rad, turn, config.roi)
    fov_m = fields_of_view(users.position_m, users.heading_rad, config.fov)
    value = exact_value(roi_m, fov_m) if config.area == "exact" else raster_value(roi_m, fov_m, config.cell_m)
    rates_bps = link_rates_bps(users.names, config.uplink_bps, config.seed)
    named = _users(users)
    up = np.array([worker.name not in down for worker in workers], bool)
    slot = Slot.of(
        named,
        workers,
        config.task(),
        value=value,
        uplink_bps=np.repeat(rates_bps[:, None], len(workers), axis=1),
        allowed=within_reach(named, workers) & up,
        time_s=states.time_s,
    )
    return Situation(slot, users, states, turn, roi_m, fov_m)


def link_rates_bps(names: tuple[str, ...], range_bps: tuple[float, float], seed: int) -> Float[ndarray, "n"]:
    """A rate for each name, spread evenly over a range; the same name and seed have the same rate in every slot."""
    share = np.array([zlib.crc32(f"{seed} {name}".encode()) for name in names], float) / 2**32
    return range_bps[0] + share * (range_bps[1] - range_bps[0])


def _users(states: VehicleStates) -> tuple[User, ...]:
    rows = zip(
        states.names,
        states.position_m.tolist(),
        states.heading_rad.tolist(),
        states.speed_mps.tolist(),
        strict=True,
    )
    return tuple(User(name, (at[0], at[1]), heading, speed) for name, at, heading, speed in rows)
