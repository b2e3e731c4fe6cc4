"""What a vehicle or a roadside unit measures at one instant."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from geometry import SE3, Frame
from perception.datasets.town.annotate import NOBODY, annotate, owners, segments
from perception.datasets.town.camera import View, photograph
from perception.datasets.town.config import LidarConfig, TownConfig
from perception.datasets.town.lamps import Headlight
from perception.datasets.town.lidar import scan
from perception.datasets.town.light import LightConfig, light_of
from perception.datasets.town.mounts import LIDAR_MOUNT_M, RSU_LIDAR_MOUNT_M, RSU_POLE_M, CameraMount
from perception.datasets.town.stage import Stage, moment, rays_from
from perception.datasets.town.traffic import HOLDOUT_DAY

DEPTH_STEPS_PER_M: Final = 1024.0
_HEADLIGHT_MOUNT_M: Final = (0.9, 0.0, 0.9)


@dataclass(frozen=True, eq=False)
class Unit:
    """A carrier of sensors at one instant.

    Args:
        world_from_body: its pose on the ground.
        mounts: its cameras; the first one's frames also hold the LiDAR's points.
        lidar, lidar_mount_m: its LiDAR and where that sits.
        actor: its place among the day's actors, or None for a roadside unit.
        seed: decides its sensors' noise.
    """

    world_from_body: SE3
    mounts: tuple[CameraMount, ...]
    lidar: LidarConfig
    lidar_mount_m: tuple[float, float, float]
    actor: int | None
    seed: tuple[int, ...]


def vehicle_unit(stage: Stage, config: TownConfig, seat: int, tick: int) -> Unit:
    """Sensing vehicle number `seat` of the stage's day at sampled time `tick`."""
    actor = stage.day.sensing[seat]
    track = stage.day.actors[actor].track[tick]
    pose = SE3.from_yaw(float(track[3]), track[:3])
    seed = (*stage.day.seed, 10_000 + stage.day.actors[actor].track_id, tick)
    return Unit(pose, config.cameras, config.lidar, LIDAR_MOUNT_M, actor, seed)


def rsu_unit(stage: Stage, config: TownConfig, rsu: int, tick: int) -> Unit:
    """A roadside unit at sampled time `tick`."""
    x, y = stage.scenery.layout.rsus_m[rsu] + RSU_POLE_M
    pose = SE3.from_yaw(0.0, np.array([x, y, 0.0]))
    seed = (*stage.day.seed, 1_000 + rsu, tick)
    return Unit(pose, config.rsu_cameras, config.rsu_lidar, RSU_LIDAR_MOUNT_M, None, seed)


def sense(stage: Stage, config: TownConfig, unit: Unit, tick: int, camera: int, source: str) -> Frame:
    """What camera number `camera` of a unit sees, with its labels; the first camera brings the LiDAR's turn along."""
    time_s = float(stage.day.times_s[tick])
    light = _light(stage, config, tick)
    now = moment(stage, tick, unit.world_from_body.translation_m[:2], unit.actor)
    lens = unit.mounts[camera].camera(unit.world_from_body, config.size_px, config.fov_deg)
    rng = np.random.default_rng([*unit.seed, camera])
    origin, directions = lens.rays_world()
    rays = rays_from(origin, directions.reshape(-1, 3))
    hits = now.cast(rays)
    seen = owners(now, hits).reshape(config.size_px)
    classes, depth_m = segments(now, hits).reshape(config.size_px), hits.t.reshape(config.size_px).copy()
    view = View(stage, now, lens, light_of(light), _headlight(unit.world_from_body, unit.actor is not None))
    image = photograph(view, rays, hits, rng)
    world_from_lidar = unit.world_from_body @ SE3(np.eye(3), np.array(unit.lidar_mount_m))
    has_lidar = camera == 0
    return Frame(
        timestamp_s=time_s,
        camera=lens,
        image=image,
        points_lidar=scan(now, world_from_lidar, unit.lidar, light, rng) if has_lidar else None,
        boxes=annotate(stage, config, now, seen, lens, tick),
        masks=classes,
        instances=_track_ids(stage, seen),
        depth_m=(np.round(depth_m * DEPTH_STEPS_PER_M) / DEPTH_STEPS_PER_M).astype(np.float32),
        lidar_from_cam=world_from_lidar.inverse() @ lens.world_from_cam if has_lidar else None,
        source=source,
    )


def _light(stage: Stage, config: TownConfig, tick: int) -> LightConfig:
    times_s, day = stage.day.times_s, stage.day.seed[-1]
    if day == HOLDOUT_DAY:
        return config.holdout_light(tick / max(len(times_s) - 1, 1))
    return config.light_on(day, float(times_s[tick]))


def _track_ids(stage: Stage, seen: np.ndarray) -> np.ndarray:
    """Track ids instead of places among the actors."""
    ids = np.array([*(actor.track_id for actor in stage.day.actors), NOBODY], np.int32)
    return ids[seen]


def _headlight(world_from_body: SE3, lit: bool) -> Headlight:
    """The lamps of a vehicle, which shine ahead wherever its cameras look; a roadside unit has none."""
    origin = world_from_body.apply(np.array([_HEADLIGHT_MOUNT_M]))[0]
    power = Headlight.power if lit else 0.0
    return Headlight(origin.astype(np.float32), world_from_body.rotation[:, 0].astype(np.float32), power)
