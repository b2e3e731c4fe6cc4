"""Light: sun and shadow on surfaces, gloss, sky and haze. All in linear RGB."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from perception.datasets.town.buildings import Facades
from perception.datasets.town.config import LightConfig
from perception.datasets.town.layout import Layout
from perception.datasets.town.mesh import Surface
from perception.datasets.town.textures import Points, lattice, noise, textured

_HORIZON: Final = np.array([0.72, 0.78, 0.84], np.float32)
_ZENITH: Final = np.array([0.2, 0.38, 0.72], np.float32)
_SUN_RGB: Final = np.array([1.0, 0.95, 0.86], np.float32)
_SKYLIGHT_RGB: Final = np.array([0.86, 0.94, 1.08], np.float32)


def sun_direction(light: LightConfig) -> Float32[ndarray, "3"]:
    """Unit vector towards the sun."""
    azimuth, elevation = np.radians(light.sun_azimuth_deg), np.radians(light.sun_elevation_deg)
    across = np.cos(elevation)
    return np.array([across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation)], np.float32)


def _daylight(light: LightConfig) -> np.float32:
    """Brightness of the sky against that of the default light."""
    return np.float32(light.ambient / LightConfig.ambient)


def sky(ray: Float32[ndarray, "n 3"], light: LightConfig) -> Float32[ndarray, "n 3"]:
    """Light of the sky along unit directions [n, 3]: paler to the horizon, with clouds on a plane overhead."""
    up = np.clip(ray[:, 2], 0.0, 1.0)
    blue = _HORIZON + (_ZENITH - _HORIZON) * np.sqrt(up)[:, None]
    reach = 0.5 / (up + 0.25)
    x, y = ray[:, 0] * reach, ray[:, 1] * reach
    cloud = 0.6 * noise(x, y, 1.3) + 0.28 * noise(x, y, 3.7) + 0.12 * noise(x, y, 9.0)
    cover = np.clip((cloud - 0.5) * 3.5, 0.0, 0.8)[:, None] * np.clip(up * 3, 0, 1)[:, None]
    return (blue + (np.float32(0.93) - blue) * cover) * _daylight(light)


def shade(
    points: Points, shadowed: Bool[ndarray, "n"], facades: Facades, layout: Layout, light: LightConfig
) -> Float32[ndarray, "n 3"]:
    """Lambert's law under sun and sky, a gloss on paint and glass, and haze (Koschmieder's law) with distance."""
    albedo = textured(points, facades, layout)
    normal = _ruffled(points)
    sun = np.clip(np.einsum("nc,c->n", normal, sun_direction(light)), 0, None) * ~shadowed * light.sun
    ambient = light.ambient * (0.72 + 0.28 * normal[:, 2])
    colour = albedo * (sun[:, None] * _SUN_RGB + ambient[:, None] * _SKYLIGHT_RGB)
    glossy = (points.surface == Surface.PAINT) | (points.surface == Surface.GLASS)
    colour[glossy] += _gloss(points.where(glossy), light)
    lamps = points.surface == Surface.LAMP
    colour[lamps] += 0.35 * points.rgb[lamps]
    haze = np.exp(-points.distance_m / np.float32(light.visibility_m))[:, None]
    return colour * haze + _HORIZON * _daylight(light) * (1 - haze)


def _ruffled(points: Points) -> Float32[ndarray, "n 3"]:
    """Normals, with those of foliage turned at random leaf by leaf."""
    normal = points.normal.copy()
    leaves = points.surface == Surface.FOLIAGE
    turn = [lattice(points.position_m[leaves] + np.float32(shift), 0.28) for shift in (0.0, 31.0, 57.0)]
    normal[leaves] += 1.3 * (np.stack(turn, axis=1) - 0.5)
    normal[leaves] /= np.maximum(np.linalg.norm(normal[leaves], axis=1, keepdims=True), np.float32(1e-6))
    return normal


def _gloss(points: Points, light: LightConfig) -> Float32[ndarray, "n 3"]:
    """The sky mirrored with Schlick's approximation of Fresnel reflection (Schlick 1994), base 0.05."""
    facing = np.einsum("nc,nc->n", points.ray, points.normal)
    mirrored = points.ray - 2 * facing[:, None] * points.normal
    strength = 0.05 + 0.6 * (1 - np.clip(-facing, 0, 1)) ** 5
    return sky(mirrored, light) * strength[:, None] * np.clip(mirrored[:, 2:] + 0.4, 0, 1)
