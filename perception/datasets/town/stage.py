"""A day of the town made ready for rays: what stands still is indexed once, what moves once a frame."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy import ndarray

from perception.datasets.town.mesh import Mesh, merged
from perception.datasets.town.models import place
from perception.datasets.town.scenery import Scenery
from perception.datasets.town.traffic import Day
from perception.raycast import MISS, Hits, RayScene

NEARBY_M: Final = 85.0


@dataclass(frozen=True, eq=False)
class Stage:
    """A day whose buildings and parked vehicles are indexed.

    Args:
        scenery, day: what it shows.
        standing: mesh of the scenery and the parked vehicles.
        scene: index of `standing`.
    """

    scenery: Scenery
    day: Day
    standing: Mesh
    scene: RayScene


@dataclass(frozen=True, eq=False)
class Moment:
    """One instant: the standing mesh with the movers near a viewer behind it, and an index of each part."""

    mesh: Mesh
    standing: RayScene
    moving: RayScene
    moving_from: int

    def cast(self, rays: Float32[ndarray, "n 6"]) -> Hits:
        """First hits in either part; faces index `mesh`."""
        return self.standing.cast(rays).nearer(self.moving.cast(rays), self.moving_from)

    def occluded(self, rays: Float32[ndarray, "n 6"]) -> Bool[ndarray, "n"]:
        """Whether anything lies along each ray."""
        return self.standing.occluded(rays) | self.moving.occluded(rays)


def set_stage(scenery: Scenery, day: Day) -> Stage:
    """Index a day."""
    parked = [_placed(day, i, 0) for i in range(day.parked)]
    standing = merged([scenery.mesh, *parked])
    return Stage(scenery, day, standing, RayScene(standing.vertices, standing.faces))


def moment(stage: Stage, tick: int, viewer: int) -> Moment:
    """The instant of sampled time `tick` as seen from actor `viewer`, who is not in it."""
    day = stage.day
    here = day.actors[viewer].track[tick, :2]
    movers = [
        i
        for i in range(day.parked, len(day.actors))
        if i != viewer and np.hypot(*(day.actors[i].track[tick, :2] - here)) < NEARBY_M
    ]
    moving = merged([_placed(day, i, tick) for i in movers])
    everything = merged([stage.standing, moving])
    return Moment(everything, stage.scene, RayScene(moving.vertices, moving.faces), len(stage.standing))


def cuboids(stage: Stage, tick: int) -> Float[ndarray, "a 7"]:
    """Centre, size and yaw of every actor at a sampled time, in the order of track ids."""
    day = stage.day
    return np.stack([actor.cuboid(0 if i < day.parked else tick) for i, actor in enumerate(day.actors)])


def _placed(day: Day, index: int, tick: int) -> Mesh:
    actor = day.actors[index]
    pose = actor.track[tick]
    return place(actor.model, actor.size_m, actor.colours, pose[:4], float(pose[4])).owned_by(index)


__all__ = ["MISS", "Moment", "Stage", "cuboids", "moment", "set_stage"]
