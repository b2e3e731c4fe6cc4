"""Coloured points from which a fit starts: LiDAR, depth, known points, structure from motion, or chance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from geometry import Frame
from recon.gaussians import Gaussians
from recon.photos import Cloud, Mask, Photos, camera_spread, hits, joined, name_of, some_of, uncovered
from recon.sfm import triangulate

SOURCES: Final = ("auto", "lidar", "depth", "known", "sfm", "random")
MIN_RANGE_M: Final = 1.0  # LiDAR returns nearer than this are the vehicle itself
MAX_FAR_SHARE: Final = 0.3
FAR_RADII, FAR_DISTANCES = 20.0, 5.0
NEAR_SHARE: Final = 0.25
MOST_SHARE: Final = 0.95  # of the points, which the far shell lies beyond
NEAREST_RADII, FARTHEST_RADII = 0.2, 20.0
LONE_RADIUS_M: Final = 5.0  # taken where the cameras coincide within a centimetre, so that depths are 1 to 100 m
MIN_SFM_IMAGES, MIN_SFM_POINTS = 3, 100


@dataclass(frozen=True, eq=False)
class InitialPoints:
    """Where a fit starts.

    Args:
        xyz_world: in the frames' world, metres, [n, 3].
        rgb: colours, [n, 3].
        source: what they were made of, and what was passed over and why; for the log.
    """

    xyz_world: Float32[ndarray, "n 3"]
    rgb: UInt8[ndarray, "n 3"]
    source: str

    def __len__(self) -> int:
        return len(self.xyz_world)

    def gaussians(self, size: float = 0.5, opacity: float = 0.5) -> Gaussians:
        """Balls at the points; `size` is their deviation over the distance to neighbours. Larger ones start blurred."""
        balls = Gaussians.from_points(self.xyz_world, self.rgb, opacity=opacity)
        return replace(balls, log_scales=balls.log_scales + math.log(size))


@dataclass(frozen=True, eq=False)
class _Pool:
    """Points to choose from; `far` are the pixels that show what none of them covers, out of `pixels`.

    `infinite` if these are known to show nothing at all.
    """

    cloud: Cloud
    label: str
    far: Sequence[Mask]
    pixels: int
    infinite: bool = False


def initial_points(
    frames: Sequence[Frame],
    count: int,
    *,
    source: str = "auto",
    known: Cloud | None = None,
    seed: int = 0,
    ignore: Callable[[Frame], Bool[ndarray, "h w"] | None] | None = None,
    far_m: float | None = None,
) -> InitialPoints:
    """At most `count` coloured points that the cameras see.

    - "lidar": returns from 1 m on; a random part of them, so as dense in the images as the scan is. A point has the
      colour of its own frame's image, or else of the image that has it in view at the least depth; occlusion is not
      tested.
    - "depth": pixels with finite depth; half of the draws fall half by the local image gradient.
    - "known": points handed over, as of a COLMAP model.
    - "sfm": see `recon.sfm.triangulate`.
    - "random": pixels at inverse depths drawn evenly between those of 0.2 and 20 times the radius of the camera
      centres (about their mean); 1 and 100 m where they coincide.
    - "auto": the first of these that there is; structure from motion has to reach 3 images and 100 points.

    All but "random" add pixels that show what no point covers, so that the sky starts behind the scene: those of
    infinite depth, or, without depth, of square cells (an eighth of the height, 8 to 16 px) of which neither they nor a
    neighbour hold a point. They are as large a share of the result as of the pixels, at most 30 %. Those of infinite
    depth lie along their rays on a far shell: at 20 times the radius of the cameras or 5 times the distance from the
    cameras' mean within which 95 % of the points lie, whichever is more. The others may be sky, or the upper half of a
    house that the LiDAR did not reach: their inverse distances are drawn evenly between the shell's and that of the
    nearest quarter of the points. Near ones find house fronts above the scan where a fit is long; where it is short
    they hang in the air: with `far_m` half of them start on the shell, the others beyond the farthest point.

    Args:
        frames: with images and poses in one world; sizes may differ.
        count: the most points that are wanted.
        source: one of `SOURCES`.
        known: xyz in the world [n, 3] and rgb [n, 3].
        seed: of all draws.
        ignore: pixels that are not to be used, such as those of moving objects.
        far_m: distance of the shell, at least, see above; None leaves it where it is and spreads all.

    Raises:
        ValueError: a frame without image or with NaN or negative depth, a source that was asked for by name and is not
            there, no point in view of a camera, or arguments that do not fit.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}, want one of {', '.join(SOURCES)}")
    if far_m is not None and not (math.isfinite(far_m) and far_m > 0):
        raise ValueError(f"far_m is {far_m}, want metres above 0")
    if count < 1:
        raise ValueError(f"count is {count}, want at least one initial point")
    photos, rng = Photos.of(frames, ignore), np.random.default_rng(seed)
    makers: dict[str, Callable[[], _Pool | str]] = {
        "lidar": lambda: _lidar(photos, count, rng),
        "depth": lambda: _depth(photos, count, rng),
        "known": lambda: _known(photos, known, rng),
        "sfm": lambda: _sfm(photos, rng, seed, strict=source == "auto"),
        "random": lambda: _random(photos, count, rng),
    }
    passed_over: list[str] = []
    for name in makers if source == "auto" else (source,):
        pool = makers[name]()
        if isinstance(pool, _Pool):
            points = _choose(photos, pool, count, far_m, rng)
            reasons = f" (passed over: {', '.join(passed_over)})" if passed_over else ""
            return replace(points, source=points.source + reasons)
        passed_over.append(pool)
    raise ValueError(f"source is {source!r}, but {passed_over[0]}; use another source, or 'auto'")


