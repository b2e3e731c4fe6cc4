"""Frames as KITTI's object detection data set: `training/{image_2,velodyne,calib,label_2}/NNNNNN.*`.

Rectified camera 0 is put where the frame's camera is, so P0 to P3 are alike and have no offset. KITTI puts the centre
of the first pixel at (0, 0): principal points and boxes move by half a pixel, and boxes end at the outermost pixels'
centres. Types are Car, Pedestrian and Cyclist, for frames know no others. Cuboids stand upright in the camera's frame
there; where the camera is not level, they lean with it.
"""

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.export.writing import (
    ExportOptions,
    boxes_of,
    cloud_of,
    image_of,
    save_floats,
    save_image,
    save_text,
)
from perception.datasets.kitti_io import PIXEL_CENTRE
from perception.datasets.placement import cuboid_corners, hull_boxes

TYPE_OF_LABEL: Final = ("Car", "Pedestrian", "Cyclist")  # in the order of labels.OBJECTS
OCCLUSION_UNKNOWN: Final = 3
TRUNCATION_UNKNOWN: Final = -1.0
LEVEL_DEG: Final = 2.0
# What KITTI writes for a region without a 3D label: alpha, then height, width, length, x, y, z, rotation_y.
NO_ALPHA: Final = -10.0
NO_CUBOID: Final = (-1.0, -1.0, -1.0, -1000.0, -1000.0, -1000.0, -10.0)
# A LiDAR at the camera, x ahead, y left, z up: stands in where a frame has no `lidar_from_cam`.
LEVEL_LIDAR_FROM_CAM: Final = SE3(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3))


class KittiObjectWriter:
    """Numbers the frames from 000000. Frames without LiDAR or labels get no `velodyne` or `label_2` file."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        del options
        self._root = folder / "training"
        self._count = 0
        self._lacks: dict[str, int] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"{count} frames {what}" for what, count in self._lacks.items() if count)

    def add(self, frame: Frame) -> None:
        image, cloud, boxes = image_of(frame, "KITTI object"), cloud_of(frame), boxes_of(frame)
        lidar_from_cam = frame.lidar_from_cam or LEVEL_LIDAR_FROM_CAM
        calibration = calibration_text(frame.camera, lidar_from_cam)
        stem = f"{self._count:06d}"
        save_image(self._root / "image_2" / f"{stem}.png", image)
        save_text(self._root / "calib" / f"{stem}.txt", calibration)
        if boxes is not None:
            save_text(self._root / "label_2" / f"{stem}.txt", label_text(boxes, frame.camera))
        if cloud is not None:
            save_floats(self._root / "velodyne" / f"{stem}.bin", cloud)
        self._note(boxes, cloud, frame.camera)
        self._count += 1

    def close(self) -> None:
        """Nothing comes after the last frame."""

    def _note(self, boxes: Boxes | None, cloud: ndarray | None, camera: Camera) -> None:
        lacks = {
            "without LiDAR (no velodyne file)": cloud is None,
            "without labels (no label_2 file)": boxes is None,
            "without cuboids (KITTI's -1 and -1000 in their place)": boxes is not None and boxes.cuboids_world is None,
            f"with a camera over {LEVEL_DEG:g} degrees off level (cuboids lean with it)": tilt_deg(camera) > LEVEL_DEG,
        }
        for what, lacking in lacks.items():
            self._lacks[what] = self._lacks.get(what, 0) + lacking


def tilt_deg(camera: Camera) -> float:
    """Angle between the camera's y axis and straight down."""
    return float(np.degrees(np.arccos(np.clip(-camera.world_from_cam.rotation[2, 1], -1, 1))))


def projection_matrix(camera: Camera) -> Float[ndarray, "3 4"]:
    """KITTI's P: pixel centres at integers, no offset."""
    intrinsics = camera.intrinsics
    intrinsics[:2, 2] -= PIXEL_CENTRE
    return np.column_stack([intrinsics, np.zeros(3)])


