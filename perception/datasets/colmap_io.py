"""COLMAP's model files (Schönberger and Frahm, CVPR 2016), text and binary, as the COLMAP documentation lays them out.

COLMAP stores `cam_from_world` and already has pixel centres at (0.5, 0.5). Rigs and frames of newer versions are not
needed: every image has its own pose in `images`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from geometry import SE3
from perception.datasets.base import DataError
from perception.datasets.files import parse_floats, read_lines, require
from perception.datasets.lens import Lens

REMEDY: Final = "export the model with COLMAP again"
FAR: Final = 1e30  # beyond this a coordinate is no float32 that can be reckoned with


@dataclass(frozen=True)
class CameraModel:
    """A COLMAP camera model: its number in binary files and what its parameters are.

    Args:
        number: `model_id`.
        focals: 1 where both focal lengths are one parameter, else 2.
        places: where each further parameter goes among k1, k2, p1, p2, k3, k4, k5, k6.
    """

    number: int
    focals: int
    places: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.focals + 2 + len(self.places)

    def lens(self, values: Any, width_px: int, height_px: int) -> Lens:
        """The lens of a camera's parameters, in COLMAP's order."""
        distortion = np.zeros(4 if len(self.places) <= 4 else 8)
        distortion[list(self.places)] = values[self.focals + 2 :]
        cx, cy = values[self.focals : self.focals + 2]
        return Lens(values[0], values[self.focals - 1], cx, cy, width_px, height_px, tuple(distortion.tolist()))


MODELS: Final = {
    "SIMPLE_PINHOLE": CameraModel(0, 1, ()),
    "PINHOLE": CameraModel(1, 2, ()),
    "SIMPLE_RADIAL": CameraModel(2, 1, (0,)),
    "RADIAL": CameraModel(3, 1, (0, 1)),
    "OPENCV": CameraModel(4, 2, (0, 1, 2, 3)),
    "FULL_OPENCV": CameraModel(6, 2, tuple(range(8))),
}


@dataclass(frozen=True)
class ModelImage:
    """An image of a model. The pose is kept as stored, so that a broken one costs its own frame only.

    Args:
        name: path below the image folder.
        camera_id: key of its camera.
        pose: quaternion w x y z and translation of `cam_from_world`.
    """

    name: str
    camera_id: int
    pose: tuple[float, ...]

    def world_from_cam(self, where: str) -> SE3:
        """The camera's pose.

        Raises:
            DataError: NaN, or a quaternion of length zero.
        """
        try:
            return SE3.from_quat(np.array(self.pose[:4]), np.array(self.pose[4:])).inverse()
        except ValueError as error:
            raise DataError(f"{where}: pose of {self.name}: {error}; {REMEDY} or remove the image") from error


def model_file(folder: Path, stem: str) -> Path | None:
    """`stem.bin`, else `stem.txt`, else None."""
    return next((path for path in (folder / f"{stem}.bin", folder / f"{stem}.txt") if path.is_file()), None)


def read_cameras(path: Path) -> dict[int, Lens]:
    """Lenses by camera id.

    Raises:
        DataError: missing, malformed, or a camera model that is not in `MODELS`.
    """
    rows = _binary_cameras(path) if path.suffix == ".bin" else _text_cameras(path)
    return dict(rows)


def read_images(path: Path) -> list[ModelImage]:
    """The registered images, in order of their names.

    Raises:
        DataError: missing or malformed.
    """
    rows = _binary_images(path) if path.suffix == ".bin" else _text_images(path)
    return sorted(rows, key=lambda image: image.name)


def read_points(path: Path) -> tuple[Float32[ndarray, "n 3"], UInt8[ndarray, "n 3"]]:
    """Positions in the model's world and colours.

    Raises:
        DataError: missing or malformed, NaN or infinity, or a colour outside 0..255.
    """
    rows = list(_binary_points(path) if path.suffix == ".bin" else _text_points(path))
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    broken = int((~(np.abs(values) < FAR)).any(axis=1).sum())
    if broken:
        raise DataError(f"{path}: {broken} of {len(values)} points hold NaN or infinity; remove these points")
    colours = values[:, 3:]
    if len(values) and (colours.min() < 0 or colours.max() > 255):
        raise DataError(f"{path}: colours run from {colours.min():g} to {colours.max():g}, want 0..255; {REMEDY}")
    return values[:, :3].astype(np.float32), colours.astype(np.uint8)


def _lens(model: CameraModel | None, name: str, values: Any, size_px: tuple[int, int], where: str) -> Lens:
    if model is None:
        raise DataError(f"{where}: camera model {name} is not read, only {', '.join(MODELS)}; undistort with COLMAP")
    try:
        return model.lens([float(value) for value in values], *size_px)
    except ValueError as error:
        raise DataError(f"{where}: {error}; {REMEDY}") from error


def _numbered_lines(path: Path) -> list[tuple[str, str]]:
    lines = enumerate(read_lines(path, REMEDY), start=1)
    return [(f"{path}:{number}", line) for number, line in lines if not line.startswith("#")]


def _integer(text: str, where: str) -> int:
    if not text.isdecimal():
        raise DataError(f"{where}: {text!r} is no whole number; {REMEDY}")
    return int(text)


def _text_cameras(path: Path) -> Iterator[tuple[int, Lens]]:
    for where, line in _numbered_lines(path):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) < 4:
            raise DataError(f"{where}: {len(fields)} fields, want an id, a model, a size and parameters; {REMEDY}")
        model = MODELS.get(fields[1])
        values = parse_floats(" ".join(fields[4:]), model.count, where) if model is not None else ()
        size_px = (_integer(fields[2], where), _integer(fields[3], where))
        yield _integer(fields[0], where), _lens(model, fields[1], values, size_px, where)


def _text_images(path: Path) -> Iterator[ModelImage]:
    """Two lines an image; the second lists its keypoints, may be empty and is not needed."""
    lines = _numbered_lines(path)
    while lines and not lines[-1][1].strip():
        lines.pop()
    for where, line in lines[::2]:
        fields = line.split(maxsplit=9)
        if len(fields) != 10:
            raise DataError(f"{where}: {len(fields)} fields, want 10 (id, pose, camera id, name); {REMEDY}")
        try:
            pose = tuple(float(field) for field in fields[1:8])
        except ValueError as error:
            raise DataError(f"{where}: {error}; {REMEDY}") from error
        yield ModelImage(fields[9].strip(), _integer(fields[8], where), pose)


def _text_points(path: Path) -> Iterator[list[float]]:
    for where, line in _numbered_lines(path):
        if not line.strip():
            continue
        try:
            x, y, z, r, g, b = (float(field) for field in line.split(maxsplit=7)[1:7])
        except ValueError as error:
            raise DataError(f"{where}: {error}, want an id, x y z and r g b; {REMEDY}") from error
        yield [x, y, z, r, g, b]


class _Cursor:
    """Reads a little-endian file piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = path, require(path, REMEDY).read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from(f"<{layout}", self.data, self.place)
        except struct.error as error:
            raise self.short() from error
        self.place += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        end = self.data.find(b"\0", self.place)
        if end < 0:
            raise self.short()
        name = self.data[self.place : end].decode("utf-8", errors="replace")
        self.place = end + 1
        return name

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise self.short()

    def short(self) -> DataError:
        return DataError(f"{self.path}: ends early, at byte {len(self.data)}; {REMEDY}")


