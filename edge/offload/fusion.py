"""What an RSU does with a cluster: fuse its members' views and tell each what it now knows of its region."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from edge.offload.model import Assignment
from edge.offload.roi import shapely_library
from edge.offload.scenario import Situation


@dataclass(frozen=True, eq=False)
class FusionJob:
    """One cluster, as it is sent to the worker that fuses it.

    Args:
        worker: name of the worker.
        users: names of its members.
        roi_m, fov_m: corners of the members' regions of interest and fields of view.
    """

    worker: str
    users: tuple[str, ...]
    roi_m: Float[ndarray, "k 3 2"]
    fov_m: Float[ndarray, "k l 2"]


@dataclass(frozen=True, eq=False)
class FusedView:
    """What a worker sends back.

    Args:
        worker: name of the worker.
        users: names of the members.
        awareness: the share of each member's region that the fused view covers, [k].
        outlines_m: corners of the outer rings of the fused view, without its holes; [r, 2] each.
        area_m2: of the fused view.
    """

    worker: str
    users: tuple[str, ...]
    awareness: Float[ndarray, "k"]
    outlines_m: tuple[Float[ndarray, "_ 2"], ...]
    area_m2: float


def fusion_jobs(situation: Situation, assignment: Assignment) -> tuple[FusionJob, ...]:
    """One job for each worker that has members, in the order of the workers."""
    slot, jobs = situation.slot, []
    for index in np.unique(assignment.worker[assignment.worker >= 0]):
        members = assignment.members(int(index))
        names = tuple(slot.users[i].name for i in members)
        jobs.append(FusionJob(slot.workers[index].name, names, situation.roi_m[members], situation.fov_m[members]))
    return tuple(jobs)


def fuse_fields(job: FusionJob) -> FusedView:
    """Fuse by geometry: the union of the members' fields of view, exact.

    Raises:
        ModuleNotFoundError: shapely is not installed.
    """
    shapely = shapely_library()
    roi = shapely.polygons(job.roi_m)
    union = shapely.union_all(shapely.polygons(job.fov_m))
    covered = shapely.area(shapely.intersection(roi, union)) / shapely.area(roi)
    outlines = tuple(shapely.get_coordinates(shapely.get_exterior_ring(part)) for part in shapely.get_parts(union))
    return FusedView(job.worker, job.users, covered, outlines, float(shapely.area(union)))
