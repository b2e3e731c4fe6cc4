"""A vehicle's camera and LiDAR, and the labels that come with them."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.town.config import LidarConfig, TownConfig
from perception.datasets.town.mesh import Mesh
from perception.datasets.town.shading import Points, shade, sky, sun_direction
from perception.datasets.town.stage import MISS, Moment, Stage, cuboids, moment
from perception.labels import SEGMENT_ID, SEGMENT_OF_OBJECT
from perception.raycast import Hits

# Mounting, relative to the point on the ground below the vehicle's centre; x forward, y left, z up.
CAMERA_MOUNT_M: Final = (0.9, 0.0, 1.5)
LIDAR_MOUNT_M: Final = (0.0, 0.0, 1.85)
PRINCIPAL_ROW: Final = 0.46
RANGE_STEPS_PER_M: Final = 1024.0
CAM_FROM_BODY_AXES: Final = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
LIDAR_FROM_CAM: Final = SE3(CAM_FROM_BODY_AXES.T, np.array(CAMERA_MOUNT_M) - np.array(LIDAR_MOUNT_M))


def sense(stage: Stage, config: TownConfig, vehicle: int, tick: int, source: str) -> Frame:
    """What sensing vehicle number `vehicle` of the stage's day senses at sampled time `tick`, with its labels."""
    viewer = stage.day.sensing[vehicle]
    rng = np.random.default_rng([*stage.day.seed, vehicle, tick])
    now = moment(stage, tick, viewer)
    camera = mounted_camera(config, stage.day.actors[viewer].track[tick])
    hits, directions = _look(now, camera)
    height, width = config.size_px
    depth_m = np.round(hits.t * RANGE_STEPS_PER_M) / RANGE_STEPS_PER_M
    masks = _segments(now.mesh, hits)
    return Frame(
        timestamp_s=float(stage.day.times_s[tick]),
        camera=camera,
        image=_develop(_colours(stage, config, now, camera, hits, directions), config, rng).reshape(height, width, 3),
        points_lidar=_scan(now, camera.world_from_cam @ LIDAR_FROM_CAM.inverse(), config, rng),
        boxes=_boxes(stage, config, now, hits, camera, tick),
        masks=masks.reshape(height, width),
        depth_m=depth_m.astype(np.float32).reshape(height, width),
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


def _look(now: Moment, camera: Camera) -> tuple[Hits, Float32[ndarray, "n 3"]]:
    """First hits through the centres of all pixels, with t equal to depth along the camera's z."""
    origin, directions = camera.rays_world()
    flat = directions.reshape(-1, 3).astype(np.float32)
    return now.cast(_rays(origin, flat)), flat


def _rays(origin: Float[ndarray, "3"], directions: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 6"]:
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3], rays[:, 3:] = origin, directions
    return rays


def _segments(mesh: Mesh, hits: Hits) -> UInt8[ndarray, "n"]:
    return np.where(hits.face == MISS, np.uint8(SEGMENT_ID["sky"]), mesh.segment[hits.face])


def _colours(
    stage: Stage, config: TownConfig, now: Moment, camera: Camera, hits: Hits, directions: Float32[ndarray, "n 3"]
) -> Float32[ndarray, "n 3"]:
    """Linear RGB along camera rays."""
    length = np.linalg.norm(directions, axis=1)
    unit = directions / length[:, None]
    seen = hits.face != MISS
    colour = np.empty((len(seen), 3), np.float32)
    colour[~seen] = sky(unit[~seen])
    points = _points(now.mesh, camera.world_from_cam.translation_m, hits, unit, length, seen)
    sun = sun_direction(config.light)
    lit = np.einsum("nc,c->n", points.normal, sun) > 0
    shadowed = ~lit
    origins = points.position_m[lit] + 0.02 * points.normal[lit]
    shadowed[lit] = now.occluded(np.concatenate([origins, np.broadcast_to(sun, origins.shape)], axis=1))
    colour[seen] = shade(points, shadowed, stage.scenery.facades, stage.scenery.layout, config.light)
    return colour


def _points(
    mesh: Mesh, origin: ndarray, hits: Hits, unit: ndarray, length: ndarray, seen: ndarray
) -> Points:  # fmt: skip
    face, ray, distance = hits.face[seen], unit[seen], hits.t[seen] * length[seen]
    normal = hits.normal[seen]
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.float32(1e-12))
    away = np.einsum("nc,nc->n", normal, ray) > 0
    normal = np.where(away[:, None], -normal, normal)
    position = origin.astype(np.float32) + ray * distance[:, None]
    return Points(position, normal, ray, distance, mesh.surface[face], mesh.rgb[face], mesh.owner[face])


