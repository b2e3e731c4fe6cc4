"""Pixels of what does not stay where it is: vehicles, people, riders."""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from geometry import Frame
from perception.labels import SEGMENT_OF_OBJECT

MARGIN_PX = 2  # by which pixels grow, since edges are blurred


def transient_pixels(frame: Frame, margin_px: int = MARGIN_PX) -> Bool[ndarray, "h w"] | None:
    """Pixels [h, w] of objects, parked ones too: by the frame's masks, else within its boxes.

    Args:
        frame: with or without labels.
        margin_px: by which masks are widened.

    Returns:
        None where the frame has neither masks nor boxes.
    """
    size_px = (frame.camera.height_px, frame.camera.width_px)
    if frame.masks is not None:
        return _widened(np.isin(frame.masks, SEGMENT_OF_OBJECT), margin_px)
    if frame.boxes is None:
        return None
    inside = np.zeros(size_px, bool)
    for left, top, right, bottom in frame.boxes.xyxy_px:
        rows = slice(max(int(np.floor(top)), 0), max(int(np.ceil(bottom)), 0))
        inside[rows, max(int(np.floor(left)), 0) : max(int(np.ceil(right)), 0)] = True
    return inside


def _widened(mask: Bool[ndarray, "h w"], margin_px: int) -> Bool[ndarray, "h w"]:
    import cv2

    if margin_px == 0:
        return mask
    kernel = np.ones((2 * margin_px + 1, 2 * margin_px + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
