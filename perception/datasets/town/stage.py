"""A day of the town made ready for rays: what stands still is indexed once, what moves once a frame."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Shaped
from numpy import ndarray

from perception.datasets.town.mesh import Mesh, merged
from perception.datasets.town.models import outline, place
from perception.datasets.town.points import unit
from perception.datasets.town.scenery import Scenery
from perception.datasets.town.signal_heads import signal_heads
from perception.datasets.town.traffic import Day
from perception.raycast import Hits, RayScene

# How far vehicles, pedestrians and cyclists are shown; a person is 6 pixels high at 65 m in an image of 128 rows.
REACH_M: Final = (90.0, 65.0, 65.0)


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

    def outline(self, index: int, tick: int, count: int) -> Float[ndarray, "p 3"]:
        """Points on an actor's surface at a sampled time."""
        actor = self.day.actors[index]
        pose = actor.track[0 if index < self.day.parked else tick]
        return outline(actor.model, actor.size_m, pose[:4], float(pose[4]), count)

    def cuboid(self, index: int, tick: int) -> Float[ndarray, "7"]:
        """Centre, size and yaw of an actor at a sampled time."""
        return self.day.actors[index].cuboid(0 if index < self.day.parked else tick)


@dataclass(frozen=True, eq=False)
class Moment:
    """One instant: what stands and what moves near a viewer, and an index of each.

    A face number below `len(standing)` names a triangle of `standing`, any other one of `moving`.
    """

    standing: Mesh
    moving: Mesh
    standing_scene: RayScene
    moving_scene: RayScene

    def cast(self, rays: Float32[ndarray, "n 6"]) -> Hits:
        """First hits in either part."""
        return self.standing_scene.cast(rays).nearer(self.moving_scene.cast(rays), len(self.standing))

    def occluded(self, rays: Float32[ndarray, "n 6"]) -> Bool[ndarray, "n"]:
        """Whether anything lies along each ray."""
        hidden = self.standing_scene.occluded(rays)
        rest = np.flatnonzero(~hidden)
        hidden[rest] = self.moving_scene.occluded(rays.take(rest, axis=0))
        return hidden

    def attribute(self, name: str, face: Int32[ndarray, "n"]) -> Shaped[ndarray, "n ..."]:
        """A `Mesh` attribute ("surface", "segment", "rgb", "owner") of triangles; for a miss (-1), any value."""
        values = getattr(self.standing, name).take(face, axis=0, mode="clip")
        moves = np.flatnonzero(face >= len(self.standing))
        values[moves] = getattr(self.moving, name)[face[moves] - len(self.standing)]
        return values

    def normals(
        self, face: Int32[ndarray, "n"], flat: Float32[ndarray, "n 3"], uv: Float32[ndarray, "n 2"]
    ) -> Float32[ndarray, "n 3"]:
        """Unit normals at points of triangles: `flat`, replaced in place by mixed ones where a curve is meant."""
        curved = np.flatnonzero(self.attribute("curved", face))
        corners = self.attribute("normals", face[curved])
        u, v = uv[curved, 0, None], uv[curved, 1, None]
        mixed = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        flat[curved] = unit(mixed)
        return flat


def set_stage(scenery: Scenery, day: Day) -> Stage:
    """Index a day."""
    parked = [_placed(day, i, 0) for i in range(day.parked)]
    standing = merged([scenery.mesh, *parked])
    return Stage(scenery, day, standing, RayScene(standing.vertices, standing.faces))


def moment(stage: Stage, tick: int, here_m: Float[ndarray, "2"], viewer: int | None) -> Moment:
    """The instant of sampled time `tick` as seen from a place; the actor `viewer` who looks is not in it."""
    day = stage.day
    spots = np.array([actor.track[tick, :2] for actor in day.actors[day.parked :]]).reshape(-1, 2)
    reach = np.array([REACH_M[actor.model.label] for actor in day.actors[day.parked :]])
    near = np.flatnonzero(((spots - here_m) ** 2).sum(axis=1) < reach**2) + day.parked
    heads = signal_heads(stage.scenery.layout, here_m, float(day.times_s[tick]))
    moving = merged([*(_placed(day, int(i), tick) for i in near if i != viewer), *heads])
    return Moment(stage.standing, moving, stage.scene, RayScene(moving.vertices, moving.faces))


def rays_from(
    origin: Float[ndarray, "3"] | Float[ndarray, "n 3"], directions: Float[ndarray, "n 3"]
) -> Float32[ndarray, "n 6"]:
    """Rays for casting, from one origin or one each."""
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3], rays[:, 3:] = origin, directions
    return rays


def _placed(day: Day, index: int, tick: int) -> Mesh:
    actor = day.actors[index]
    pose = actor.track[tick]
    return place(actor.model, actor.size_m, actor.colours, pose[:4], float(pose[4])).owned_by(index)
