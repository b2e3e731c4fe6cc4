"""Colours of Gaussians with spherical harmonics, as each camera sees them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from recon.spherical import colours


def sh_colors(
    means: Float[Tensor, "n 3"], sh: Float[Tensor, "n k 3"], degree: int, viewmats: Float[Tensor, "c 4 4"]
) -> Float[Tensor, "c n 3"]:
    """max(0, ½ + basis · coefficients), seen along the ray from each camera's centre (Kerbl et al. 2023).

    Differentiable in means, coefficients and poses. Coefficients of bands above `degree`, 0 to 3, are ignored.
    """
    used = (degree + 1) ** 2
    if degree == 0:  # the same from everywhere
        flat = colours(sh[:, :1], torch.zeros_like(means))
        return flat.expand(len(viewmats), -1, -1)
    centres = torch.linalg.inv(viewmats)[:, :3, 3]
    return torch.stack([colours(sh[:, :used], normalize(means - centre, dim=-1)) for centre in centres])
