"""Labels of what a camera sees: semantic classes of pixels, and boxes of objects."""

import numpy as np
from jaxtyping import Float, Int32, UInt8
from numpy import ndarray

from geometry import SE3, Boxes, Camera
from perception.datasets.town.config import TownConfig
from perception.datasets.town.stage import Moment, Stage, cuboids
from perception.labels import SEGMENT_ID, SEGMENT_OF_OBJECT
from perception.raycast import MISS, Hits


def segments(now: Moment, hits: Hits) -> UInt8[ndarray, "n"]:
    """Semantic class of each ray; what hits nothing is sky."""
    return np.where(hits.face == MISS, np.uint8(SEGMENT_ID["sky"]), now.attribute("segment", hits.face))


def owners(now: Moment, hits: Hits) -> Int32[ndarray, "n"]:
    """Track id of the object that each ray hits, -1 for none."""
    is_object = np.isin(segments(now, hits), SEGMENT_OF_OBJECT)
    return np.where(is_object, now.attribute("owner", hits.face), np.int32(-1))


def annotate(stage: Stage, config: TownConfig, now: Moment, hits: Hits, camera: Camera, tick: int) -> Boxes:
    """Boxes around the visible pixels of every object that is large and visible enough (see `TownConfig`)."""
    seen = owners(now, hits).reshape(camera.height_px, camera.width_px)
    rows, columns = np.nonzero(seen >= 0)
    ids, place, pixels = np.unique(seen[rows, columns], return_inverse=True, return_counts=True)
    corner = np.stack([columns, rows], axis=1)
    low, high = np.full((len(ids), 2), max(seen.shape)), np.zeros((len(ids), 2), int)
    np.minimum.at(low, place, corner)
    np.maximum.at(high, place, corner + 1)
    solids = cuboids(stage, ids, tick)
    whole = np.array([projected_area_px(camera, solid) for solid in solids])
    extent = high - low
    scale = camera.height_px / 128
    keep = (extent[:, 1] >= config.min_box_height_px * scale) & (pixels >= config.min_box_pixels * scale**2)
    keep &= extent.prod(axis=1) >= config.min_visible_share * whole
    labels = np.array([stage.day.actors[i].model.label for i in ids], np.int64)
    xyxy = np.concatenate([low, high], axis=1).astype(np.float32)
    return Boxes(xyxy, labels, solids.astype(np.float32), ids.astype(np.int64)).select(keep)


def projected_area_px(camera: Camera, cuboid: Float[ndarray, "7"]) -> float:
    """Area of the rectangle around a cuboid's projected corners inside the image; corners behind are left out."""
    signs = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
    corners = SE3.from_yaw(float(cuboid[6]), cuboid[:3]).apply(signs * cuboid[3:6])
    uv, depth_m = camera.project(corners)
    uv = np.clip(uv[depth_m > 0.2], 0, [camera.width_px, camera.height_px])
    return float(np.prod(uv.max(axis=0) - uv.min(axis=0))) if len(uv) else 0.0
