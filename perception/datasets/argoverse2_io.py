"""Argoverse 2 sensor logs on disk: poses, calibration, annotations and sweeps, all feather tables."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64
from numpy import ndarray

from geometry import SE3
from perception.datasets.arrow_io import read_feather
from perception.datasets.base import DataError
from perception.datasets.driving_io import PIXEL_CENTRE, naming, pose_of
from perception.datasets.files import check_cloud
from perception.datasets.placement import yaw_of
from perception.labels import OBJECT_ID

POSES = "city_SE3_egovehicle.feather"
REMEDY = "fetch the log again"
INTENSITY_MAX = 255
NANOSECONDS = 1e-9
UNIT_TOLERANCE = 1e-3
QUATERNION = ("qw", "qx", "qy", "qz")
TRANSLATION = ("tx_m", "ty_m", "tz_m")
EXTENT = ("length_m", "width_m", "height_m")

# A bicycle or motorcycle and its rider are labelled apart: the rider is the cyclist, the machine is left out. So are
# trailers, trams, and people in wheelchairs, prams and on scooters. Anything not named here is left out as well.
OBJECT_OF_CATEGORY = {
    "REGULAR_VEHICLE": "vehicle",
    "LARGE_VEHICLE": "vehicle",
    "BUS": "vehicle",
    "ARTICULATED_BUS": "vehicle",
    "SCHOOL_BUS": "vehicle",
    "BOX_TRUCK": "vehicle",
    "TRUCK": "vehicle",
    "TRUCK_CAB": "vehicle",
    "PEDESTRIAN": "pedestrian",
    "OFFICIAL_SIGNALER": "pedestrian",
    "BICYCLIST": "cyclist",
    "MOTORCYCLIST": "cyclist",
}


@dataclass(frozen=True)
class Intrinsics:
    """Of one camera; the images of the release are undistorted, so the radial terms in the table are not used.

    The principal point is taken to count from the first pixel's centre; 0.5 is added.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int


@dataclass(frozen=True, eq=False)
class Annotations:
    """Objects of a log in order of time, in the ego vehicle's frame at their time.

    Args:
        times_ns: of the sweep that each was labelled on, [n].
        cuboids_ego: x y z of the centre, length, width, height (m), yaw (rad), [n, 7].
        labels: class ids, [n].
        track_ids: places of the tracks in the sorted list of their names, [n].
    """

    times_ns: Int64[ndarray, "n"]
    cuboids_ego: Float[ndarray, "n 7"]
    labels: Int64[ndarray, "n"]
    track_ids: Int64[ndarray, "n"]


