"""The scene as the tiers hold it: Gaussians by RSU, merged, looked up around a vehicle, changed by updates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from geometry import Sim3
from recon.gaussians import Gaussians
from recon.merge import Part, merged_parts
from recon.plan import Plan, gap_m
from recon.refine import Update, block_weights, combined, pooled, spread
from recon.region import distance_m
from recon.size_limit import SizeLimit
from strategies.gaussian_config import FusionConfig

FAR: Final = ""  # name of all old regions out of sight, as one part of a merge
Scene = Mapping[str, Gaussians]
"""What each RSU holds of the scene, by its name; nothing is held twice."""


def whole(scene: Scene) -> Gaussians:
    """All of it, RSU by RSU in order of their names."""
    return Gaussians.concat([scene[rsu] for rsu in sorted(scene)])


def fused_at_rsu(rsu: str, parts: Mapping[str, Gaussians], plan: Plan, config: FusionConfig) -> Gaussians:
    """The Gaussians of an RSU's vehicles, in the world of all, as one set.

    Raises:
        ValueError: there are none.
    """
    regions = {vehicle: plan.region(vehicle, same_rsu=True) for vehicle in parts}
    merged = merged_parts(
        [Part(vehicle, gaussians, regions[vehicle]) for vehicle, gaussians in parts.items()],
        *(config.blend_m,),
        fill=config.fill,
        duplicates=config.duplicates,
    )
    return Gaussians.concat(list(merged.values()))


def fused_in_cloud(scene: Scene, plan: Plan, config: FusionConfig) -> dict[str, Gaussians]:
    """What stays of each RSU's set beside those of the others."""
    parts = [Part(rsu, gaussians, plan.rsu_region(rsu)) for rsu, gaussians in scene.items()]
    return merged_parts(parts, config.blend_m, fill=config.fill, duplicates=config.duplicates)


def joined_by(
    old: Scene, new: Scene, plan: Plan, config: FusionConfig
) -> tuple[dict[str, Gaussians], dict[str, Bool[Tensor, "n"]]]:
    """A scene with more regions, and which Gaussians of each RSU may still change.

    What an old region holds within it, farther from its border than half the band, keeps every bit. Where an old
    RSU's cameras looked beyond their region, and the new one has something, that fades out. Old regions out of sight of
    the new ones keep every bit; new Gaussians among theirs are left out.

    Args:
        old: trained regions.
        new: those to be added.
        plan: with the stretches of all.
        config: widths.
    """
    new_m = plan.waypoints_of(new)
    near = {rsu: part for rsu, part in old.items() if gap_m(plan.waypoints_of([rsu]), new_m) <= config.sight_m}
    far = {rsu: part for rsu, part in old.items() if rsu not in near}
    parts = [Part(rsu, part, plan.rsu_region(rsu)) for rsu, part in {**near, **new}.items()]
    parts += [Part(FAR, whole(far), plan.rsu_region(*far))] if far else []
    merged = merged_parts(parts, config.blend_m, fill=config.fill, duplicates=config.duplicates)
    kept, free = {**far, **{rsu: merged[rsu] for rsu in new}}, dict[str, Bool[Tensor, "n"]]()
    free |= {rsu: torch.ones(len(merged[rsu]), dtype=torch.bool) for rsu in new}
    free |= {rsu: torch.zeros(len(part), dtype=torch.bool) for rsu, part in far.items()}
    for rsu, before in near.items():
        inside = plan.rsu_region(rsu)(before.means) > config.blend_m / 2
        outside_now = plan.rsu_region(rsu)(merged[rsu].means) <= config.blend_m / 2
        kept[rsu] = Gaussians.concat([before.select(inside), merged[rsu].select(outside_now)])
        free[rsu] = torch.arange(len(kept[rsu])) >= int(inside.sum())
    return {rsu: kept[rsu] for rsu in sorted(kept)}, free


@dataclass(frozen=True, eq=False)
class Around:
    """The part of a scene that a vehicle works on.

    Args:
        gaussians: near its waypoints, in order of the whole.
        rows: of the whole.
    """

    gaussians: Gaussians
    rows: Int64[Tensor, "r"]


def around(scene: Gaussians, waypoints_m: Float[ndarray, "k 2"], sight_m: float, far_share: float = math.inf) -> Around:
    """What lies so near to some waypoints, on the ground plane; and what is farther, but as large as a share of that.

    Skies and fronts far away show in every image: whoever refines without them puts others in their place.
    """
    ground_m = scene.means.detach().double().numpy()[:, :2]
    away_m = distance_m(np.asarray(waypoints_m, np.float64), ground_m)
    large_m = far_share * away_m if math.isfinite(far_share) else np.inf
    rows = torch.from_numpy(np.flatnonzero((away_m <= sight_m) | (_largest_m(scene) >= large_m)))
    return Around(scene.select(rows), rows)


