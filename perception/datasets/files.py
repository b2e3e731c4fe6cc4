"""Reading files with errors that name the file, the field and the remedy."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from perception.datasets.base import DataError


def data_path(path: Path | None, default: str) -> Path:
    """The given path, or a folder below `$CONVOY_DATA`.

    Raises:
        DataError: neither is there.
    """
    if path is None and not os.environ.get("CONVOY_DATA"):
        raise DataError("no data folder: set CONVOY_DATA to the folder of the data sets or give data-path")
    found = path or Path(os.environ["CONVOY_DATA"]) / default
    if not found.is_dir():
        raise DataError(f"{found}: no such folder; set CONVOY_DATA or data-path to where the data are")
    return found


def require(path: Path, remedy: str) -> Path:
    """The path itself, if it exists.

    Raises:
        DataError: it does not.
    """
    if not path.exists():
        raise DataError(f"{path}: not found; {remedy}")
    return path


def read_rgb(path: Path) -> UInt8[ndarray, "h w 3"]:
    """An image file as RGB.

    Raises:
        DataError: missing, or not a readable image.
    """
    return _read_image(path, "RGB")


def read_indices(path: Path) -> UInt8[ndarray, "h w"]:
    """An image of class ids, grey or with a palette.

    Raises:
        DataError: missing, unreadable, or a colour image.
    """
    return _read_image(path, None)


def _read_image(path: Path, mode: str | None) -> ndarray:
    require(path, "fetch the image or take the frame's other files away")
    try:
        with Image.open(path) as image:
            if mode is None and image.mode not in ("L", "P"):
                raise DataError(
                    f"{path}: mode {image.mode}, want one channel of class ids; turn the colours into class ids first"
                )
            return np.array(image if mode is None else image.convert(mode))
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        raise DataError(f"{path}: not a readable image ({error}); fetch it again") from error


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: missing, or not text.
    """
    try:
        return require(path, remedy).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); fetch it again") from error


def parse_floats(text: str, count: int, where: str) -> Float[ndarray, "count"]:
    """Exactly `count` finite numbers separated by blanks; `where` names file and field in messages.

    Raises:
        DataError: another number of fields, one that is no number, NaN or infinity.
    """
    fields = text.split()
    if len(fields) != count:
        raise DataError(f"{where}: {len(fields)} numbers, want {count}; check that the file is whole")
    try:
        values = np.array([float(field) for field in fields])
    except ValueError as error:
        raise DataError(f"{where}: {error}; fetch the file again") from error
    if not np.isfinite(values).all():
        raise DataError(f"{where}: holds NaN or infinity; mend or remove the entry")
    return values


def check_cloud(points: Float32[ndarray, "n 4"], path: Path) -> Float32[ndarray, "n 4"]:
    """The points (x y z in metres, intensity in 0..1), once they are known to be sound.

    Raises:
        DataError: no points, NaN or infinity, or an intensity outside 0..1.
    """
    if len(points) == 0:
        raise DataError(f"{path}: holds no points; fetch the file again")
    broken = int((~np.isfinite(points)).any(axis=1).sum())
    if broken:
        raise DataError(f"{path}: {broken} of {len(points)} points hold NaN or infinity; remove these points")
    low, high = float(points[:, 3].min()), float(points[:, 3].max())
    if low < 0 or high > 1:
        raise DataError(f"{path}: intensity runs from {low:g} to {high:g}, want 0..1; scale the fourth column")
    return points
