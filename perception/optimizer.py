"""The optimiser of the detector: Muon for the kernels, AdamW for everything else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class MuonAdamW:
    """Both optimisers under one learning rate.

    Muon (Jordan et al. 2024; scaled to AdamW's step size as in Liu et al. 2025, "Muon is scalable for LLM training",
    eq. 4) makes each kernel's update orthogonal. With it the detector gets in a fraction of the time where AdamW alone
    gets it (`benchmarks/detector.py`). It takes matrices, so it is handed views [out, h * w * in] of the kernels.
    """

    kernels: tuple[nn.Parameter, ...]
    matrices: tuple[Tensor, ...]
    optimizers: tuple[torch.optim.Optimizer, ...]

    def step(self, lr: float) -> None:
        """Apply the gradients with this learning rate, and forget them."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.permute(0, 2, 3, 1).flatten(1)
            kernel.grad = None
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()


def make_optimizer(model: nn.Module, weight_decay: float, muon: bool = True) -> MuonAdamW:
    """Muon for kernels with a spatial extent, AdamW for 1x1 kernels, affine parameters and biases (or for everything).

    Weight decay holds for kernels of either kind. The model's kernels must be in channels_last layout.
    """
    kernels = tuple(p for p in model.parameters() if muon and p.ndim == 4 and p.shape[2] > 1)
    chosen = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    matrices = tuple(as_matrix(kernel.detach()) for kernel in kernels)
    optimizers: tuple[torch.optim.Optimizer, ...] = (torch.optim.AdamW(groups, fused=True),)
    if matrices:
        optimizers += (torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),)
    return MuonAdamW(kernels, matrices, optimizers)


def as_matrix(kernel: Tensor) -> Tensor:
    """View of a channels_last kernel [out, in, h, w] as [out, h * w * in]; writing to it writes to the kernel."""
    return kernel.permute(0, 2, 3, 1).view(len(kernel), -1)
