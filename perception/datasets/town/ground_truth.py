"""Points on the exact surfaces of a town, to judge a reconstruction by."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from scipy.spatial import cKDTree

from perception.datasets.town.config import TownConfig
from perception.datasets.town.layout import plan_town
from perception.datasets.town.mesh import Mesh
from perception.datasets.town.scenery import build_scenery

_OVERHANG_M: Final = 3.0  # of crowns and lamps over the edge of their block


def surface_points(
    config: TownConfig, path_m: Float[ndarray, "k 2"], within_m: float, per_m2: float, seed: int = 0
) -> Float32[ndarray, "n 3"]:
    """Points spread evenly over all that stands still (parked vehicles aside) near a path.

    Args:
        config: the town.
        path_m: x y of places, say of a drive's cameras, [k, 2].
        within_m: how far from any of them on the ground.
        per_m2: points on a square metre of surface.
        seed: decides the points.
    """
    layout = plan_town(config)
    low, high = path_m.min(axis=0) - within_m - _OVERHANG_M, path_m.max(axis=0) + within_m + _OVERHANG_M
    rects = np.array([block.rect_m for block in layout.blocks()])
    blocks = np.flatnonzero(((rects[:, :2] < high) & (rects[:, 2:] > low)).all(axis=1)).tolist()
    mesh = build_scenery(layout, config.seed, blocks).mesh
    points = sample_surface(near(mesh, path_m, within_m), per_m2, np.random.default_rng([config.seed, 21, seed]))
    away_m, _ = cKDTree(path_m).query(points[:, :2])
    return points[away_m <= within_m]


def near(mesh: Mesh, path_m: Float[ndarray, "k 2"], within_m: float) -> Float32[ndarray, "f 3 3"]:
    """Corners of the triangles whose bounding rectangle touches that of the path, widened."""
    corners = mesh.vertices[mesh.faces]
    low, high = path_m.min(axis=0) - within_m, path_m.max(axis=0) + within_m
    xy = corners[..., :2]
    return corners[((xy.min(axis=1) <= high) & (xy.max(axis=1) >= low)).all(axis=1)]


def sample_surface(
    corners: Float32[ndarray, "f 3 3"], per_m2: float, rng: np.random.Generator
) -> Float32[ndarray, "n 3"]:
    """Points uniform over triangles (Turk 1990): the count follows the area, the place two square-root weights."""
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    count = rng.poisson(area.sum() * per_m2)
    chosen = rng.choice(len(corners), count, p=area / area.sum()) if count else np.zeros(0, int)
    root, share = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    a, b, c = corners[chosen].transpose(1, 0, 2)
    return (a * (1 - root) + b * root * (1 - share) + c * root * share).astype(np.float32)
