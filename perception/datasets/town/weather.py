"""What light and weather do inside a camera: glare around lamps, rain in front of the lens."""

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

_STREAKS_PER_PIXEL: Final = 0.004


def bloom(image: Float32[ndarray, "h w 3"]) -> Float32[ndarray, "h w 3"]:
    """Light that spills from pixels beyond white into their surroundings."""
    sigma_px = image.shape[0] / 60
    spill = cv2.GaussianBlur(np.clip(image - 1, 0, 8), (0, 0), sigma_px)
    return image + np.float32(0.35) * spill


def streaks(image: Float32[ndarray, "h w 3"], rain: float, rng: np.random.Generator) -> Float32[ndarray, "h w 3"]:
    """Drops that fall during the exposure: short slanted lines, brighter than a dark ground, fainter on the sky."""
    height, width = image.shape[:2]
    count = int(_STREAKS_PER_PIXEL * rain * height * width)
    length = rng.uniform(0.02, 0.09, count) * height
    start = np.stack([rng.uniform(0, width, count), rng.uniform(-0.1 * height, height, count)], axis=1)
    end = start + np.stack([0.12 * length, length], axis=1)
    layer = np.zeros((height, width), np.float32)
    shift = 4
    for a, b in zip(np.rint(start * 2**shift).astype(int), np.rint(end * 2**shift).astype(int), strict=True):
        cv2.line(layer, a.tolist(), b.tolist(), 1.0, 1, cv2.LINE_AA, shift)
    layer = cv2.GaussianBlur(layer, (0, 0), 0.7)[..., None] * np.float32(0.35)
    return image + layer * (np.float32(0.55) * image.mean() + np.float32(0.12) - image * np.float32(0.3))
