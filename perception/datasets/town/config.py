"""What a town is made of, and the worlds that have a name."""

from dataclasses import dataclass, field, replace
from typing import Final

from perception.datasets.base import DataError, FleetRequest
from perception.datasets.town.light import LIGHTS, KeyLight, LightConfig, drift_schedule, light_at
from perception.datasets.town.mounts import FRONT, CameraMount, rsu_mounts


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

    def __post_init__(self) -> None:
        if min(self.beams, self.azimuths) < 1 or not (self.range_m > 0 and self.noise_m >= 0 <= self.dropout <= 1):
            raise DataError(f"a LiDAR needs beams, azimuths and a range, noise >= 0, dropout in 0..1; got {self}")
        if not -90 < self.lowest_deg <= self.highest_deg < 90:
            raise DataError(f"a LiDAR's lowest_deg and highest_deg lie in order between -90 and 90; got {self}")


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
        driver: who moves vehicles and bicycles: "kinematic", or "sumo" (needs `convoy[sumo]`).
        same_routes: whether the sensing vehicles of further days drive the same streets again.
        cameras: on a vehicle; see `mounts.RIGS`.
        rsu_cameras: on an RSU's pole.
        lidar, rsu_lidar: on a vehicle's roof and on an RSU's pole.
        light: light and weather of all days, unless one of the next two says otherwise.
        lights_by_day: light of day 0, 1, ..., from the start again when there are more days.
        schedule: light over the seconds of every day.
        density_by_day: factors on moving, walking and riding people of day 0, 1, ..., from the start again after the
            last.
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
    driver: str = "kinematic"
    same_routes: bool = False
    cameras: tuple[CameraMount, ...] = FRONT
    rsu_cameras: tuple[CameraMount, ...] = field(default_factory=rsu_mounts)
    lidar: LidarConfig = field(default_factory=LidarConfig)
    rsu_lidar: LidarConfig = field(default_factory=lambda: LidarConfig(lowest_deg=-40.0, highest_deg=-2.0))
    light: LightConfig = field(default_factory=LightConfig)
    lights_by_day: tuple[LightConfig, ...] = ()
    schedule: tuple[KeyLight, ...] = ()
    density_by_day: tuple[float, ...] = ()

    def crowded(self, day: int) -> "TownConfig":
        """The same town with as many people about as on a day."""
        if not self.density_by_day:
            return self
        factor = self.density_by_day[day % len(self.density_by_day)]
        return replace(
            self,
            moving_per_region=round(self.moving_per_region * factor),
            pedestrians_per_100_m=self.pedestrians_per_100_m * factor,
            cyclists_per_region=round(self.cyclists_per_region * factor),
        )

    def light_on(self, day: int, time_s: float) -> LightConfig:
        """Light and weather of a day at a time."""
        if self.schedule:
            return light_at(self.schedule, time_s)
        return self.lights_by_day[day % len(self.lights_by_day)] if self.lights_by_day else self.light

    def holdout_light(self, share: float) -> LightConfig:
        """Light and weather of the holdout after a share of its drive: the schedule stretched over it, else `light`."""
        if not self.schedule:
            return self.light
        first_s, last_s = self.schedule[0].time_s, self.schedule[-1].time_s
        return light_at(self.schedule, first_s + share * (last_s - first_s))

    def __post_init__(self) -> None:
        if min(self.vehicles, self.rsus, self.frames_per_vehicle) < 1 or self.holdout_frames < 0:
            raise DataError(f"a town needs vehicles, rsus and frames_per_vehicle >= 1, got {self}")
        if not 0 <= self.test_share < 1:
            raise DataError(f"a town's test_share lies in 0..1, got {self.test_share}")
        if min(self.size_px) < 16 or not 10 <= self.fov_deg <= 150 or not self.rate_hz > 0:
            raise DataError(f"a town's images need at least 16 pixels a side, 10-150 degrees and a rate, got {self}")
        if any(not factor >= 0 for factor in self.density_by_day):
            raise DataError(f"a town's density_by_day must not be negative, got {self.density_by_day}")
        if not self.cameras or not self.rsu_cameras:
            raise DataError("a town's vehicles and RSUs need at least one camera each")


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
    "town": TownConfig(vehicles=12, rsus=12),
    "city": TownConfig(vehicles=24, rsus=64),
    "street": TownConfig(vehicles=2, rsus=2, frames_per_vehicle=60, holdout_frames=12, rate_hz=10.0),
}


def town_config(request: FleetRequest) -> TownConfig:
    """The preset that a request names, with the request's wishes; 0 (or (0, 0)) in the request leaves the preset's.

    "village@night" is the village in the light of that name (see `LIGHTS`); with "@drift" the light changes over the
    drive, through day, dusk, night, fog and rain; with "@traversals" day 0, 1, 2, ... drive the same streets by day, at
    dusk, at night and in rain.

    Raises:
        DataError: no preset or light has that name, or a value is out of range.
    """
    name, _, light = request.preset.partition("@")
    if name not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise DataError(f"FleetRequest.preset: the town has no preset {name!r}; choose one of: {known}")
    preset = PRESETS[name]
    config = replace(
        preset,
        seed=request.seed,
        vehicles=request.vehicles or preset.vehicles,
        size_px=request.size_px if any(request.size_px) else preset.size_px,
        frames_per_vehicle=request.frames_per_vehicle or preset.frames_per_vehicle,
    )
    return _in_light(config, light) if light else config


def _in_light(config: TownConfig, name: str) -> TownConfig:
    if name == "drift":
        return replace(config, schedule=drift_schedule(config.warmup_s, config.frames_per_vehicle / config.rate_hz))
    if name == "traversals":
        lights = tuple(LIGHTS[light] for light in ("day", "dusk", "night", "rain"))
        return replace(config, lights_by_day=lights, density_by_day=(1.0, 0.8, 0.4, 0.6), same_routes=True)
    if name not in LIGHTS:
        known = ", ".join((*LIGHTS, "drift", "traversals"))
        raise DataError(f"FleetRequest.preset: the town has no light {name!r}; choose one of: {known}")
    return replace(config, light=LIGHTS[name])
