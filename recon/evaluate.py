"""Scores of a scene on views that it was not fitted to."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon.exposure import exposed, interpolated
from recon.gaussians import Gaussians
from recon.metrics import DepthMetrics, ImageMetrics, depth_metrics, lpips
from recon.objective import render_view
from recon.render import Backend
from recon.ssim import ssim
from recon.views import View

SOLID, DARK, BRIGHT, ENOUGH_PX = 0.9, 0.03, 0.98, 200  # of pixels that tell about exposure


@dataclass(frozen=True)
class ViewScore:
    """How one view came out.

    Args:
        source: of the view.
        image: over the pixels that count: PSNR over these alone; for SSIM and LPIPS the others are the photo's.
        depth: where the view knows depth, else None.
    """

    source: str
    image: ImageMetrics
    depth: DepthMetrics | None

    def row(self) -> dict[str, float | str]:
        """For a table or a file; what is not known is left out."""
        values = {name: value for name, value in asdict(self.image).items() if value is not None}
        depth = {f"depth_{name}": value for name, value in asdict(self.depth).items()} if self.depth else {}
        return {"view": self.source, **values, **depth}


def score_view(
    gaussians: Gaussians,
    view: View,
    *,
    log_gain: Float[Tensor, "3"] | None = None,
    lpips_weights: Path | None = None,
    backend: Backend = "auto",
) -> tuple[ViewScore, Float[Tensor, "h w 3"]]:
    """The score of one view, and its image in 0..1.

    Args:
        gaussians: the scene.
        view: what was seen.
        log_gain: of the view's exposure, see `recon.exposure`; none by default.
        lpips_weights: see `recon.metrics.lpips`.
        backend: see `rasterize`.

    Raises:
        ValueError: no pixel of the view counts; and as `recon.metrics.lpips`.
    """
    with torch.no_grad():
        drawn, _ = render_view(gaussians, view, mode="RGB+ED" if view.depth_m is not None else "RGB", backend=backend)
    drawn = drawn.cpu()  # scores are computed where the photo is
    seen = drawn[..., :3] if log_gain is None else exposed(drawn[..., :3], log_gain.to(drawn))
    photo, image = view.image.to(drawn) / 255, seen.clamp(0, 1)
    if view.counted is not None:
        if not view.counted.any():
            raise ValueError(f"{view.source}: no pixel counts, so there is nothing to score")
        image = torch.where(view.counted[..., None], image, photo)
    counted_share = 1.0 if view.counted is None else float(view.counted.float().mean())
    error = float((image.double() - photo.double()).square().mean()) / counted_share
    perceived = None if lpips_weights is None else lpips(image, photo, lpips_weights)
    metrics = ImageMetrics(math.inf if error == 0 else -10 * math.log10(error), float(ssim(image, photo)), perceived)
    depth = None if view.depth_m is None else depth_metrics(drawn[..., 3], view.depth_m.to(drawn), view.counted)
    return ViewScore(view.source, metrics, depth), image


def score(
    gaussians: Gaussians, views: Sequence[View], log_gains: Float[Tensor, "v 3"] | None = None
) -> list[ViewScore]:
    """The scores of all views, in order.

    Raises:
        ValueError: as `score_view`.
    """
    gains = [None] * len(views) if log_gains is None else list(log_gains)
    return [score_view(gaussians, view, log_gain=gain)[0] for view, gain in zip(views, gains, strict=True)]


@torch.no_grad()
def observed_gains(gaussians: Gaussians, views: Sequence[View], backend: Backend = "auto") -> Float[Tensor, "v 3"]:
    """Exposures of views that a scene is known to show: median of the logarithms of photo over image, by colour.

    Pixels count that the Gaussians cover and that are neither dark nor blown out; where there are few, gains are 1.

    Args:
        gaussians: the scene.
        views: photos.
        backend: see `rasterize`.
    """
    return torch.stack([_observed_gain(gaussians, views[index], backend) for index in range(len(views))])


def _observed_gain(gaussians: Gaussians, view: View, backend: Backend) -> Float[Tensor, "3"]:
    drawn, alpha = render_view(gaussians, view, backend=backend)
    photo = view.image.to(drawn) / 255
    counted = (alpha > SOLID) & (torch.minimum(drawn, photo).amin(dim=2) > DARK) & (photo.amax(dim=2) < BRIGHT)
    counted = counted if view.counted is None else counted & view.counted.to(counted.device)
    if int(counted.sum()) < ENOUGH_PX:
        return torch.zeros(3)
    return (photo[counted].log() - drawn[counted].log()).median(dim=0).values.cpu()


def gains_between(log_gains: Float[Tensor, "v 3"], learned: Sequence[View], judged: Sequence[View]) -> Tensor:
    """Exposures [t, 3] of views that were held back: between those of their neighbours in time."""
    times_s, at_s = (np.array([view.timestamp_s for view in views]) for views in (learned, judged))
    return interpolated(log_gains, times_s, at_s)


def mean_scores(scores: Sequence[ViewScore]) -> dict[str, float]:
    """Means over views of what all of them have; PSNR is averaged in dB, as papers do.

    Raises:
        ValueError: there are none.
    """
    if not scores:
        raise ValueError("no views were scored; hold some out")
    rows = [score.row() for score in scores]
    names = [name for name in rows[0] if name != "view" and all(name in row for row in rows)]
    return {name: fmean(float(row[name]) for row in rows) for name in names}
