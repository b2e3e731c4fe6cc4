"""How good a reconstruction is: its images, its depth and its surface."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recon.ssim import ssim

Backbone = Literal["alex", "vgg"]
_DELTA: Final = 1.25


@dataclass(frozen=True)
class ImageMetrics:
    """Likeness of a rendered image to a photo.

    Args:
        psnr_db: infinity where they are equal.
        ssim: see `recon.ssim.ssim`.
        lpips: lower is better; None where no weights were given.
    """

    psnr_db: float
    ssim: float
    lpips: float | None = None

    def __str__(self) -> str:
        lpips = "not computed (no weights given)" if self.lpips is None else f"{self.lpips:.3f}"
        return f"PSNR {self.psnr_db:.2f} dB, SSIM {self.ssim:.3f}, LPIPS {lpips}"


@dataclass(frozen=True)
class DepthMetrics:
    """Errors of depth (Eigen et al. 2014) over the pixels where both depths are known.

    Args:
        abs_rel: mean of |found - true| / true.
        rmse_m: root of the mean square, metres.
        delta1: share of pixels with max(found / true, true / found) < 1.25.
        pixels: how many were compared.
    """

    abs_rel: float
    rmse_m: float
    delta1: float
    pixels: int


@dataclass(frozen=True)
class SurfaceMetrics:
    """Distances between two point sets (Knapitsch et al. 2017).

    Args:
        precision: share of found points within the threshold of a true one.
        recall: share of true points within the threshold of a found one.
        f_score: their harmonic mean; 0 where both are.
        chamfer_m: mean distance to the nearest point, averaged over both directions, metres.
    """

    precision: float
    recall: float
    f_score: float
    chamfer_m: float


def psnr(image: Float[Tensor, "*b h w c"], reference: Float[Tensor, "*b h w c"]) -> float:
    """Peak signal-to-noise ratio of values in 0..1, in dB; infinity where they are equal.

    Raises:
        ValueError: the shapes differ or there are no pixels.
    """
    if image.shape != reference.shape or image.numel() == 0:
        raise ValueError(f"images need one shape with pixels, got {tuple(image.shape)} and {tuple(reference.shape)}")
    error = float((image.detach().double() - reference.detach().double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def image_metrics(
    image: Float[Tensor, "h w 3"],
    reference: Float[Tensor, "h w 3"],
    lpips_weights: Path | None = None,
    backbone: Backbone = "alex",
) -> ImageMetrics:
    """PSNR, SSIM, and LPIPS if its weights are given; the image is clipped to 0..1 first, as a file would.

    Args:
        image: rendered.
        reference: photo, values in 0..1.
        lpips_weights: see `lpips`.
        backbone: see `lpips`.

    Raises:
        ValueError: the shapes differ, or the weights cannot be used.
    """
    clipped, photo = image.detach().clamp(0, 1), reference.detach().to(image)
    perceived = None if lpips_weights is None else lpips(clipped, photo, lpips_weights, backbone)
    return ImageMetrics(psnr(clipped, photo), float(ssim(clipped, photo)), perceived)


def lpips(
    image: Float[Tensor, "h w 3"], reference: Float[Tensor, "h w 3"], weights: Path, backbone: Backbone = "alex"
) -> float:
    """Learned perceptual distance (Zhang et al. 2018) by torchmetrics, values in 0..1.

    Args:
        image, reference: to compare.
        weights: torchvision's ImageNet weights of the backbone (alexnet-owt-7be5be79.pth or vgg16-397923af.pth);
            nothing is downloaded. The layers on top come with torchmetrics.
        backbone: "alex", which papers evaluate with, or "vgg".

    Raises:
        ValueError: the file is missing or holds other weights.
        ImportError: torchmetrics or torchvision is not installed.
    """
    network = _lpips_network(weights, backbone)
    pair = [part.detach().float().cpu().movedim(-1, 0)[None] for part in (image, reference)]
    with torch.no_grad():
        return float(network(*pair, normalize=True).mean())


def depth_metrics(
    found_m: Float[Tensor, "*n h w"], true_m: Float[Tensor, "*n h w"], mask: Bool[Tensor, "*n h w"] | None = None
) -> DepthMetrics | None:
    """Errors of depth where both are finite and positive, and the mask allows; None where no pixel is left.

    Raises:
        ValueError: the shapes differ.
    """
    if found_m.shape != true_m.shape:
        raise ValueError(f"depths differ in shape: {tuple(found_m.shape)} and {tuple(true_m.shape)}")
    known = torch.isfinite(found_m) & torch.isfinite(true_m) & (found_m > 0) & (true_m > 0)
    known = known if mask is None else known & mask
    found, true = found_m.detach()[known].double(), true_m.detach()[known].double()
    if not len(true):
        return None
    error, ratio = found - true, torch.maximum(found / true, true / found)
    return DepthMetrics(
        abs_rel=float((error.abs() / true).mean()),
        rmse_m=float(error.square().mean().sqrt()),
        delta1=float((ratio < _DELTA).double().mean()),
        pixels=len(true),
    )


def surface_metrics(
    found_xyz: Float[Tensor, "n 3"], true_xyz: Float[Tensor, "m 3"], threshold_m: float
) -> SurfaceMetrics:
    """F-score and Chamfer distance of two point sets, metres.

    Raises:
        ValueError: a set is empty or not finite, or the threshold is not positive.
        ImportError: scipy is not installed.
    """
    if not threshold_m > 0:
        raise ValueError(f"threshold_m must be positive, got {threshold_m}")
    for name, xyz in (("found_xyz", found_xyz), ("true_xyz", true_xyz)):
        if not len(xyz) or not torch.isfinite(xyz).all():
            raise ValueError(f"{name} must hold points and no NaN or infinity, got {len(xyz)} points")
    to_true, to_found = _nearest(found_xyz, true_xyz), _nearest(true_xyz, found_xyz)
    precision, recall = (
        float((to_true <= threshold_m).double().mean()),
        float((to_found <= threshold_m).double().mean()),
    )
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return SurfaceMetrics(precision, recall, f_score, float(to_true.mean() + to_found.mean()) / 2)


def _nearest(source: Float[Tensor, "n 3"], target: Float[Tensor, "m 3"]) -> Float[Tensor, "n"]:
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ImportError("distances between point sets need scipy: pip install scipy") from error
    queries, points = (xyz.detach().double().cpu().numpy() for xyz in (source, target))
    return torch.from_numpy(cKDTree(points).query(queries)[0])


@cache
def _lpips_network(weights: Path, backbone: Backbone) -> nn.Module:
    """torchmetrics' network over a backbone from a file; its public class would download one."""
    try:
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except ImportError as error:
        raise ImportError("LPIPS needs torchmetrics and torchvision: pip install torchmetrics torchvision") from error
    network = _NoTrainLpips(net=backbone, pnet_rand=True)
    layers = {name.split(".", 1)[1]: parameter for name, parameter in network.net.named_parameters()}  # "0.weight"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in layers.items():
                parameter.copy_(_same_shape(state[f"features.{name}"], parameter))
    except Exception as error:
        wanted = "torchvision's weights of " + {"alex": "alexnet", "vgg": "vgg16"}[backbone]
        raise ValueError(
            f"{weights}: cannot be used for LPIPS ({type(error).__name__}: {error}); want {wanted}"
        ) from None
    return network.eval()


def _same_shape(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.shape != like.shape:  # copy_ would broadcast
        raise ValueError(f"shape {tuple(tensor.shape)}, want {tuple(like.shape)}")
    return tensor
