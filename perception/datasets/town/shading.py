"""Light on surfaces: sun and sky, lamps at night, gloss, haze; and the sky itself. All in linear RGB."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from perception.datasets.town.buildings import Facades
from perception.datasets.town.lamps import Headlight, StreetLamps
from perception.datasets.town.layout import Layout
from perception.datasets.town.light import Light
from perception.datasets.town.mesh import Surface
from perception.datasets.town.points import Albedo, Points, dots, grain, lattice, unit
from perception.datasets.town.textures import textured

_GROUND_RGB: Final = np.array([0.17, 0.16, 0.15], np.float32)
_CORNER_M: Final = 1.6


def sky(ray: Float32[ndarray, "n 3"], light: Light) -> Float32[ndarray, "n 3"]:
    """Light of the sky along unit directions: paler to the horizon, aglow around a low sun, clouds on a plane above."""
    up = np.clip(ray[:, 2], 0, 1)
    share = np.sqrt(up)
    cover = light.config.cloud
    if 0 < cover < 0.9 and light.sun_rgb.any():
        reach = np.float32(18) / (up + np.float32(0.2))
        cloud = grain(ray[:, 0] * reach, ray[:, 1] * reach, 0.08)
        white = np.clip((cloud - np.float32(0.72 - 0.4 * cover)) * 4, 0, 0.85) * np.clip(up * 4, 0, 1)
    else:
        white = np.zeros_like(up)
    near_sun = np.clip(ray @ light.to_sun, 0, 1) ** 6
    weights = np.stack([(1 - share) * (1 - white), share * (1 - white), near_sun, white], axis=1)
    cloud_rgb = light.horizon_rgb.max() * np.float32(1.05)
    return weights @ np.stack([light.horizon_rgb, light.zenith_rgb, light.glow_rgb, np.full(3, cloud_rgb, np.float32)])


def shade(
    points: Points,
    sunlit: Bool[ndarray, "n"],
    facades: Facades,
    layout: Layout,
    light: Light,
    lamps: StreetLamps,
    headlight: Headlight,
) -> Float32[ndarray, "n 3"]:
    """Lambert's law under sun, sky and lamps, gloss, and haze (Koschmieder's law) with distance."""
    albedo = textured(points, facades, layout, light)
    normal = _ruffle(points)
    sun = np.clip(normal @ light.to_sun, 0, None) * sunlit
    sky_seen = _openness(points, normal)
    received = np.stack([sun, sky_seen], axis=1) @ np.stack([light.sun_rgb, light.ambient_rgb])
    if light.lamps:
        received += lamps.on(points.position_m, normal) + headlight.on(points.position_m, normal)
    colour = albedo.rgb * received
    if albedo.glow is not None:
        colour += albedo.glow
    _add_gloss(colour, points, normal, albedo, light)
    haze = np.exp(points.distance_m * np.float32(-1 / light.config.visibility_m))[:, None]
    return light.horizon_rgb + haze * (colour - light.horizon_rgb)


def _openness(points: Points, normal: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n"]:
    """How much skylight reaches a surface: all from above, less from the side, and less near the foot of a wall."""
    facing = np.float32(0.62) + np.float32(0.38) * normal[:, 2]
    foot = np.clip(points.position_m[:, 2] / np.float32(_CORNER_M), 0, 1) * np.float32(0.35) + np.float32(0.65)
    return facing * np.where(normal[:, 2] > 0.7, np.float32(1), foot)


def _ruffle(points: Points) -> Float32[ndarray, "n 3"]:
    """The normals; those of foliage are turned, in place, at random leaf by leaf."""
    leaves = np.flatnonzero(points.surface == Surface.FOLIAGE)
    if not len(leaves):
        return points.normal
    normal, position = points.normal, points.position_m[leaves]
    turned = (
        normal[leaves] + 1.5 * np.stack([lattice(position + np.float32(s), 0.2) for s in (0, 31, 57)], axis=1) - 0.75
    )
    normal[leaves] = unit(turned)
    return normal


def _add_gloss(
    colour: Float32[ndarray, "n 3"], points: Points, normal: Float32[ndarray, "n 3"], albedo: Albedo, light: Light
) -> None:
    """Mirrored sky or ground with Schlick's approximation of Fresnel reflection (Schlick 1994), in place."""
    glossy = np.flatnonzero(albedo.gloss)
    ray, normal = points.ray.take(glossy, axis=0), normal.take(glossy, axis=0)
    facing = dots(ray, normal)
    mirrored = ray - 2 * facing[:, None] * normal
    base = np.float32(0.06)
    strength = albedo.gloss[glossy] * (base + (1 - base) * (1 - np.clip(-facing, 0, 1)) ** 5)
    ground = _GROUND_RGB * (light.ambient_rgb + np.float32(0.3) * light.sun_rgb)
    horizon = np.clip(mirrored[:, 2:] * 6 + np.float32(0.5), 0, 1)
    colour[glossy] += strength[:, None] * (ground + horizon * (sky(mirrored, light) - ground))
