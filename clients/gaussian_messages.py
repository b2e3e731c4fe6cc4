"""What RSUs and vehicles say to each other while a scene is rebuilt; `gaussian_wire` has how it travels.

Poses and images have no place in any of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int64
from numpy import ndarray
from torch import Tensor

from geometry import Sim3
from recon.gaussians import Gaussians
from recon.refine import Update
from recon.size_limit import SizeLimit

FIT, ALIGN, REFINE, JUDGE = "fit", "align", "refine", "judge"
ALL: Final = "all"
IMAGES, LIDAR = "images", "lidar"
NO_LANDMARKS: Final = np.zeros((0, 3), np.float32)
Metrics = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class FitRequest:
    """Fit your own images.

    Args:
        own_m, others_m: planned waypoints, which say where the vehicle's region ends.
        steps: of the fit.
        max_gaussians: budget.
        margin_m: what lies farther outside the region than this, see `waypoint_region`, is not to be sent; infinity
            sends all.
        seed: of the fit.
        landmarks: the most points on surfaces that are wanted, see `recon.landmarks`; 0 wants none.
        limit: how large Gaussians may be; None for as large as they like.
    """

    own_m: Float[ndarray, "k 2"]
    others_m: Float[ndarray, "j 2"]
    steps: int
    max_gaussians: int
    margin_m: float
    seed: int
    landmarks: int = 0
    limit: SizeLimit | None = None


@dataclass(frozen=True, eq=False)
class FitReply:
    """What a vehicle has of its stretch, in its own world.

    Args:
        gaussians: that it fitted.
        views: images behind them.
        metrics: what was measured.
        landmarks: see `recon.landmarks`; none without LiDAR.
    """

    gaussians: Gaussians
    views: int
    metrics: Metrics = field(default_factory=dict)
    landmarks: Float32[ndarray, "k 3"] = field(default_factory=lambda: NO_LANDMARKS)


@dataclass(frozen=True, eq=False)
class AlignRequest:
    """Say where others' Gaussians or landmarks lie in your own world.

    Args:
        others: Gaussians by name, in the worlds of their owners; if together, all in one world.
        together: whether to look for one similarity of all of them, `ALL`.
        landmarks: of others by name, in the worlds of their owners. Who finds one by these leaves the images out of
            it: it looks for none of the named by their Gaussians.
    """

    others: Mapping[str, Gaussians]
    together: bool = False
    landmarks: Mapping[str, Float32[ndarray, "_ 3"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """Where another party lies: all that leaves a vehicle that aligned it.

    Args:
        own_from_other: the similarity.
        before, after: loss at the start, and with the similarity; by LiDAR, mean distance from surfaces in metres.
        views: images that showed the other's Gaussians; by LiDAR, landmarks that lie on a surface.
        by: `IMAGES` or `LIDAR`.
    """

    own_from_other: Sim3
    before: float
    after: float
    views: int
    by: str = IMAGES


@dataclass(frozen=True, eq=False)
class AlignReply:
    """By name of the other party; those that the vehicle does not see are missing."""

    found: Mapping[str, Found]
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RefineRequest:
    """Improve the scene by your own images.

    Args:
        scene: Gaussians around the vehicle, in the world of all.
        world_from_own: where the vehicle's world lies.
        steps: of Adam.
        round_number: of the refinement, from 0.
        pace, rate: learning rates of the means, and of all else, as multiples of a fit's.
        seed: of the order of images.
        teacher: a smoothed scene to stay near, or None.
        report_quality: whether to measure how well the scene shows the vehicle's images.
        limit: how large Gaussians may be; None for as large as they like.
    """

    scene: Gaussians
    world_from_own: Sim3
    steps: int
    round_number: int
    pace: float
    seed: int
    teacher: Gaussians | None = None
    report_quality: bool = False
    rate: float = 1.0
    limit: SizeLimit | None = None


@dataclass(frozen=True, eq=False)
class RefineReply:
    """How Gaussians that the vehicle sees should change.

    Args:
        rows: of the scene that was sent, ascending.
        update: of these rows.
        views: images behind it.
    """

    rows: Int64[Tensor, "r"]
    update: Update
    views: int
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class JudgeRequest:
    """Say how well the scene shows images that you held back; those within `border_m` of a border apart."""

    scene: Gaussians
    world_from_own: Sim3
    own_m: Float[ndarray, "k 2"]
    others_m: Float[ndarray, "j 2"]
    border_m: float