def _largest_m(gaussians: Gaussians) -> Float[ndarray, "n"]:
    return gaussians.log_scales.detach().double().amax(dim=1).exp().numpy()


def near_rows(xyz_m: Float[ndarray, "n 3"], waypoints_m: Float[ndarray, "k 2"], within_m: float) -> Int64[ndarray, "r"]:
    """Rows of places that lie so near to some waypoints, on the ground plane, in order."""
    places_m, ground_m = np.asarray(waypoints_m, np.float64), xyz_m[:, :2].astype(np.float64)
    return np.flatnonzero(distance_m(places_m, ground_m) <= within_m)


def pooled_at_rsus(scene: Scene, updates: Mapping[str, Mapping[str, Update]]) -> dict[str, Update]:
    """One update of each RSU, which counts as much as those of all its vehicles.

    Args:
        scene: that the updates are of.
        updates: by RSU and vehicle, of all of the scene's Gaussians.
    """
    before = whole(scene)
    return {rsu: pooled(before, [own[name] for name in sorted(own)]) for rsu, own in sorted(updates.items())}


def moved_by(
    scene: Scene, updates: Mapping[str, Update], step: float, free: Mapping[str, Bool[Tensor, "n"]] | None = None
) -> dict[str, Gaussians]:
    """The scene after a round: the cloud combines the RSUs' updates.

    Args:
        scene: that the updates are of.
        updates: by RSU, see `pooled_at_rsus`.
        step: see `recon.refine.combined`.
        free: which Gaussians may change; all by default.
    """
    after = combined(whole(scene), [updates[rsu] for rsu in sorted(updates)], step)
    names = sorted(scene)
    parts = dict(zip(names, _split(after, [len(scene[name]) for name in names]), strict=True))
    if free is None:
        return parts
    return {name: _where(free[name], parts[name], scene[name]) for name in names}


def size_limit(plan: Plan, config: FusionConfig) -> SizeLimit:
    """How large a Gaussian may be beside the ways of all."""
    return SizeLimit(plan.waypoints_of(plan.rsus), config.size_share, config.size_m)


def limited(
    scene: Scene, plan: Plan, config: FusionConfig, free: Mapping[str, Bool[Tensor, "n"]] | None = None
) -> dict[str, Gaussians]:
    """The scene without Gaussians that are too large for where they are; `free` as for `moved_by`."""
    limit = size_limit(plan, config)
    after = {rsu: limit.bounded(part) for rsu, part in scene.items()}
    return after if free is None else {rsu: _where(free[rsu], part, scene[rsu]) for rsu, part in after.items()}


def weighed(updates: Mapping[str, Update], metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Update]:
    """Updates that count more where the scene is worse, see `recon.refine.block_weights`.

    Whoever does not say how good it is, in finite numbers, counts as the best.
    """
    told = {n: m for n, m in metrics.items() if all(math.isfinite(m.get(key, math.nan)) for key in ("psnr-db", "ssim"))}
    psnr_db, ssim = ({n: float(m[key]) for n, m in told.items()} for key in ("psnr-db", "ssim"))
    weights = block_weights(psnr_db, ssim)
    return {n: Update(u.changes, weights.get(n, 1.0) * u.visibility) for n, u in updates.items()}


def smoothed(teacher: Scene | None, scene: Scene, momentum: float) -> dict[str, Gaussians]:
    """The teacher a round later: so much of it stays, the rest is the scene; at first it is the scene."""
    if teacher is None:
        return dict(scene)
    out = {}
    for rsu, new in scene.items():
        old, now = teacher[rsu].tensors(), new.tensors()
        out[rsu] = Gaussians(**{name: old[name].lerp(now[name], 1 - momentum) for name in now})
    return out


def in_world(parts: Mapping[str, Gaussians], world_from: Mapping[str, Sim3]) -> dict[str, Gaussians]:
    """Vehicles' Gaussians in the world of all; what lies there already keeps its bits."""
    return {
        name: part if _is_identity(world_from[name]) else part.transformed(world_from[name])
        for name, part in parts.items()
    }


def _is_identity(sim3: Sim3) -> bool:
    return bool(np.array_equal(sim3.matrix, np.eye(4)))


def _split(gaussians: Gaussians, counts: Sequence[int]) -> list[Gaussians]:
    return [gaussians.select(rows) for rows in torch.arange(len(gaussians)).split(list(counts))]


def _where(free: Bool[Tensor, "n"], moved: Gaussians, fixed: Gaussians) -> Gaussians:
    def pick(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(free.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    old = fixed.with_degree(moved.degree).tensors()
    return Gaussians(**{name: pick(new, old[name]) for name, new in moved.tensors().items()})


def spread_over(update: Update, rows: Int64[Tensor, "r"], there: Around, count: int) -> Update:
    """A vehicle's update of rows of what it was sent, as one of the whole scene."""
    return spread(update, there.rows[rows], count)
