"""What all exports share: the writer's interface, checks of what a frame holds, a folder that appears whole or not."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

from geometry import Boxes, Frame
from perception.datasets.base import DataError
from perception.datasets.files import check_cloud
from perception.datasets.placement import clip_boxes
from perception.labels import OBJECTS

MARKER = "export.json"
JPEG_QUALITY, PNG_LEVEL = 95, 3


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose.

    Args:
        draw_boxes: draw the labelled boxes into a video.
        rate_hz: pictures a second of a video; None takes the frames' own rate.

    Raises:
        DataError: a rate that is not positive.
    """

    draw_boxes: bool = False
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz < np.inf:
            raise DataError(f"ExportOptions.rate_hz is {self.rate_hz}; give pictures a second above 0")


@runtime_checkable
class FrameWriter(Protocol):
    """Writes frames to a folder, one after another."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the frames lacked or the format cannot say."""
        ...

    def add(self, frame: Frame) -> None:
        """Write one frame, all of it or nothing.

        Raises:
            DataError: the frame lacks something or is unsound; frames before and after it are unaffected.
            OSError: the folder cannot be written.
        """
        ...

    def close(self) -> None:
        """Write what comes after the last frame."""
        ...


def image_of(frame: Frame, format_name: str) -> UInt8[ndarray, "h w 3"]:
    """The frame's image.

    Raises:
        DataError: it has none.
    """
    if frame.image is None:
        raise DataError(
            f"{name_of(frame)}: no image; {format_name} needs one in every frame, choose frames that have it"
        )
    return frame.image


def cloud_of(frame: Frame) -> Float32[ndarray, "n 4"] | None:
    """LiDAR points x y z (m, LiDAR frame) and intensity 0..1; None where the frame has none.

    Raises:
        DataError: NaN or infinity, or an intensity outside 0..1.
    """
    if frame.points_lidar is None or not len(frame.points_lidar):
        return None
    return check_cloud(frame.points_lidar, Path(name_of(frame)))


def boxes_of(frame: Frame) -> Boxes | None:
    """The labelled objects with their 2D boxes clipped to the image; None where nobody labelled.

    Raises:
        DataError: a box lies outside the image, or has a label that is no object class.
    """
    boxes, camera = frame.boxes, frame.camera
    if boxes is None:
        return None
    strange = (boxes.labels < 0) | (boxes.labels >= len(OBJECTS))
    if strange.any():
        wanted = f"0..{len(OBJECTS) - 1}"
        raise DataError(f"{name_of(frame)}: box label {boxes.labels[strange][0]}, want {wanted}; map the classes first")
    xyxy_px, inside = clip_boxes(boxes.xyxy_px, camera.width_px, camera.height_px)
    if not inside.all():
        place = int(np.flatnonzero(~inside)[0])
        raise DataError(
            f"{name_of(frame)}: box {place} {boxes.xyxy_px[place].round(1).tolist()} shows less than a pixel inside "
            f"the {camera.width_px}x{camera.height_px} image; remove it"
        )
    return replace(boxes, xyxy_px=xyxy_px)


def time_of(frame: Frame) -> float:
    """The frame's time in seconds.

    Raises:
        DataError: NaN or infinity.
    """
    if not np.isfinite(frame.timestamp_s):
        raise DataError(f"{name_of(frame)}: timestamp_s is {frame.timestamp_s}; give the frame a time")
    return float(frame.timestamp_s)


def name_of(frame: Frame) -> str:
    """The frame's source, for messages."""
    return frame.source or "frame"


def save_image(path: Path, image: UInt8[ndarray, "h w 3"]) -> None:
    """A PNG without loss, or a JPEG of quality 95, by the name's ending; makes the folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if path.suffix == ".jpg":
        picture.save(path, quality=JPEG_QUALITY)
    else:
        picture.save(path, compress_level=PNG_LEVEL)


def save_text(path: Path, text: str) -> None:
    """A text file; makes the folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def save_floats(path: Path, values: Float32[ndarray, "n m"]) -> None:
    """A bare array, little-endian float32, row after row; makes the folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.astype("<f4").tobytes())


def save_marker(folder: Path, content: dict[str, Any]) -> None:
    """`export.json`: says what a folder holds, and that an export may replace it.

    Raises:
        OSError: it cannot be written.
    """
    save_text(folder / MARKER, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def staged_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its place at the end; after an error or Ctrl-C nothing is left.

    Args:
        out: a folder that does not exist or is empty, or with `overwrite` one that an earlier export wrote.
        overwrite: replace an earlier export.

    Raises:
        DataError: `out` is in use, or cannot be written.
    """
    _check_free(out, overwrite)
    out = out.resolve()
    staging = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = _beside(out, "part")
        staging.mkdir()
        yield staging
        _swap(staging, out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error}); free space or give another folder") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _check_free(out: Path, overwrite: bool) -> None:
    try:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out}: is a file; give a folder")
        if Path.cwd().is_relative_to(out.resolve()):
            raise DataError(f"{out}: is the working folder or holds it; give a new folder, for it is moved into place")
        used = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise DataError(f"{out}: cannot be read ({error.strerror}); give another folder") from error
    if used and not overwrite:
        raise DataError(f"{out}: is not empty; give another folder, or --overwrite to replace an earlier export")
    if used and not (out / MARKER).is_file():
        raise DataError(f"{out}: holds files that no export wrote (it has no {MARKER}); give another folder")


def _swap(staging: Path, out: Path) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        os.replace(staging, out)
        return
    old = _beside(out, "old")
    os.replace(out, old)
    try:
        os.replace(staging, out)
    except BaseException:
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    return out.parent / f".{out.name}.{what}-{uuid.uuid4().hex[:8]}"
