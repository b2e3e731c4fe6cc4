"""The training loss as a torch function: `loss.hpp` through ctypes, value and gradient in one call, float32."""

import ctypes
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.render.build import load_kernel

TAPS = 6
INTEGERS = ("images", "height", "width", "channels", "threads")
BUFFERS = ("image", "reference", "mask", "gradient", "l1", "dssim")


class _Call(ctypes.Structure):
    """Mirrors `struct Photometric` of loss.hpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        ("dssim_weight", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in BUFFERS),
        ("taps", ctypes.c_double * TAPS),
    ]


class CompiledPhotometric(torch.autograd.Function):
    """The loss of float32 images on the CPU; see `recon.ssim.photometric_loss`.

    Raises:
        KernelUnavailableError: the kernel cannot be compiled here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Float[Tensor, "*b h w c"],
        reference: Float[Tensor, "*b h w c"],
        mask: Bool[Tensor, "*b h w"] | None,
        dssim_weight: float,
        taps: list[float],
    ) -> Float[Tensor, ""]:
        """Weighted sum of L1 and 1 - SSIM; `taps` of the window from its middle outwards."""
        image, reference = image.contiguous(), reference.contiguous()
        sums = torch.empty(2, image.shape[:-2].numel(), dtype=torch.float64)
        buffers = {"image": image, "reference": reference, "l1": sums[0], "dssim": sums[1]}
        if mask is not None:
            buffers["mask"] = mask.contiguous()
        if ctx.needs_input_grad[0]:
            buffers["gradient"] = torch.empty_like(image)
            ctx.save_for_backward(buffers["gradient"])
        height, width, channels = image.shape[-3:]
        images, threads = image.shape[:-3].numel(), torch.get_num_threads()
        call = _Call(images, height, width, channels, threads, dssim_weight, taps=(ctypes.c_double * TAPS)(*taps))
        for name, tensor in buffers.items():
            setattr(call, name, tensor.data_ptr())
        load_kernel().convoy_photometric(ctypes.byref(call))
        l1, dssim = (sums.sum(dim=1) / image.numel()).tolist()
        return image.new_tensor((1 - dssim_weight) * l1 + dssim_weight * dssim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient was computed along with the value."""
        return ctx.saved_tensors[0] * grad_outputs[0], None, None, None, None
