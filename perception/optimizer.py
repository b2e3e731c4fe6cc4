"""The optimiser of the detector: Muon for the kernels, AdamW for everything else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class MuonAdamW:
    """Both optimisers under one learning rate.

    Muon (Jordan et al. 2024; scaled to AdamW's step size as in Liu et al. 2025, "Muon is scalable for LLM training",
    eq. 4) makes each kernel's update orthogonal: the detector reaches in a quarter of the time what AdamW alone reaches.
    It takes matrices, so it is handed views [out, in * h * w] of the kernels.
    """

    kernels: tuple[nn.Parameter, ...]
    matrices: tuple[Tensor, ...]
    muon: torch.optim.Muon
    adamw: torch.optim.AdamW

    def step(self, lr: float) -> None:
        """Apply the gradients with this learning rate, and forget them."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else as_matrix(kernel.grad)
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        for parameter in self.kernels:
            parameter.grad = None
        self.adamw.zero_grad()


def make_optimizer(model: nn.Module, weight_decay: float) -> MuonAdamW:
    """Muon for convolutions with a spatial extent, AdamW for 1x1 convolutions, affine parameters and biases.

    Weight decay holds for kernels of either kind. The model's kernels must be in channels_last layout.
    """
    spatial = tuple(p for p in model.parameters() if p.ndim == 4 and p.shape[2] > 1)
    chosen = {id(p) for p in spatial}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    matrices = tuple(as_matrix(kernel.detach()) for kernel in spatial)
    return MuonAdamW(
        spatial,
        matrices,
        torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
                {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
            ],
            fused=True,
        ),
    )


def as_matrix(kernel: Tensor) -> Tensor:
    """View of a channels_last kernel [out, in, h, w] as [out, h * w * in]; writing to it writes to the kernel."""
    return kernel.permute(0, 2, 3, 1).view(len(kernel), -1)
