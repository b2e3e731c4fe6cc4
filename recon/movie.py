"""Pictures and movies of a scene along a path: colour, depth, and beside a photo."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray

from geometry import Camera
from recon.gaussians import Gaussians
from recon.render import Backend, rasterize

Image = UInt8[ndarray, "h w 3"]
Progress = Callable[[Sequence[int]], Iterable[int]]

SOLID: Final = 0.5  # a pixel that stops less of the light has no depth
ERROR_GAIN: Final = 4
CODEC: Final = "mp4v"


def render_camera(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: Backend = "auto",
) -> tuple[Image, Float32[ndarray, "h w"]]:
    """What a camera sees of a scene, without gradients; a slower backend than was asked for is logged, once.

    Args:
        gaussians: on the device that the backend needs.
        camera: pose, intrinsics and size.
        background: RGB in 0..1 where nothing is.
        backend: see `recon.render.rasterize`.

    Returns:
        colours, and expected depth along z in metres: infinity where less than half of the light is stopped.

    Raises:
        ValueError: the backend does not fit the device, or a background outside 0..1.
        ImportError: "gsplat" was asked for and is not installed.
    """
    if not all(0 <= value <= 1 for value in background):
        raise ValueError(f"render_camera: background is {background}, want red, green and blue in 0..1")
    to = lambda array: torch.tensor(array[None]).to(gaussians.means)  # noqa: E731
    with torch.no_grad():
        image, alpha, info = rasterize(
            *(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh),
            to(camera.world_from_cam.inverse().matrix),
            to(camera.intrinsics),
            camera.width_px,
            camera.height_px,
            backgrounds=to(np.array(background)),
            sh_degree=gaussians.degree,
            render_mode="RGB+ED",
            backend=backend,
        )
        if "fallback" in info:
            _warn_once(info["fallback"])
        rgb = (image[0, ..., :3].clamp(0, 1) * 255).round().to(torch.uint8)
        depth_m = torch.where(alpha[0, ..., 0] >= SOLID, image[0, ..., 3], torch.inf).float()
    return rgb.cpu().numpy(), depth_m.cpu().numpy()


@cache
def _warn_once(reason: str) -> None:
    logging.getLogger(__name__).warning(reason)


def render_path(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: Backend = "auto",
    progress: Progress = iter,
) -> Iterator[tuple[Image, Float32[ndarray, "h w"]]]:
    """`render_camera` of each camera in turn, one picture in memory at a time.

    Args:
        gaussians, background, backend: as there, and so the errors.
        cameras: the path.
        progress: goes through the numbers of the cameras, as a progress bar does.
    """
    for index in progress(range(len(cameras))):
        yield render_camera(gaussians, cameras[index], background=background, backend=backend)


def depth_range_m(depth_m: Float32[ndarray, "h w"]) -> tuple[float, float] | None:
    """Depths that a picture of depth spans: percentiles 2 and 98 of what was hit; None where nothing was."""
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    if known.size == 0:
        return None
    near_m, far_m = np.percentile(known, [2, 98])
    return float(near_m), float(far_m)


def colour_depth(depth_m: Float32[ndarray, "h w"], range_m: tuple[float, float] | None = None) -> Image:
    """Inverse depth in matplotlib's magma, near bright, or in grey without matplotlib; black where nothing was hit.

    Args:
        depth_m: metres, infinity where nothing was hit.
        range_m: nearest and farthest depth told apart, `depth_range_m` by default. One range for all frames of a
            movie keeps it from flickering.

    Raises:
        ValueError: the range is not positive or not in order.
    """
    hit = np.isfinite(depth_m) & (depth_m > 0)
    near_m, far_m = range_m or depth_range_m(depth_m) or (1.0, 1.0)
    if not 0 < near_m <= far_m < np.inf:
        raise ValueError(f"colour_depth: range_m is {(near_m, far_m)}, want 0 < nearest <= farthest")
    inverse = 1 / np.where(hit, depth_m, far_m).astype(np.float64)
    span = max(1 / near_m - 1 / far_m, 1e-12)
    level = np.clip((inverse - 1 / far_m) / span, 0, 1)
    shade = _shade(0.1 + 0.9 * level)  # what was hit differs from what was not
    return np.where(hit[..., None], shade, 0).astype(np.uint8)


def comparison(photo: Image, render: Image) -> UInt8[ndarray, "h w3 3"]:
    """Side by side: photo, render, and four times their absolute difference.

    Raises:
        ValueError: the sizes differ.
    """
    if photo.shape != render.shape:
        raise ValueError(f"comparison: the photo is {photo.shape[:2]} and the render {render.shape[:2]}; resize one")
    error = ERROR_GAIN * np.abs(photo.astype(np.int16) - render.astype(np.int16))
    return np.concatenate([photo, render, error.clip(0, 255).astype(np.uint8)], axis=1)


def write_movie(path: Path, pictures: Iterable[Image], rate_hz: float = 30.0) -> int:
    """Write pictures of one size as what the path ends in; it is there in full or not at all.

    Args:
        path: `.mp4` (one row or column of odd sizes is cropped, which its codec cannot take), `.gif` (a palette of its
            own for each picture; times are multiples of 10 ms), `.png` (the first picture alone), or without ending a
            folder for 00000.png, 00001.png and so on, which must not exist or be empty.
        pictures: read one after another.
        rate_hz: pictures a second.

    Returns:
        how many pictures were written.

    Raises:
        ValueError: an unknown ending, no pictures, pictures that differ in size, a rate that is not positive, or a
            folder with something in it.
        OSError: the place cannot be written, or the video is not whole.
        ImportError: Pillow or OpenCV is not installed.
    """
    if not 0 < rate_hz < np.inf:
        raise ValueError(f"write_movie: rate_hz is {rate_hz}, want pictures a second above 0")
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        endings = ", ".join(ending for ending in WRITERS if ending)
        raise ValueError(f"{path}: cannot write {path.suffix} files; end it in {endings}, or give a folder")
    with _staged(path) as part:
        return write(part, _alike(path, pictures), rate_hz)


def _write_folder(folder: Path, pictures: Iterator[Image], rate_hz: float) -> int:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        _pillow(picture).save(folder / f"{index:05}.png")
    return len(list(folder.iterdir()))


def _write_png(path: Path, pictures: Iterator[Image], rate_hz: float) -> int:
    _pillow(next(pictures)).save(path)
    return 1


def _write_gif(path: Path, pictures: Iterator[Image], rate_hz: float) -> int:
    paletted = [_pillow(picture).quantize(256) for picture in pictures]
    duration_ms = max(20, round(100 / rate_hz) * 10)  # below 20 ms browsers fall back to 100
    paletted[0].save(path, save_all=True, append_images=paletted[1:], duration=duration_ms, loop=0)
    return len(paletted)


def _write_mp4(path: Path, pictures: Iterator[Image], rate_hz: float) -> int:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(".mp4 files need OpenCV: pip install opencv-python-headless; .gif needs Pillow") from error
    first = next(pictures)
    height_px, width_px = (side - side % 2 for side in first.shape[:2])
    if min(height_px, width_px) == 0:
        raise ValueError(f"pictures of {first.shape[1]}x{first.shape[0]} px are too small for .mp4; write a .gif")
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), rate_hz, (width_px, height_px))
    if not video.isOpened():
        raise OSError(f"this OpenCV cannot write {CODEC} at {rate_hz:g} Hz, {width_px}x{height_px} px; write a .gif")
    count = 0
    for picture in chain([first], pictures):
        video.write(np.ascontiguousarray(picture[:height_px, :width_px, ::-1]))
        count += 1
    video.release()
    reader = cv2.VideoCapture(str(path))  # OpenCV does not say when the disk is full
    found = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    reader.release()
    if found != count:
        raise OSError(f"the video has {found} of {count} pictures; look whether the disk is full")
    return count


WRITERS: Final = {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png, "": _write_folder}


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same ending, which takes its place at the end or is removed."""
    if path.is_dir() and (path.suffix or any(path.iterdir())):
        raise ValueError(f"{path}: a folder that is not empty, or named like a file; give another name")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; make it first")
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def _alike(path: Path, pictures: Iterable[Image]) -> Iterator[Image]:
    """The pictures, of which there must be one, and all of the first one's size."""
    stream = iter(pictures)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"{path}: no pictures to write; give a path of one camera or more")
    yield first
    for picture in stream:
        if picture.shape != first.shape:
            raise ValueError(f"{path}: pictures of {picture.shape[:2]} and {first.shape[:2]}; give them one size")
        yield picture


def _pillow(picture: Image) -> Any:
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    return Pillow.fromarray(picture)


def _shade(level: ndarray) -> UInt8[ndarray, "h w 3"]:
    try:
        from matplotlib import colormaps
    except ImportError:
        return np.repeat((level * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
    return colormaps["magma"](level, bytes=True)[..., :3]