def _develop(linear: Float32[ndarray, "n 3"], config: TownConfig, rng: np.random.Generator) -> UInt8[ndarray, "n 3"]:
    """Linear light to 8-bit sRGB-like values (gamma 2.2) with sensor noise."""
    grey = 255.0 * np.clip(linear, 0, 1) ** (1 / 2.2)
    return np.clip(np.round(grey + rng.normal(0, config.light.noise, grey.shape)), 0, 255).astype(np.uint8)


def _scan(now: Moment, world_from_lidar: SE3, config: TownConfig, rng: np.random.Generator) -> Float32[ndarray, "n 4"]:
    """One turn of the LiDAR, taken at one instant: x y z in its own frame and intensity 0..1, beam by beam."""
    lidar = config.lidar
    directions = scan_directions(lidar)
    turned = np.einsum("ij,nj->ni", world_from_lidar.rotation, directions)
    hits = now.cast(_rays(world_from_lidar.translation_m, turned.astype(np.float32)))
    lost = rng.random(len(directions)) < lidar.dropout
    noise = rng.normal(0, lidar.noise_m, len(directions))
    speckle = rng.normal(0, 0.03, len(directions))
    kept = (hits.t < lidar.range_m) & (hits.t > 1.0) & ~lost
    measured = np.round((hits.t + noise)[kept] * RANGE_STEPS_PER_M) / RANGE_STEPS_PER_M
    normal = hits.normal[kept] / np.maximum(np.linalg.norm(hits.normal[kept], axis=1, keepdims=True), 1e-12)
    incidence = np.abs(np.einsum("nc,nc->n", normal, turned[kept]))
    brightness = now.mesh.rgb[hits.face[kept]].mean(axis=1)
    intensity = np.clip((0.15 + brightness) * (0.3 + 0.7 * incidence) + speckle[kept], 0, 1)
    xyz = directions[kept] * measured[:, None]
    return np.column_stack([xyz, np.round(intensity * 255) / 255]).astype(np.float32)


def scan_directions(lidar: LidarConfig) -> Float[ndarray, "n 3"]:
    """Unit directions of one turn in the LiDAR's frame (x forward, y left, z up), beam by beam from the lowest."""
    elevation = np.radians(np.linspace(lidar.lowest_deg, lidar.highest_deg, lidar.beams))[:, None]
    azimuth = (2 * np.pi * np.arange(lidar.azimuths) / lidar.azimuths)[None, :]
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1).reshape(-1, 3)


def _boxes(stage: Stage, config: TownConfig, now: Moment, hits: Hits, camera: Camera, tick: int) -> Boxes:
    """Boxes around the visible pixels of every object that is large and visible enough (see `TownConfig`)."""
    owners = visible_owners(now.mesh, hits).reshape(camera.height_px, camera.width_px)
    rows, columns = np.nonzero(owners >= 0)
    ids, place, pixels = np.unique(owners[rows, columns], return_inverse=True, return_counts=True)
    if not len(ids):
        return _with_extras(Boxes.empty())
    low = np.full((len(ids), 2), 10**6)
    high = np.zeros((len(ids), 2), int)
    np.minimum.at(low, place, np.stack([columns, rows], axis=1))
    np.maximum.at(high, place, np.stack([columns, rows], axis=1) + 1)
    solids = cuboids(stage, tick)[ids]
    scale = camera.height_px / 128
    extent = np.prod(high - low, axis=1)
    keep = (high - low)[:, 1] >= config.min_box_height_px * scale
    keep &= pixels >= config.min_box_pixels * scale**2
    keep &= extent >= config.min_visible_share * np.array([projected_area_px(camera, solid) for solid in solids])
    labels = np.array([stage.day.actors[i].model.label for i in ids], np.int64)
    boxes = Boxes(np.concatenate([low, high], axis=1).astype(np.float32), labels, solids.astype(np.float32), ids.astype(np.int64))  # fmt: skip
    return boxes.select(keep)


def _with_extras(boxes: Boxes) -> Boxes:
    n = len(boxes)
    return Boxes(boxes.xyxy_px, boxes.labels, np.zeros((n, 7), np.float32), np.zeros(n, np.int64))


def visible_owners(mesh: Mesh, hits: Hits) -> Int32[ndarray, "n"]:
    """Track id of the object that each ray hits, -1 for none."""
    is_object = np.isin(mesh.segment[hits.face], SEGMENT_OF_OBJECT) & (hits.face != MISS)
    return np.where(is_object, mesh.owner[hits.face], np.int32(-1))


def projected_area_px(camera: Camera, cuboid: Float[ndarray, "7"]) -> float:
    """Area of the rectangle around a cuboid's projected corners inside the image; corners behind are left out."""
    signs = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
    corners = SE3.from_yaw(float(cuboid[6]), cuboid[:3]).apply(signs * cuboid[3:6])
    uv, depth_m = camera.project(corners)
    uv = np.clip(uv[depth_m > 0.2], 0, [camera.width_px, camera.height_px])
    return float(np.prod(uv.max(axis=0) - uv.min(axis=0))) if len(uv) else 0.0
