"""From first hits to an image: light, edges smoothed by more rays, and the sensor."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from geometry import Camera
from perception.datasets.town.config import LightConfig
from perception.datasets.town.shading import shade, sky, sun_direction
from perception.datasets.town.stage import Moment, Stage, rays_from
from perception.datasets.town.textures import Points
from perception.raycast import MISS, Hits

# Offsets (in pixels, x then y) of the extra rays through a pixel that lies on an edge: a rotated grid.
_EXTRA_PX: Final = ((-0.33, -0.11), (0.11, -0.33), (0.33, 0.11), (-0.11, 0.33))
_EDGE: Final = 0.09
_GAMMA: Final = 1 / 2.2
_LIFT_M: Final = 0.02


def photograph(
    stage: Stage, now: Moment, camera: Camera, hits: Hits, light: LightConfig, rng: np.random.Generator
) -> UInt8[ndarray, "h w 3"]:
    """The image whose pixel centres have these first hits; pixels on edges average four further rays."""
    origin, directions = camera.rays_world()
    size = directions.shape[:2]
    centre = _colours(stage, now, origin, directions.reshape(-1, 3).astype(np.float32), hits, light)
    edges = _edges((centre**_GAMMA).mean(axis=1).reshape(size)).ravel()
    linear = centre
    linear[edges] = _refined(stage, now, camera, directions.reshape(-1, 3)[edges], light)
    grey = 255.0 * linear**_GAMMA + rng.normal(0, light.noise, linear.shape)
    return np.clip(np.round(grey), 0, 255).astype(np.uint8).reshape(*size, 3)


def _edges(brightness: Float32[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels that differ from a neighbour."""
    edges = np.zeros(brightness.shape, bool)
    across, down = np.abs(np.diff(brightness, axis=1)) > _EDGE, np.abs(np.diff(brightness, axis=0)) > _EDGE
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _refined(
    stage: Stage, now: Moment, camera: Camera, directions: Float[ndarray, "n 3"], light: LightConfig
) -> Float32[ndarray, "n 3"]:
    """Mean colour of the extra rays around some pixel centres."""
    right, down = (
        camera.world_from_cam.rotation[:, 0] / camera.fx_px,
        camera.world_from_cam.rotation[:, 1] / camera.fy_px,
    )
    around = [directions + x * right + y * down for x, y in _EXTRA_PX]
    rays = np.concatenate(around).astype(np.float32)
    origin = camera.world_from_cam.translation_m
    colours = _colours(stage, now, origin, rays, now.cast(rays_from(origin, rays)), light)
    return colours.reshape(len(_EXTRA_PX), -1, 3).mean(axis=0)


def _colours(
    stage: Stage,
    now: Moment,
    origin: Float[ndarray, "3"],
    directions: Float32[ndarray, "n 3"],
    hits: Hits,
    light: LightConfig,
) -> Float32[ndarray, "n 3"]:
    """Linear RGB in 0..1 along rays with known first hits."""
    length = np.linalg.norm(directions, axis=1)
    unit = directions / length[:, None]
    seen = hits.face != MISS
    colour = np.empty((len(seen), 3), np.float32)
    colour[~seen] = sky(unit[~seen], light)
    points = _points(now, origin, hits, unit, length, seen)
    scenery = stage.scenery
    colour[seen] = shade(points, _shadowed(now, points, light), scenery.facades, scenery.layout, light)
    return np.clip(colour, 0, 1)


def _points(
    now: Moment,
    origin: Float[ndarray, "3"],
    hits: Hits,
    unit: Float32[ndarray, "n 3"],
    length: Float32[ndarray, "n"],
    seen: Bool[ndarray, "n"],
) -> Points:
    face, ray, distance, normal = hits.face[seen], unit[seen], hits.t[seen] * length[seen], hits.normal[seen]
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.float32(1e-12))
    normal = np.where(np.einsum("nc,nc->n", normal, ray)[:, None] > 0, -normal, normal)
    position = origin.astype(np.float32) + ray * distance[:, None]
    surface, rgb, owner = (now.attribute(name, face) for name in ("surface", "rgb", "owner"))
    return Points(position, normal, ray, distance, surface, rgb, owner)


def _shadowed(now: Moment, points: Points, light: LightConfig) -> Bool[ndarray, "n"]:
    """Points that face away from the sun or that something hides from it."""
    sun = sun_direction(light)
    shadowed = np.einsum("nc,c->n", points.normal, sun) <= 0
    origins = points.position_m[~shadowed] + _LIFT_M * points.normal[~shadowed]
    shadowed[~shadowed] = now.occluded(rays_from(origins, np.broadcast_to(sun, origins.shape)))
    return shadowed
