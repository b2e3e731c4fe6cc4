"""Frames made by hand for the tests of exports: a vehicle that drives and turns past two objects."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.placement import cuboid_corners, hull_boxes

WIDTH, HEIGHT = 120, 80
CAM_FROM_BODY = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
# The LiDAR sits 0.3 m above and 0.5 m behind the camera, with the vehicle's axes: x ahead, y left, z up.
LIDAR_FROM_CAM = SE3(CAM_FROM_BODY.T, np.array([0.5, 0.0, -0.3]))
CUBOIDS = np.array(
    [[112.0, 55.0, 0.8, 4.0, 1.8, 1.6, 0.4], [110.0, 50.5, 0.9, 0.6, 0.7, 1.8, -2.0]], np.float32
)  # a car and a pedestrian, world
LABELS, TRACKS = np.array([0, 1]), np.array([7, 3])


class Frames(Sequence):
    """A data set out of a list; a place that holds an exception raises it."""

    name, licence = "by hand", "CC0-1.0"

    def __init__(self, frames: Sequence[Frame | BaseException], posed: bool = True) -> None:
        self.frames, self.posed = frames, posed

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        frame = self.frames[index]
        if isinstance(frame, BaseException):
            raise frame
        return frame


def camera_at(x_m: float, y_m: float, yaw_rad: float) -> Camera:
    """A level camera 1.5 m above the ground; focal length 100."""
    world_from_body = SE3.from_yaw(yaw_rad, np.array([x_m, y_m, 1.5]))
    world_from_cam = world_from_body @ SE3(CAM_FROM_BODY.T, np.zeros(3))
    return Camera(world_from_cam, 100.0, 101.0, 60.25, 40.5, WIDTH, HEIGHT)


def frame_at(camera: Camera, timestamp_s: float, seed: int = 0) -> Frame:
    """A frame with everything but masks and depth."""
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform([3, -2, -1.5], [30, 2, 1.5], (60, 3)), rng.uniform(0, 1, 60)])
    xyxy_px = hull_boxes(cuboid_corners(CUBOIDS), camera).astype(np.float32)
    return Frame(
        timestamp_s=timestamp_s,
        camera=camera,
        image=rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        points_lidar=points.astype(np.float32),
        boxes=Boxes(xyxy_px, LABELS, CUBOIDS, TRACKS),
        lidar_from_cam=LIDAR_FROM_CAM,
        source=f"frame {timestamp_s:g}",
    )


def drive(count: int = 3, start_s: float = 5.0) -> list[Frame]:
    """Frames 0.1 s and 1 m apart on a slow left turn."""
    cameras = [camera_at(100 + k * np.cos(0.3), 50 + k * np.sin(0.3), 0.2 + 0.05 * k) for k in range(count)]
    return [frame_at(camera, start_s + 0.1 * k, k) for k, camera in enumerate(cameras)]


def without(frame: Frame, *names: str) -> Frame:
    """The frame with these parts None."""
    nothing: dict[str, Any] = dict.fromkeys(names)
    return replace(frame, **nothing)


def cuboids_cam(frame: Frame) -> np.ndarray:
    """Corners of the frame's cuboids in its camera's frame, [n, 8, 3]."""
    assert frame.boxes is not None
    assert frame.boxes.cuboids_world is not None
    corners = cuboid_corners(frame.boxes.cuboids_world)
    return frame.camera.world_from_cam.inverse().apply(corners.reshape(-1, 3)).reshape(-1, 8, 3)


def points_cam(frame: Frame) -> np.ndarray:
    """LiDAR points in the camera's frame, [n, 3]."""
    return frame.camera.world_from_cam.inverse().apply(frame.points_world())
