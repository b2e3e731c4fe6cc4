"""Frames as drives of KITTI raw, synchronised and rectified: images, clouds, GNSS/IMU records, tracked objects.

One folder `2000_01_01_drive_NNNN_sync` a drive; a new one begins where time does not go on. The IMU is put at the LiDAR
(x ahead, y left, z up), and the world's origin at a fixed place on Earth, for frames have poses but no geography.
Velocities, accelerations and rates in the records are 0: nobody measured them. Times are counted from 2000-01-01.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from geometry import SE3, Camera, Frame
from perception.datasets.base import DataError
from perception.datasets.export.kitti_object import LEVEL_LIDAR_FROM_CAM, numbers_text, projection_matrix
from perception.datasets.export.tracklets import TrackBook
from perception.datasets.export.writing import (
    ExportOptions,
    boxes_of,
    cloud_of,
    name_of,
    save_floats,
    save_image,
    save_text,
    time_of,
)
from perception.datasets.kitti_oxts import EARTH_RADIUS_M, OXTS_FIELDS

DATE: Final = "2000_01_01"
ORIGIN_DEG: Final = (49.0, 8.4)  # latitude and longitude of the world's origin: Karlsruhe, where KITTI was recorded
CALIB_TIME: Final = "calib_time: 01-Jan-2000 00:00:00"
CALIBRATION_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Anchor:
    """A position whose latitude and longitude are fixed; others follow by spherical Mercator with its scale there.

    Args:
        latitude_deg, longitude_deg: on Earth.
        position_m: the same place in the world (ENU), [3].
    """

    latitude_deg: float
    longitude_deg: float
    position_m: Float[ndarray, "3"]

    def geodetic(self, position_m: Float[ndarray, "3"]) -> tuple[float, float, float]:
        """Latitude, longitude (deg) and altitude (m) of a position: the inverse of `MercatorWorld`."""
        latitude, longitude = np.radians([self.latitude_deg, self.longitude_deg])
        east, north = (position_m - self.position_m)[:2] / (np.cos(latitude) * EARTH_RADIUS_M)
        isometric = np.arcsinh(np.tan(latitude)) + north
        found = np.degrees([np.arctan(np.sinh(isometric)), longitude + east])
        return float(found[0]), float(found[1]), float(position_m[2])


ORIGIN: Final = Anchor(*ORIGIN_DEG, np.zeros(3))


@dataclass(eq=False)
class Drive:
    """A drive that is being written.

    Args:
        folder: its own.
        anchor: ties its first position to Earth.
        times_s: of its frames so far.
        tracks: objects so far.
    """

    folder: Path
    anchor: Anchor
    times_s: list[float] = field(default_factory=list)
    tracks: TrackBook = field(default_factory=TrackBook)


class KittiRawWriter:
    """Images and clouds where frames have them; one calibration for all, as in KITTI."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        del options
        self._day = folder / DATE
        self._drives: list[Drive] = []
        self._calibration: ndarray | None = None
        self._flat_boxes = 0

    @property
    def notes(self) -> tuple[str, ...]:
        several = (f"{len(self._drives)} drives, for time goes back between them",) if len(self._drives) > 1 else ()
        flat = (
            (f"{self._flat_boxes} frames with boxes but no cuboids, which tracklets need",) if self._flat_boxes else ()
        )
        return several + flat

    def add(self, frame: Frame) -> None:
        time_s, cloud, boxes = time_of(frame), cloud_of(frame), boxes_of(frame)
        if frame.image is None and cloud is None:
            raise DataError(
                f"{name_of(frame)}: neither image nor LiDAR points; KITTI raw needs one of them, leave it out"
            )
        lidar_from_cam = frame.lidar_from_cam or LEVEL_LIDAR_FROM_CAM
        self._check_calibration(frame, lidar_from_cam)
        world_from_lidar = frame.camera.world_from_cam @ lidar_from_cam.inverse()
        drive = self._drive_at(time_s, world_from_lidar)
        _write_sensors(drive, frame, cloud, world_from_lidar)
        if boxes is not None and boxes.cuboids_world is not None:
            drive.tracks.add(len(drive.times_s), boxes, world_from_lidar)
        self._flat_boxes += boxes is not None and boxes.cuboids_world is None and len(boxes) > 0
        drive.times_s.append(time_s)

    def close(self) -> None:
        """Times and tracklets of every drive."""
        for drive in self._drives:
            times = "".join(f"{timestamp_text(time_s)}\n" for time_s in drive.times_s)
            for sensor in ("image_02", "velodyne_points", "oxts"):
                save_text(drive.folder / sensor / "timestamps.txt", times)
            if drive.tracks.used:
                save_text(drive.folder / "tracklet_labels.xml", drive.tracks.xml())

    def _drive_at(self, time_s: float, world_from_lidar: SE3) -> Drive:
        if not self._drives or time_s <= self._drives[-1].times_s[-1]:
            position_m = world_from_lidar.translation_m
            latitude, longitude, _ = ORIGIN.geodetic(position_m)
            folder = self._day / f"{DATE}_drive_{len(self._drives) + 1:04d}_sync"
            self._drives.append(Drive(folder, Anchor(latitude, longitude, position_m)))
        return self._drives[-1]

    def _check_calibration(self, frame: Frame, lidar_from_cam: SE3) -> None:
        """The first frame's calibration is written; others must have the same."""
        camera = frame.camera
        size_px = np.array([camera.width_px, camera.height_px])
        values = np.concatenate([size_px, camera.intrinsics[:2].ravel(), lidar_from_cam.matrix[:3].ravel()])
        if self._calibration is None:
            for name, text in calibration_texts(camera, lidar_from_cam).items():
                save_text(self._day / name, text)
            self._calibration = values
        elif not np.allclose(values, self._calibration, rtol=0, atol=CALIBRATION_TOLERANCE):
            raise DataError(
                f"{name_of(frame)}: its size, intrinsics or LiDAR mounting differ from the first frame's; KITTI "
                "raw has one calibration a day, export such frames on their own"
            )


