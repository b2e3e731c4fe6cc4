"""A street to be rebuilt by many: its frames, who is sent where, and what each vehicle holds. The same for all parties.

Roadside units (RSUs) stand at equal distances along the way. Which stretch is whose follows from how fast vehicles
are: the boundaries between RSUs by `recon.partition.shift_boundaries`, those between vehicles by the exact partition.
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
from geometry import Frame, Sim3
from perception.datasets.base import DataError, FleetRequest, FrameSubset
from perception.datasets.town import HOLDOUT, TownConfig, town_config, town_drive
from perception.transients import transient_pixels
from recon.chart import rotation_matrix
from recon.partition import Partition, Problem, Worker, nearest, shift_boundaries, split_among_vehicles, with_vehicles
from recon.plan import Plan, Stretch

ANCHORS: Final = ("rsu", "first")
RSUS_PER_REGION: Final = 4  # of the generated town's regions, whose tour is some 300 m long
FRAMES_PER_RSU, FRAMES_PER_VEHICLE = 60, 4  # by default, and at least
SPEEDS: Final = (1.0, 0.5, 0.0)  # of vehicles in turn, between the slowest (0) and the fastest (1)
VIEWS_PER_S: Final = 0.1  # that the slowest vehicle fits
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
        overlap_m: vehicles also take frames so near to their own stretch.
        speed_ratio: of the fastest vehicle to the slowest.
        gaussians_per_view: a vehicle's budget.
        misplaced: multiples of 3 % scale, 1.3 degrees and 0.6 m that positioning is off by.
        anchors: whose positioning is right: the "first" vehicle's, or for each "rsu" its vehicle that passes nearest.
        rsu_names: RSUs whose vehicles take part; none for all.
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


@dataclass(frozen=True, eq=False)
class Survey:
    """The street and who covers it.

    Args:
        name, licence: of the data.
        frames: along the way.
        plan: of all RSUs, also those that do not take part.
        vehicles: what those hold that take part, in order of their names.
        owner: index of a vehicle of the plan for each frame.
        sites_m: of the RSUs.
        problem, partitions: of frames among RSUs; nearest ("Voronoi") and balanced ("HWP").
        judged: indices of frames that are held back.
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

    def active_plan(self, besides: Sequence[str] = ()) -> Plan:
        """Stretches of RSUs that take part, and of some others."""
        rsus = {vehicle.rsu for vehicle in self.vehicles} | set(besides)
        return Plan(tuple(stretch for stretch in self.plan.stretches if stretch.rsu in rsus))


def vehicle_names(vehicles: int) -> list[str]:
    """In order of their numbers and of the alphabet."""
    digits = len(str(vehicles - 1))
    return [f"vehicle-{number:0{digits}d}" for number in range(vehicles)]


def rsu_of(number: int, vehicles: int, rsus: int) -> str:
    """Of a vehicle: vehicles in order are dealt to RSUs in order."""
    return f"rsu-{number * rsus // vehicles:0{len(str(rsus - 1))}d}"


def active_vehicles(vehicles: int, rsus: int, rsu_names: Sequence[str]) -> list[int]:
    """Numbers of the vehicles whose RSUs take part.

    Raises:
        DataError: there is no RSU of that name, or fewer vehicles than RSUs.
    """
    if vehicles < rsus:
        raise DataError(f"{rsus} RSUs need at least as many vehicles, got {vehicles}")
    known = [rsu_of(number, vehicles, rsus) for number in range(vehicles)]
    if unknown := sorted(set(rsu_names) - set(known)):
        raise DataError(f"regions: there is no {', '.join(unknown)}; there are {', '.join(sorted(set(known)))}")
    return [number for number, rsu in enumerate(known) if not rsu_names or rsu in rsu_names]


