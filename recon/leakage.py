"""What an upload gives away: how well it shows what a vehicle saw, and whom, before and after it is trimmed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recon.exposure import exposed
from recon.gaussians import Gaussians
from recon.merge import trim
from recon.objective import render_view
from recon.region import Region, widened
from recon.render import Backend
from recon.views import View


@dataclass(frozen=True)
class Exposed:
    """What one set of Gaussians shows.

    Args:
        gaussians: in it.
        psnr_db: at the vehicle's own poses, over all pixels that count, of all views together.
        transient_psnr_db: there over all pixels that do not count, as of people and vehicles; None without any.
        outside_share: of the Gaussians, that lie outside the vehicle's region, 0..1; 0 if there are none.
    """

    gaussians: int
    psnr_db: float
    transient_psnr_db: float | None
    outside_share: float


@dataclass(frozen=True)
class Leakage:
    """What an upload shows as it was fitted, and trimmed to the vehicle's region.

    Args:
        whole: before.
        trimmed: after.
        margin_m: that was left around the region.
    """

    whole: Exposed
    trimmed: Exposed
    margin_m: float

    def row(self) -> dict[str, float]:
        """For a table or a file; what is not known is left out."""
        row: dict[str, float] = {"margin_m": self.margin_m}
        for name, part in (("", self.whole), ("trimmed_", self.trimmed)):
            row |= {f"{name}{key}": value for key, value in asdict(part).items() if value is not None}
        return row


class _Squares(NamedTuple):
    squared: float
    values: int

    @property
    def psnr_db(self) -> float | None:
        if not self.values:
            return None
        return -10 * math.log10(self.squared / self.values) if self.squared else math.inf


def leakage(
    gaussians: Gaussians,
    views: Sequence[View],
    region: Region,
    margin_m: float,
    *,
    blend_m: float = 0.0,
    log_gains: Float[Tensor, "v 3"] | None = None,
    backend: Backend = "auto",
) -> Leakage:
    """What a vehicle's Gaussians give away of its own views; it alone can compute this, before it sends them.

    Args:
        gaussians: as fitted.
        views: private ones, with `counted` false where transients were masked.
        region: that the vehicle owns.
        margin_m: beyond the region's border that stays when it is trimmed.
        blend_m: width of the band in which what is trimmed fades, about the border of the margin.
        log_gains: of the views, see `recon.exposure`.
        backend: see `rasterize`.

    Raises:
        ValueError: no pixel counts, numbers of views and gains differ, or margin or band is negative or not finite.
    """
    if not (math.isfinite(margin_m) and margin_m >= 0):
        raise ValueError(f"margin_m must be finite and not negative, got {margin_m}")
    if log_gains is not None and len(log_gains) != len(views):
        raise ValueError(f"leakage takes one gain a view, got {len(log_gains)} for {len(views)} views")
    kept = trim(gaussians, widened(region, margin_m), blend_m)
    whole, trimmed = (shown(part, views, region, log_gains=log_gains, backend=backend) for part in (gaussians, kept))
    return Leakage(whole, trimmed, float(margin_m))


def shown(
    gaussians: Gaussians,
    views: Sequence[View],
    region: Region,
    *,
    log_gains: Float[Tensor, "v 3"] | None = None,
    backend: Backend = "auto",
) -> Exposed:
    """What a set shows of private views; arguments and errors as of `leakage`."""
    counted, others = _Squares(0.0, 0), _Squares(0.0, 0)
    for index in range(len(views)):
        gain = None if log_gains is None else log_gains[index]
        seen, hidden = _errors(gaussians, views[index], gain, backend)
        counted, others = _sum(counted, seen), _sum(others, hidden)
    if counted.psnr_db is None:
        raise ValueError(f"no pixel of {len(views)} views counts, so nothing tells what is shown; give other views")
    outside = region(gaussians.means.detach()) < 0
    share = float(outside.double().mean()) if len(gaussians) else 0.0
    return Exposed(len(gaussians), counted.psnr_db, others.psnr_db, share)


def _errors(
    gaussians: Gaussians, view: View, log_gain: Float[Tensor, "3"] | None, backend: Backend
) -> tuple[_Squares, _Squares]:
    """Of the pixels of a view that count, and of the others."""
    with torch.no_grad():
        drawn = render_view(gaussians, view, backend=backend)[0].cpu()
    image = (drawn if log_gain is None else exposed(drawn, log_gain.to(drawn))).clamp(0, 1)
    squared = (image.double() - view.image.double() / 255).square().sum(dim=2)
    counted = torch.ones(view.size_px, dtype=torch.bool) if view.counted is None else view.counted
    seen, hidden = (_Squares(float(squared[where].sum()), 3 * int(where.sum())) for where in (counted, ~counted))
    return seen, hidden


def _sum(a: _Squares, b: _Squares) -> _Squares:
    return _Squares(a.squared + b.squared, a.values + b.values)
