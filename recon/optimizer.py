"""The parameters of a fit: which tensors Adam holds, at which rates, and Gaussians made of them."""

import torch
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
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


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
