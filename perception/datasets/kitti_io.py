"""KITTI's calibration, label and Velodyne files.

Conventions: Geiger et al., "Vision meets robotics: the KITTI dataset" (IJRR 2013), and the object development kit.
KITTI puts the centre of the first pixel at (0, 0), this project at (0.5, 0.5): principal points and boxes move by half
a pixel. Its 3D labels and `R0_rect` refer to rectified camera 0; the colour image comes from camera 2.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from geometry import SE3, Boxes, Camera
from perception.datasets.base import DataError
from perception.datasets.files import check_cloud, parse_floats, read_lines, require
from perception.datasets.placement import clip_boxes, level_world_from_cam, yaw_of
from perception.labels import OBJECT_ID

LICENCE = "CC BY-NC-SA 3.0 (KITTI, Geiger et al.)"
PIXEL_CENTRE = 0.5
CAMERA_HEIGHT_M = 1.65  # camera 0 above the road, mounted level (IJRR 2013, figure 3)
POINT_BYTES = 16
LABEL_FIELDS = 15
LABEL_REMEDY = f"a label line is a type and {LABEL_FIELDS - 1} numbers; fetch label_2 again (results have 16 fields)"

# Trams, "Misc" (trailers and the like) and the regions that nobody labelled ("DontCare") are left out.
OBJECT_OF_KITTI: dict[str, str | None] = {
    "Car": "vehicle",
    "Van": "vehicle",
    "Truck": "vehicle",
    "Pedestrian": "pedestrian",
    "Person_sitting": "pedestrian",
    "Person (sitting)": "pedestrian",
    "Cyclist": "cyclist",
    "Tram": None,
    "Misc": None,
    "DontCare": None,
}


@dataclass(frozen=True, eq=False)
class KittiCalibration:
    """Colour camera 2 and how the other sensors sit to it.

    Args:
        fx_px, fy_px, cx_px, cy_px: intrinsics, with pixel centres at .5.
        cam_from_rect: rectified camera 0 to camera 2 (the fourth column of the projection matrix).
        rect_from_velo: LiDAR to rectified camera 0, or None where the calibration is absent.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    cam_from_rect: SE3
    rect_from_velo: SE3 | None

    @classmethod
    def from_projection(cls, projection: Float[ndarray, "3 4"], rect_from_velo: SE3 | None) -> "KittiCalibration":
        """From P2 = K [I | t]: the offset t = K⁻¹ p4 has all three components, not the baseline's alone."""
        intrinsics, offset_m = projection[:, :3], np.linalg.solve(projection[:, :3], projection[:, 3])
        cx, cy = intrinsics[:2, 2] + PIXEL_CENTRE
        fx, fy = np.diag(intrinsics)[:2]
        return cls(float(fx), float(fy), float(cx), float(cy), SE3(np.eye(3), offset_m), rect_from_velo)

    @property
    def cam_from_velo(self) -> SE3 | None:
        return None if self.rect_from_velo is None else self.cam_from_rect @ self.rect_from_velo

    def camera(self, world_from_cam: SE3, width_px: int, height_px: int) -> Camera:
        """Camera 2 at a pose."""
        return Camera(world_from_cam, self.fx_px, self.fy_px, self.cx_px, self.cy_px, width_px, height_px)

    def level_world_from_cam(self) -> SE3:
        """Camera 2 in the vehicle's own world: x ahead, y left, z up, z = 0 on the road below rectified camera 0."""
        return level_world_from_cam(CAMERA_HEIGHT_M) @ self.cam_from_rect.inverse()


def read_calibration_keys(path: Path, sizes: dict[str, int]) -> dict[str, Float[ndarray, "size"]]:
    """The named entries of a `key: numbers` file, each with its number of values.

    Raises:
        DataError: the file or a key is missing, or an entry has another number of values.
    """
    lines = read_lines(path, "fetch the calibration archive of the same data set")
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    missing = [key for key in sizes if key not in entries]
    if missing:
        raise DataError(f"{path}: no entry {', '.join(missing)}; fetch the calibration archive of the same data set")
    return {key: parse_floats(entries[key], size, f"{path}: {key}") for key, size in sizes.items()}