def _lidar(photos: Photos, count: int, rng: np.random.Generator) -> _Pool | str:
    clouds: list[Cloud] = []
    unseen, sweeps = [np.zeros((0, 3))], 0
    for index, frame in enumerate(photos.frames):
        if frame.points_lidar is None or not len(frame.points_lidar):
            continue
        sweeps += 1
        range_m = np.linalg.norm(frame.points_lidar[:, :3], axis=1)
        xyz = frame.points_world()[np.isfinite(range_m) & (range_m >= MIN_RANGE_M)]
        rows, place, _ = hits(frame.camera, xyz)
        kept = photos.usable[index].ravel()[place]
        clouds.append((xyz[rows][kept], photos.images[index].reshape(-1, 3)[place[kept]]))
        unseen.append(np.delete(xyz, rows, axis=0))
    if not sweeps:
        return "no frame has LiDAR points"
    others = np.concatenate(unseen)
    clouds.append(_from_nearest(photos, others[some_of(len(others), count, rng)]))
    cloud = joined(clouds)
    if not len(cloud[0]) and len(others):
        raise _out_of_view(len(others))
    if not len(cloud[0]):
        return f"no LiDAR point is left that is {MIN_RANGE_M:g} m away and not ignored"
    return _Pool(cloud, f"LiDAR of {sweeps} frames", *uncovered(photos, cloud[0], rng))


def _from_nearest(photos: Photos, xyz: Float[ndarray, "n 3"]) -> Cloud:
    """Those of the points that a camera has in view, with their colours in the nearest such image."""
    nearest_m, rgb = np.full(len(xyz), np.inf), np.zeros((len(xyz), 3), np.uint8)
    for frame, image, usable in zip(photos.frames, photos.images, photos.usable, strict=True):
        rows, place, depth_m = hits(frame.camera, xyz)
        nearer = usable.ravel()[place] & (depth_m < nearest_m[rows])
        nearest_m[rows[nearer]] = depth_m[nearer]
        rgb[rows[nearer]] = image.reshape(-1, 3)[place[nearer]]
    seen = np.isfinite(nearest_m)
    return xyz[seen], rgb[seen]


def _depth(photos: Photos, count: int, rng: np.random.Generator) -> _Pool | str:
    weights, far, pixels, depths = [], [], 0, []
    for frame, image, usable in zip(photos.frames, photos.images, photos.usable, strict=True):
        depth_m = np.zeros(usable.shape, np.float32) if frame.depth_m is None else frame.depth_m
        if not (depth_m >= 0).all():
            raise ValueError(
                f"{name_of(frame)}: depth_m holds NaN or negative values; want metres, infinity where nothing was hit"
            )
        weights.append(_detail(image, usable & (depth_m > 0) & np.isfinite(depth_m)))
        far.append(usable & np.isinf(depth_m))
        depths.append(depth_m)
        pixels += int((weights[-1] > 0).sum() + far[-1].sum())
    if all(frame.depth_m is None for frame in photos.frames):
        return "no frame has depth"
    frame_of, place = found = photos.draw(weights, count, rng)
    if not len(place):
        return "no pixel has a finite depth"
    depth = np.concatenate([depth_m.ravel()[place[frame_of == index]] for index, depth_m in enumerate(depths)])
    frames = sum(frame.depth_m is not None for frame in photos.frames)
    return _Pool(photos.lift(found, depth.astype(np.float64)), f"depth of {frames} frames", far, pixels, True)


