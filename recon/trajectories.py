"""Paths that a camera takes to show a scene. World: z up, metres; cameras look along their z, y points down."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import SE3, Camera
from recon.gaussians import Gaussians

UP: Final = (0.0, 0.0, 1.0)
ELEVATION_RAD: Final = np.deg2rad(25.0)  # of an orbit above the horizon of its centre
REACH: Final = 1.5  # medians of the distance from the centre that an orbit keeps in view
NEAR_STEPS: Final = 0.1  # cameras nearer to the one before than this share of the mean step are passed over
TABLE: Final = 64  # samples between two cameras, by which length along the path is measured


@dataclass(frozen=True, eq=False)
class Orbit:
    """A level circle around a scene.

    Args:
        centre_world: what is looked at, metres, [3].
        radius_m: of the circle.
        height_m: of the circle above the centre.
        reach_m: radius of the ball around the centre that fits into the view.
    """

    centre_world: Float[ndarray, "3"]
    radius_m: float
    height_m: float
    reach_m: float


def look_at(position_world: Float[ndarray, "3"], target_world: Float[ndarray, "3"], up: Sequence[float] = UP) -> SE3:
    """world_from_cam of a camera that has the target in the middle of its view and `up` upright in it.

    Raises:
        ValueError: a value is not finite, the target is the position, or `up` is zero or the direction of the view.
    """
    position, target, up_world = (np.asarray(vector, np.float64) for vector in (position_world, target_world, up))
    forward = _unit(target - position, "the way from the camera to what it looks at")
    right = _unit(np.cross(forward, _unit(up_world, "up")), "up, seen along the view,", least=1e-6)
    return SE3(np.stack([right, np.cross(forward, right), forward], axis=1), position)


def turntable(
    centre_world: Float[ndarray, "3"],
    radius_m: float,
    height_m: float,
    camera: Camera,
    count: int,
    up: Sequence[float] = UP,
) -> list[Camera]:
    """Cameras on one full circle that look at its axis' foot; the last stands one step before the first.

    Args:
        centre_world: what is looked at, metres.
        radius_m: of the circle.
        height_m: of the circle above the centre, along `up`; may be negative.
        camera: gives the intrinsics.
        count: of cameras. The first stands east of the centre, the next ones counter-clockwise seen from above.
        up: the circle's axis.

    Raises:
        ValueError: a value is not finite, the radius or count is not positive, or `up` is zero.
    """
    _check_count(count)
    _check_positive("turntable: radius_m", radius_m)
    axis, centre = _unit(np.asarray(up, np.float64), "up"), np.asarray(centre_world, np.float64)
    east = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.99 else np.array([0, 1.0, 0])
    east = _unit(east - (east @ axis) * axis, "east")
    offsets = _circle(east, np.cross(axis, east), radius_m, count) + height_m * axis
    return [replace(camera, world_from_cam=look_at(centre + offset, centre, up)) for offset in offsets]


def wobble(camera: Camera, radius_m: float, count: int) -> list[Camera]:
    """Cameras on a circle around one pose, in its image plane and all facing as it does: near things move most.

    Args:
        camera: stands in the middle; gives rotation and intrinsics.
        radius_m: of the circle. The first camera stands to the right, the next ones clockwise in the image.
        count: of cameras.

    Raises:
        ValueError: the radius or count is not positive.
    """
    _check_count(count)
    _check_positive("wobble: radius_m", radius_m)
    pose = camera.world_from_cam
    offsets = _circle(pose.rotation[:, 0], pose.rotation[:, 1], radius_m, count)
    return [replace(camera, world_from_cam=SE3(pose.rotation, pose.translation_m + offset)) for offset in offsets]


def fly_through(cameras: Sequence[Camera], count: int) -> list[Camera]:
    """Cameras at equal distances on a smooth path through given ones, from the first to the last.

    Positions follow a cubic spline, rotations scipy's `RotationSpline`; both pass through what is given. Cameras
    that stand within a tenth of the mean step of the one before add noise rather than a path and are passed over.

    Args:
        cameras: in the order of the path; the first gives the intrinsics of all.
        count: of cameras.

    Raises:
        ValueError: fewer than two cameras, or all at one place; the count is not positive.
        ImportError: scipy is not installed.
    """
    _check_count(count)
    if len(cameras) < 2:
        raise ValueError(f"fly_through: a path takes two cameras or more, got {len(cameras)}")
    kept = [cameras[index] for index in _apart(np.stack([c.world_from_cam.translation_m for c in cameras]))]
    if len(kept) < 2:
        raise ValueError("fly_through: all cameras stand at one place; turn or wobble one of them instead")
    positions, rotations = _path([camera.world_from_cam for camera in kept], count)
    poses = [SE3(rotation, position) for rotation, position in zip(rotations, positions, strict=True)]
    return [replace(cameras[0], world_from_cam=pose) for pose in poses]


def fit_camera(camera: Camera, size_px: tuple[int, int] | None = None, fov_rad: float | None = None) -> Camera:
    """The camera with another size and angle of view.

    Args:
        camera: to change; keeps its pose.
        size_px: width and height, by default its own. All that it saw stays in the picture, in its middle; where the
            aspect differs, more is seen.
        fov_rad: full horizontal angle of view; pixels are then square and the principal point is in the middle.

    Raises:
        ValueError: a side is not positive, or the angle is not between 0 and pi.
    """
    width_px, height_px = size_px or (camera.width_px, camera.height_px)
    if fov_rad is not None:
        if not 0 < fov_rad < np.pi:
            raise ValueError(f"fit_camera: fov_rad must lie between 0 and pi, got {fov_rad}")
        focal_px = float(width_px / 2 / np.tan(fov_rad / 2))
        return Camera(camera.world_from_cam, focal_px, focal_px, width_px / 2, height_px / 2, width_px, height_px)
    scale = min(width_px / camera.width_px, height_px / camera.height_px)
    cx_px = scale * camera.cx_px + (width_px - scale * camera.width_px) / 2
    cy_px = scale * camera.cy_px + (height_px - scale * camera.height_px) / 2
    fx_px, fy_px = scale * camera.fx_px, scale * camera.fy_px
    return Camera(camera.world_from_cam, fx_px, fy_px, cx_px, cy_px, width_px, height_px)


def orbit_of(gaussians: Gaussians, fov_rad: float = np.deg2rad(50.0)) -> Orbit:
    """The circle that shows a scene, from medians weighted by opacity: a far sky of less than half does not decide.

    Args:
        gaussians: the scene.
        fov_rad: full angle of view of the camera, the smaller of its two.

    Raises:
        ValueError: no Gaussians, or an angle that is not between 0 and pi.
    """
    if len(gaussians) == 0:
        raise ValueError("orbit_of: the scene has no Gaussians; render something else or train it first")
    if not 0 < fov_rad < np.pi:
        raise ValueError(f"orbit_of: fov_rad must lie between 0 and pi, got {fov_rad}")
    means, scales, weights = _weighed(gaussians)
    centre = np.array([_median(column, weights) for column in means.T])
    away_m = _median(np.linalg.norm(means - centre, axis=1), weights)
    reach_m = REACH * away_m + 2 * _median(scales.max(axis=1), weights)  # two sigma of what is at the rim
    distance_m = reach_m / np.sin(fov_rad / 2)
    return Orbit(centre, float(distance_m * np.cos(ELEVATION_RAD)), float(distance_m * np.sin(ELEVATION_RAD)), reach_m)


def _weighed(gaussians: Gaussians) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"], Float[ndarray, "n"]]:
    tensors = (gaussians.means, gaussians.scales, gaussians.opacities)
    means, scales, weights = (tensor.detach().double().cpu().numpy() for tensor in tensors)
    return means, scales, weights if weights.sum() > 0 else np.ones(len(weights))


def _median(values: Float[ndarray, "n"], weights: Float[ndarray, "n"]) -> float:
    """The value below which half of the weight lies."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def _apart(positions: Float[ndarray, "n 3"]) -> list[int]:
    """Indices of the positions that make a path: the first, those that moved on, and the last."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    least = NEAR_STEPS * steps.mean()
    if least == 0:
        return [0]
    far = lambda a, b: np.linalg.norm(positions[a] - positions[b]) > least  # noqa: E731
    kept, last = [0], len(positions) - 1
    for index in range(1, last):
        if far(index, kept[-1]):
            kept.append(index)
    while len(kept) > 1 and not far(last, kept[-1]):
        kept.pop()
    return [*kept, last]


def _path(poses: Sequence[SE3], count: int) -> tuple[Float[ndarray, "m 3"], Float[ndarray, "m 3 3"]]:
    try:
        from scipy.interpolate import CubicSpline
        from scipy.spatial.transform import Rotation, RotationSpline
    except ImportError as error:
        raise ImportError("a path through cameras needs scipy: pip install scipy") from error
    positions = np.stack([pose.translation_m for pose in poses])
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    along = CubicSpline(knots, positions, bc_type="natural")
    turning = RotationSpline(knots, Rotation.from_matrix(np.stack([pose.rotation for pose in poses])))
    table = np.concatenate([np.linspace(a, b, TABLE, endpoint=False) for a, b in pairwise(knots)])
    table = np.append(table, knots[-1])
    length_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(along(table), axis=0), axis=1))])
    at = np.interp(np.linspace(0, length_m[-1], count), length_m, table)
    return along(at), turning(at).as_matrix()


def _circle(
    first: Float[ndarray, "3"], second: Float[ndarray, "3"], radius_m: float, count: int
) -> Float[ndarray, "m 3"]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    return radius_m * (np.cos(angles) * first + np.sin(angles) * second)


def _unit(vector: Float[ndarray, "3"], name: str, least: float = 0.0) -> Float[ndarray, "3"]:
    length = float(np.linalg.norm(vector))
    if not (np.isfinite(length) and length > least):
        raise ValueError(f"a camera cannot be placed: {name} is {vector.tolist()}, want a finite direction")
    return vector / length


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"a path has at least one camera, got a count of {count}")


def _check_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, got {value}")
