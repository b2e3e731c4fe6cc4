"""A pinhole camera with its pose. Camera axes are OpenCV's: x right, y down, z forward."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry.se3 import SE3


@dataclass(frozen=True, eq=False)
class Camera:
    """Pinhole camera without distortion.

    The centre of pixel (row 0, column 0) lies at image coordinates (0.5, 0.5), as in COLMAP and gsplat.

    Args:
        world_from_cam: pose; world is ENU in metres.
        fx_px, fy_px, cx_px, cy_px: intrinsics in pixels.
        width_px, height_px: image size.

    Raises:
        ValueError: an intrinsic is not finite, or a focal length or size is not positive.
    """

    world_from_cam: SE3
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        if not np.isfinite([self.fx_px, self.fy_px, self.cx_px, self.cy_px]).all():
            raise ValueError(f"camera intrinsics must be finite, got {self}")
        if min(self.fx_px, self.fy_px, self.width_px, self.height_px) <= 0:
            raise ValueError(f"focal lengths and image size must be positive, got {self}")

    @property
    def intrinsics(self) -> Float[ndarray, "3 3"]:
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1.0]])

    def project(self, points_world: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "n"]]:
        """Image coordinates [n, 2] in pixels and depth along z [n] in metres; depth <= 0 means behind the camera."""
        points_cam = self.world_from_cam.inverse().apply(np.asarray(points_world, dtype=np.float64))
        depth_m = points_cam[:, 2]
        safe = np.where(np.abs(depth_m) < 1e-9, 1e-9, depth_m)
        u = self.fx_px * points_cam[:, 0] / safe + self.cx_px
        v = self.fy_px * points_cam[:, 1] / safe + self.cy_px
        return np.stack([u, v], axis=1), depth_m

    def rays_world(self) -> tuple[Float[ndarray, "3"], Float[ndarray, "h w 3"]]:
        """Origin [3] and directions [h, w, 3] with unit z in the camera, so that ray length t equals depth."""
        u = (np.arange(self.width_px) + 0.5 - self.cx_px) / self.fx_px
        v = (np.arange(self.height_px) + 0.5 - self.cy_px) / self.fy_px
        directions_cam = np.stack([*np.meshgrid(u, v), np.ones((self.height_px, self.width_px))], axis=-1)
        return self.world_from_cam.translation_m, directions_cam @ self.world_from_cam.rotation.T

    def resized(self, width_px: int, height_px: int) -> "Camera":
        """The same camera after its image is scaled to another size."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return Camera(
            self.world_from_cam, self.fx_px * sx, self.fy_px * sy, self.cx_px * sx, self.cy_px * sy, width_px, height_px
        )