def calibration_text(camera: Camera, lidar_from_cam: SE3) -> str:
    """A `calib/NNNNNN.txt`. The IMU is put at the LiDAR."""
    projection, cam_from_lidar = projection_matrix(camera), lidar_from_cam.inverse().matrix[:3]
    entries = {f"P{number}": projection for number in range(4)}
    entries |= {"R0_rect": np.eye(3), "Tr_velo_to_cam": cam_from_lidar, "Tr_imu_to_velo": np.eye(4)[:3]}
    return "".join(f"{key}: {numbers_text(value)}\n" for key, value in entries.items())


def numbers_text(values: Float[ndarray, "..."]) -> str:
    """All values, row by row, as KITTI prints them."""
    return " ".join(f"{value:.12e}" for value in np.ravel(values))


def label_text(boxes: Boxes, camera: Camera) -> str:
    """A `label_2/NNNNNN.txt`: one line an object. The boxes must lie in the image."""
    limit_px = np.array([camera.width_px, camera.height_px] * 2) - 2 * PIXEL_CENTRE
    xyxy_px = np.clip(boxes.xyxy_px - PIXEL_CENTRE, 0, limit_px)
    poses = np.tile([NO_ALPHA, *NO_CUBOID], (len(boxes), 1))
    if boxes.cuboids_world is not None:
        poses = poses_rect(boxes.cuboids_world, camera)
    occlusion = boxes.occlusion if boxes.occlusion is not None else np.full(len(boxes), OCCLUSION_UNKNOWN)
    columns = zip(boxes.labels, truncation_of(boxes, camera), occlusion, xyxy_px, poses, strict=True)
    return "".join(
        f"{TYPE_OF_LABEL[label]} {truncated:.2f} {int(occluded)} {pose[0]:.6f} "
        f"{' '.join(f'{v:.2f}' for v in box)} {' '.join(f'{v:.4f}' for v in pose[1:7])} {pose[7]:.6f}\n"
        for label, truncated, occluded, box, pose in columns
    )


def poses_rect(cuboids_world: Float[ndarray, "n 7"], camera: Camera) -> Float[ndarray, "n 8"]:
    """alpha, height, width, length, x, y, z of the bottom face's middle, rotation_y; in the camera's frame.

    rotation_y turns about y (down) and is 0 where the object looks along x; alpha is the same relative to the line of
    sight. Both lie in [-pi, pi).
    """
    cuboids = np.asarray(cuboids_world, dtype=np.float64)
    cam_from_world = camera.world_from_cam.inverse()
    length, width, height = cuboids[:, 3:6].T
    bottom = cam_from_world.apply(cuboids[:, :3]) + height[:, None] * np.array([0.0, 0.5, 0.0])
    yaw = cuboids[:, 6]
    headings = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1) @ cam_from_world.rotation.T
    rotation_y = np.arctan2(-headings[:, 2], headings[:, 0])
    alpha = rotation_y - np.arctan2(bottom[:, 0], bottom[:, 2])
    return np.column_stack([wrapped(alpha), height, width, length, bottom, wrapped(rotation_y)])


def wrapped(angles_rad: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """The same angles in [-pi, pi)."""
    return (angles_rad + np.pi) % (2 * np.pi) - np.pi


def truncation_of(boxes: Boxes, camera: Camera) -> Float[ndarray, "n"]:
    """Share of each object outside the image: the label's, else that of its projected cuboid, else -1."""
    if boxes.truncation is not None:
        return boxes.truncation.astype(np.float64)
    if boxes.cuboids_world is None:
        return np.full(len(boxes), TRUNCATION_UNKNOWN)
    whole = hull_boxes(cuboid_corners(boxes.cuboids_world), camera)
    size_px = np.array([camera.width_px, camera.height_px])
    inside = np.clip(whole, 0, np.tile(size_px, 2))
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (whole, inside)]
    return np.where(areas[0] > 0, 1 - areas[1] / np.maximum(areas[0], 1e-9), TRUNCATION_UNKNOWN)
