"""Frames at another size, and frames that are kept in memory once they were read."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields, replace

import cv2
import numpy as np
from numpy import ndarray

from geometry import Boxes, Frame


def resized(frame: Frame, longest_side_px: int) -> Frame:
    """The frame with its longer side at most so many pixels; LiDAR and cuboids stay as they are.

    Pixels of the image are averaged, those of masks and depth picked.

    Raises:
        ValueError: the side is below one pixel.
    """
    if longest_side_px < 1:
        raise ValueError(f"longest_side_px must be at least 1, got {longest_side_px}")
    camera = frame.camera
    factor = longest_side_px / max(camera.width_px, camera.height_px)
    if factor >= 1:
        return frame
    width_px, height_px = max(round(camera.width_px * factor), 1), max(round(camera.height_px * factor), 1)

    def scaled(array: ndarray | None, mode: int) -> ndarray | None:
        return None if array is None else cv2.resize(array, (width_px, height_px), interpolation=mode)

    return replace(
        frame,
        camera=camera.resized(width_px, height_px),
        image=scaled(frame.image, cv2.INTER_AREA),
        masks=scaled(frame.masks, cv2.INTER_NEAREST_EXACT),
        instances=scaled(frame.instances, cv2.INTER_NEAREST_EXACT),
        depth_m=scaled(frame.depth_m, cv2.INTER_NEAREST_EXACT),
        boxes=None if frame.boxes is None else _scaled_boxes(frame.boxes, frame, width_px, height_px),
    )


def _scaled_boxes(boxes: Boxes, frame: Frame, width_px: int, height_px: int) -> Boxes:
    x, y = width_px / frame.camera.width_px, height_px / frame.camera.height_px
    return replace(boxes, xyxy_px=boxes.xyxy_px * np.array([x, y, x, y], np.float32))


class KeptFrames(Sequence[Frame]):
    """The frames of a data set, each read and resized once as long as memory lasts; those used last are kept.

    Args:
        frames: read on access.
        longest_side_px: see `resized`; 0 keeps the size.
        cache_bytes: of frames that are kept.
    """

    def __init__(self, frames: Sequence[Frame], longest_side_px: int = 0, cache_bytes: int = 1 << 29) -> None:
        self.frames, self.longest_side_px, self.cache_bytes = frames, longest_side_px, cache_bytes
        self._kept: OrderedDict[int, Frame] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        index = range(len(self))[index]
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        frame = self.frames[index]
        frame = resized(frame, self.longest_side_px) if self.longest_side_px else frame
        self._kept[index] = frame
        self._bytes += nbytes(frame)
        while self._bytes > self.cache_bytes and len(self._kept) > 1:
            self._bytes -= nbytes(self._kept.popitem(last=False)[1])
        return frame


def nbytes(frame: Frame) -> int:
    """Bytes of a frame's arrays, boxes aside."""
    arrays = (getattr(frame, field.name) for field in fields(frame))
    return sum(array.nbytes for array in arrays if isinstance(array, ndarray))
