"""A rotating LiDAR, taken at one instant, in clear air, fog and rain."""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from geometry import SE3
from perception.datasets.town.config import LidarConfig
from perception.datasets.town.light import LightConfig
from perception.datasets.town.points import dots
from perception.datasets.town.stage import Moment, rays_from

POINT_STEPS_PER_M: Final = 512.0
NEAREST_M: Final = 1.0
_WEAKEST: Final = 0.02
_RAIN_LOSS: Final = 0.15
_CLUTTER: Final = 0.02
_CLUTTER_M: Final = 3.0


def scan(
    now: Moment, world_from_lidar: SE3, lidar: LidarConfig, weather: LightConfig, rng: np.random.Generator
) -> Float32[ndarray, "n 4"]:
    """One turn: x y z in its own frame and intensity 0..1, beam by beam.

    Intensity is the surface's brightness times a cosine of the angle of incidence, with speckle. Haze takes
    exp(-2 r / visibility) of it (Beer-Lambert, there and back); what falls below 2 % is lost. Rain loses further
    returns and, like fog, sends some back from the air within a few metres.
    """
    directions = scan_directions(lidar)
    turned = (directions @ world_from_lidar.rotation.T).astype(np.float32)
    hits = now.cast(rays_from(world_from_lidar.translation_m, turned))
    draw = rng.random((3, len(directions)))
    kept = (hits.t > NEAREST_M) & (hits.t < lidar.range_m) & (draw[0] >= lidar.dropout + _RAIN_LOSS * weather.rain)
    incidence = np.abs(dots(hits.normal, turned))
    brightness = now.attribute("rgb", hits.face) @ np.full(3, 1 / 3, np.float32)
    strength = (0.15 + brightness) * (0.3 + 0.7 * incidence) + rng.normal(0, 0.03, len(directions))
    with np.errstate(over="ignore"):
        strength = np.where(kept, strength * np.exp(-2 * hits.t / weather.visibility_m), 0.0)
    range_m = hits.t + rng.normal(0, lidar.noise_m, len(directions))
    kept &= strength > _WEAKEST
    clutter = draw[1] < _CLUTTER * max(weather.rain, min(1.0, 10.0 / weather.visibility_m))
    near_m = NEAREST_M - _CLUTTER_M * np.log1p(-draw[2])
    clutter &= near_m < hits.t
    range_m, strength = np.where(clutter, near_m, range_m), np.where(clutter, 0.05, strength)
    kept |= clutter
    xyz = np.round(directions[kept] * range_m[kept, None] * POINT_STEPS_PER_M) / POINT_STEPS_PER_M
    return np.column_stack([xyz, np.round(np.clip(strength[kept], 0, 1) * 255) / 255]).astype(np.float32)


@lru_cache
def scan_directions(lidar: LidarConfig) -> Float[ndarray, "n 3"]:
    """Unit directions of one turn in the LiDAR's frame (x forward, y left, z up), beam by beam from the lowest."""
    elevation = np.radians(np.linspace(lidar.lowest_deg, lidar.highest_deg, lidar.beams))[:, None]
    azimuth = (2 * np.pi * np.arange(lidar.azimuths) / lidar.azimuths)[None, :]
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1).reshape(-1, 3)
