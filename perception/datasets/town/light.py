"""Light and weather: what a configuration asks for, how it changes over time, and what light follows from it."""

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from perception.datasets.base import DataError

_SUN_RGB: Final = np.array([3.3, 3.1, 2.75], np.float32)
_LOW_SUN_RGB: Final = np.array([3.0, 1.75, 0.85], np.float32)
_SKY_RGB: Final = np.array([0.44, 0.5, 0.6], np.float32)
_TWILIGHT_RGB: Final = np.array([0.34, 0.36, 0.55], np.float32)
_HORIZON_RGB: Final = np.array([1.75, 1.85, 1.95], np.float32)
_ZENITH_RGB: Final = np.array([0.42, 0.8, 1.6], np.float32)
_GLOW_RGB: Final = np.array([2.3, 1.3, 0.75], np.float32)
_NIGHT_RGB: Final = np.array([0.006, 0.008, 0.014], np.float32)
_LAMPS_BELOW_DEG: Final = 3.0


@dataclass(frozen=True)
class LightConfig:
    """Light and weather. Changing it gives the same streets in another domain.

    Args:
        sun_azimuth_deg: bearing of the sun, counter-clockwise from east.
        sun_elevation_deg: height of the sun above the horizon; below about -12 it is night.
        cloud: share of the sky that clouds cover, 0..1; the sun's direct light goes with it.
        visibility_m: distance at which haze or fog takes 63 % of an object's contrast.
        rain: 0 (dry) to 1 (heavy): streaks, wet road, fewer LiDAR returns.
        noise: standard deviation of the image sensor's noise by day, in grey levels of 255; it grows with the gain.

    Raises:
        DataError: a value outside its range.
    """

    sun_azimuth_deg: float = 235.0
    sun_elevation_deg: float = 48.0
    cloud: float = 0.25
    visibility_m: float = 900.0
    rain: float = 0.0
    noise: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.cloud <= 1 and 0 <= self.rain <= 1 and self.visibility_m > 1 and self.noise >= 0):
            raise DataError(f"light: cloud and rain lie in 0..1, visibility_m above 1, noise not below 0; got {self}")
        if not (-90 <= self.sun_elevation_deg <= 90 and np.isfinite(self.sun_azimuth_deg)):
            raise DataError(f"light: sun_elevation_deg lies in -90..90, sun_azimuth_deg is finite; got {self}")


LIGHTS: Final[dict[str, LightConfig]] = {
    "day": LightConfig(),
    "overcast": LightConfig(cloud=0.97, visibility_m=500.0),
    "fog": LightConfig(cloud=1.0, visibility_m=45.0, sun_elevation_deg=25.0),
    "rain": LightConfig(cloud=1.0, visibility_m=220.0, rain=0.8, sun_elevation_deg=30.0),
    "dusk": LightConfig(sun_azimuth_deg=190.0, sun_elevation_deg=1.5, cloud=0.35, visibility_m=500.0),
    "night": LightConfig(sun_elevation_deg=-30.0, cloud=0.3, visibility_m=600.0),
}
# Names of LIGHTS in the order in which a drive with `drift` passes through them.
DRIFT: Final = ("day", "dusk", "night", "fog", "rain", "day")


@dataclass(frozen=True, eq=False)
class Light:
    """Radiances that follow from a `LightConfig`, linear RGB; white paper in the sun is about 1.

    Args:
        config: where it comes from.
        to_sun: unit vector.
        sun_rgb: direct light on a surface that faces the sun.
        ambient_rgb: light from the whole sky on a surface that faces up.
        horizon_rgb, zenith_rgb, glow_rgb: the sky at the horizon, overhead, and what is added around a low sun.
        lamps: whether street lamps, headlights and windows are lit.
    """

    config: LightConfig
    to_sun: Float32[ndarray, "3"]
    sun_rgb: Float32[ndarray, "3"]
    ambient_rgb: Float32[ndarray, "3"]
    horizon_rgb: Float32[ndarray, "3"]
    zenith_rgb: Float32[ndarray, "3"]
    glow_rgb: Float32[ndarray, "3"]
    lamps: bool


def light_of(config: LightConfig) -> Light:
    """The light of a sun's height, clouds and haze.

    Direct light falls off towards the horizon; skylight fades through twilight and is gone at -12 degrees. Clouds
    exchange direct light for a third of its strength from above and turn the sky grey. These are curves that look
    right, not radiometry.
    """
    elevation = np.radians(config.sun_elevation_deg)
    height = np.float32(np.clip(config.sun_elevation_deg / 30.0, 0, 1) ** 0.6)
    twilight = np.float32(np.clip((config.sun_elevation_deg + 12.0) / 18.0, 0, 1) ** 2)
    open_sky = np.float32(1 - config.cloud)
    sun = (_LOW_SUN_RGB + (_SUN_RGB - _LOW_SUN_RGB) * height) * height
    blue = _TWILIGHT_RGB + (_SKY_RGB - _TWILIGHT_RGB) * height
    grey = np.float32(0.3) * sun.mean() + np.float32(0.12)
    ambient = blue * twilight + (1 - open_sky) * grey * twilight
    pale = np.float32(0.9) * (ambient.mean() / np.float32(0.5))
    horizon = (_HORIZON_RGB * open_sky + pale * 2 * (1 - open_sky)) * twilight
    zenith = (_ZENITH_RGB * open_sky + pale * 1.7 * (1 - open_sky)) * twilight
    across = np.cos(elevation) * np.array([np.cos(a := np.radians(config.sun_azimuth_deg)), np.sin(a)])
    return Light(
        config,
        np.array([*across, np.sin(elevation)], np.float32),
        (sun * open_sky**2).astype(np.float32),
        (ambient + _NIGHT_RGB).astype(np.float32),
        (horizon + 2 * _NIGHT_RGB).astype(np.float32),
        (zenith + _NIGHT_RGB).astype(np.float32),
        (_GLOW_RGB * open_sky * twilight * (1 - height)).astype(np.float32),
        bool(config.sun_elevation_deg < _LAMPS_BELOW_DEG or config.visibility_m < 70),
    )


@dataclass(frozen=True)
class KeyLight:
    """What the light is at a time of a drive."""

    time_s: float
    light: LightConfig


def light_at(schedule: tuple[KeyLight, ...], time_s: float) -> LightConfig:
    """The light between two key times, every field interpolated; the first or last key outside them.

    Raises:
        DataError: no keys, or times that do not increase.
    """
    times = [key.time_s for key in schedule]
    if not times or (np.diff(times) <= 0).any():
        raise DataError(f"a schedule of light needs times that increase, got {times}")
    columns = {f.name: [getattr(key.light, f.name) for key in schedule] for f in fields(LightConfig)}
    return replace(schedule[0].light, **{name: float(np.interp(time_s, times, c)) for name, c in columns.items()})


def drift_schedule(start_s: float, seconds: float) -> tuple[KeyLight, ...]:
    """Through all of `DRIFT` in `seconds` from a time on, holding each for half of its share of the time."""
    span = seconds / len(DRIFT)
    return tuple(
        KeyLight(start_s + (k + shift) * span, LIGHTS[name]) for k, name in enumerate(DRIFT) for shift in (0.25, 0.75)
    )