def _binary_cameras(path: Path) -> Iterator[tuple[int, Lens]]:
    cursor = _Cursor(path)
    by_number = {model.number: model for model in MODELS.values()}
    for _ in range(cursor.take("Q")[0]):
        camera_id, number, width_px, height_px = cursor.take("IiQQ")
        model = by_number.get(number)
        values = cursor.take(f"{model.count}d") if model is not None else ()
        yield camera_id, _lens(model, f"number {number}", values, (width_px, height_px), f"{path}: camera {camera_id}")


def _binary_images(path: Path) -> Iterator[ModelImage]:
    cursor = _Cursor(path)
    for _ in range(cursor.take("Q")[0]):
        _, *pose, camera_id = cursor.take("I7dI")
        name = cursor.text()
        cursor.skip(24 * cursor.take("Q")[0])  # x, y and the point's id of each keypoint
        yield ModelImage(name, camera_id, tuple(pose))


def _binary_points(path: Path) -> Iterator[tuple[float, ...]]:
    cursor = _Cursor(path)
    for _ in range(cursor.take("Q")[0]):
        _, *position_and_colour, _ = cursor.take("Q3d3Bd")
        cursor.skip(8 * cursor.take("Q")[0])  # image and keypoint of each observation
        yield tuple(position_and_colour)