class Log:
    """The tables of one log, each read when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def sweeps_ns(self) -> Int64[ndarray, "n"]:
        """Times of the LiDAR sweeps."""
        return _stems_ns(self.root / "sensors" / "lidar", "feather")

    def images_ns(self, camera: str) -> Int64[ndarray, "n"]:
        """Times of a camera's images."""
        return _stems_ns(self.root / "sensors" / "cameras" / camera, "jpg")

    @property
    def city(self) -> str:
        """Three letters from the name of the log's map, "city" without one."""
        names = [path.stem for path in (self.root / "map").glob("log_map_archive_*____*_city_*.json")]
        return names[0].rpartition("____")[2].partition("_")[0] if names else "city"

    @cached_property
    def _poses(self) -> tuple[dict[int, int], Float[ndarray, "n 7"]]:
        table = read_feather(self.root / POSES, ("timestamp_ns", *QUATERNION, *TRANSLATION), REMEDY)
        values = np.column_stack([table[name] for name in (*QUATERNION, *TRANSLATION)])
        return {time: row for row, time in enumerate(table["timestamp_ns"].tolist())}, values

    def city_from_ego(self, time_ns: int) -> SE3:
        """The ego vehicle's pose at the time of a sensor's reading.

        Raises:
            DataError: the table has no such time, or the pose is not finite.
        """
        rows, values = self._poses
        path = self.root / POSES
        if time_ns not in rows:
            raise DataError(f"{path}: no pose at timestamp_ns {time_ns}; {REMEDY}")
        row = values[rows[time_ns]]
        return pose_of(row[:4], row[4:], f"{path}: timestamp_ns {time_ns}")

    @property
    def calibrated(self) -> bool:
        """Whether the log has its calibration folder."""
        return (self.root / "calibration").is_dir()

    def ego_from_sensor(self, sensor: str) -> SE3:
        """Where a sensor sits.

        Raises:
            DataError: the table is missing, lacks the sensor, or its pose is not finite.
        """
        path = self.root / "calibration" / "egovehicle_SE3_sensor.feather"
        row = _row_of(path, sensor, (*QUATERNION, *TRANSLATION))
        return pose_of(row[:4], row[4:], f"{path}: {sensor}")

    def intrinsics(self, camera: str) -> Intrinsics:
        """Focal lengths, principal point and image size of a camera.

        Raises:
            DataError: the table is missing or lacks the camera.
        """
        path = self.root / "calibration" / "intrinsics.feather"
        fx, fy, cx, cy, width, height = _row_of(
            path, camera, ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
        )
        return Intrinsics(fx, fy, cx + PIXEL_CENTRE, cy + PIXEL_CENTRE, int(width), int(height))

    @cached_property
    def annotations(self) -> Annotations | None:
        """What is labelled and of our classes, without objects that no LiDAR point hit; None where nothing is.

        Raises:
            DataError: the table is damaged, or a number in it is not finite.
        """
        path = self.root / "annotations.feather"
        if not path.exists():
            return None
        columns = ("timestamp_ns", "track_uuid", "category", *EXTENT, *QUATERNION, *TRANSLATION, "num_interior_pts")
        table = read_feather(path, columns, REMEDY)
        known = np.array([name in OBJECT_OF_CATEGORY for name in table["category"]], dtype=bool)
        table = {name: column[known & (table["num_interior_pts"] > 0)] for name, column in table.items()}
        return _annotations(table, path)

    def sweep(self, time_ns: int) -> Float32[ndarray, "n 4"]:
        """x y z (m, ego frame at the time of the sweep, as the release gives them) and intensity / 255.

        Raises:
            DataError: missing, damaged, empty, NaN.
        """
        path = self.root / "sensors" / "lidar" / f"{time_ns}.feather"
        table = read_feather(path, ("x", "y", "z", "intensity"), REMEDY)
        points = np.column_stack([table[name].astype(np.float32) for name in ("x", "y", "z", "intensity")])
        return check_cloud(points / np.array([1, 1, 1, INTENSITY_MAX], np.float32), path)


def nearest(times_ns: Int64[ndarray, "n"], time_ns: int, within_ns: int) -> int | None:
    """The time closest to a given one, None where it is farther away than `within_ns` or there is none."""
    if not len(times_ns):
        return None
    found = int(times_ns[np.abs(times_ns - time_ns).argmin()])
    return found if abs(found - time_ns) <= within_ns else None


def _stems_ns(folder: Path, ending: str) -> Int64[ndarray, "n"]:
    return np.array(sorted(int(p.stem) for p in folder.glob(f"*.{ending}") if p.stem.isdecimal()), dtype=np.int64)


def _row_of(path: Path, sensor: str, columns: tuple[str, ...]) -> list[float]:
    table = read_feather(path, ("sensor_name", *columns), REMEDY)
    rows = np.flatnonzero(table["sensor_name"] == sensor)
    if not len(rows):
        names = ", ".join(sorted(table["sensor_name"].tolist()))
        raise DataError(f"{path}: no sensor {sensor!r}; it has {names}")
    return [float(table[name][rows[0]]) for name in columns]


def _annotations(table: dict[str, ndarray], path: Path) -> Annotations:
    with naming(f"{path}: orientation or size of a box", "remove the box or fetch the log again"):
        values = np.column_stack([table[name] for name in (*TRANSLATION, *EXTENT, *QUATERNION)]).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds NaN or infinity")
        if (np.abs(np.linalg.norm(values[:, 6:], axis=1) - 1) > UNIT_TOLERANCE).any():
            raise ValueError("a quaternion is not of unit length")
        w, x, y, z = values[:, 6:].T
        headings = np.column_stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z), np.zeros_like(w)])
        cuboids = np.column_stack([values[:, :6], yaw_of(headings)])
    labels = np.array([OBJECT_ID[OBJECT_OF_CATEGORY[name]] for name in table["category"]], dtype=np.int64)
    track_ids = np.unique(table["track_uuid"].astype(str), return_inverse=True)[1].astype(np.int64)
    return Annotations(table["timestamp_ns"].astype(np.int64), cuboids, labels, track_ids)