def _write_sensors(drive: Drive, frame: Frame, cloud: Float32[ndarray, "n 4"] | None, world_from_imu: SE3) -> None:
    stem = f"{len(drive.times_s):010d}"
    record = oxts_record(world_from_imu, drive.anchor)
    save_text(drive.folder / "oxts" / "data" / f"{stem}.txt", record_text(record))
    if frame.image is not None:
        save_image(drive.folder / "image_02" / "data" / f"{stem}.png", frame.image)
    if cloud is not None:
        save_floats(drive.folder / "velodyne_points" / "data" / f"{stem}.bin", cloud)


def oxts_record(world_from_imu: SE3, anchor: Anchor) -> Float[ndarray, "30"]:
    """Latitude, longitude (deg), altitude (m), roll, pitch, yaw (rad) and 24 zeros: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    r = world_from_imu.rotation
    angles = np.arctan2(r[2, 1], r[2, 2]), -np.arcsin(np.clip(r[2, 0], -1, 1)), np.arctan2(r[1, 0], r[0, 0])
    record = np.zeros(OXTS_FIELDS)
    record[:6] = *anchor.geodetic(world_from_imu.translation_m), *angles
    return record


def record_text(record: Float[ndarray, "30"]) -> str:
    """One line; the last five fields are modes and counts, whole numbers."""
    return " ".join([*(repr(float(v)) for v in record[:-5]), *(str(int(v)) for v in record[-5:])]) + "\n"


def timestamp_text(time_s: float) -> str:
    """YYYY-MM-DD hh:mm:ss and nine decimals."""
    start = np.datetime64(DATE.replace("_", "-"), "ns")
    return str(start + np.timedelta64(round(time_s * 1e9), "ns")).replace("T", " ")


def calibration_texts(camera: Camera, lidar_from_cam: SE3) -> dict[str, str]:
    """The three calibration files; all four cameras are the given one, already rectified."""
    size = numbers_text(np.array([camera.width_px, camera.height_px], dtype=np.float64))
    identity, zero = np.eye(3), np.zeros(3)
    projection = projection_matrix(camera)
    values = {"K": projection[:, :3], "D": np.zeros(5), "R": identity, "T": zero}
    cameras = ""
    for number in range(4):
        rows = {"S": size} | {key: numbers_text(value) for key, value in values.items()}
        rows |= {"S_rect": size, "R_rect": numbers_text(identity), "P_rect": numbers_text(projection)}
        cameras += "".join(f"{key}_{number:02d}: {text}\n" for key, text in rows.items())
    cam_from_lidar = lidar_from_cam.inverse()
    return {
        "calib_cam_to_cam.txt": f"{CALIB_TIME}\ncorner_dist: 0\n{cameras}",
        "calib_velo_to_cam.txt": _rigid_text(cam_from_lidar) + "delta_f: 0 0\ndelta_c: 0 0\n",
        "calib_imu_to_velo.txt": _rigid_text(SE3.identity()),
    }


def _rigid_text(transform: SE3) -> str:
    rotation, translation = numbers_text(transform.rotation), numbers_text(transform.translation_m)
    return f"{CALIB_TIME}\nR: {rotation}\nT: {translation}\n"
