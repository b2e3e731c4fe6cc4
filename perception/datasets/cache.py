"""Frames on disk: one compressed file a frame, written whole or not at all, checked when read."""

import io
import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock, Timeout

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError

_GENERATED = re.compile(r"[a-z]+-[0-9a-f]{16}")
_BOX_EXTRAS = ("cuboids_world", "track_ids", "truncation", "occlusion")


class CorruptFrame(DataError):
    """A cache file cannot be read back; generating it again mends it."""


def cache_root() -> Path:
    """The folder for generated data: `CONVOY_CACHE`, else `~/.cache/convoy`."""
    chosen = os.environ.get("CONVOY_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "convoy"


def cache_limit_bytes() -> int:
    """How much generated data is kept: `CONVOY_CACHE_GB` gigabytes, else 20.

    Raises:
        DataError: the variable is not a positive number.
    """
    text = os.environ.get("CONVOY_CACHE_GB", "20")
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit * 1e9 < math.inf:
        raise DataError(f"CONVOY_CACHE_GB is {text!r}; want a positive number of gigabytes")
    return int(limit * 1e9)


def trim_cache(root: Path, keep: Path, limit_bytes: int) -> list[Path]:
    """Remove generated folders, longest unused first, until all together fit; `keep` stays. Returns what went.

    A folder's own modification time says when it was last used (see `mark_used`). A folder that another process locks
    stays as well, and so does what was not generated: any whose name does not end in a digest of 16 digits.
    """
    mark_used(keep)
    folders = [folder for folder in root.iterdir() if _GENERATED.fullmatch(folder.name) and folder.is_dir()]
    sizes = {folder: _size_bytes(folder) for folder in folders}
    used = {folder: _stat(folder).st_mtime for folder in folders}
    removed: list[Path] = []
    for folder in sorted(folders, key=used.__getitem__):
        if sum(sizes.values()) <= limit_bytes:
            break
        if folder != keep and _remove_unlocked(folder):
            del sizes[folder]
            removed.append(folder)
    return removed


def mark_used(folder: Path) -> None:
    """Let a folder count as used now; one that may not be written stays as it is."""
    with suppress(OSError):
        folder.touch()


def _size_bytes(folder: Path) -> int:
    return sum(_stat(Path(path) / name).st_size for path, _, names in os.walk(folder) for name in names)


def _stat(path: Path) -> os.stat_result:
    """What `Path.stat` says, or zeros if another process has renamed or removed it meanwhile."""
    try:
        return path.stat()
    except OSError:
        return os.stat_result((0,) * 10)


def _remove_unlocked(folder: Path) -> bool:
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (Timeout, OSError):
        return False
    return True


def write_frame(path: Path, frame: Frame) -> None:
    """Store a frame without loss; readers see the old file or the new one, never a part.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".npz")
    except OSError as error:
        raise not_writable(path.parent, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            _pack(file, frame)
        os.replace(name, path)
    except OSError as error:
        raise not_writable(path.parent, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def not_writable(folder: Path, error: OSError) -> DataError:
    """The error for a cache folder that cannot be written."""
    return DataError(f"cache folder {folder} cannot be written ({error.strerror}): set CONVOY_CACHE to another folder")


def read_frame(path: Path) -> Frame:
    """A stored frame.

    Raises:
        CorruptFrame: the file is missing, cut short or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _unpack({key: arrays[key] for key in arrays.files})
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFrame(f"{path}: not a readable frame ({error}); delete it to have it generated again") from error


def _pack(file: IO[bytes], frame: Frame) -> None:
    """Write a zip of .npy members that `np.load` reads; level 1 is three times as fast as the 6 of numpy.savez."""
    with zipfile.ZipFile(file, "w") as archive:
        for key, value in _arrays(frame).items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(member, stream.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)


def _arrays(frame: Frame) -> dict[str, np.ndarray]:
    """A frame as arrays; what is None is left out."""
    camera, boxes = frame.camera, frame.boxes
    arrays = {
        "timestamp_s": np.array(frame.timestamp_s),
        "world_from_cam": camera.world_from_cam.matrix,
        "intrinsics": np.array([camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px]),
        "size_px": np.array([camera.width_px, camera.height_px]),
        "source": np.array(frame.source),
        "image": frame.image,
        "points_lidar": frame.points_lidar,
        "masks": frame.masks,
        "instances": frame.instances,
        "depth_m": frame.depth_m,
        "lidar_from_cam": None if frame.lidar_from_cam is None else frame.lidar_from_cam.matrix,
    }
    if boxes is not None:
        arrays |= {"boxes": boxes.xyxy_px, "labels": boxes.labels}
        arrays |= {name: getattr(boxes, name) for name in _BOX_EXTRAS}
    return {key: value for key, value in arrays.items() if value is not None}


def _unpack(arrays: dict[str, np.ndarray]) -> Frame:
    intrinsics, size = arrays["intrinsics"].tolist(), arrays["size_px"].tolist()
    boxes = None
    if "boxes" in arrays:
        boxes = Boxes(arrays["boxes"], arrays["labels"], **{name: arrays.get(name) for name in _BOX_EXTRAS})
    return Frame(
        timestamp_s=float(arrays["timestamp_s"]),
        camera=Camera(_pose(arrays["world_from_cam"]), *intrinsics, *size),
        image=arrays.get("image"),
        points_lidar=arrays.get("points_lidar"),
        boxes=boxes,
        masks=arrays.get("masks"),
        instances=arrays.get("instances"),
        depth_m=arrays.get("depth_m"),
        lidar_from_cam=_pose(arrays["lidar_from_cam"]) if "lidar_from_cam" in arrays else None,
        source=str(arrays["source"]),
    )


def _pose(matrix: np.ndarray) -> SE3:
    return SE3(matrix[:3, :3], matrix[:3, 3])
