"""What a fit minimises, one view at a time."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from recon.exposure import exposed
from recon.gaussians import Gaussians
from recon.render import Backend, rasterize
from recon.ssim import photometric_loss
from recon.views import View

Mode = Literal["RGB", "RGB+D", "RGB+ED"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    Args:
        dssim: λ of (1 - λ) L1 + λ (1 - SSIM), 0..1.
        depth: of `disparity_loss`, where a view knows depth.
        opacity, scale: of the mean opacity, and the mean scale over `scale_m` (Kheradmand et al. 2024, section 3.4).

    Raises:
        ValueError: a weight is negative or not finite, or dssim is above 1.
    """

    dssim: float = 0.2
    depth: float = 0.0
    opacity: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"LossWeights.{name} must be finite and not negative, got {value}")
        if self.dssim > 1:
            raise ValueError(f"LossWeights.dssim lies in 0..1, got {self.dssim}")


def render_view(
    gaussians: Gaussians,
    view: View,
    *,
    degree: int | None = None,
    mode: Mode = "RGB",
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w"]]:
    """Image (with depth last, if asked for) and alpha of Gaussians in a view's camera, black behind them.

    Args:
        gaussians: the scene.
        view: of which only camera and size matter.
        degree: of the spherical harmonics to use; all by default.
        mode, backend: see `rasterize`.
    """
    height, width = view.size_px
    image, alpha, _ = rasterize(
        *(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh),
        view.viewmat[None].to(gaussians.means),
        view.intrinsics[None].to(gaussians.means),
        width,
        height,
        sh_degree=gaussians.degree if degree is None else degree,
        render_mode=mode,
        backend=backend,
    )
    return image[0], alpha[0, ..., 0]


def disparity_loss(found_m: Float[Tensor, "k"], known_inverse: Float[Tensor, "k"], scale_m: float) -> Float[Tensor, ""]:
    """Mean of |1/found - 1/known| · scale over the pixels where something was drawn, else 0.

    Args:
        found_m: depth that was drawn where it is known, 0 where nothing was.
        known_inverse: 1 / depth there, 1/m.
        scale_m: see `view_loss`.
    """
    drawn = found_m.detach() > 1e-3
    difference = (1 / found_m.clamp_min(1e-3) - known_inverse).abs() * drawn
    return scale_m * difference.sum() / drawn.sum().clamp_min(1)


def view_loss(
    gaussians: Gaussians,
    view: View,
    weights: LossWeights,
    scale_m: float,
    *,
    log_gain: Float[Tensor, "3"] | None = None,
    degree: int | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, ""]:
    """The loss of one view; pixels that do not count pass no gradient.

    Args:
        gaussians, view: to compare.
        weights: of the terms.
        scale_m: typical distance from a camera to what it sees; makes depth and size terms free of units.
        log_gain: of the view's exposure, see `recon.exposure`.
        degree, backend: see `render_view`.
    """
    known = view.known_depth if weights.depth else None
    mode: Mode = "RGB" if known is None else "RGB+D"
    drawn, alpha = render_view(gaussians, view, degree=degree, mode=mode, backend=backend)
    photo = view.image.to(drawn) / 255
    rgb, depth = drawn.split([3, drawn.shape[-1] - 3], dim=-1)
    seen = rgb if log_gain is None else exposed(rgb, log_gain)
    counted = None if view.counted is None else view.counted.to(drawn.device)
    loss = photometric_loss(seen, photo, weights.dssim, mask=counted)
    if known is not None:
        places = known[0].to(drawn.device)
        found_m = depth.flatten()[places] / alpha.flatten()[places].clamp_min(1e-10)  # expected depth there
        loss = loss + weights.depth * disparity_loss(found_m, known[1].to(found_m), scale_m)
    if weights.opacity:
        loss = loss + weights.opacity * gaussians.opacities.mean()
    if weights.scale:
        loss = loss + weights.scale * gaussians.scales.mean() / scale_m
    return loss