def rigid(rotation: Float[ndarray, "9"], translation_m: Float[ndarray, "3"], where: str) -> SE3:
    """A transform from a row-major rotation; rounding of the text is projected away.

    Raises:
        DataError: the matrix is not a rotation.
    """
    try:
        return SE3.from_matrix(np.column_stack([rotation.reshape(3, 3), translation_m]))
    except ValueError as error:
        raise DataError(f"{where}: {error}; fetch the calibration archive again") from error


def read_object_calibration(path: Path) -> KittiCalibration:
    """`calib/NNNNNN.txt` of the object data set: P2, R0_rect and Tr_velo_to_cam.

    Raises:
        DataError: a key is missing or malformed.
    """
    entries = read_calibration_keys(path, {"P2": 12, "R0_rect": 9, "Tr_velo_to_cam": 12})
    rect_from_cam0 = rigid(entries["R0_rect"], np.zeros(3), f"{path}: R0_rect")
    velo = entries["Tr_velo_to_cam"].reshape(3, 4)
    cam0_from_velo = rigid(velo[:, :3].ravel(), velo[:, 3], f"{path}: Tr_velo_to_cam")
    return KittiCalibration.from_projection(entries["P2"].reshape(3, 4), rect_from_cam0 @ cam0_from_velo)


def read_velodyne(path: Path) -> Float32[ndarray, "n 4"]:
    """x y z (m, LiDAR frame) and reflectance in 0..1.

    Raises:
        DataError: missing, truncated, NaN, or reflectance outside 0..1.
    """
    size = require(path, "fetch the Velodyne archive").stat().st_size
    if size % POINT_BYTES:
        raise DataError(f"{path}: {size} bytes are no multiple of {POINT_BYTES} (x y z reflectance); fetch it again")
    return check_cloud(np.fromfile(path, "<f4").reshape(-1, 4), path)


def read_labels(path: Path) -> tuple[list[str], Float[ndarray, "n 14"]]:
    """Types and, a row each: truncation, occlusion, alpha, box (4), height, width, length, x, y, z, rotation_y.

    Raises:
        DataError: a line has another number of fields, an unknown type, or a value that is not finite.
    """
    kinds, rows = [], []
    for number, line in enumerate(read_lines(path, "fetch label_2"), start=1):
        kind, *fields = line.split() or [""]
        if not kind:
            continue
        if len(fields) != LABEL_FIELDS - 1:
            raise DataError(f"{path}:{number}: {len(fields) + 1} fields, want {LABEL_FIELDS}; {LABEL_REMEDY}")
        if kind not in OBJECT_OF_KITTI:
            raise DataError(f"{path}:{number}: unknown type {kind!r}; KITTI has {', '.join(OBJECT_OF_KITTI)}")
        kinds.append(kind)
        rows.append(parse_floats(" ".join(fields), LABEL_FIELDS - 1, f"{path}:{number}"))
    return kinds, np.array(rows).reshape(-1, LABEL_FIELDS - 1)


def boxes_from_labels(
    kinds: list[str], rows: Float[ndarray, "n 14"], world_from_rect: SE3, width_px: int, height_px: int
) -> Boxes:
    """Labels of the object data set in image and world; what lies outside the image is clipped, then dropped."""
    names = [OBJECT_OF_KITTI[kind] for kind in kinds]
    rows = rows[[name is not None for name in names]]
    labels = np.array([OBJECT_ID[name] for name in names if name is not None], dtype=np.int64)
    xyxy_px, keep = clip_boxes(rows[:, 3:7] + PIXEL_CENTRE, width_px, height_px)
    return Boxes(xyxy_px, labels, _cuboids_world(rows, world_from_rect)).select(keep)


def _cuboids_world(rows: Float[ndarray, "n 14"], world_from_rect: SE3) -> Float32[ndarray, "n 7"]:
    """A label gives the middle of the bottom face and the heading as rotation about rectified camera 0's y (down)."""
    height, width, length = rows[:, 7:10].T
    centre_rect = rows[:, 10:13] - height[:, None] * np.array([0.0, 0.5, 0.0])
    angle = rows[:, 13]
    headings_rect = np.stack([np.cos(angle), np.zeros_like(angle), -np.sin(angle)], axis=1)
    yaw = yaw_of(headings_rect @ world_from_rect.rotation.T)
    return np.column_stack([world_from_rect.apply(centre_rect), length, width, height, yaw]).astype(np.float32)
