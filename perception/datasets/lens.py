"""Lens distortion: what is needed to turn a photograph into the image of a pinhole camera.

The model is that of Brown and Conrady as OpenCV and COLMAP write it: with r the distance of (x, y) = (X/Z, Y/Z) from
the axis, a radial factor (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶) and tangential terms p1, p2.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from geometry import SE3, Camera
from perception.datasets.placement import level_world_from_cam

PIXEL_CENTRE = 0.5  # OpenCV puts the first pixel's centre at 0, this project at 0.5
BORDER_STEPS = 64
MAX_ZOOM = 4.0


@dataclass(frozen=True)
class Lens:
    """Intrinsics with distortion.

    Args:
        fx_px, fy_px, cx_px, cy_px: focal lengths and principal point; the first pixel's centre is (0.5, 0.5).
        width_px, height_px: size of the image that they hold for.
        distortion: k1, k2, p1, p2 and, where there are more, k3, k4, k5, k6; empty for a pinhole.

    Raises:
        ValueError: a number is not finite, a focal length or side is less than a pixel, or another count of
            coefficients.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        intrinsics = (self.fx_px, self.fy_px, self.cx_px, self.cy_px)
        if not np.isfinite(intrinsics).all() or min(self.fx_px, self.fy_px, self.width_px, self.height_px) < 1:
            raise ValueError(
                f"fx, fy, cx, cy = {intrinsics} for {self.width_px}x{self.height_px} pixels: "
                "want finite numbers, and at least 1 pixel for focal lengths and sides"
            )
        if len(self.distortion) not in (0, 4, 5, 8) or not np.isfinite(self.distortion).all():
            raise ValueError(f"distortion takes 0, 4, 5 or 8 finite coefficients, got {self.distortion}")

    @property
    def straight(self) -> bool:
        """Whether straight lines stay straight: all coefficients are zero."""
        return not any(self.distortion)

    def camera(self, world_from_cam: SE3) -> Camera:
        """The pinhole part at a pose; distortion is left out."""
        return Camera(world_from_cam, self.fx_px, self.fy_px, self.cx_px, self.cy_px, self.width_px, self.height_px)

    def resized(self, width_px: int, height_px: int) -> "Lens":
        """The same lens after its image is scaled to another size."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return Lens(
            self.fx_px * sx, self.fy_px * sy, self.cx_px * sx, self.cy_px * sy, width_px, height_px, self.distortion
        )

    def straightened(self) -> "Lens":
        """The pinhole whose image `straighten` gives: the same size and principal point.

        Focal lengths grow, both by one factor of at most 4, until no pixel of the straight image would be blank.
        """
        zoom = 1.0 if self.straight else _zoom(self)
        return replace(self, fx_px=self.fx_px * zoom, fy_px=self.fy_px * zoom, distortion=())

    def straighten(self, image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
        """The image as the `straightened` lens sees it, interpolated bilinearly."""
        if self.straight:
            return image
        return cv2.remap(image, *_maps(self), cv2.INTER_LINEAR)


def nominal_camera(width_px: int, height_px: int, field_of_view_rad: float, height_m: float) -> Camera:
    """A level pinhole with square pixels and the principal point in the middle, for data without a calibration.

    Its world is the vehicle's own: x ahead, y left, z up, z = 0 on the road below. `field_of_view_rad` is horizontal.
    """
    focal_px = float(width_px / 2 / np.tan(field_of_view_rad / 2))
    pose = level_world_from_cam(height_m)
    return Camera(pose, focal_px, focal_px, width_px / 2, height_px / 2, width_px, height_px)


def _opencv_matrix(lens: Lens) -> Float[ndarray, "3 3"]:
    cx, cy = lens.cx_px - PIXEL_CENTRE, lens.cy_px - PIXEL_CENTRE
    return np.array([[lens.fx_px, 0, cx], [0, lens.fy_px, cy], [0, 0, 1.0]])


@lru_cache(maxsize=8)
def _maps(lens: Lens) -> tuple[ndarray, ndarray]:
    """OpenCV's tables from straight to photographed pixels; 6 bytes a pixel."""
    target = _opencv_matrix(lens.straightened())
    size = (lens.width_px, lens.height_px)
    return cv2.initUndistortRectifyMap(
        _opencv_matrix(lens), np.array(lens.distortion), np.eye(3), target, size, cv2.CV_16SC2
    )


@lru_cache(maxsize=64)
def _zoom(lens: Lens) -> float:
    """The least factor in 1..4 at which the straight image's border lies inside the photograph."""
    s = np.linspace(0, 1, BORDER_STEPS)
    zero = np.zeros(BORDER_STEPS)
    border = np.concatenate([np.stack(side, axis=1) for side in ((s, zero), (s, zero + 1), (zero, s), (zero + 1, s))])
    last = np.array([lens.width_px - 1, lens.height_px - 1], dtype=np.float64)
    matrix = _opencv_matrix(lens)
    focal, principal = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    rays = np.column_stack([(border * last - principal) / focal, np.ones(len(border))])

    def fits(zoom: float) -> bool:
        zoomed = rays / [zoom, zoom, 1]
        seen, _ = cv2.projectPoints(zoomed, np.zeros(3), np.zeros(3), matrix, np.array(lens.distortion))
        return bool(((seen[:, 0] > -0.01) & (seen[:, 0] < last + 0.01)).all())

    low, high = 1.0, MAX_ZOOM
    if fits(low):
        return low
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
