"""Structural similarity (Wang et al. 2004) and the training loss of Kerbl et al. 2023, value and gradient in one pass.

The window is the usual one: a Gaussian of 1.5 pixels over 11 taps, C1 = 0.01², C2 = 0.03² for values in 0..1. It is
separable and symmetric, so that the adjoint of the blur is the blur itself. The compiled kernel does it for float32
images on a CPU; where there is no compiler, and for other tensors, sums of shifted views in torch do.
"""

import math
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.render.build import KernelUnavailableError, load_kernel
from recon.render.photometric import CompiledPhotometric

_RADIUS: Final = 5
_SIGMA_PX: Final = 1.5
_C1: Final = 0.01**2
_C2: Final = 0.03**2
_RAW: Final = [math.exp(-0.5 * (tap / _SIGMA_PX) ** 2) for tap in range(_RADIUS + 1)]
_TAPS: Final = [value / (_RAW[0] + 2 * sum(_RAW[1:])) for value in _RAW]  # from the middle outwards


def photometric_loss(
    image: Float[Tensor, "*b h w c"],
    reference: Float[Tensor, "*b h w c"],
    dssim_weight: float = 0.2,
    *,
    mask: Bool[Tensor, "*b h w"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - λ) · L1 + λ · (1 - SSIM), equation 7 of Kerbl et al. 2023 as their code has it; windows see 0 outside.

    The gradient with respect to `image` is exact and computed along with the value; `reference` gets none.

    Args:
        image, reference: values in 0..1.
        dssim_weight: λ, 0..1.
        mask: pixels that count. Elsewhere the reference stands in for the image, in windows too, and the gradient is
            0; the means are over all pixels.

    Raises:
        ValueError: the shapes differ, there are no pixels, or λ is out of range.
    """
    if not 0 <= dssim_weight <= 1:
        raise ValueError(f"dssim_weight must lie in 0..1, got {dssim_weight}")
    _check(image, reference, smallest_px=1)
    if mask is not None and (mask.shape != image.shape[:-1] or mask.dtype != torch.bool):
        wanted = list(image.shape[:-1])
        raise ValueError(f"mask must be bool of shape {wanted}, got {mask.dtype} of {list(mask.shape)}")
    if _compiled(image, reference):
        return CompiledPhotometric.apply(image, reference, mask, dssim_weight, _TAPS)
    return plain_photometric_loss(image, reference, dssim_weight, mask)


def plain_photometric_loss(
    image: Float[Tensor, "*b h w c"],
    reference: Float[Tensor, "*b h w c"],
    dssim_weight: float,
    mask: Bool[Tensor, "*b h w"] | None,
) -> Float[Tensor, ""]:
    """`photometric_loss` in torch operations, on any device and in any float type; nothing is checked."""
    if mask is not None:
        image = torch.where(mask[..., None], image, reference)
    return _Photometric.apply(_planes(image), _planes(reference), dssim_weight, 0)


def _compiled(*images: Tensor) -> bool:
    """Whether the kernel takes these."""
    if any(image.is_cuda or image.dtype != torch.float32 for image in images):
        return False
    try:
        load_kernel()
    except KernelUnavailableError:
        return False
    return True


def ssim(image: Float[Tensor, "*b h w c"], reference: Float[Tensor, "*b h w c"]) -> Float[Tensor, ""]:
    """Mean structural similarity over all pixels, -1..1; the image is mirrored at its edges, as torchmetrics does.

    Raises:
        ValueError: the shapes differ or a side is shorter than 6 pixels.
    """
    _check(image, reference, smallest_px=_RADIUS + 1)
    mirrored = [torch.nn.functional.pad(_planes(part), (_RADIUS,) * 4, mode="reflect") for part in (image, reference)]
    return 1 - _Photometric.apply(*mirrored, 1.0, _RADIUS)


class _Photometric(torch.autograd.Function):
    """The loss of planes over pixels at least `border` from the edge, and its gradient if it is asked for."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, reference: Tensor, weight: float, border: int) -> Tensor:
        x, y = image, reference
        loss, gradient = _dssim(x, y, border, ctx.needs_input_grad[0])
        loss, gradient = weight * loss, None if gradient is None else gradient.mul_(weight)
        if weight < 1:
            difference = x - y
            loss = loss + (1 - weight) * difference.abs().mean()
            if gradient is not None:
                gradient.add_(difference.sign_(), alpha=(1 - weight) / difference.numel())
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * grad_outputs[0], None, None, None


def _dssim(x: Tensor, y: Tensor, border: int, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """1 - SSIM of planes [p, h, w], and its derivative with respect to x.

    With blurred means m and second moments e, SSIM = a1 a2 / (b1 b2) is a function of m_x, e_xx and e_xy at each pixel.
    """
    mean_x, mean_y = _blur(x), _blur(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    a1, b1 = 2 * product + _C1, squares + _C1
    a2 = _blur(x * y).sub_(product).mul_(2).add_(_C2)
    b2 = _blur(torch.addcmul(x * x, y, y)).sub_(squares).add_(_C2)
    scale = 1 / (b1 * b2)
    values = a1 * a2 * scale
    inside = values[:, border : values.shape[1] - border, border : values.shape[2] - border]
    loss = 1 - inside.mean()
    if not with_gradient:
        return loss, None
    share = torch.zeros_like(values)
    share[:, border : values.shape[1] - border, border : values.shape[2] - border] = -1 / inside.numel()
    by_exx = -values / b2
    by_exy = 2 * a1 * scale
    by_mean = 2 * mean_y * (a2 - a1) * scale + 2 * mean_x * values * (1 / b2 - 1 / b1)
    gradient = _blur(by_mean.mul_(share))
    gradient.addcmul_(x, _blur(by_exx.mul_(share)), value=2).addcmul_(y, _blur(by_exy.mul_(share)))
    return loss, gradient


def _blur(planes: Float[Tensor, "p h w"]) -> Float[Tensor, "p h w"]:
    """Gaussian blur with zeros outside."""
    _, height, width = planes.shape
    padded = torch.nn.functional.pad(planes, (_RADIUS,) * 4)
    rows = padded[:, _RADIUS : _RADIUS + height] * _TAPS[0]
    for tap in range(1, _RADIUS + 1):
        above, below = _RADIUS - tap, _RADIUS + tap
        rows.add_(padded[:, above : above + height] + padded[:, below : below + height], alpha=_TAPS[tap])
    out = rows[..., _RADIUS : _RADIUS + width] * _TAPS[0]
    for tap in range(1, _RADIUS + 1):
        left, right = _RADIUS - tap, _RADIUS + tap
        out.add_(rows[..., left : left + width] + rows[..., right : right + width], alpha=_TAPS[tap])
    return out


def _planes(image: Float[Tensor, "*b h w c"]) -> Float[Tensor, "p h w"]:
    return image.movedim(-1, -3).reshape(-1, *image.shape[-3:-1]).contiguous()


def _check(image: Tensor, reference: Tensor, smallest_px: int) -> None:
    if image.shape != reference.shape or image.ndim < 3:
        raise ValueError(f"images are [..., h, w, c] of one shape, got {tuple(image.shape)}, {tuple(reference.shape)}")
    if image.numel() == 0 or min(image.shape[-3:-1]) < smallest_px:
        raise ValueError(f"images need {smallest_px} pixels or more on each side, got {tuple(image.shape)}")
