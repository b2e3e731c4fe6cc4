"""A vehicle's camera and LiDAR, and what they measure at one instant."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from geometry import SE3, Camera, Frame
from perception.datasets.town.annotate import annotate, segments
from perception.datasets.town.camera import photograph
from perception.datasets.town.config import LidarConfig, TownConfig
from perception.datasets.town.stage import Moment, Stage, moment, rays_from

# Mounting, relative to the point on the ground below the vehicle's centre; x forward, y left, z up.
CAMERA_MOUNT_M: Final = (0.9, 0.0, 1.5)
LIDAR_MOUNT_M: Final = (0.0, 0.0, 1.85)
PRINCIPAL_ROW: Final = 0.46
DEPTH_STEPS_PER_M: Final = 1024.0
POINT_STEPS_PER_M: Final = 512.0
NEAREST_M: Final = 1.0
CAM_FROM_BODY_AXES: Final = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
LIDAR_FROM_CAM: Final = SE3(CAM_FROM_BODY_AXES.T, np.array(CAMERA_MOUNT_M) - np.array(LIDAR_MOUNT_M))


def sense(stage: Stage, config: TownConfig, vehicle: int, tick: int, source: str) -> Frame:
    """What sensing vehicle number `vehicle` of the stage's day senses at sampled time `tick`, with its labels."""
    viewer = stage.day.sensing[vehicle]
    rng = np.random.default_rng([*stage.day.seed, vehicle, tick])
    now = moment(stage, tick, viewer)
    camera = mounted_camera(config, stage.day.actors[viewer].track[tick])
    origin, directions = camera.rays_world()
    hits = now.cast(rays_from(origin, directions.reshape(-1, 3)))
    depth_m = np.round(hits.t * DEPTH_STEPS_PER_M) / DEPTH_STEPS_PER_M
    return Frame(
        timestamp_s=float(stage.day.times_s[tick]),
        camera=camera,
        image=photograph(stage, now, camera, hits, config.light, rng),
        points_lidar=_scan(now, camera.world_from_cam @ LIDAR_FROM_CAM.inverse(), config.lidar, rng),
        boxes=annotate(stage, config, now, hits, camera, tick),
        masks=segments(now, hits).reshape(config.size_px),
        depth_m=depth_m.astype(np.float32).reshape(config.size_px),
        lidar_from_cam=LIDAR_FROM_CAM,
        source=source,
    )


def mounted_camera(config: TownConfig, pose: Float[ndarray, "5"]) -> Camera:
    """The camera of a vehicle at x, y, z, yaw."""
    world_from_body = SE3.from_yaw(float(pose[3]), pose[:3])
    world_from_cam = world_from_body @ SE3(CAM_FROM_BODY_AXES.T, np.array(CAMERA_MOUNT_M))
    height, width = config.size_px
    focal_px = width / (2 * np.tan(np.radians(config.fov_deg) / 2))
    return Camera(world_from_cam, focal_px, focal_px, width / 2, PRINCIPAL_ROW * height, width, height)


def _scan(now: Moment, world_from_lidar: SE3, lidar: LidarConfig, rng: np.random.Generator) -> Float32[ndarray, "n 4"]:
    """One turn of the LiDAR, taken at one instant: x y z in its own frame and intensity 0..1, beam by beam.

    Intensity is the surface's brightness times a cosine of the angle of incidence, with speckle.
    """
    directions = scan_directions(lidar)
    turned = np.einsum("ij,nj->ni", world_from_lidar.rotation, directions)
    hits = now.cast(rays_from(world_from_lidar.translation_m, turned))
    noise = rng.normal(0, lidar.noise_m, len(directions))
    speckle = rng.normal(0, 0.03, len(directions))
    kept = (hits.t > NEAREST_M) & (hits.t < lidar.range_m) & (rng.random(len(directions)) >= lidar.dropout)
    measured = (hits.t + noise)[kept]
    normal = hits.normal[kept] / np.maximum(np.linalg.norm(hits.normal[kept], axis=1, keepdims=True), 1e-12)
    incidence = np.abs(np.einsum("nc,nc->n", normal, turned[kept]))
    brightness = now.attribute("rgb", hits.face[kept]).mean(axis=1)
    intensity = np.clip((0.15 + brightness) * (0.3 + 0.7 * incidence) + speckle[kept], 0, 1)
    xyz = np.round(directions[kept] * measured[:, None] * POINT_STEPS_PER_M) / POINT_STEPS_PER_M
    return np.column_stack([xyz, np.round(intensity * 255) / 255]).astype(np.float32)


def scan_directions(lidar: LidarConfig) -> Float[ndarray, "n 3"]:
    """Unit directions of one turn in the LiDAR's frame (x forward, y left, z up), beam by beam from the lowest."""
    elevation = np.radians(np.linspace(lidar.lowest_deg, lidar.highest_deg, lidar.beams))[:, None]
    azimuth = (2 * np.pi * np.arange(lidar.azimuths) / lidar.azimuths)[None, :]
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1).reshape(-1, 3)
