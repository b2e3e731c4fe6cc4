"""The Waymo Open Dataset, version 2, on disk: one parquet table a segment and component (Sun et al., CVPR 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64
from numpy import ndarray

from geometry import SE3
from perception.datasets.arrow_io import Columns, Filters, read_parquet
from perception.datasets.base import DataError
from perception.datasets.driving_io import PIXEL_CENTRE, naming, pose_of_matrix
from perception.datasets.lens import Lens
from perception.datasets.placement import level_world_from_cam
from perception.labels import OBJECT_ID

REMEDY: Final = "fetch this component of the segment again"
CAMERAS: Final = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5}
TIME: Final = "key.frame_timestamp_micros"
CAMERA: Final = "key.camera_name"
LASER: Final = "key.laser_name"
# Vehicle, pedestrian and cyclist; signs (3) and unknown (0) are left out.
OBJECT_OF_TYPE: Final = {1: OBJECT_ID["vehicle"], 2: OBJECT_ID["pedestrian"], 4: OBJECT_ID["cyclist"]}
# Waymo's camera frame has x ahead, y left, z up.
WAYMO_CAM_FROM_CAM: Final = level_world_from_cam(0.0)
BORDER_STEPS: Final = 9


@dataclass(frozen=True)
class Segment:
    """One segment's tables below a split folder."""

    root: Path
    name: str

    def path(self, component: str) -> Path:
        """The segment's table of a component, as "camera_image"."""
        return self.root / component / f"{self.name}.parquet"

    def has(self, component: str) -> bool:
        """Whether that table is there."""
        return self.path(component).exists()

    def rows(
        self, component: str, prefix: str, fields: Sequence[str], where: Filters, keys: Sequence[str] = ()
    ) -> Columns:
        """Rows of a component; columns are named by their last parts in `fields`, and by the whole in `keys`.

        Raises:
            DataError: the table is missing, damaged or lacks a column.
        """
        names = {f"[{prefix}].{field}": field for field in fields} | {key: key for key in keys}
        columns = read_parquet(self.path(component), tuple(names), REMEDY, where)
        return {names[name]: column for name, column in columns.items()}

    def row(self, component: str, prefix: str, fields: Sequence[str], where: Filters) -> dict[str, Any]:
        """The single row that passes `where`, each column without its first axis.

        Raises:
            DataError: there is none, or what `rows` says.
        """
        columns = self.rows(component, prefix, fields, where)
        if not len(columns[fields[0]]):
            wanted = ", ".join(f"{key} {value}" for key, _, value in where)
            raise DataError(f"{self.path(component)}: no row with {wanted}; {REMEDY}")
        return {name: column[0] for name, column in columns.items()}

    def times_us(self, camera: int) -> tuple[int, ...]:
        """Times of a camera's frames, in order.

        Raises:
            DataError: the table of images is missing or damaged.
        """
        found = read_parquet(self.path("camera_image"), (TIME,), REMEDY, ((CAMERA, "==", camera),))
        return tuple(sorted(found[TIME].tolist()))

    @property
    def location(self) -> str:
        """The place from the `stats` component, as "location_sf"; "waymo" without one."""
        if not self.has("stats"):
            return "waymo"
        values = self.rows("stats", "StatsComponent", ("location",), ())["location"]
        return str(values[0]) if len(values) else "waymo"


def read_lens(segment: Segment, camera: int) -> tuple[Lens, SE3]:
    """A camera's lens and its pose in the vehicle, `vehicle_from_cam`.

    The file's principal point counts from the left edge of the first pixel, as ours does.

    Raises:
        DataError: the calibration is missing or malformed.
    """
    k = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    fields = (*(f"intrinsic.{name}" for name in k), "width", "height", "extrinsic.transform")
    row = segment.row("camera_calibration", "CameraCalibrationComponent", fields, ((CAMERA, "==", camera),))
    where = f"{segment.path('camera_calibration')}: camera {camera}"
    fx, fy, cx, cy, *distortion = (float(row[f"intrinsic.{name}"]) for name in k)
    with naming(where, REMEDY):
        lens = Lens(fx, fy, cx, cy, int(row["width"]), int(row["height"]), tuple(distortion))
    return lens, pose_of_matrix(row["extrinsic.transform"], where) @ WAYMO_CAM_FROM_CAM


def straighten_boxes(xyxy_px: Float[ndarray, "n 4"], lens: Lens) -> Float[ndarray, "n 4"]:
    """Boxes in the straightened image: around each box's border, taken through the lens. Not clipped."""
    if lens.straight or not len(xyxy_px):
        return xyxy_px
    s = np.linspace(0, 1, BORDER_STEPS)
    border = np.concatenate(
        [np.column_stack(side) for side in ((s, 0 * s), (s, 0 * s + 1), (0 * s, s), (0 * s + 1, s))]
    )
    points = xyxy_px[:, None, :2] + border * (xyxy_px[:, 2:] - xyxy_px[:, :2])[:, None]
    moved = cv2.undistortPoints(
        points.reshape(-1, 1, 2) - PIXEL_CENTRE,
        _opencv_matrix(lens),
        np.array(lens.distortion),
        P=_opencv_matrix(lens.straightened()),
    )
    moved = moved.reshape(len(xyxy_px), -1, 2) + PIXEL_CENTRE
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)


def _opencv_matrix(lens: Lens) -> Float64[ndarray, "3 3"]:
    cx, cy = lens.cx_px - PIXEL_CENTRE, lens.cy_px - PIXEL_CENTRE
    return np.array([[lens.fx_px, 0, cx], [0, lens.fy_px, cy], [0, 0, 1.0]])


