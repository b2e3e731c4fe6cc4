"""What a town is made of, and the worlds that have a name."""

from dataclasses import dataclass, field, replace
from typing import Final

from perception.datasets.base import DataError, FleetRequest


@dataclass(frozen=True)
class LidarConfig:
    """A rotating multi-beam LiDAR: `beams` elevations, each fired at `azimuths` bearings a turn.

    Args:
        beams, azimuths: size of the scan pattern.
        lowest_deg, highest_deg: elevations of the outermost beams.
        range_m: returns beyond it are lost.
        noise_m: standard deviation of the measured range.
        dropout: share of returns lost at random.
    """

    beams: int = 32
    azimuths: int = 512
    lowest_deg: float = -22.0
    highest_deg: float = 6.0
    range_m: float = 80.0
    noise_m: float = 0.015
    dropout: float = 0.02


@dataclass(frozen=True)
class LightConfig:
    """Light and weather. Changing it gives the same streets in another domain.

    Args:
        sun_azimuth_deg: bearing of the sun, counter-clockwise from east; a drive's day shifts it a little.
        sun_elevation_deg: height of the sun above the horizon.
        sun, ambient: strength of direct light and of light from the sky.
        visibility_m: distance at which haze takes 63 % of an object's contrast.
        noise: standard deviation of the sensor's noise, in grey levels of 255.
    """

    sun_azimuth_deg: float = 235.0
    sun_elevation_deg: float = 48.0
    sun: float = 1.2
    ambient: float = 0.46
    visibility_m: float = 380.0
    noise: float = 2.0


@dataclass(frozen=True)
class TownConfig:
    """A town, the vehicles that sense it, and the sensors.

    What decides a frame's content is all but `vehicles`, `frames_per_vehicle` and `holdout_frames`: asking for more
    vehicles or longer drives keeps the frames that are there.

    Args:
        seed: decides everything random.
        vehicles: vehicles that hold a share; they are dealt to the regions in turn.
        rsus: roadside units, one a region; each region is a 3 x 3 grid of junctions around its RSU.
        frames_per_vehicle: length of a vehicle's drive in frames.
        holdout_frames: frames of the drive through all regions that no share holds.
        test_share: last part of every drive that is kept for testing.
        size_px: (height, width) of images.
        fov_deg: horizontal field of view.
        rate_hz: frames a second.
        warmup_s: seconds of traffic before the first frame.
        block_m: mean distance between junctions.
        moving_per_region: moving vehicles in a region beside those that sense.
        pedestrians_per_100_m: walkers on 100 m of pavement, in a region of weight 1.
        cyclists_per_region: riders in a region of weight 1.
        parked_share: share of kerbside slots that are taken, in a region of weight 1.
        min_box_height_px, min_box_pixels: an object with fewer visible rows or pixels gets no box. Both hold for
            images of 128 rows and scale with the image.
        min_visible_share: an object whose visible extent covers less than this share of its projected extent (inside
            the image) gets no box.
    """

    seed: int = 0
    vehicles: int = 6
    rsus: int = 3
    frames_per_vehicle: int = 48
    holdout_frames: int = 48
    test_share: float = 0.2
    size_px: tuple[int, int] = (128, 384)
    fov_deg: float = 68.0
    rate_hz: float = 1.0
    warmup_s: float = 8.0
    block_m: float = 58.0
    moving_per_region: int = 12
    pedestrians_per_100_m: float = 4.5
    cyclists_per_region: int = 14
    parked_share: float = 0.4
    min_box_height_px: float = 10.0
    min_box_pixels: float = 40.0
    min_visible_share: float = 0.3
    lidar: LidarConfig = field(default_factory=LidarConfig)
    light: LightConfig = field(default_factory=LightConfig)

    def __post_init__(self) -> None:
        if min(self.vehicles, self.rsus, self.frames_per_vehicle) < 1 or self.holdout_frames < 0:
            raise DataError(f"a town needs vehicles, rsus and frames_per_vehicle >= 1, got {self}")
        if min(self.size_px) < 16 or not 10 <= self.fov_deg <= 150 or self.rate_hz <= 0:
            raise DataError(f"a town's images need at least 16 pixels a side, 10-150 degrees and a rate, got {self}")


PRESETS: Final[dict[str, TownConfig]] = {
    "hamlet": TownConfig(
        vehicles=2,
        rsus=2,
        frames_per_vehicle=6,
        holdout_frames=4,
        rate_hz=2.0,
        size_px=(64, 192),
        lidar=LidarConfig(beams=16, azimuths=256),
    ),
    "village": TownConfig(),
    "street": TownConfig(vehicles=2, rsus=2, frames_per_vehicle=60, holdout_frames=12, rate_hz=10.0),
}


def town_config(request: FleetRequest) -> TownConfig:
    """The preset that a request names, with the request's wishes; 0 (or (0, 0)) in the request leaves the preset's.

    Raises:
        DataError: no preset has that name, or a value is out of range.
    """
    if request.preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise DataError(f"FleetRequest.preset: the town has no preset {request.preset!r}; choose one of: {known}")
    preset = PRESETS[request.preset]
    return replace(
        preset,
        seed=request.seed,
        vehicles=request.vehicles or preset.vehicles,
        size_px=request.size_px if any(request.size_px) else preset.size_px,
        frames_per_vehicle=request.frames_per_vehicle or preset.frames_per_vehicle,
    )
