"""Frames of a video by number, decoded on access."""

from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.files import require

STEP_LIMIT = 32  # up to here, decoding the frames between is quicker than seeking to a key frame


class Video:
    """Random access to a video file that costs one decode a frame when frames are read in order.

    The decoder stays open behind the last frame: the next frame is read, a frame a little ahead is reached by
    decoding, and only a jump back or far ahead seeks. Safe to share among threads; a copy sent to another process
    opens the file anew.

    Args:
        path: a file that OpenCV's ffmpeg can decode.

    Raises:
        DataError: missing, or not a video; on access, a frame that cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = require(path, "fetch the video")
        self._capture = cv2.VideoCapture(str(path))
        self._lock = Lock()
        self._next, self._last = 0, -1
        self._image: UInt8[ndarray, "h w 3"] | None = None
        self.seeks = 0
        self._length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self._capture.isOpened() else 0
        if self._length <= 0:
            raise DataError(f"{path}: not a readable video; fetch it again or convert it to H.264")
        self.rate_hz = float(self._capture.get(cv2.CAP_PROP_FPS))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Video, (self.path,))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """One frame, RGB.

        Raises:
            DataError: it cannot be decoded.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"{self.path}: frame {index} of {self._length}")
        with self._lock:
            if index != self._last or self._image is None:
                self._image = self._decode(index)
                self._last = index
            return self._image.copy()

    def _decode(self, index: int) -> UInt8[ndarray, "h w 3"]:
        if not self._next <= index <= self._next + STEP_LIMIT:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            self.seeks += 1
            self._next = index
        while self._next < index and self._capture.grab():
            self._next += 1
        read, bgr = self._capture.read() if self._next == index else (False, None)
        if not read or bgr is None:
            self._next = self._length + STEP_LIMIT  # whatever comes next has to seek
            raise DataError(f"{self.path}: frame {index} cannot be decoded; fetch the video again")
        self._next = index + 1
        return np.ascontiguousarray(bgr[..., ::-1])
