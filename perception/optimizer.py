"""The optimiser of the detector: Muon for the kernels, AdamW for everything else."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Coefficients of Jordan et al. 2024: steepest at zero, so that five steps bring small singular values near 1 as well.
NEWTON_SCHULZ, STEPS, LEAST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7
MOMENTUM = 0.95


@dataclass(frozen=True, eq=False)
class MuonAdamW:
    """Both optimisers under one learning rate.

    Muon (Jordan et al. 2024; scaled to AdamW's step size as in Liu et al. 2025, "Muon is scalable for LLM training",
    eq. 4) makes each kernel's update orthogonal. With it the detector gets in a fraction of the time where AdamW alone
    gets it (`benchmarks/detector.py`). It takes matrices, so it is handed views [out, h * w * in] of the kernels.

    Args:
        kernels: what Muon trains.
        matrices: views of them as matrices.
        momenta: moving averages of the matrices' gradients.
        weight_decay: of the kernels.
        adamw: trains the rest.
    """

    kernels: tuple[nn.Parameter, ...]
    matrices: tuple[Tensor, ...]
    momenta: tuple[Tensor, ...]
    weight_decay: float
    adamw: torch.optim.Optimizer

    def step(self, lr: float) -> None:
        """Apply the gradients with this learning rate, and forget them."""
        for kernel, matrix, momentum in zip(self.kernels, self.matrices, self.momenta, strict=True):
            if kernel.grad is not None:
                step_muon(matrix, kernel.grad.permute(0, 2, 3, 1).flatten(1), momentum, lr, self.weight_decay)
            kernel.grad = None
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.adamw.zero_grad()


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
    momenta = tuple(torch.zeros_like(matrix) for matrix in matrices)
    return MuonAdamW(kernels, matrices, momenta, weight_decay, torch.optim.AdamW(groups, fused=True))


def step_muon(
    matrix: Float[Tensor, "m n"],
    gradient: Float[Tensor, "m n"],
    momentum: Float[Tensor, "m n"],
    lr: float,
    weight_decay: float,
) -> None:
    """Move a matrix by one step of Muon in place, and its momentum with it.

    The same as `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, which computes in bfloat16 whatever the processor:
    where that is emulated its steps take longer than all convolutions.
    """
    momentum.lerp_(gradient, 1 - MOMENTUM)
    update = orthogonalize(gradient.lerp(momentum, MOMENTUM))
    matrix.mul_(1 - lr * weight_decay).add_(update, alpha=-0.2 * math.sqrt(max(matrix.shape)) * lr)


def orthogonalize(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Bring a matrix's singular values near 1 by five Newton-Schulz steps X <- (a + b X X' + c (X X')^2) X.

    Every step multiplies X from the left by a polynomial P of X X', so the product of all five is found on the small
    square matrix G = X X' alone, which a step turns into P G P, and meets X once at the end. In exact arithmetic that
    is Jordan et al.'s iteration; for a kernel [128, 1152] it takes two fifths of the multiplications.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T).T
    scaled = matrix / matrix.norm().clamp(min=LEAST_NORM)
    a, b, c = NEWTON_SCHULZ
    gram = scaled @ scaled.T
    product = scaled.new_ones(len(scaled)).diag()
    for _ in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ scaled


def as_matrix(kernel: Tensor) -> Tensor:
    """View of a channels_last kernel [out, in, h, w] as [out, h * w * in]; writing to it writes to the kernel."""
    return kernel.permute(0, 2, 3, 1).view(len(kernel), -1)
