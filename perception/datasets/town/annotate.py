"""Labels of what a camera sees: classes and objects of pixels, and boxes with KITTI's truncation and occlusion."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8
from numpy import ndarray

from geometry import SE3, Boxes, Camera
from perception.datasets.town.config import TownConfig
from perception.datasets.town.stage import Moment, Stage, rays_from
from perception.labels import SEGMENT_ID, SEGMENT_OF_OBJECT
from perception.raycast import MISS, Hits

NOBODY: Final = -1
_IS_OBJECT: Final = np.isin(np.arange(256), SEGMENT_OF_OBJECT)
_PROBES: Final = 48
_VISIBLE, _PARTLY = 0.8, 0.4
_CORNERS: Final = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])


def segments(now: Moment, hits: Hits) -> UInt8[ndarray, "n"]:
    """Semantic class of each ray; what hits nothing is sky."""
    return np.where(hits.face == MISS, np.uint8(SEGMENT_ID["sky"]), now.attribute("segment", hits.face))


def owners(now: Moment, hits: Hits) -> Int32[ndarray, "n"]:
    """Place among the day's actors of the object that each ray hits, -1 for none."""
    owner = now.attribute("owner", hits.face)
    owner[~_IS_OBJECT.take(segments(now, hits))] = NOBODY
    return owner


def annotate(
    stage: Stage, config: TownConfig, now: Moment, seen: Int32[ndarray, "h w"], camera: Camera, tick: int
) -> Boxes:
    """Boxes around the visible pixels of every object that is large and visible enough (see `TownConfig`)."""
    rows, columns = np.nonzero(seen != NOBODY)
    ids, place, pixels = np.unique(seen[rows, columns], return_inverse=True, return_counts=True)
    corner = np.stack([columns, rows], axis=1)
    low, high = np.full((len(ids), 2), max(seen.shape)), np.zeros((len(ids), 2), int)
    np.minimum.at(low, place, corner)
    np.maximum.at(high, place, corner + 1)
    extent, scale = high - low, camera.height_px / 128
    large = (extent[:, 1] >= config.min_box_height_px * scale) & (pixels >= config.min_box_pixels * scale**2)
    kept = np.flatnonzero(large)
    solids = np.array([stage.cuboid(int(i), tick) for i in ids[kept]]).reshape(-1, 7)
    inside_px, truncation = _projected(camera, solids)
    whole = extent[kept].prod(axis=1) >= config.min_visible_share * inside_px
    kept, solids, truncation = kept[whole], solids[whole], truncation[whole]
    xyxy = np.concatenate([low[kept], high[kept]], axis=1).astype(np.float32)
    actors = [stage.day.actors[i] for i in ids[kept]]
    return Boxes(
        xyxy,
        np.array([actor.model.label for actor in actors], np.int64),
        solids.astype(np.float32),
        np.array([actor.track_id for actor in actors], np.int64),
        truncation.astype(np.float32),
        occlusion(visible_shares(stage, now, camera, ids[kept], tick)),
    )


def _projected(camera: Camera, solids: Float[ndarray, "k 7"]) -> tuple[Float[ndarray, "k"], Float[ndarray, "k"]]:
    """Area (px) of the rectangle around each cuboid's corners inside the image, and the share of it outside.

    Corners behind the camera are left out, which understates the truncation of what stands beside it.
    """
    areas, outside = np.zeros(len(solids)), np.zeros(len(solids))
    for k, solid in enumerate(solids):
        corners = SE3.from_yaw(float(solid[6]), solid[:3]).apply(_CORNERS * solid[3:6])
        uv, depth_m = camera.project(corners)
        uv = uv[depth_m > 0.2]
        if len(uv):
            whole = float(np.prod(np.ptp(uv, axis=0)))
            areas[k] = np.prod(np.ptp(np.clip(uv, 0, [camera.width_px, camera.height_px]), axis=0))
            outside[k] = 1 - areas[k] / max(whole, 1e-9)
    return areas, np.clip(outside, 0, 1)


def visible_shares(stage: Stage, now: Moment, camera: Camera, ids: Int[ndarray, "k"], tick: int) -> Float[ndarray, "k"]:
    """Share of each object's outline inside the image that nothing stands before.

    Rays are cast at vertices of its mesh: where the first hit is another object or thing, the vertex is hidden.
    """
    origin = camera.world_from_cam.translation_m
    targets = [stage.outline(int(i), tick, _PROBES) for i in ids]
    aimed = np.repeat(np.arange(len(ids)), [len(points) for points in targets])
    points = np.concatenate([np.zeros((0, 3)), *targets])
    uv, depth_m = camera.project(points)
    inside = (depth_m > 0.2) & (uv >= 0).all(axis=1) & (uv < [camera.width_px, camera.height_px]).all(axis=1)
    aimed, rays = aimed[inside], rays_from(origin, points[inside] - origin)
    hit = owners(now, now.cast(rays)) == ids[aimed]
    count = np.bincount(aimed, minlength=len(ids))
    return np.bincount(aimed, hit, minlength=len(ids)) / np.maximum(count, 1)


def occlusion(visible: Float[ndarray, "k"]) -> Int[ndarray, "k"]:
    """KITTI's grades: 0 fully visible (80 % and more), 1 partly (40 % and more), 2 largely occluded."""
    return np.where(visible >= _VISIBLE, 0, np.where(visible >= _PARTLY, 1, 2)).astype(np.int64)
