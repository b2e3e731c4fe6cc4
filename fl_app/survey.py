"""A street to be rebuilt by many: its frames, who is sent where, and what each vehicle holds. The same for all parties.

Roadside units (RSUs) stand at equal distances along the way. Which stretch is whose follows from how fast vehicles
are, see `survey_split`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from clients.gaussian_client import VehicleFrames
from fl_app.scene_data import Selection, open_scene
from fl_app.survey_split import Split, active_vehicles, holders, split, split_again, vehicle_names
from geometry import Frame, Sim3
from perception.datasets.base import DataError, FleetRequest, FrameSubset
from perception.datasets.town import HOLDOUT, TownConfig, town_config, town_drive
from perception.transients import transient_pixels
from recon.chart import rotation_matrix
from recon.partition import Partition, Problem
from recon.plan import Plan, Stretch

ANCHORS: Final = ("rsu", "first")
RSUS_PER_REGION: Final = 4  # of the generated town's regions, whose tour is some 300 m long
FRAMES_PER_RSU, FRAMES_PER_VEHICLE = 60, 4  # by default, and at least
MISPLACED: Final = (0.03, math.radians(1.3), 0.6)  # scale, angle and metres that positioning is off by


@dataclass(frozen=True)
class SurveyRequest:
    """What is to be surveyed.

    Args:
        path: of recorded, posed data; None for the generated town.
        seed: of the town, and of what positioning is off by.
        size_px: of generated images; a longer side of recorded ones is brought to the longer of these.
        frames: along the way; 0 takes 60 an RSU.
        part: of the way that is surveyed, from its start, in (0, 1].
        apart_m: recorded frames nearer than this to the one before are left out.
        holdout: every so many frames one is kept for judging.
        rsus, vehicles: how many; vehicles are dealt to RSUs in their order along the way.
        overlap_m: vehicles drive on so far beyond their own stretch; where two drive, they take frames in turn.
        speed_ratio: of the fastest vehicle to the slowest.
        gaussians_per_view: a vehicle's budget.
        misplaced: multiples of 3 % scale, 1.3 degrees and 0.6 m that positioning is off by.
        anchors: whose positioning is right: the "first" vehicle's, or for each "rsu" its vehicle that passes nearest.
        rsu_names: RSUs whose vehicles take part; none for all.
        without: vehicles, or RSUs with all of theirs, that fall out once all is planned: others make up for them.
        slowed: vehicles and their speeds, as a share of what was planned.
    """

    path: Path | None = None
    seed: int = 0
    size_px: tuple[int, int] = (128, 192)
    frames: int = 0
    part: float = 1.0
    apart_m: float = 0.5
    holdout: int = 8
    rsus: int = 4
    vehicles: int = 12
    overlap_m: float = 6.5
    speed_ratio: float = 4.0
    gaussians_per_view: int = 225
    misplaced: float = 1.0
    anchors: str = "rsu"
    rsu_names: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    slowed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Survey:
    """The street and who covers it.

    Args:
        name, licence: of the data.
        frames: along the way.
        plan: of all RSUs, also those that do not take part.
        vehicles: what those hold that take part, in order of their names.
        owner: index of a stretch of the plan for each frame.
        sites_m: of the plan's RSUs, in order of their names.
        problem, partitions: of frames among RSUs; nearest ("Voronoi") and balanced ("HWP").
        judged: indices of frames that are held back.
        moved: frames that changed hands because vehicles fell out or slowed down.
        makespan_s: that the last vehicle takes, by this plan.
    """

    name: str
    licence: str
    frames: Sequence[Frame]
    plan: Plan
    vehicles: tuple[VehicleFrames, ...]
    owner: Int[ndarray, "n"]
    sites_m: Float[ndarray, "m 2"]
    problem: Problem
    partitions: Mapping[str, Partition]
    judged: tuple[int, ...]
    moved: int = 0
    makespan_s: float = 0.0

    def active_plan(self, besides: Sequence[str] = ()) -> Plan:
        """Stretches of RSUs that take part, and of some others."""
        rsus = {vehicle.rsu for vehicle in self.vehicles} | set(besides)
        return Plan(tuple(stretch for stretch in self.plan.stretches if stretch.rsu in rsus))


def make_survey(request: SurveyRequest) -> Survey:
    """Everything about a street.

    Raises:
        DataError: no such data, no poses, too few frames, no such RSU or vehicle, or none is left.
        ImportError: open3d cannot be loaded, and the town is not rendered yet.
    """
    slowed = dict(request.slowed)
    active = set(active_vehicles(request.vehicles, request.rsus, request.rsu_names, request.without, slowed))
    frames, name, licence = _frames(request)
    needed = FRAMES_PER_VEHICLE * request.vehicles
    if len(frames) < needed:
        raise DataError(
            f"{name}: {len(frames)} frames for {request.vehicles} vehicles; want {needed}, or fewer vehicles"
        )
    centres_m = np.array([frame.camera.world_from_cam.translation_m for frame in frames])
    judged = tuple(range(request.holdout // 2, len(frames), request.holdout))
    divided = _divided(centres_m[:, :2], request)
    names = list(divided.rsu_of)
    owner = np.array([names.index(name) for name in divided.owner])
    sites = {worker.name: worker.position_m for worker in divided.problem.workers}
    sites_m = np.array([sites[rsu] for rsu in sorted(set(divided.rsu_of.values()))])
    plan = _plan(centres_m, owner, divided.rsu_of, sites_m, request)
    holder = holders(centres_m, owner, request.overlap_m, judged)
    vehicles = tuple(
        _held(stretch, row, frames, centres_m, owner, holder, judged, request)
        for row, stretch in enumerate(plan.stretches)
        if stretch.vehicle in active
    )
    facts: tuple[Any, ...] = (divided.problem, divided.partitions, judged, divided.moved, divided.makespan_s)
    return Survey(name, licence, frames, plan, vehicles, owner, sites_m, *facts)


def _divided(centres_m: Float[ndarray, "n 2"], request: SurveyRequest) -> Split:
    """As planned, and planned again if somebody fell out or slowed down."""
    planned = split(centres_m, request.vehicles, request.rsus, request.speed_ratio)
    if not request.without and not request.slowed:
        return planned
    return split_again(planned, request.without, dict(request.slowed))


def town_of(request: SurveyRequest) -> TownConfig:
    """The town that is toured: as many of its regions as there must be for the RSUs, and frames of all the tour.

    These stand equally far apart by default, whatever the number of RSUs; see `_frames` for how many are taken.
    """
    preset = FleetRequest(preset="village", vehicles=1, seed=request.seed, size_px=request.size_px)
    regions = math.ceil(request.rsus / RSUS_PER_REGION)
    count = request.frames or FRAMES_PER_RSU * RSUS_PER_REGION * regions
    return replace(town_config(replace(preset, frames_per_vehicle=1)), rsus=regions, holdout_frames=count)


def _frames(request: SurveyRequest) -> tuple[Sequence[Frame], str, str]:
    if request.path is None:
        config = town_of(request)
        count = round(request.part * (request.frames or FRAMES_PER_RSU * request.rsus))
        drive = town_drive(config, HOLDOUT, first=count)
        return FrameSubset(drive, range(count)), f"town (seed {request.seed}), a tour", drive.licence
    selection = Selection(
        frames=request.frames, apart_m=request.apart_m, holdout=0, longest_side_px=max(request.size_px)
    )
    scene = open_scene(str(request.path), selection)
    count = round(request.part * len(scene.train))
    return FrameSubset(scene.train, range(count)), scene.name, f"that of {request.path}"


def _plan(
    centres_m: Float[ndarray, "n 3"],
    owner: Int[ndarray, "n"],
    rsu_of: Mapping[str, str],
    sites_m: Float[ndarray, "m 2"],
    request: SurveyRequest,
) -> Plan:
    """Waypoints are planned places to a decimetre; who drives there may be somewhat off."""
    stretches = []
    surveyed = _surveyed(centres_m, owner, list(rsu_of.values()), sites_m, request.anchors)
    for row, (name, rsu) in enumerate(rsu_of.items()):
        own = np.flatnonzero(owner == row)
        budget = request.gaussians_per_view * len(own)
        stretches.append(Stretch(name, rsu, centres_m[own, :2].round(1), len(own), budget, row in surveyed))
    return Plan(tuple(stretches))


def _surveyed(
    centres_m: Float[ndarray, "n 3"],
    owner: Int[ndarray, "n"],
    rsus: Sequence[str],
    sites_m: Float[ndarray, "m 2"],
    anchors: str,
) -> set[int]:
    """Rows of the vehicles whose positioning is right; `rsus` is each one's."""
    if anchors == "first":
        return {0}
    found, rsu_of_frame = set(), np.array(rsus)[owner]
    for rsu, site_m in zip(sorted(set(rsus)), sites_m, strict=True):
        away_m = np.where(rsu_of_frame == rsu, np.linalg.norm(centres_m[:, :2] - site_m, axis=1), np.inf)
        found.add(int(owner[int(away_m.argmin())]))
    return found


