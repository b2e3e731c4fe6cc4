"""Frames as an MP4 video at their own rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.export.writing import ExportOptions, boxes_of, image_of, time_of
from perception.draw import draw_boxes

NAME: Final = "video.mp4"
CODEC: Final = "mp4v"
# The rate is the median of the first differences of time, for a video's rate is fixed before its first picture.
LOOK_AHEAD: Final = 9
DEFAULT_HZ: Final = 10.0
FASTEST_HZ, SLOWEST_HZ = 120.0, 0.1


class VideoWriter:
    """One video of all frames; pictures of another size are scaled to the first one's.

    The codec takes even sizes: odd pictures get their last row or column twice.
    """

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        self._path = folder / NAME
        self._options = options
        self._waiting: list[UInt8[ndarray, "h w 3"]] = []
        self._times_s: list[float] = []
        self._video: cv2.VideoWriter | None = None
        self._size_px: tuple[int, int] | None = None
        self._rate_hz = DEFAULT_HZ
        self._scaled = 0

    @property
    def notes(self) -> tuple[str, ...]:
        rate = f"{self._rate_hz:.4g} pictures a second"
        return (rate, *((f"{self._scaled} pictures scaled to the first one's size",) if self._scaled else ()))

    def add(self, frame: Frame) -> None:
        picture, time_s, boxes = image_of(frame, "a video"), time_of(frame), boxes_of(frame)
        if self._options.draw_boxes and boxes is not None:
            picture = draw_boxes(picture, boxes)
        self._waiting.append(self._at_size(picture))
        self._times_s.append(time_s)
        if len(self._times_s) >= LOOK_AHEAD:
            self._flush()

    def close(self) -> None:
        """Write what waits, and check that the video is whole: OpenCV does not say when the disk is full.

        Raises:
            OSError: it is not.
        """
        self._flush()
        if self._video is not None:
            self._video.release()
        reader = cv2.VideoCapture(str(self._path))
        count = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
        reader.release()
        if count != len(self._times_s):
            raise OSError(f"the video has {count} of {len(self._times_s)} pictures")

    def _at_size(self, picture: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "_ _ 3"]:
        picture = np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")
        size_px = (picture.shape[1], picture.shape[0])
        self._size_px = self._size_px or size_px
        if size_px == self._size_px:
            return picture
        self._scaled += 1
        return cv2.resize(picture, self._size_px, interpolation=cv2.INTER_AREA)

    def _flush(self) -> None:
        if self._video is None and self._size_px is not None:
            self._rate_hz = self._options.rate_hz or rate_of(self._times_s)
            self._video = open_video(self._path, self._rate_hz, self._size_px)
        for picture in self._waiting:
            assert self._video is not None
            self._video.write(np.ascontiguousarray(picture[..., ::-1]))
        self._waiting.clear()


def rate_of(times_s: Sequence[float]) -> float:
    """Pictures a second: one over the median of the positive steps; 10 where there is none."""
    steps = np.diff(np.asarray(times_s, dtype=np.float64))
    steps = steps[steps > 0]
    return float(np.clip(1 / np.median(steps), SLOWEST_HZ, FASTEST_HZ)) if len(steps) else DEFAULT_HZ


def open_video(path: Path, rate_hz: float, size_px: tuple[int, int]) -> cv2.VideoWriter:
    """An MP4 to write pictures (BGR) of one size (width, height) to.

    Raises:
        DataError: this OpenCV cannot write such a video.
    """
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), rate_hz, size_px)
    if not video.isOpened():
        raise DataError(
            f"{path.name}: OpenCV cannot write {CODEC} at {rate_hz:.4g} Hz and {size_px[0]}x{size_px[1]}; install "
            "opencv-python-headless with FFmpeg, or export other frames"
        )
    return video
