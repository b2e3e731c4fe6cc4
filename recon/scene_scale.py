"""How far away what a scene shows typically is: the unit of the steps that Gaussians take."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from recon.gaussians import Gaussians
from recon.objective import render_view
from recon.render import Backend
from recon.views import View

SCALE_VIEWS: Final = 16  # that are looked at to find it


def scene_scale(gaussians: Gaussians, views: Sequence[View], backend: Backend = "auto") -> float:
    """Median over pixels of the depth that a scene shows in some of the views, metres.

    Not below a fifth of the radius of the cameras, which Gaussians right before a lens would cause.

    Raises:
        ValueError: nothing is in view of any camera.
    """
    chosen = np.linspace(0, len(views) - 1, min(len(views), SCALE_VIEWS)).round().astype(int)
    depths = [depth for index in chosen if len(depth := _depths(gaussians, views[int(index)], backend))]
    if not depths:
        raise ValueError(
            f"none of the {len(gaussians)} Gaussians shows in any of {len(chosen)} views; check the poses "
            "(world from camera; camera axes x right, y down, z forward)"
        )
    radius_m = _camera_radius(views)
    return max(float(torch.cat(depths).median()), 0.2 * radius_m)


def _camera_radius(views: Sequence[View]) -> float:
    poses = torch.stack([view.viewmat for view in views])
    centres = -torch.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    return float((centres - centres.mean(dim=0)).norm(dim=1).max())


@torch.no_grad()
def _depths(gaussians: Gaussians, view: View, backend: Backend) -> Tensor:
    """Of the pixels that are at least half as covered as the most covered one."""
    drawn, alpha = render_view(gaussians.with_degree(0), view, mode="RGB+ED", backend=backend)
    return drawn[..., 3][(alpha > 0) & (alpha >= 0.5 * alpha.max())]
