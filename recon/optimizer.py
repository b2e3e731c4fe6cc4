"""The parameters of a fit: which tensors Adam holds, at which rates, and Gaussians made of them."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from recon.fit_config import FitConfig
from recon.gaussians import Gaussians


def make_optimizer(gaussians: Gaussians, config: FitConfig, scale_m: float) -> torch.optim.Adam:
    """Adam over copies of the Gaussians' tensors."""
    rates = {"quats": config.quats_lr, "log_scales": config.log_scales_lr, "sh_0": config.sh_lr}
    rates |= {"means": config.means_lr * scale_m, "logit_opacities": config.logit_opacities_lr}
    rates |= {"sh_rest": config.sh_lr / 20}
    groups = [
        {"name": name, "params": [torch.nn.Parameter(tensor.detach().clone())], "lr": rates[name]}
        for name, tensor in split_tensors(gaussians).items()
    ]
    return new_optimizer(groups, config)


def new_optimizer(groups: list[dict[str, Any]], config: FitConfig) -> torch.optim.Adam:
    """Adam as a config wants it, over groups of one named parameter each."""
    if config.visible_only:
        return VisibleAdam(groups, eps=1e-15)
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


class VisibleAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015, algorithm 1) for each Gaussian by itself, which counts only the steps that show it.

    Where a step shows a small part of a scene, plain Adam goes on pushing what is out of view, and forgets how large
    its gradients are. Groups are those of `make_optimizer`; a row without a gradient in its mean is out of view.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; `closure` is not used."""
        parameters = {group["name"]: group["params"][0] for group in self.param_groups}
        rows = torch.nonzero((parameters["means"].grad != 0).any(dim=1))[:, 0]
        if not self.state:
            for parameter in parameters.values():
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros(()), **moments}  # torch asks for a step when it is loaded
            self.state[parameters["logit_opacities"]]["visits"] = torch.zeros_like(parameters["logit_opacities"])
        visits = self.state[parameters["logit_opacities"]]["visits"]
        visits[rows] += 1
        for group in self.param_groups:
            self._step_rows(group, rows, visits[rows])

    def _step_rows(self, group: dict[str, Any], rows: Int64[Tensor, "r"], visits: Float[Tensor, "r"]) -> None:
        (parameter,), (beta_1, beta_2) = group["params"], group["betas"]
        state, gradient = self.state[parameter], parameter.grad[rows]
        visits = visits.reshape(-1, *[1] * (gradient.ndim - 1))
        mean = state["exp_avg"][rows].lerp_(gradient, 1 - beta_1)
        square = state["exp_avg_sq"][rows].mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        spread = (square / (1 - beta_2**visits)).sqrt_().add_(group["eps"])
        parameter[rows] -= group["lr"] * (mean / (1 - beta_1**visits)) / spread


def exposure_optimizer(views: int, config: FitConfig, device: torch.device | str = "cpu") -> torch.optim.Adam:
    """Adam over gains of 1."""
    return torch.optim.Adam(
        [torch.nn.Parameter(torch.zeros(views, 3, device=device))], lr=config.exposures_lr, eps=1e-15, fused=True
    )


def split_tensors(gaussians: Gaussians) -> dict[str, Tensor]:
    """The tensors that are learned, by name: spherical harmonics in two, since their learning rates differ."""
    tensors = gaussians.tensors()
    sh = tensors.pop("sh")
    return tensors | {"sh_0": sh[:, :1]} | ({"sh_rest": sh[:, 1:]} if sh.shape[1] > 1 else {})


def joined_gaussians(parameters: dict[str, Tensor]) -> Gaussians:
    """The Gaussians that `split_tensors` took apart."""
    parts = [parameters[name] for name in ("sh_0", "sh_rest") if name in parameters]
    rest = {name: tensor for name, tensor in parameters.items() if not name.startswith("sh_")}
    return Gaussians.unchecked(**rest, sh=torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
