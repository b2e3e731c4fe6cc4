"""Gaussians of several vehicles or RSUs as one set: each keeps what lies in its region, then all refine it together.

Parts come in one world (see `recon.align`). A merge gives the same bits whatever the order of its parts. What is
merged is refined where the images are: vehicles send how the Gaussians should change and how much of each they see.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from recon.gaussians import Gaussians
from recon.region import Region, ramp
from recon.spherical import BAND_0

_FAINT: Final = 1e-6  # visibility that counts where nobody has any
_OPAQUE: Final = 1e-9  # least transmittance that is told from 0


@dataclass(frozen=True, eq=False)
class Part:
    """What one party brings.

    Args:
        name: of the party; parts are taken in order of names.
        gaussians: in the world of all.
        region: that it owns.
        visibility: how much its cameras saw of each Gaussian, see `blend_weights`, [n]; None, which then all parts of a
            merge have, if all count alike.

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

    Raises:
        ValueError: one is negative.
    """

    size_share: float = 0.5
    colour: float = 0.1

    def __post_init__(self) -> None:
        if not min(self.size_share, self.colour) >= 0:
            raise ValueError(f"Duplicates takes size_share and colour of 0 or more, got {self}")


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
    """One set of all parts: those of `merged_parts`, in order of their names."""
    kept = merged_parts(parts, blend_m, fill=fill, duplicates=duplicates)
    return Gaussians.concat(list(kept.values()))


def merged_parts(
    parts: Sequence[Part], blend_m: float, *, fill: float = 1.0, duplicates: Duplicates | None = None
) -> dict[str, Gaussians]:
    """What each party keeps, by name: each fades out where its region ends, and duplicates at borders are joined.

    Where several have a share in a place, shares are in proportion to visibility there too, and sum to one. What lies
    outside its party's region stays nevertheless where those whose region it is have nothing: cameras look farther
    than they drive. If several fill one gap, all of theirs stays.

    Args:
        parts: in any order; names differ.
        blend_m: width of the band at borders, metres.
        fill: a place holds nothing if no centre is nearer to a Gaussian than `fill` times its largest deviation;
            infinity fills nothing, 0 all.
        duplicates: None leaves them.

    Raises:
        ValueError: no parts, two of one name, visibility of some only, or a number is negative.
        ImportError: scipy is missing and neighbours are asked for.
    """
    if not fill >= 0:
        raise ValueError(f"fill must not be negative, got {fill}")
    ordered = in_order(parts)
    blind = [part.name for part in ordered if part.visibility is None]
    if 0 < len(blind) < len(ordered):
        raise ValueError(f"{', '.join(blind)} have no visibility where others have: give it for all or for none")
    shares = [_shares(part, ordered, blend_m) for part in ordered]
    if math.isfinite(fill):
        shares = [_filled(number, ordered, shares, fill) for number in range(len(ordered))]
    trimmed = [faded(part.gaussians, share) for part, share in zip(ordered, shares, strict=True)]
    if duplicates is not None:
        for a, b in combinations(range(len(trimmed)), 2):
            trimmed[a], trimmed[b] = join_duplicates(trimmed[a], trimmed[b], duplicates)
    return {part.name: kept for part, kept in zip(ordered, trimmed, strict=True)}


def _filled(number: int, ordered: Sequence[Part], shares: Sequence[Tensor], fill: float) -> Float[Tensor, "n"]:
    """The shares of one part, 1 where none of the others keeps anything near."""
    part, own = ordered[number].gaussians, shares[number]
    others = [o.gaussians.means[s > 0] for o, s in zip(ordered, shares, strict=True) if o is not ordered[number]]
    kept, outside = torch.cat([part.means[:0], *others]).detach(), own < 1
    reach_m = fill * part.log_scales.detach().double().amax(dim=1).exp()
    alone = torch.full_like(reach_m, math.inf)
    if len(kept) and outside.any():
        alone[outside] = nearest(part.means[outside], kept, 1)[0][:, 0]
    return torch.where(outside & (alone >= reach_m), 1.0, own)


def concat(parts: Sequence[Part]) -> Gaussians:
    """Baseline: all of all parts."""
    return Gaussians.concat([part.gaussians for part in in_order(parts)])


def in_order(parts: Sequence[Part]) -> list[Part]:
    """Parts by their names.

    Raises:
        ValueError: there are none, or two have one name.
    """
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
    _, rows = nearest(xyz, part.gaussians.means, count)
    return part.visibility.detach().double()[rows].mean(dim=1)


def nearest(xyz: Tensor, others: Tensor, count: int) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
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
    distance, to_b = (column[:, 0] for column in nearest(a.means, b.means, 1))
    to_a = nearest(b.means, a.means, 1)[1][:, 0]
    size_a, size_b = (part.log_scales.mean(dim=1).exp() for part in (a, b))
    near = distance <= limits.size_share * torch.minimum(size_a, size_b[to_b])
    alike = (BAND_0 * (a.sh[:, 0] - b.sh[to_b, 0])).abs().amax(dim=1) <= limits.colour
    rows = torch.nonzero((to_a[to_b] == torch.arange(len(a))) & near & alike)[:, 0]
    return rows, to_b[rows]