def make_survey(request: SurveyRequest) -> Survey:
    """Everything about a street.

    Raises:
        DataError: no such data, no poses, too few frames, or no such RSU.
        ImportError: open3d cannot be loaded, and the town is not rendered yet.
    """
    active = active_vehicles(request.vehicles, request.rsus, request.rsu_names)
    frames, name, licence = _frames(request)
    needed = FRAMES_PER_VEHICLE * request.vehicles
    if len(frames) < needed:
        raise DataError(
            f"{name}: {len(frames)} frames for {request.vehicles} vehicles; want {needed}, or fewer vehicles"
        )
    centres_m = np.array([frame.camera.world_from_cam.translation_m for frame in frames])
    problem, teams = _problem(centres_m[:, :2], request)
    partitions = {"Voronoi": nearest(problem), "HWP": shift_boundaries(problem)}
    owner = _owners(problem, partitions["HWP"], teams, request.vehicles)
    judged = tuple(range(request.holdout // 2, len(frames), request.holdout))
    sites_m = np.array([worker.position_m for worker in problem.workers])
    plan = _plan(centres_m, owner, sites_m, request)
    vehicles = tuple(
        _held(plan.stretches[number], number, frames, centres_m, owner, judged, request) for number in active
    )
    return Survey(name, licence, frames, plan, vehicles, owner, sites_m, problem, partitions, judged)


def town_of(request: SurveyRequest) -> TownConfig:
    """The town that is toured: as many of its regions as there must be for the RSUs."""
    preset = FleetRequest(preset="village", vehicles=1, seed=request.seed, size_px=request.size_px)
    count = request.frames or FRAMES_PER_RSU * request.rsus
    regions = math.ceil(request.rsus / RSUS_PER_REGION)
    return replace(town_config(replace(preset, frames_per_vehicle=1)), rsus=regions, holdout_frames=count)


def _frames(request: SurveyRequest) -> tuple[Sequence[Frame], str, str]:
    if request.path is None:
        config = town_of(request)
        count = round(request.part * config.holdout_frames)
        drive = town_drive(config, HOLDOUT, first=count)
        return FrameSubset(drive, range(count)), f"town (seed {request.seed}), a tour", drive.licence
    selection = Selection(
        frames=request.frames, apart_m=request.apart_m, holdout=0, longest_side_px=max(request.size_px)
    )
    scene = open_scene(str(request.path), selection)
    count = round(request.part * len(scene.train))
    return FrameSubset(scene.train, range(count)), scene.name, f"that of {request.path}"


def _problem(centres_m: Float[ndarray, "n 2"], request: SurveyRequest) -> tuple[Problem, dict[str, list[Worker]]]:
    """Frames and RSUs, and the vehicles of each."""
    names, count = vehicle_names(request.vehicles), len(centres_m)
    speeds = [1 + (request.speed_ratio - 1) * SPEEDS[k % len(SPEEDS)] for k in range(request.vehicles)]
    teams: dict[str, list[Worker]] = {}
    for number, name in enumerate(names):
        place = centres_m[int((number + 0.5) / request.vehicles * count)]
        worker = Worker(name, (float(place[0]), float(place[1])), views_per_s=VIEWS_PER_S * speeds[number])
        teams.setdefault(rsu_of(number, request.vehicles, request.rsus), []).append(worker)
    rsus = []
    for index, (rsu, vehicles) in enumerate(sorted(teams.items())):
        place = centres_m[int((index + 0.5) / request.rsus * count)]
        rsus.append(with_vehicles(Worker(rsu, (float(place[0]), float(place[1])), math.inf), vehicles))
    return Problem.of(centres_m, rsus), teams


def _owners(
    problem: Problem, partition: Partition, teams: Mapping[str, Sequence[Worker]], vehicles: int
) -> Int[ndarray, "n"]:
    """Index of a vehicle for each frame."""
    owner = np.full(len(problem), -1)
    names = {name: number for number, name in enumerate(vehicle_names(vehicles))}
    for rsu, share in split_among_vehicles(problem, partition, teams).items():
        numbers = np.array([names[worker.name] for worker in teams[rsu]])
        owner[share.cameras] = numbers[share.partition.owner]
    if len(idle := set(range(vehicles)) - set(owner.tolist())):
        raise DataError(f"{len(idle)} of {vehicles} vehicles get no frame of {len(owner)}: fewer vehicles, more frames")
    return owner


def _plan(
    centres_m: Float[ndarray, "n 3"], owner: Int[ndarray, "n"], sites_m: Float[ndarray, "m 2"], request: SurveyRequest
) -> Plan:
    """Waypoints are planned places to a decimetre; who drives there may be somewhat off."""
    stretches, names = [], vehicle_names(request.vehicles)
    surveyed = _surveyed(centres_m, owner, sites_m, request)
    for number, name in enumerate(names):
        own = np.flatnonzero(owner == number)
        rsu = rsu_of(number, request.vehicles, request.rsus)
        budget = request.gaussians_per_view * len(own)
        stretches.append(Stretch(name, rsu, centres_m[own, :2].round(1), len(own), budget, number in surveyed))
    return Plan(tuple(stretches))


def _surveyed(
    centres_m: Float[ndarray, "n 3"], owner: Int[ndarray, "n"], sites_m: Float[ndarray, "m 2"], request: SurveyRequest
) -> set[int]:
    """Numbers of the vehicles whose positioning is right."""
    if request.anchors == "first":
        return {0}
    found = set()
    for rsu, site_m in zip(
        sorted({rsu_of(k, request.vehicles, request.rsus) for k in owner.tolist()}), sites_m, strict=True
    ):
        own = np.array([rsu_of(k, request.vehicles, request.rsus) == rsu for k in owner.tolist()])
        away_m = np.where(own, np.linalg.norm(centres_m[:, :2] - site_m, axis=1), np.inf)
        found.add(int(owner[int(away_m.argmin())]))
    return found


def _held(
    stretch: Stretch,
    number: int,
    frames: Sequence[Frame],
    centres_m: Float[ndarray, "n 3"],
    owner: Int[ndarray, "n"],
    judged: Sequence[int],
    request: SurveyRequest,
) -> VehicleFrames:
    """The frames of a vehicle: its own and those within the overlap; it judges by its own alone."""
    own = np.flatnonzero(owner == number)
    away_m = np.linalg.norm(centres_m[:, None] - centres_m[own], axis=2).min(axis=1)
    held_back = set(judged)
    train = [int(i) for i in np.flatnonzero(away_m <= request.overlap_m) if int(i) not in held_back]
    test = [int(i) for i in own if int(i) in held_back]
    if not train:
        raise DataError(f"{stretch.vehicle} has no frame to learn from: take more frames, or fewer vehicles")
    mean_m = centres_m[train].mean(axis=0)
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
