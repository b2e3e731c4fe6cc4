"""`transforms.json`: photographs with poses, as nerfstudio (Tancik et al., SIGGRAPH 2023) and instant-ngp write them.

Poses are `world_from_cam` with OpenGL axes (x right, y up, z backward); here y and z are turned to OpenCV's. The world
has z up in both tools. Principal points follow COLMAP, where both tools get them: the first pixel's centre is
(0.5, 0.5).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geometry import SE3, Frame
from perception.datasets.base import DataError
from perception.datasets.json_files import json_float, json_floats, read_object
from perception.datasets.lens import Lens
from perception.datasets.scene import View, check_scale, folder_licence, gaps, photo_frame

FILES = ("transforms.json", "transforms_train.json")
LAYOUT = "transforms.json and the images that it names"
REMEDY = "write it again with nerfstudio's ns-process-data or instant-ngp's colmap2nerf"
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
ENDINGS = ("", ".png", ".jpg", ".jpeg")  # synthetic sets leave the ending out
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


def transforms_file(root: Path) -> Path | None:
    """The file itself, or the one in a folder; None where there is none."""
    return next((path for path in (root, *(root / name for name in FILES)) if path.is_file()), None)


class Transforms(Sequence[Frame]):
    """The frames of a `transforms.json` as pinhole frames, in the file's order.

    Intrinsics come from the frame where it has them, else from the top of the file: `fl_x fl_y cx cy w h`, or
    `camera_angle_x` (horizontal field of view, rad) and the image's size. `k1 k2 p1 p2 k3` are taken out on access
    (`Lens.straighten`). The world's z is up; its scale and heading are the file's. A frame's time is its `time` field,
    else its place in the file. Frames whose image is absent are skipped and counted in `missing`.

    Args:
        root: the file, or a folder with `transforms.json` or `transforms_train.json`.
        scale: factor in (0, 1] for the sides of the images.

    Raises:
        DataError: no such file, not JSON, no frames with an image; on access, an image that cannot be read, NaN in a
            pose or in intrinsics, a fisheye camera.
    """

    posed = True

    def __init__(self, root: Path | str, scale: float = 1.0) -> None:
        path = transforms_file(Path(root))
        if path is None:
            raise DataError(f"{root}: no {' or '.join(FILES)}; {REMEDY}")
        self.path, self.scale = path, check_scale(scale)
        self.root = path.parent
        self.name, self.licence = f"transforms.json {self.root.resolve().name}", folder_licence(self.root)
        self._shared = read_object(path, REMEDY)
        entries = self._shared.get("frames")
        if not isinstance(entries, list):
            raise DataError(f"{path}: no list of frames; {REMEDY}")
        found = [(number, self._image_path(entry, number)) for number, entry in enumerate(entries)]
        self._frames = tuple((number, entries[number], image) for number, image in found if image is not None)
        self._absent = tuple(str(entries[number].get("file_path")) for number, image in found if image is None)
        if not self._frames:
            raise DataError(f"{path}: none of its {len(entries)} frames has an image; fetch the images beside it")

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks."""
        return gaps("image not there", self._absent, len(self._frames) + len(self._absent))

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """The `time` field, else places in the file."""
        return tuple(self._time(number, entry) for number, entry, _ in self._frames)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        number, entry, image = self._frames[index]
        where = f"{self.path}: frame {number} ({entry['file_path']})"
        view = View(self._lens(entry, image, where), _world_from_cam(entry, where))
        return photo_frame(image, view, self._time(number, entry), self.scale)

    def _image_path(self, entry: Any, number: int) -> Path | None:
        name = entry.get("file_path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError(f"{self.path}: frame {number} has no file_path; {REMEDY}")
        candidates = (self.root / f"{name}{ending}" for ending in ENDINGS)
        return next((path for path in candidates if path.is_file()), None)

    def _time(self, number: int, entry: dict[str, Any]) -> float:
        return json_float(entry, "time", f"{self.path}: frame {number}", float(number))

    def _lens(self, entry: dict[str, Any], image: Path, where: str) -> Lens:
        fields = {**self._shared, **entry}
        model = fields.get("camera_model", "OPENCV")
        if model not in PINHOLES or fields.get("is_fisheye") or fields.get("k4"):
            raise DataError(
                f"{where}: camera_model {model} or a fisheye coefficient, want one of {', '.join(PINHOLES)}; "
                "undistort the images first"
            )
        width_px, height_px = _size_px(fields, image, where)
        fx_px, fy_px = _focals_px(fields, width_px, height_px, where)
        cx_px = json_float(fields, "cx", where, width_px / 2)
        cy_px = json_float(fields, "cy", where, height_px / 2)
        distortion = tuple(json_float(fields, name, where, 0.0) for name in ("k1", "k2", "p1", "p2", "k3"))
        try:
            return Lens(fx_px, fy_px, cx_px, cy_px, width_px, height_px, distortion)
        except ValueError as error:
            raise DataError(f"{where}: {error}; {REMEDY}") from error


def _size_px(fields: dict[str, Any], image: Path, where: str) -> tuple[int, int]:
    """(width, height) from the file, else of the image."""
    if "w" in fields and "h" in fields:
        return int(json_float(fields, "w", where)), int(json_float(fields, "h", where))
    try:
        with Image.open(image) as opened:
            return opened.size
    except OSError as error:
        raise DataError(f"{image}: not a readable image ({error}); fetch it again") from error


def _focals_px(fields: dict[str, Any], width_px: int, height_px: int, where: str) -> tuple[float, float]:
    """Focal lengths; where only one is given, pixels are square."""
    found = [
        json_float(fields, f"fl_{axis}", where)
        if f"fl_{axis}" in fields
        else side / 2 / np.tan(json_float(fields, f"camera_angle_{axis}", where) / 2)
        for axis, side in (("x", width_px), ("y", height_px))
        if f"fl_{axis}" in fields or f"camera_angle_{axis}" in fields
    ]
    if not found:
        raise DataError(f"{where}: neither fl_x nor camera_angle_x; {REMEDY}")
    return float(found[0]), float(found[-1])


def _world_from_cam(entry: dict[str, Any], where: str) -> SE3:
    matrix = entry.get("transform_matrix")
    rows = len(matrix) if isinstance(matrix, list) else 4
    pose = json_floats(entry, "transform_matrix", (3 if rows == 3 else 4, 4), where)
    try:
        return SE3.from_matrix(pose @ OPENCV_FROM_OPENGL)
    except ValueError as error:
        raise DataError(f"{where}: {error}; {REMEDY}") from error
