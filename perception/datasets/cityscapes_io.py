"""Cityscapes' files of instance ids and cameras (Cordts et al., CVPR 2016)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32
from numpy import ndarray
from PIL import Image

from geometry import SE3, Boxes, Camera
from perception.datasets.base import DataError
from perception.datasets.cityscapes_labels import OBJECT_OF_CLASS, class_names
from perception.datasets.files import require
from perception.datasets.json_files import json_float, read_object
from perception.datasets.lens import PIXEL_CENTRE
from perception.datasets.placement import level_world_from_cam
from perception.labels import OBJECT_ID

INSTANCE_BASE = 1000  # an object's id is its class times this plus a count; below it, pixels belong to no one object
CALIBRATED_PX = (2048, 1024)  # width and height that camera files hold for


def read_instance_ids(path: Path) -> Int32[ndarray, "h w"]:
    """A 16 bit image of instance ids.

    Raises:
        DataError: missing, unreadable, or not one channel.
    """
    require(path, "fetch gtFine again")
    try:
        with Image.open(path) as image:
            ids = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises each of them for broken PNG files
        raise DataError(f"{path}: not a readable image ({error}); fetch it again") from error
    if ids.ndim != 2:
        raise DataError(f"{path}: {ids.ndim} axes, want one channel of instance ids; fetch gtFine again")
    return ids.astype(np.int32)


def objects_of(ids: Int32[ndarray, "h w"]) -> tuple[Int32[ndarray, "h w"], Boxes]:
    """Instances (-1 where there is no object of ours) and the boxes around their pixels, in order of their ids."""
    known = {label: OBJECT_OF_CLASS[name] for label, name in class_names().items() if name in OBJECT_OF_CLASS}
    instances = np.where(np.isin(ids // INSTANCE_BASE, list(known)), ids, np.int32(-1))
    rows, columns = np.nonzero(instances >= 0)
    numbers, which = np.unique(instances[rows, columns], return_inverse=True)
    first = np.full((len(numbers), 2), np.iinfo(np.int64).max)
    last = np.full((len(numbers), 2), -1)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(first[:, axis], which, places)
        np.maximum.at(last[:, axis], which, places)
    labels = np.array([OBJECT_ID[known[int(number) // INSTANCE_BASE]] for number in numbers], dtype=np.int64)
    boxes = Boxes(np.hstack([first, last + 1]).astype(np.float32), labels, track_ids=numbers.astype(np.int64))
    return instances, boxes


def read_camera(path: Path, width_px: int, height_px: int) -> Camera:
    """Intrinsics and pose of a `camera.json`, for the image or a scaled copy of it.

    The vehicle's axes are x ahead, y left, z up; R = R_z(yaw) R_y(pitch) R_x(roll), in radians.

    Raises:
        DataError: missing, not JSON, a field that is absent or NaN, a focal length of 0 or less, or an image that was
            cropped.
    """
    content = read_object(path, "fetch the camera package again")
    inner, outer = content.get("intrinsic"), content.get("extrinsic")
    fx, fy, u0, v0 = (json_float(inner, field, f"{path}: intrinsic") for field in ("fx", "fy", "u0", "v0"))
    yaw, pitch, roll, x, y, z = (
        json_float(outer, field, f"{path}: extrinsic") for field in ("yaw", "pitch", "roll", "x", "y", "z")
    )
    vehicle_from_sensor = SE3(_turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll), np.array([x, y, z]))
    world_from_cam = vehicle_from_sensor @ level_world_from_cam(0.0)
    if width_px * CALIBRATED_PX[1] != height_px * CALIBRATED_PX[0]:
        raise DataError(f"{path}: image is {width_px}x{height_px}, want twice as wide as high; scale, do not crop")
    if min(fx, fy) <= 0:
        raise DataError(f"{path}: fx, fy = {fx}, {fy}, must be positive; fetch the camera package again")
    full = Camera(world_from_cam, fx, fy, u0 + PIXEL_CENTRE, v0 + PIXEL_CENTRE, *CALIBRATED_PX)
    return full.resized(width_px, height_px)


def _turn(axis: int, angle_rad: float) -> Float[ndarray, "3 3"]:
    """Rotation about one axis."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = c
    turn[first, second], turn[second, first] = -s, s
    return turn