@dataclass(frozen=True, eq=False)
class RangeImage:
    """One LiDAR's first return.

    Args:
        ranges_m: 0 or less where nothing came back, [h, w].
        intensity: as recorded, not bounded, [h, w].
        inclination_rad: of each row, top row first, [h].
        vehicle_from_lidar: where the sensor sits.
        pixel_poses: roll, pitch, yaw (rad), x, y, z (m) of the vehicle in the world when each pixel was taken,
            [h, w, 6]; None where the file has none.
    """

    ranges_m: Float32[ndarray, "h w"]
    intensity: Float32[ndarray, "h w"]
    inclination_rad: Float64[ndarray, "h"]
    vehicle_from_lidar: SE3
    pixel_poses: Float32[ndarray, "h w 6"] | None = None

    def points_vehicle(self, world_from_vehicle: SE3) -> Float32[ndarray, "n 4"]:
        """x y z (m) in the vehicle's frame at the time of the frame, and tanh of the intensity, which puts it in 0..1.

        Column c of w looks along the azimuth pi (1 - (2 c + 1) / w) in the vehicle's frame; the sensor's own yaw is
        taken off to come to the sensor's. With pixel poses, points go through the world to undo the vehicle's motion
        during the turn.
        """
        width, rotation = self.ranges_m.shape[1], self.vehicle_from_lidar.rotation
        azimuth = np.pi * (1 - (2 * np.arange(width) + 1) / width) - np.arctan2(rotation[1, 0], rotation[0, 0])
        hit = self.ranges_m > 0
        rows, columns = np.nonzero(hit)
        ranges, up, around = self.ranges_m[hit].astype(np.float64), self.inclination_rad[rows], azimuth[columns]
        unit = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=1)
        points = self.vehicle_from_lidar.apply(ranges[:, None] * unit)
        if self.pixel_poses is not None:
            poses = self.pixel_poses[hit].astype(np.float64)
            points_world = np.einsum("nij,nj->ni", _rotations(poses[:, :3]), points) + poses[:, 3:]
            points = world_from_vehicle.inverse().apply(points_world)
        return np.column_stack([points, np.tanh(self.intensity[hit])]).astype(np.float32)


def read_range_images(segment: Segment, time_us: int) -> list[RangeImage]:
    """The first returns of all LiDARs of a frame.

    Raises:
        DataError: a component is missing or malformed, or a range image is not finite.
    """
    at = ((TIME, "==", time_us),)
    part = "range_image_return1"
    sweeps = segment.rows("lidar", "LiDARComponent", (f"{part}.values", f"{part}.shape"), at, (LASER,))
    poses: dict[int, ndarray] = {}
    if segment.has("lidar_pose"):
        found = segment.rows("lidar_pose", "LiDARPoseComponent", (f"{part}.values", f"{part}.shape"), at, (LASER,))
        poses = dict(_images(found, part, 6, segment.path("lidar_pose")))
    return [
        _range_image(segment, laser, values, poses.get(laser))
        for laser, values in _images(sweeps, part, 4, segment.path("lidar"))
    ]


def _images(columns: Columns, part: str, channels: int, path: Path) -> list[tuple[int, ndarray]]:
    """Laser names and arrays [h, w, channels] of the rows that have any values."""
    found = []
    for laser, values, shape in zip(columns[LASER], columns[f"{part}.values"], columns[f"{part}.shape"], strict=True):
        if values is None or not len(values):
            continue
        with naming(f"{path}: laser {laser}: {part}", REMEDY):
            image = np.array(values, dtype=np.float32).reshape(tuple(int(side) for side in shape))
            if image.ndim != 3 or image.shape[2] != channels or not np.isfinite(image).all():
                raise ValueError(f"shape {image.shape}, want finite values of [h, w, {channels}]")
        found.append((int(laser), image))
    return found


def _range_image(segment: Segment, laser: int, image: ndarray, poses: ndarray | None) -> RangeImage:
    fields = ("extrinsic.transform", "beam_inclination.min", "beam_inclination.max", "beam_inclination.values")
    row = segment.row("lidar_calibration", "LiDARCalibrationComponent", fields, ((LASER, "==", laser),))
    where = f"{segment.path('lidar_calibration')}: laser {laser}"
    height = image.shape[0]
    with naming(where, REMEDY):
        low, high, values = (row[name] for name in fields[1:])
        if values is None or not len(values):
            values = low + (high - low) * (np.arange(height) + 0.5) / height
        inclination = np.array(values, dtype=np.float64)[::-1]  # the file counts from the lowest beam
        if inclination.shape != (height,) or not np.isfinite(inclination).all():
            raise ValueError(f"{len(inclination)} beam inclinations for {height} rows")
        if poses is not None and poses.shape[:2] != image.shape[:2]:
            raise ValueError(f"pixel poses are {poses.shape[:2]}, the range image {image.shape[:2]}")
    pose = pose_of_matrix(row["extrinsic.transform"], where)
    return RangeImage(image[..., 0], image[..., 1], np.ascontiguousarray(inclination), pose, poses)


def _rotations(roll_pitch_yaw: Float64[ndarray, "n 3"]) -> Float64[ndarray, "n 3 3"]:
    """Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(roll_pitch_yaw).T, np.sin(roll_pitch_yaw).T
    return np.stack(
        [
            np.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], axis=1),
            np.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], axis=1),
            np.stack([-sp, cp * sr, cp * cr], axis=1),
        ],
        axis=1,
    )
