"""What a roadside unit (RSU) accepts of Gaussians that a vehicle uploads: within a budget, sane, in sight, not crowded.

An RSU has no images. It has a budget for each vehicle, its planned way, and what its other vehicles sent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from geometry import SE3, Camera
from recon.gaussians import Gaussians
from recon.refine import blend_weights
from recon.refusal import AcceptanceConfig, Budget, Cause, Refusal, UploadRefusedError, oversized, refusal
from recon.render import Backend
from recon.trajectories import fit_camera, look_at
from recon.views import View, camera_tensors

__all__ = [
    "AcceptanceConfig",
    "Accepted",
    "Budget",
    "Cause",
    "Refusal",
    "UploadRefusedError",
    "accept",
    "check_views",
    "nearest_sigma",
    "oversized",
    "refusal",
    "typical_count",
    "weights_px",
]

ALONG_AND_BACK: Final = (0.0, math.pi)
ALL_AROUND: Final = (0.0, 0.5 * math.pi, math.pi, 1.5 * math.pi)
Neighbour = tuple[Gaussians, Budget]
"""What another vehicle of the RSU sent, and what it might have."""
_STEPS_A_PIXEL: Final = 1 << 20  # weights are summed as whole numbers, which no order of the views changes


@dataclass(frozen=True, eq=False)
class Accepted:
    """What is taken of an upload.

    Args:
        gaussians: in the order of the upload.
        rows: of the upload that they were, ascending, [m].
        dropped: how many were not taken, by cause.
    """

    gaussians: Gaussians
    rows: Int64[Tensor, "m"]
    dropped: Mapping[Cause, int]


def accept(
    gaussians: Gaussians,
    budget: Budget,
    config: AcceptanceConfig,
    check_views: Sequence[View],
    neighbours: Sequence[Neighbour] = (),
    *,
    backend: Backend = "auto",
) -> Accepted:
    """The part of an upload that an RSU takes; neither the order of rows, views nor neighbours changes which.

    Three kinds of rows are dropped, one after the other: fog, which is what a check camera stands in (`nearest_sigma`);
    what is not seen, its `weights_px` being below the floor; and, where a ground cell then holds more than
    `density_ratio` times what is typical of the neighbours, all but those with the largest weight. Without neighbours,
    none is crowded.

    Args:
        gaussians: uploaded.
        budget: of the vehicle.
        config: limits.
        check_views: of which only camera and size matter, see `recon.acceptance.check_views`.
        neighbours: what was accepted of other vehicles, best in the round before: then it matters not who came first.
            With their budgets, for whoever may have more Gaussians than they in the same sight may have more a cell.
        backend: see `rasterize`.

    Raises:
        UploadRefusedError: see `refusal`.
        ValueError: there is a floor and no check view.
    """
    if (wrong := refusal(gaussians, budget, config)) is not None:
        raise UploadRefusedError(wrong)
    if config.weight_floor and not len(check_views):
        raise ValueError("accept needs a check view to weigh Gaussians by; give one, or a weight_floor of 0")
    order = _canonical(gaussians)
    order = order[nearest_sigma(gaussians.select(order), check_views) >= config.clear_sigma]
    clear = gaussians.detach().select(order)
    weights = weights_px(clear, check_views, backend)
    seen = weights >= config.weight_floor
    typical = typical_count(neighbours, config.cell_m, budget)
    most = math.inf if typical is None else max(math.floor(config.density_ratio * typical), 1)
    kept = seen.clone()
    kept[seen] = _rank_in_cell(clear.means[seen], weights[seen], config.cell_m) < most
    rows = order[kept].sort().values
    dropped = {Cause.FOG: len(gaussians) - len(order), Cause.UNSEEN: int((~seen).sum())}
    dropped[Cause.CROWDED] = int((seen & ~kept).sum())
    return Accepted(gaussians.detach().select(rows), rows, dropped)


def nearest_sigma(gaussians: Gaussians, views: Sequence[View]) -> Float[Tensor, "n"]:
    """How many of its standard deviations a Gaussian's centre is off the nearest camera, float64; infinity without one.

    A road is free: what the cameras on it stand in is fog, which hides the scene and costs the most to draw.
    """
    fixed = gaussians.detach()
    means, axes, scales = (tensor.cpu().double() for tensor in (fixed.means, fixed.rotations, fixed.scales))
    least = torch.full((len(gaussians),), math.inf, dtype=torch.float64)
    for index in range(len(views)):
        viewmat = views[index].viewmat.cpu().double()
        away_m = -viewmat[:3, :3].T @ viewmat[:3, 3] - means
        sigma = (torch.einsum("nji,nj->ni", axes, away_m) / scales).norm(dim=1)
        least = torch.minimum(least, sigma)
    return least


def weights_px(gaussians: Gaussians, views: Sequence[View], backend: Backend = "auto") -> Float[Tensor, "n"]:
    """`blend_weights` over all views, float64 and the same for any order of them."""
    total = torch.zeros(len(gaussians), dtype=torch.int64)
    for index in range(len(views)):
        weight = blend_weights(gaussians, [views[index]], backend).cpu().double()
        total += (weight * _STEPS_A_PIXEL).round().long()
    return total.double() / _STEPS_A_PIXEL


def typical_count(neighbours: Sequence[Neighbour], cell_m: float, budget: Budget) -> float | None:
    """With how many a Gaussian of the neighbours shares its ground cell, itself among them; None if there is none.

    The median over a neighbour's Gaussians, more by the factor by which the own budget is above the neighbour's; then
    the median over neighbours: less than half of these cannot move it far. It is no median over cells, since most
    cells of a street lie far off and hold one or two.
    """
    counts = [
        float(np.median(_shared_by(part.means, cell_m).numpy())) * max(1.0, budget.gaussians / max(theirs.gaussians, 1))
        for part, theirs in neighbours
        if len(part)
    ]
    return float(np.median(counts)) if counts else None


def check_views(
    waypoints_m: Float[ndarray, "k d"],
    *,
    apart_m: float = 5.0,
    height_m: float = 1.5,
    size_px: tuple[int, int] = (96, 128),
    fov_rad: float = math.radians(90.0),
    headings_rad: Sequence[float] = ALONG_AND_BACK,
) -> list[View]:
    """Level cameras that an RSU puts along its planned way, with black images.

    Args:
        waypoints_m: east, north and, if d = 3, up of the road; 0 if d = 2.
        apart_m: largest distance between two stops along the way.
        height_m: of the cameras above the road.
        size_px: height and width.
        fov_rad: full horizontal angle of view.
        headings_rad: directions at every stop, counter-clockwise from that of the way; along and back by default. A
            way of one place has no direction: there cameras look east, north, west and south.

    Raises:
        ValueError: no place, one that is not finite, or a distance, size or angle that is not positive.
    """
    points = np.asarray(waypoints_m, np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not np.isfinite(points).all():
        raise ValueError(f"waypoints_m must be finite, [k, 2] or [k, 3], got shape {points.shape}")
    if not (0 < apart_m < math.inf and math.isfinite(height_m) and min(size_px) > 0):
        raise ValueError(f"check views need positive apart_m and size_px, got {apart_m} and {size_px}")
    if not len(points):
        raise ValueError("waypoints_m holds no place; check views take one at least")
    points = np.column_stack([points, np.zeros(len(points))])[:, :3]
    points = points[np.append(True, np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1) > 0)]
    stops, turns = (_stops(points, apart_m), headings_rad) if len(points) > 1 else ([(points[0], 0.0)], ALL_AROUND)
    camera = fit_camera(Camera(SE3.identity(), 1, 1, 0, 0, size_px[1], size_px[0]), fov_rad=fov_rad)
    return [
        _black_view(
            camera, place + np.array([0, 0, height_m]), heading + turn, f"check view {number} at {turn:.2f} rad"
        )
        for number, (place, heading) in enumerate(stops)
        for turn in turns
    ]


def _stops(points: Float[ndarray, "k 3"], apart_m: float) -> list[tuple[Float[ndarray, "3"], float]]:
    """Places at equal distances along a way, both ends among them, and its direction there, counter-clockwise from
    east."""
    steps = np.diff(points, axis=0)
    knots_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(steps, axis=1))])
    at_m = np.linspace(0, knots_m[-1], math.ceil(knots_m[-1] / apart_m) + 1)
    segment = np.clip(np.searchsorted(knots_m, at_m, side="right") - 1, 0, len(steps) - 1)
    places = np.stack([np.interp(at_m, knots_m, column) for column in points.T], axis=1)
    headings = np.arctan2(steps[segment, 1], steps[segment, 0])
    return [(place, float(heading)) for place, heading in zip(places, headings, strict=True)]


def _black_view(camera: Camera, position_m: Float[ndarray, "3"], heading_rad: float, source: str) -> View:
    ahead = np.array([math.cos(heading_rad), math.sin(heading_rad), 0.0])
    pose = look_at(position_m, position_m + ahead)
    image = torch.zeros(camera.height_px, camera.width_px, 3, dtype=torch.uint8)
    return View(image, *camera_tensors(replace(camera, world_from_cam=pose), source), None, None, source)


def _canonical(gaussians: Gaussians) -> Int64[Tensor, "n"]:
    """An order of the rows by their values alone, so that the renderer meets them in one order however they came."""
    tensors = [tensor.detach().cpu().double() for tensor in gaussians.tensors().values()]
    rows = torch.cat([tensor.reshape(len(gaussians), math.prod(tensor.shape[1:])) for tensor in tensors], dim=1).numpy()
    return torch.from_numpy(np.lexsort(rows.T[::-1]))


def _cells(means: Float[Tensor, "n 3"], cell_m: float) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "c"]]:
    """Number of the ground cell of each, and how many are in each cell."""
    places = (means.detach().cpu()[:, :2].double() / cell_m).floor().long()
    _, cell, counts = torch.unique(places, dim=0, return_inverse=True, return_counts=True)
    return cell, counts


def _shared_by(means: Float[Tensor, "n 3"], cell_m: float) -> Int64[Tensor, "n"]:
    cell, counts = _cells(means, cell_m)
    return counts[cell]


def _rank_in_cell(means: Float[Tensor, "n 3"], weights: Float[Tensor, "n"], cell_m: float) -> Int64[Tensor, "n"]:
    """Place of each in its cell, the heaviest first; rows that weigh alike in the order they come."""
    if not len(means):
        return torch.zeros(0, dtype=torch.int64)
    cell, counts = _cells(means, cell_m)
    heaviest = torch.argsort(weights, descending=True, stable=True)
    order = heaviest[torch.argsort(cell[heaviest], stable=True)]
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(cell)
    rank[order] = torch.arange(len(cell)) - first[cell[order]]
    return rank
