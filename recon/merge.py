"""Gaussians of several vehicles or RSUs as one set: each keeps what lies in its region, then all refine it together.

Parts come in one world (see `recon.align`). A merge gives the same bits whatever the order of its parts. What is
merged is refined where the images are: vehicles send how the Gaussians should change and how much of each they see.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from recon.fit_config import WEIGHTS, FitConfig
from recon.gaussians import Gaussians, neighbour_distance
from recon.objective import LossWeights, render_view, view_loss
from recon.optimizer import joined_gaussians, make_optimizer
from recon.render import Backend, rasterize
from recon.spherical import BAND_0
from recon.ssim import photometric_loss
from recon.views import View

Region = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]
"""How far inside a region points of the world lie, metres; negative outside, and 0 where two regions meet."""

REFINE_WEIGHTS: Final = replace(WEIGHTS, opacity=0.0)
_FAINT: Final = 1e-6  # visibility that counts where nobody has any
_OPAQUE: Final = 1e-9  # least transmittance that is told from 0


@dataclass(frozen=True, eq=False)
class Part:
    """What one party brings.

    Args:
        name: of the party; parts are taken in order of names.
        gaussians: in the world of all.
        region: that it owns.
        visibility: how much its cameras saw of each Gaussian, see `blend_weights`; None if all count alike, [n].

    Raises:
        ValueError: visibility is negative, not finite, or of another number.
    """

    name: str
    gaussians: Gaussians
    region: Region
    visibility: Float[Tensor, "n"] | None = None

    def __post_init__(self) -> None:
        if self.visibility is None:
            return
        if self.visibility.shape != (len(self.gaussians),):
            raise ValueError(
                f"Part.visibility of {self.name!r} must hold one number for each of {len(self.gaussians)} Gaussians, "
                f"got shape {tuple(self.visibility.shape)}"
            )
        if not (torch.isfinite(self.visibility).all() and (self.visibility >= 0).all()):
            raise ValueError(f"Part.visibility of {self.name!r} must be finite and not negative")


@dataclass(frozen=True)
class Duplicates:
    """When Gaussians of two parts are taken for one.

    Args:
        size_share: centres are nearer than this share of the smaller one's size (mean of the log-scales).
        colour: and no colour, seen without harmonics above band 0, differs by more, 0..1.
    """

    size_share: float = 0.5
    colour: float = 0.1


@dataclass(frozen=True, eq=False)
class Update:
    """What a vehicle sends in a round of `refine`.

    Args:
        changes: to add to each tensor, by the names that `Gaussians.tensors` has.
        visibility: see `blend_weights`, [n].
    """

    changes: Mapping[str, Tensor]
    visibility: Float[Tensor, "n"]


UpdateOf = Callable[[Gaussians, int], Update]
"""One vehicle's answer to the Gaussians of all in a round."""