def _detail(image: UInt8[ndarray, "h w 3"], chosen: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Weights of chosen pixels, 0 elsewhere: half of their sum is even, half follows the image gradient."""
    grey = image.sum(axis=2, dtype=np.float32)
    down, right = np.diff(grey, axis=0, prepend=grey[:1]), np.diff(grey, axis=1, prepend=grey[:, :1])
    gradient = (np.abs(down) + np.abs(right)) * chosen
    total = float(gradient.sum())
    return chosen + gradient * (float(chosen.sum()) / total if total else 0.0)


def _known(photos: Photos, known: Cloud | None, rng: np.random.Generator) -> _Pool | str:
    if known is None or not len(known[0]):
        return "no known points were given"
    xyz, rgb = np.asarray(known[0], np.float64), np.asarray(known[1])
    if xyz.shape != (len(xyz), 3) or rgb.shape != xyz.shape or rgb.dtype != np.uint8 or not np.isfinite(xyz).all():
        raise ValueError("known must be finite xyz [n, 3] and uint8 rgb [n, 3] of the same points; drop bad rows")
    in_view = np.zeros(len(xyz), bool)
    for frame in photos.frames:
        left = np.flatnonzero(~in_view)
        in_view[left[hits(frame.camera, xyz[left])[0]]] = True
    if not in_view.any():
        raise _out_of_view(len(xyz))
    return _Pool((xyz[in_view], rgb[in_view]), "known points", *uncovered(photos, xyz[in_view], rng))


def _sfm(photos: Photos, rng: np.random.Generator, seed: int, strict: bool) -> _Pool | str:
    try:
        found = triangulate(photos.frames, usable=photos.usable, seed=seed)
    except (ImportError, ValueError) as error:
        return str(error)
    label = f"SfM by pycolmap: {found.images} of {len(photos.frames)} images"
    if strict and (found.images < MIN_SFM_IMAGES or len(found.xyz_world) < MIN_SFM_POINTS):
        return f"{label} give {len(found.xyz_world)} points, too few"
    pool = _known(photos, (found.xyz_world, found.rgb), rng)
    return pool if isinstance(pool, str) else replace(pool, label=label)


def _random(photos: Photos, count: int, rng: np.random.Generator) -> _Pool:
    radius_m = camera_spread(photos)[1]
    radius_m = radius_m if radius_m > 0.01 else LONE_RADIUS_M
    pixels = photos.draw(photos.usable, count, rng)
    inverse = rng.uniform(1 / FARTHEST_RADII, 1 / NEAREST_RADII, len(pixels[0])) / radius_m
    return _Pool(photos.lift(pixels, 1 / inverse), f"random in the frusta of {len(photos.frames)} frames", [], 1)


def _choose(photos: Photos, pool: _Pool, count: int, far_m: float | None, rng: np.random.Generator) -> InitialPoints:
    """Points of the pool and of the far shell in their shares."""
    (xyz, rgb), (centre, radius_m) = pool.cloud, camera_spread(photos)
    share = min(sum(int(mask.sum()) for mask in pool.far) / pool.pixels, MAX_FAR_SHARE)
    near_count = count - round(share * count)
    rows = some_of(len(xyz), near_count, rng)
    parts, label = [(xyz[rows], rgb[rows])], pool.label
    far_count = count - near_count if len(rows) == near_count else round(share / (1 - share) * len(rows))
    if far_count:
        pixels = photos.draw(pool.far, far_count, rng)
        distance_m, inverse = np.linalg.norm(xyz - centre, axis=1), np.ones(len(pixels[0]))
        nearest_m, shell_m = _beyond(distance_m, radius_m, NEAR_SHARE if far_m is None else 1.0)
        shell_m = max(shell_m, far_m or 0.0)
        if not pool.infinite:
            spread = slice(None) if far_m is None else slice(None, None, 2)
            inverse[spread] = rng.uniform(1, shell_m / nearest_m, len(inverse[spread]))
        parts.append(photos.lift(pixels, shell_m / inverse, along_ray=True))
        label += f"; {len(pixels[0])} " + ("on the far shell" if pool.infinite else "where none of these is seen")
    chosen = joined(parts)
    return InitialPoints(chosen[0].astype(np.float32), chosen[1], label)


def _beyond(distance_m: Float[ndarray, "n"], radius_m: float, near_share: float) -> tuple[float, float]:
    """Where what no point covers may lie: from the nearest share of the points to the far shell, metres."""
    nearest_m, most_m = np.quantile(distance_m, [near_share, MOST_SHARE])
    far_m = max(FAR_RADII * radius_m, FAR_DISTANCES * most_m)
    return float(np.clip(nearest_m, 1e-3 * far_m, far_m)), float(far_m)


def _out_of_view(total: int) -> ValueError:
    return ValueError(
        f"none of the {total} initial points lies in view of any camera: check poses "
        "(camera axes are OpenCV's: x right, y down, z forward)"
    )
