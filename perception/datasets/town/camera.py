"""From first hits to an image: light, edges smoothed by more rays, exposure, and the sensor."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from geometry import Camera
from perception.datasets.town.lamps import Headlight
from perception.datasets.town.light import Light
from perception.datasets.town.points import Points, dots
from perception.datasets.town.shading import shade, sky
from perception.datasets.town.stage import Moment, Stage, rays_from
from perception.datasets.town.weather import bloom, streaks
from perception.raycast import MISS, Hits

# Offsets (in pixels, x then y) of the extra rays through a pixel that lies on an edge: a rotated grid.
_EXTRA_PX: Final = ((-0.33, -0.11), (0.11, -0.33), (0.33, 0.11), (-0.11, 0.33))
_EDGE: Final = 0.12
_GREY: Final = np.full(3, 1 / 3, np.float32)
_GAMMA: Final = 1 / 2.2
_LIFT_M: Final = 0.02
_KEY: Final = 0.1
_NIGHT_POWER: Final = 0.45  # how far a camera makes up for the dark
_LENS_PX: Final = 0.55  # blur of lens and sensor
_CONTRAST: Final = 0.55


@dataclass(frozen=True, eq=False)
class View:
    """What a photograph is taken of, from where, in which light."""

    stage: Stage
    now: Moment
    camera: Camera
    light: Light
    headlight: Headlight


def photograph(
    view: View, rays: Float32[ndarray, "n 6"], hits: Hits, rng: np.random.Generator
) -> UInt8[ndarray, "h w 3"]:
    """The image whose pixel centres' rays have these first hits; pixels on edges average four further rays."""
    size = (view.camera.height_px, view.camera.width_px)
    origin, rays = rays[0, :3].astype(np.float64), rays[:, 3:]
    linear = _colours(view, origin, rays, hits)
    gain = _exposure(linear)
    brightness = np.sqrt(np.clip(linear @ (_GREY * gain), 0, 1)).reshape(size)
    edges = np.flatnonzero(_edges(brightness))
    linear[edges] = _refined(view, rays[edges], linear[edges])
    image = (linear * gain).reshape(*size, 3)
    if view.light.lamps:
        image = bloom(image)
    if view.light.config.rain > 0:
        image = streaks(image, view.light.config.rain, rng)
    return _developed(image, gain, view.light, rng)


def _exposure(linear: Float32[ndarray, "n 3"]) -> np.float32:
    """Gain that brings the mean of log brightness to the key value, in the dark only in part.

    Reinhard et al. 2002, "Photographic Tone Reproduction", equation 1.
    """
    typical = np.exp(np.log(linear @ _GREY + np.float32(1e-3)).mean())
    return np.float32(min(_KEY / typical, (_KEY / typical) ** _NIGHT_POWER))


def _developed(
    image: Float32[ndarray, "h w 3"], gain: np.float32, light: Light, rng: np.random.Generator
) -> UInt8[ndarray, "h w 3"]:
    """The sensor's noise, which grows with the gain, and a curve that clips highlights and deepens shadows."""
    curve = np.clip(cv2.GaussianBlur(image, (0, 0), _LENS_PX), 0, 1) ** np.float32(_GAMMA)
    curve += np.float32(_CONTRAST) * curve * (curve - np.float32(0.45)) * (1 - curve) * 4
    noise = light.config.noise * np.sqrt(1 + float(gain) / 4)
    begin = int(rng.integers(max(_static().size - curve.size, 1)))
    grey = np.float32(noise) * np.resize(_static()[begin : begin + curve.size], curve.shape)
    grey += 255 * curve
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


@cache
def _static() -> Float32[ndarray, "n"]:
    """A stretch of standard normal noise from which every image takes its part."""
    return np.random.default_rng(4).standard_normal(1 << 22, np.float32)


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
    view: View, directions: Float32[ndarray, "n 3"], centre: Float32[ndarray, "n 3"]
) -> Float32[ndarray, "n 3"]:
    """Mean colour of pixel centres and the extra rays around them."""
    camera = view.camera
    axes = (camera.world_from_cam.rotation / [camera.fx_px, camera.fy_px, 1.0]).astype(np.float32)
    rays = np.concatenate([directions + x * axes[:, 0] + y * axes[:, 1] for x, y in _EXTRA_PX])
    origin = camera.world_from_cam.translation_m
    colours = _colours(view, origin, rays, view.now.cast(rays_from(origin, rays)))
    return (colours.reshape(len(_EXTRA_PX), -1, 3).sum(axis=0) + centre) / np.float32(len(_EXTRA_PX) + 1)


def _colours(
    view: View, origin: Float[ndarray, "3"], directions: Float32[ndarray, "n 3"], hits: Hits
) -> Float32[ndarray, "n 3"]:
    """Linear RGB along rays with known first hits."""
    length = np.sqrt(dots(directions, directions))
    unit = directions / length[:, None]
    colour = np.empty((len(unit), 3), np.float32)
    missed, seen = np.flatnonzero(hits.face == MISS), np.flatnonzero(hits.face != MISS)
    colour[missed] = sky(unit.take(missed, axis=0), view.light)
    points = _points(view.now, origin, hits, unit, length, seen)
    scenery = view.stage.scenery
    lit = _sunlit(view.now, points, view.light)
    colour[seen] = shade(points, lit, scenery.facades, scenery.layout, view.light, scenery.lamps, view.headlight)
    return colour


def _points(
    now: Moment,
    origin: Float[ndarray, "3"],
    hits: Hits,
    unit: Float32[ndarray, "n 3"],
    length: Float32[ndarray, "n"],
    seen: ndarray,
) -> Points:
    face, ray, distance = hits.face.take(seen), unit.take(seen, axis=0), hits.t.take(seen) * length.take(seen)
    normal = now.normals(face, hits.normal.take(seen, axis=0), hits.uv.take(seen, axis=0))
    away = np.flatnonzero(dots(normal, ray) > 0)
    normal[away] = -normal[away]
    position = origin.astype(np.float32) + ray * distance[:, None]
    surface, rgb, owner = (now.attribute(name, face) for name in ("surface", "rgb", "owner"))
    return Points(position, normal, ray, distance, surface, rgb, owner)


def _sunlit(now: Moment, points: Points, light: Light) -> Bool[ndarray, "n"]:
    """Points that face the sun and that nothing hides from it."""
    lit = np.zeros(len(points.distance_m), bool)
    if light.sun_rgb.max() < 0.01:
        return lit
    facing = np.flatnonzero(points.normal @ light.to_sun > 0)
    origins = points.position_m.take(facing, axis=0)
    origins += np.float32(_LIFT_M) * points.normal.take(facing, axis=0)
    lit[facing] = ~now.occluded(rays_from(origins, np.broadcast_to(light.to_sun, origins.shape)))
    return lit