def _held(
    stretch: Stretch,
    row: int,
    frames: Sequence[Frame],
    centres_m: Float[ndarray, "n 3"],
    owner: Int[ndarray, "n"],
    holder: Int[ndarray, "n"],
    judged: Sequence[int],
    request: SurveyRequest,
) -> VehicleFrames:
    """The frames of a vehicle: it learns from those that it took, and judges by those of its own stretch."""
    train = [int(i) for i in np.flatnonzero(holder == row)]
    test = [i for i in judged if owner[i] == row]
    if not train:
        raise DataError(f"{stretch.vehicle} has no frame to learn from: take more frames, or fewer vehicles")
    mean_m = centres_m[train].mean(axis=0)
    number = vehicle_names(request.vehicles).index(stretch.vehicle)
    off = Sim3.identity() if stretch.surveyed else misplacement(mean_m, request, number)
    parts: tuple[Any, Any] = (FrameSubset(frames, train), FrameSubset(frames, test))
    return VehicleFrames(stretch.vehicle, stretch.rsu, *parts, own_from_data=off, ignore=transient_pixels)


def misplacement(centre_m: Float[ndarray, "3"], request: SurveyRequest, number: int) -> Sim3:
    """What a vehicle's positioning is off by, about the middle of its stretch; directions and signs are drawn."""
    rng = np.random.default_rng([request.seed, 77, number])
    scale, angle, metres = (request.misplaced * value for value in MISPLACED)
    axis, shift = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    rotation = rotation_matrix(torch.tensor(angle * axis)).numpy()
    factor = (1 + scale) ** rng.choice([-1, 1])
    return Sim3(rotation, centre_m + metres * shift - factor * rotation @ centre_m, float(factor))
