"""What a camera's automatic exposure did to each image: one gain a colour and view, learned along with the scene.

A vehicle that drives from a dark street into the sun sees the same wall in other colours. Without this, Gaussians
would have to be that wall in each of them. Gains are kept as logarithms, 0 for none.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor


def exposed(image: Float[Tensor, "h w 3"], log_gain: Float[Tensor, "3"]) -> Float[Tensor, "h w 3"]:
    """The image as a camera with these gains takes it."""
    return image * log_gain.exp()


def centred(log_gains: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """The same without their mean, which belongs to the scene's colours."""
    return log_gains - log_gains.mean(dim=0)


def interpolated(
    log_gains: Float[Tensor, "v 3"], times_s: Float[ndarray, "v"], at_s: Float[ndarray, "t"]
) -> Float[Tensor, "t 3"]:
    """Gains at other times, linear between neighbours in time and constant beyond the ends.

    Args:
        log_gains: of views.
        times_s: of the same views, in any order.
        at_s: of views that none are known of.

    Raises:
        ValueError: no views, or numbers of gains and times differ.
    """
    if len(times_s) == 0 or len(times_s) != len(log_gains):
        raise ValueError(f"interpolated takes one gain a time and at least one, got {len(log_gains)}, {len(times_s)}")
    order = np.argsort(times_s, kind="stable")
    known = log_gains.detach().cpu().double().numpy()[order]
    columns = [np.interp(at_s, np.asarray(times_s)[order], known[:, colour]) for colour in range(3)]
    return torch.tensor(np.stack(columns, axis=1)).to(log_gains)
