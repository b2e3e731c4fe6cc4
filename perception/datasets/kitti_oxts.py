"""Poses from KITTI raw's GNSS/IMU records and the times of its frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import SE3
from perception.datasets.base import DataError
from perception.datasets.files import parse_floats, read_lines

EARTH_RADIUS_M = 6378137.0
IMU_HEIGHT_M = 0.93  # above the road (IJRR 2013, figure 3)
OXTS_FIELDS = 30
FRAME_PERIOD_S = 0.1


@dataclass(frozen=True, eq=False)
class MercatorWorld:
    """East, north, up about the first record of a drive, with z = 0 on the road below it.

    Spherical Mercator with its scale fixed at the first latitude, as in the raw data development kit: for latitude φ
    and longitude λ in rad, x = s R λ and y = s R ln tan(π/4 + φ/2), s = cos φ₀. The rotation is
    Rz(yaw) Ry(pitch) Rx(roll), where yaw 0 is east.

    Args:
        scale: s.
        origin_m: Mercator coordinates of the point on the road below the first IMU position, [3].
    """

    scale: float
    origin_m: Float[ndarray, "3"]

    @classmethod
    def at(cls, record: Float[ndarray, "30"]) -> "MercatorWorld":
        """The world that the first record of a drive sets up."""
        scale = float(np.cos(np.radians(record[0])))
        return cls(scale, _mercator(record, scale) - np.array([0.0, 0.0, IMU_HEIGHT_M]))

    def world_from_imu(self, record: Float[ndarray, "30"]) -> SE3:
        """Pose of the IMU: x ahead, y left, z up."""
        return SE3(_rotation(*record[3:6]), _mercator(record, self.scale) - self.origin_m)


def _mercator(record: Float[ndarray, "30"], scale: float) -> Float[ndarray, "3"]:
    latitude, longitude = np.radians(record[:2])
    x = scale * EARTH_RADIUS_M * longitude
    y = scale * EARTH_RADIUS_M * np.log(np.tan(np.pi / 4 + latitude / 2))
    return np.array([x, y, record[2]])


def _rotation(roll: float, pitch: float, yaw: float) -> Float[ndarray, "3 3"]:
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def read_oxts(path: Path) -> Float[ndarray, "30"]:
    """One record: latitude and longitude (deg), altitude (m), roll, pitch, yaw (rad), and 24 more.

    Raises:
        DataError: missing, not 30 finite numbers, or a latitude beyond the Mercator projection.
    """
    lines = read_lines(path, "fetch the oxts folder of the same drive")
    record = parse_floats(lines[0] if lines else "", OXTS_FIELDS, f"{path}: record")
    if abs(record[0]) > 85:
        raise DataError(f"{path}: latitude {record[0]} deg is outside ±85; check that the file holds an oxts record")
    return record


def read_times(path: Path) -> Float[ndarray, "n"] | None:
    """Seconds since the first line of a `timestamps.txt`, or None where there is no such file.

    Raises:
        DataError: a line is no date and time.
    """
    if not path.exists():
        return None
    lines = [line.strip() for line in read_lines(path, "") if line.strip()]
    try:
        times = np.array([line.replace(" ", "T") for line in lines], dtype="datetime64[ns]")
    except ValueError as error:
        raise DataError(f"{path}: {error}; a line is YYYY-MM-DD hh:mm:ss.fraction") from error
    return (times - times[:1]) / np.timedelta64(1, "s")
