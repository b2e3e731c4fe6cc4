"""Landmarks found in a map of surfaces: the similarity that lays one LiDAR's points onto what another has seen.

Each point is drawn to the plane of the nearest surface (Chen and Medioni 1992, "Object modelling by registration of
multiple range images"), by Gauss-Newton on the seven numbers of a similarity. What belongs to nothing must not draw:
weights are those of Geman and McClure, whose width shrinks from step to step (Yang et al. 2020, "Graduated
non-convexity").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from geometry import Sim3
from recon.chart import rotation_matrix, rotation_vector
from recon.landmarks import SurfaceMap

MOST: Final = (0.2, 0.15, 5.0)  # logarithm of scale, radians, and metres, that positioning may be off by
HELD_M: Final = 0.05  # width of the kernel by which it is judged what surfaces hold
CUT_M: Final = 0.3  # distance from which a point belongs to nothing, when matches are judged


@dataclass(frozen=True)
class RegisterConfig:
    """How a registration searches.

    Args:
        shifts_m: east and north, in all pairs, of the places it starts from.
        coarse_points: that decide between these.
        coarse_m, fine_m: width of the kernel at the first and last step of either search.
        coarse_steps, fine_steps: of Gauss-Newton.
        finalists: starts that are followed to the end.
        fewest, least_share: of the landmarks must match, both as a number and as a share.
        least_hold: see `hold`; below it the street is too plain for LiDAR, as between two blank walls.

    Raises:
        ValueError: a number or width is not positive, or there is no place to start from.
    """

    shifts_m: tuple[float, ...] = (-1.5, 0.0, 1.5)
    coarse_points: int = 600
    coarse_m: tuple[float, float] = (1.0, 0.3)
    fine_m: tuple[float, float] = (0.5, 0.02)
    coarse_steps: int = 10
    fine_steps: int = 24
    finalists: int = 2
    fewest: int = 100
    least_share: float = 0.1
    least_hold: float = 0.002

    def __post_init__(self) -> None:
        for name in ("coarse_points", "coarse_steps", "fine_steps", "finalists", "fewest"):
            if getattr(self, name) < 1:
                raise ValueError(f"RegisterConfig.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("coarse_m", "fine_m"):
            if not all(0 < width_m < math.inf for width_m in getattr(self, name)):
                raise ValueError(f"RegisterConfig.{name} must be two widths above 0, got {getattr(self, name)}")
        if not self.shifts_m:
            raise ValueError("RegisterConfig.shifts_m must hold a place to start from; (0.0,) is the first guess")


@dataclass(frozen=True, eq=False)
class Registration:
    """Where landmarks lie.

    Args:
        map_from_points: the similarity.
        before_m, after_m: mean distance from surfaces of the points that match, at the start (`CUT_M` at most) and
            with the similarity.
        matched: points with a surface within `CUT_M`.
    """

    map_from_points: Sim3
    before_m: float
    after_m: float
    matched: int


def register(
    points_m: Float[ndarray, "k 3"],
    surface: SurfaceMap,
    start: Sim3 | None = None,
    config: RegisterConfig | None = None,
) -> Registration | None:
    """The similarity that lays most landmarks onto surfaces, sought around a first guess.

    None if too few match, or if surfaces leave some direction open, in which the first guess would decide.

    Args:
        points_m: landmarks in their owner's world.
        surface: of another vehicle, in its world.
        start: map from points; by default both worlds are about the same.
        config: see there.
    """
    config, start = config or RegisterConfig(), start or Sim3.identity()
    if len(points_m) < config.fewest or not len(surface):
        return None
    points_m = np.asarray(points_m, np.float64)
    few = points_m[:: max(1, len(points_m) // config.coarse_points)]
    starts = [_moved(start, shift) for shift in product(config.shifts_m, repeat=2)]
    coarse = [_descended(few, surface, guess, config.coarse_m, config.coarse_steps) for guess in starts]
    middle_m = points_m.mean(axis=0, keepdims=True)
    coarse = [guess for guess in coarse if _likely(guess, start, middle_m)]
    best = sorted(coarse, key=lambda guess: distances_m(few, surface, guess).mean())[: config.finalists]
    ends = [_descended(points_m, surface, guess, config.fine_m, config.fine_steps) for guess in best]
    ends = [end for end in ends if _likely(end, start, middle_m)]
    if not ends:
        return None
    found = min(ends, key=lambda end: distances_m(points_m, surface, end).mean())
    after_m = distances_m(points_m, surface, found)
    matched = after_m < CUT_M
    if matched.sum() < max(config.fewest, config.least_share * len(points_m)):
        return None
    if hold(points_m, surface, found) < config.least_hold:
        return None
    before_m = distances_m(points_m[matched], surface, start)
    return Registration(found, float(before_m.mean()), float(after_m[matched].mean()), int(matched.sum()))


def distances_m(points_m: Float[ndarray, "k 3"], surface: SurfaceMap, map_from_points: Sim3) -> Float[ndarray, "k"]:
    """Of points from the planes of their nearest surfaces; `CUT_M` where there is none so near."""
    there_m = map_from_points.apply(points_m)
    rows, places = _pairs(there_m, surface, CUT_M)
    off_m = np.full(len(points_m), CUT_M)
    off_m[rows] = np.abs(np.einsum("ij,ij->i", surface.normals[places], there_m[rows] - surface.xyz_m[places]))
    return off_m


def hold(points_m: Float[ndarray, "k 3"], surface: SurfaceMap, map_from_points: Sim3) -> float:
    """How firmly surfaces hold landmarks in the direction in which they hold them least: 0 not at all, 1/4 at best.

    The least eigenvalue of Gauss-Newton's curvature per landmark, turns and stretch taken at the landmarks' mean square
    distance from their middle (Gelfand et al. 2003, "Geometrically stable sampling for the ICP algorithm").
    """
    there_m = map_from_points.apply(points_m)
    rows, places = _pairs(there_m, surface, 3 * HELD_M)
    if not len(rows):
        return 0.0
    there_m, normals = there_m[rows], surface.normals[places]
    weights = _weights(np.einsum("ij,ij->i", normals, there_m - surface.xyz_m[places]), HELD_M)
    arm_m = there_m - there_m.mean(axis=0)
    radius_m = max(float(np.sqrt(np.square(arm_m).sum(axis=1).mean())), 1e-9)
    slopes = _slopes(arm_m / radius_m, normals)
    return float(np.linalg.eigvalsh((slopes * weights[:, None]).T @ slopes)[0] / len(points_m))


def _moved(start: Sim3, shift_m: Sequence[float]) -> Sim3:
    return Sim3(np.eye(3), np.array([*shift_m, 0.0]), 1.0) @ start


def _pairs(there_m: Float[ndarray, "k 3"], surface: SurfaceMap, most_m: float) -> tuple[ndarray, ndarray]:
    """Points that have a surface within a distance, and rows of these surfaces."""
    away_m, places = surface.tree.query(there_m, distance_upper_bound=most_m)
    rows = np.flatnonzero(np.isfinite(away_m))
    return rows, places[rows]


def _descended(
    points_m: Float[ndarray, "k 3"], surface: SurfaceMap, guess: Sim3, widths_m: tuple[float, float], steps: int
) -> Sim3:
    """After some steps of Gauss-Newton, the kernel narrowing all along."""
    first_m, last_m = widths_m
    for step in range(steps):
        width_m = first_m * (last_m / first_m) ** (step / max(steps - 1, 1))
        guess = _stepped(points_m, surface, guess, width_m)
    return guess


def _stepped(points_m: Float[ndarray, "k 3"], surface: SurfaceMap, guess: Sim3, width_m: float) -> Sim3:
    there_m = guess.apply(points_m)
    rows, places = _pairs(there_m, surface, 3 * width_m)
    if len(rows) < 7:
        return guess
    there_m, normals = there_m[rows], surface.normals[places]
    off_m = np.einsum("ij,ij->i", normals, there_m - surface.xyz_m[places])
    weights = _weights(off_m, width_m)
    pivot_m = there_m.mean(axis=0)
    slopes = _slopes(there_m - pivot_m, normals)
    curvature = (slopes * weights[:, None]).T @ slopes + 1e-9 * np.eye(7)
    move = -np.linalg.solve(curvature, slopes.T @ (weights * off_m))
    rotation, scale = rotation_matrix(torch.tensor(move[:3])).numpy(), float(np.exp(np.clip(move[3], -0.1, 0.1)))
    return Sim3(rotation, pivot_m + move[4:] - scale * rotation @ pivot_m, scale) @ guess


def _weights(off_m: Float[ndarray, "k"], width_m: float) -> Float[ndarray, "k"]:
    """Those of Geman and McClure."""
    return (1 + (off_m / width_m) ** 2) ** -2


def _slopes(arm_m: Float[ndarray, "k 3"], normals: Float[ndarray, "k 3"]) -> Float[ndarray, "k 7"]:
    """Of the distances from planes by turns, stretch and shifts."""
    stretch = np.einsum("ij,ij->i", normals, arm_m)[:, None]
    return np.concatenate([np.cross(arm_m, normals), stretch, normals], axis=1)


def _likely(found: Sim3, start: Sim3, middle_m: Float[ndarray, "1 3"]) -> bool:
    """Whether positioning may err by so much."""
    log_scale, radians, metres = MOST
    turned = np.linalg.norm(rotation_vector(found.rotation @ start.rotation.T))
    shifted_m = np.linalg.norm(found.apply(middle_m) - start.apply(middle_m))
    return bool(abs(math.log(found.scale / start.scale)) <= log_scale and turned <= radians and shifted_m <= metres)
