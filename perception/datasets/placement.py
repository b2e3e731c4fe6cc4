"""Where things are: a level world under a vehicle, cuboids in it, and their boxes in an image."""

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy import ndarray

from geometry import SE3, Camera

MIN_SIDE_PX = 1.0
NEAR_M = 0.1
# Corners: bottom face counter-clockwise, then the top face in the same order.
CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))])
EDGES = np.array([(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)]
                 + [(i, 4 + i) for i in range(4)])  # fmt: skip


def level_world_from_cam(height_m: float) -> SE3:
    """The pose of a level camera in a world of its vehicle's own: x ahead, y left, z up, z = 0 on the road below."""
    return SE3(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([0.0, 0.0, height_m]))


def yaw_of(headings: Float[ndarray, "n 3"]) -> Float[ndarray, "n"]:
    """Counter-clockwise angle about up, in (-pi, pi], of directions; their tilt is left out."""
    return np.arctan2(headings[:, 1], headings[:, 0])


def cuboid_corners(cuboids: Float[ndarray, "n 7"]) -> Float[ndarray, "n 8 3"]:
    """Corners of cuboids (x y z of the centre, length, width, height, yaw), in the frame that they are given in."""
    cuboids = np.asarray(cuboids, dtype=np.float64)
    offsets = CORNERS * cuboids[:, None, 3:6]
    c, s = np.cos(cuboids[:, 6, None]), np.sin(cuboids[:, 6, None])
    x, y = c * offsets[..., 0] - s * offsets[..., 1], s * offsets[..., 0] + c * offsets[..., 1]
    return cuboids[:, None, :3] + np.stack([x, y, offsets[..., 2]], axis=-1)


def inside_cuboid(points: Float[ndarray, "n 3"], cuboid: Float[ndarray, "7"]) -> Bool[ndarray, "n"]:
    """Which points lie in a cuboid given in the same frame."""
    offset = np.asarray(points, dtype=np.float64) - cuboid[:3]
    c, s = np.cos(cuboid[6]), np.sin(cuboid[6])
    local = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]], axis=1)
    return (np.abs(local) <= np.asarray(cuboid[3:6]) / 2).all(axis=1)


def hull_boxes(corners_world: Float[ndarray, "n 8 3"], camera: Camera) -> Float[ndarray, "n 4"]:
    """Left, top, right, bottom around projected cuboids, not clipped; zeros where one lies behind the camera.

    A cuboid that crosses the plane 0.1 m before the camera is cut there first.
    """
    cam_from_world = camera.world_from_cam.inverse()
    return np.array([_hull_box(cam_from_world.apply(corners), camera) for corners in corners_world]).reshape(-1, 4)


def _hull_box(corners_cam: Float[ndarray, "8 3"], camera: Camera) -> Float[ndarray, "4"]:
    start, end = corners_cam[EDGES[:, 0]], corners_cam[EDGES[:, 1]]
    crosses = (start[:, 2] < NEAR_M) != (end[:, 2] < NEAR_M)
    start, end = start[crosses], end[crosses]
    cut = start + (end - start) * ((NEAR_M - start[:, 2]) / (end[:, 2] - start[:, 2]))[:, None]
    visible = np.concatenate([corners_cam[corners_cam[:, 2] >= NEAR_M], cut])
    if len(visible) == 0:
        return np.zeros(4)
    u = camera.fx_px * visible[:, 0] / visible[:, 2] + camera.cx_px
    v = camera.fy_px * visible[:, 1] / visible[:, 2] + camera.cy_px
    return np.array([u.min(), v.min(), u.max(), v.max()])


def clip_boxes(
    xyxy_px: Float[ndarray, "n 4"], width_px: int, height_px: int
) -> tuple[Float32[ndarray, "n 4"], Bool[ndarray, "n"]]:
    """Boxes clipped to the image, and which of them keep at least a pixel in both directions."""
    clipped = np.clip(xyxy_px, 0, [width_px, height_px, width_px, height_px]).astype(np.float32)
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped, (sides >= MIN_SIDE_PX).all(axis=1)