def power_region(sites_m: Float[Tensor, "m d"], index: int, weights_m2: Float[Tensor, "m"] | None = None) -> Region:
    """The cell of one site: nearest after each site's weight is taken off the squared distance (a power diagram).

    Args:
        sites_m: of all parties, d = 2 (east and north) or 3.
        index: of the party.
        weights_m2: larger for larger cells; all alike by default, which gives Voronoi's cells.

    Raises:
        ValueError: two sites coincide, or there is no such index.
    """
    sites = torch.as_tensor(sites_m).double()
    weights = torch.zeros(len(sites)).double() if weights_m2 is None else torch.as_tensor(weights_m2).double()
    if not 0 <= index < len(sites):
        raise ValueError(f"power_region has {len(sites)} sites, none has the index {index}")
    others = [number for number in range(len(sites)) if number != index]
    apart_m = (sites[others] - sites[index]).norm(dim=1)
    if not (apart_m > 0).all():
        raise ValueError(f"power_region: another site lies where site {index} does; leave one out")

    def inside_m(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        places = xyz.detach()[:, : sites.shape[1]].double()
        power = (places[:, None] - sites).square().sum(dim=2) - weights
        ahead = (power[:, others] - power[:, [index]]) / (2 * apart_m)
        return ahead.amin(dim=1) if others else torch.full((len(xyz),), math.inf, dtype=torch.float64)

    return inside_m


def masked_region(owned: Callable[[Tensor], Bool[Tensor, "n"]], reach_m: float, rings: int = 8) -> Region:
    """A region from a function that tells what is owned: the distance to where its answer changes.

    It looks around each point in 16 directions of the ground, on circles up to `reach_m` (half the blend band);
    distances are multiples of `reach_m / rings`, less half of one.
    """
    angles = torch.arange(16) * (2 * math.pi / 16)
    around = torch.stack([angles.cos(), angles.sin(), torch.zeros(16)], dim=1)

    def inside_m(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        here, distance = owned(xyz), torch.full((len(xyz),), float(reach_m), dtype=torch.float64)
        for ring in range(rings, 0, -1):
            radius = reach_m * ring / rings
            answers = torch.stack([owned(xyz + radius * step.to(xyz)) for step in around], dim=1)
            distance[(answers != here[:, None]).any(dim=1)] = radius - 0.5 * reach_m / rings
        return torch.where(here, distance, -distance)

    return inside_m


def ramp(inside_m: Float[Tensor, "n"], blend_m: float) -> Float[Tensor, "n"]:
    """Share 0..1 of a party: 1 from half a band inside its region on, 0 from half a band outside."""
    if not (math.isfinite(blend_m) and blend_m >= 0):
        raise ValueError(f"blend_m must be finite and not negative, got {blend_m}")
    return (0.5 + inside_m / blend_m).clamp(0, 1) if blend_m else (inside_m >= 0).to(inside_m)


def faded(gaussians: Gaussians, shares: Float[Tensor, "n"]) -> Gaussians:
    """Each with a share of what it hides; those without a share are left out.

    A share is one of the optical depth, log(1 - opacity): Gaussians in one place whose shares sum to one let through
    as much light together as one of them did.
    """
    keep = shares > 0
    kept = gaussians.detach().select(keep)
    passed = torch.nn.functional.logsigmoid(-kept.logit_opacities.double()).clamp(math.log(_OPAQUE), -1e-30)
    logits = _logits_of(passed * shares[keep].double()).to(kept.logit_opacities)
    whole = shares[keep] >= 1
    return replace(kept, logit_opacities=torch.where(whole, kept.logit_opacities, logits))


def _logits_of(log_transmittance: Tensor) -> Tensor:
    """Logit of the opacity 1 - exp(log_transmittance)."""
    return torch.log(-torch.expm1(log_transmittance)) - log_transmittance


def trim(gaussians: Gaussians, region: Region, blend_m: float) -> Gaussians:
    """What lies in a region, fading out across a band of width `blend_m` about its border; see `faded`.

    Raises:
        ValueError: the band is negative.
    """
    return faded(gaussians, ramp(region(gaussians.means), blend_m))


def merge(
    parts: Sequence[Part], blend_m: float, *, fill: float = 1.0, duplicates: Duplicates | None = None
) -> Gaussians:
    """One set of all parts: each fades out where its region ends, and duplicates at borders are joined.

    Where several have a share in a place, shares are in proportion to visibility there too, and sum to one. What lies
    outside its party's region stays nevertheless where those whose region it is have nothing: cameras look farther
    than they drive.

    Args:
        parts: in any order; names differ.
        blend_m: width of the band at borders, metres.
        fill: a place holds nothing if no centre is nearer to a Gaussian than `fill` times its largest deviation;
            infinity fills nothing, 0 all.
        duplicates: None leaves them.

    Raises:
        ValueError: no parts, two of one name, or a number is negative.
        ImportError: scipy is missing and neighbours are asked for.
    """
    if not fill >= 0:
        raise ValueError(f"fill must not be negative, got {fill}")
    ordered = _in_order(parts)
    shares = [_shares(part, ordered, blend_m) for part in ordered]
    if math.isfinite(fill):
        shares = [_filled(number, ordered, shares, fill) for number in range(len(ordered))]
    trimmed = [faded(part.gaussians, share) for part, share in zip(ordered, shares, strict=True)]
    if duplicates is not None:
        for a, b in combinations(range(len(trimmed)), 2):
            trimmed[a], trimmed[b] = join_duplicates(trimmed[a], trimmed[b], duplicates)
    return Gaussians.concat(trimmed)


def _filled(number: int, ordered: Sequence[Part], shares: Sequence[Tensor], fill: float) -> Float[Tensor, "n"]:
    """The shares of one part, 1 where none of the others keeps anything near."""
    part, own = ordered[number].gaussians, shares[number]
    others = [o.gaussians.means[s > 0] for o, s in zip(ordered, shares, strict=True) if o is not ordered[number]]
    kept, outside = torch.cat([part.means[:0], *others]).detach(), own < 1
    reach_m = fill * part.log_scales.detach().double().amax(dim=1).exp()
    alone = torch.full_like(reach_m, math.inf)
    if len(kept) and outside.any():
        alone[outside] = _nearest(part.means[outside], kept, 1)[0][:, 0]
    return torch.where(outside & (alone >= reach_m), 1.0, own)


def concat(parts: Sequence[Part]) -> Gaussians:
    """Baseline: all of all parts."""
    return Gaussians.concat([part.gaussians for part in _in_order(parts)])


def _in_order(parts: Sequence[Part]) -> list[Part]:
    names = sorted(part.name for part in parts)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a merge takes parts of different names, at least one, got {names}")
    return sorted(parts, key=lambda part: part.name)


def _shares(part: Part, ordered: Sequence[Part], blend_m: float) -> Float[Tensor, "n"]:
    """Of each Gaussian of a part, among all parts."""
    xyz = part.gaussians.means.detach()
    total, own = torch.zeros(len(xyz)).double(), torch.zeros(len(xyz)).double()
    for other in ordered:
        share = ramp(other.region(xyz).double(), blend_m)
        if other.visibility is not None:
            share = share * (_visibility_at(other, xyz) + _FAINT)
        total += share
        own = share if other is part else own
    return torch.where(total > 0, own / total.clamp_min(1e-300), 0)


def _visibility_at(part: Part, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Mean of a part's three Gaussians nearest to each place."""
    assert part.visibility is not None
    count = min(3, len(part.gaussians))
    if not count:
        return torch.zeros(len(xyz)).double()
    _, rows = _nearest(xyz, part.gaussians.means, count)
    return part.visibility.detach().double()[rows].mean(dim=1)


def _nearest(xyz: Tensor, others: Tensor, count: int) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Distances and rows of the nearest others."""
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        raise ImportError("neighbours of Gaussians need scipy: pip install scipy") from None
    tree = cKDTree(others.detach().double().numpy())
    distance, rows = tree.query(xyz.detach().double().numpy(), k=[*range(1, count + 1)])
    return torch.from_numpy(distance), torch.from_numpy(rows)


def join_duplicates(a: Gaussians, b: Gaussians, limits: Duplicates) -> tuple[Gaussians, Gaussians]:
    """Two parts without their duplicates: of each pair the more opaque stays (a's if alike) and hides what both did.

    Pairs are Gaussians that are each other's nearest in the other part and as near and alike as `limits` says.
    """
    if not (len(a) and len(b)):
        return a, b
    rows, twins = _pairs(a, b, limits)
    depth_a, depth_b = (torch.nn.functional.logsigmoid(-part.logit_opacities.double()) for part in (a, b))
    both = _logits_of((depth_a[rows] + depth_b[twins]).clamp(math.log(_OPAQUE), -1e-30))
    first = depth_a[rows] <= depth_b[twins]
    return _without(a, rows, first, both), _without(b, twins, ~first, both)


def _without(part: Gaussians, rows: Tensor, stays: Bool[Tensor, "p"], both: Tensor) -> Gaussians:
    logits = part.logit_opacities.index_copy(0, rows[stays], both[stays].to(part.logit_opacities))
    keep = torch.ones(len(part), dtype=torch.bool).index_fill(0, rows[~stays], False)
    return replace(part, logit_opacities=logits).select(keep)


def _pairs(a: Gaussians, b: Gaussians, limits: Duplicates) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
    distance, to_b = (column[:, 0] for column in _nearest(a.means, b.means, 1))
    to_a = _nearest(b.means, a.means, 1)[1][:, 0]
    size_a, size_b = (part.log_scales.mean(dim=1).exp() for part in (a, b))
    near = distance <= limits.size_share * torch.minimum(size_a, size_b[to_b])
    alike = (BAND_0 * (a.sh[:, 0] - b.sh[to_b, 0])).abs().amax(dim=1) <= limits.colour
    rows = torch.nonzero((to_a[to_b] == torch.arange(len(a))) & near & alike)[:, 0]
    return rows, to_b[rows]


def blend_weights(gaussians: Gaussians, views: Sequence[View], backend: Backend = "auto") -> Float[Tensor, "n"]:
    """How much of each Gaussian the views show: its share in the colour of each pixel, summed, in pixels.

    What is hidden behind others or out of view has 0. Pixels that do not count are counted.
    """
    fixed = gaussians.detach()
    white = torch.ones_like(fixed.means).requires_grad_()
    total = torch.zeros_like(fixed.logit_opacities)
    for index in range(len(views)):
        view, (height, width) = views[index], views[index].size_px
        image, _, _ = rasterize(
            *(fixed.means, fixed.quats, fixed.scales, fixed.opacities, white),
            *(view.viewmat[None].to(white), view.intrinsics[None].to(white), width, height),
            backend=backend,
        )
        total += torch.autograd.grad(image[..., 0].sum(), white)[0][:, 0]
    return total


def local_update(
    gaussians: Gaussians,
    round_number: int,
    views: Sequence[View],
    config: FitConfig,
    scale_m: float,
    *,
    log_gains: Float[Tensor, "v 3"] | None = None,
    weights: LossWeights = REFINE_WEIGHTS,
    backend: Backend = "auto",
) -> Update:
    """A vehicle's part in a round: `config.steps` of Adam at its own views, from the Gaussians of all.

    Args:
        gaussians: of all.
        round_number: decides, with `config.seed`, which views are looked at.
        views: the vehicle's own.
        config: steps of a round, learning rates (the same all along) and seed.
        scale_m: see `recon.scene_scale`.
        log_gains: of the views, see `recon.exposure`.
        weights: of the loss.
        backend: see `rasterize`.

    Raises:
        ValueError: there are no views.
    """
    if not len(views):
        raise ValueError("local_update needs a view; a vehicle without one has nothing to send")
    optimizer = make_optimizer(gaussians, config, scale_m)
    rng, order = np.random.default_rng([config.seed, round_number]), np.zeros(0, np.int64)
    for _ in range(config.steps):
        order = order if len(order) else rng.permutation(len(views))
        index, order = int(order[0]), order[1:]
        current = joined_gaussians({group["name"]: group["params"][0] for group in optimizer.param_groups})
        gain = None if log_gains is None else log_gains[index]
        loss = view_loss(current, views[index], weights, scale_m, log_gain=gain, backend=backend)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = joined_gaussians({group["name"]: group["params"][0].detach() for group in optimizer.param_groups})
    before = gaussians.detach().tensors()
    changes = {name: tensor - before[name] for name, tensor in last.tensors().items()}
    return Update(changes, blend_weights(gaussians, views, backend))


def combined(gaussians: Gaussians, updates: Sequence[Update]) -> Gaussians:
    """The Gaussians after the mean of all updates, weighted by visibility one by one; what nobody sees stays.

    Raises:
        ValueError: an update is of another number of Gaussians, or not finite.
    """
    before, count = gaussians.detach().tensors(), len(gaussians)
    for number, update in enumerate(updates):
        fits = {name: update.changes[name].shape == tensor.shape for name, tensor in before.items()}
        numbers = [*update.changes.values(), update.visibility]
        if not all(fits.values()) or update.visibility.shape != (count,):
            raise ValueError(f"update {number} is not of these {count} Gaussians: {fits}")
        if not all(torch.isfinite(tensor).all() for tensor in numbers) or (update.visibility < 0).any():
            raise ValueError(f"update {number} holds NaN, infinity or negative visibility; leave it out")
    total = sum((update.visibility.double() for update in updates), torch.zeros(count).double()).clamp_min(1e-12)
    after = dict(before)
    for update in updates:
        share = (update.visibility.double() / total).to(before["means"])
        after = {name: tensor + _rows(share, tensor) * update.changes[name] for name, tensor in after.items()}
    return Gaussians(**after)


def _rows(share: Float[Tensor, "n"], like: Tensor) -> Tensor:
    return share.reshape(-1, *[1] * (like.ndim - 1))


def refine(gaussians: Gaussians, update_of: Mapping[str, UpdateOf], rounds: int) -> Gaussians:
    """Rounds of `combined` over all vehicles, in order of their names."""
    for number in range(rounds):
        gaussians = combined(gaussians, [update_of[name](gaussians, number) for name in sorted(update_of)])
    return gaussians


def opacity_distillation(
    parts: Sequence[Part],
    cameras: Mapping[str, Sequence[View]],
    *,
    epochs: int = 5,
    rate: float = 0.05,
    reset: float = 0.05,
    entropy: float = 0.01,
    min_opacity: float = 0.005,
    seed: int = 0,
) -> Gaussians:
    """Baseline after Suzuki 2024 ("Fed3DGS", arXiv 2403.11460), without its appearance model: only opacity is learned.

    Parts are taken in one by one, in the order given, which matters. The server knows all cameras. Targets are
    images of the new part at its cameras and of what is there at as many of the earlier ones. Opacities of the new
    and of what lies within the median distance of its neighbours are cut to `reset`; faint ones are dropped.

    Args:
        parts: aligned; regions are not used.
        cameras: of each part by name; images are not used.
        epochs: over the targets of a part.
        rate: of Adam on logits.
        reset, min_opacity: opacities.
        entropy: weight of the mean binary entropy of opacities, which sends them to 0 or 1.
        seed: of the cameras that are drawn.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("opacity_distillation needs at least one part")
    rng = np.random.default_rng(seed)
    whole, known = parts[0].gaussians.detach(), list(cameras[parts[0].name])
    for part in parts[1:]:
        own = list(cameras[part.name])
        chosen = [known[int(row)] for row in rng.permutation(len(known))[: len(own)]]
        targets = [_target(part.gaussians, view) for view in own] + [_target(whole, view) for view in chosen]
        whole = _distilled(_reset(whole, part.gaussians, reset), targets, rng, epochs, rate, entropy)
        whole, known = whole.select(whole.opacities >= min_opacity), known + own
    return whole


@torch.no_grad()
def _target(gaussians: Gaussians, view: View) -> tuple[View, Tensor]:
    return view, render_view(gaussians, view)[0]


def _reset(whole: Gaussians, part: Gaussians, opacity: float) -> Gaussians:
    """Both, with opacities cut where they meet."""
    most = math.log(opacity / (1 - opacity))
    near = _nearest(whole.means, part.means, 1)[0][:, 0] <= float(neighbour_distance(part.means, 1).median())
    logits = torch.where(near, whole.logit_opacities.clamp_max(most), whole.logit_opacities)
    cut = replace(part.detach(), logit_opacities=part.logit_opacities.detach().clamp_max(most))
    return Gaussians.concat([replace(whole, logit_opacities=logits), cut])


def _distilled(
    gaussians: Gaussians,
    targets: Sequence[tuple[View, Tensor]],
    rng: np.random.Generator,
    epochs: int,
    rate: float,
    entropy: float,
) -> Gaussians:
    """Adam on opacities alone."""
    logits = gaussians.logit_opacities.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    for row in np.concatenate([rng.permutation(len(targets)) for _ in range(epochs)]):
        view, target = targets[int(row)]
        drawn, _ = render_view(replace(gaussians, logit_opacities=logits), view)
        loss = photometric_loss(drawn, target, 0.2)
        spread = torch.nn.functional.binary_cross_entropy_with_logits(logits, logits.sigmoid())
        optimizer.zero_grad()
        (loss + entropy * spread).backward()
        optimizer.step()
    return replace(gaussians, logit_opacities=logits.detach())
