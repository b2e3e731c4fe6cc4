"""The merge of Fed3DGS (Suzuki 2024, arXiv 2403.11460), to compare with: opacities learned from rendered images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recon.gaussians import Gaussians, neighbour_distance
from recon.merge import Part, nearest
from recon.objective import render_view
from recon.ssim import photometric_loss
from recon.views import View


def opacity_distillation(
    parts: Sequence[Part],
    cameras: Mapping[str, Sequence[View]],
    *,
    epochs: int = 5,
    rate: float = 0.05,
    reset: float = 0.05,
    entropy: float = 0.01,
    min_opacity: float = 0.005,
    seed: int = 0,
) -> Gaussians:
    """Baseline after Suzuki 2024 ("Fed3DGS", arXiv 2403.11460), without its appearance model: only opacity is learned.

    Parts are taken in one by one, in the order given, which matters. The server knows all cameras. Targets are
    images of the new part at its cameras and of what is there at as many of the earlier ones. Opacities of the new
    and of what lies within the median distance of its neighbours are cut to `reset`; faint ones are dropped.

    Args:
        parts: aligned; regions are not used.
        cameras: of each part by name; images are not used.
        epochs: over the targets of a part.
        rate: of Adam on logits.
        reset, min_opacity: opacities.
        entropy: weight of the mean binary entropy of opacities, which sends them to 0 or 1.
        seed: of the cameras that are drawn.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("opacity_distillation needs at least one part")
    rng = np.random.default_rng(seed)
    whole, known = parts[0].gaussians.detach(), list(cameras[parts[0].name])
    for part in parts[1:]:
        own = list(cameras[part.name])
        chosen = [known[int(row)] for row in rng.permutation(len(known))[: len(own)]]
        targets = [_target(part.gaussians, view) for view in own] + [_target(whole, view) for view in chosen]
        whole = _distilled(_reset(whole, part.gaussians, reset), targets, rng, epochs, rate, entropy)
        whole, known = whole.select(whole.opacities >= min_opacity), known + own
    return whole


@torch.no_grad()
def _target(gaussians: Gaussians, view: View) -> tuple[View, Tensor]:
    return view, render_view(gaussians, view)[0]


def _reset(whole: Gaussians, part: Gaussians, opacity: float) -> Gaussians:
    """Both, with opacities cut where they meet."""
    most = math.log(opacity / (1 - opacity))
    if not (len(whole) and len(part)):
        return Gaussians.concat([whole, part.detach()])
    apart_m = float(neighbour_distance(part.means, 1).median()) if len(part) > 1 else 0.0
    near = nearest(whole.means, part.means, 1)[0][:, 0] <= apart_m
    logits = torch.where(near, whole.logit_opacities.clamp_max(most), whole.logit_opacities)
    cut = replace(part.detach(), logit_opacities=part.logit_opacities.detach().clamp_max(most))
    return Gaussians.concat([replace(whole, logit_opacities=logits), cut])


def _distilled(
    gaussians: Gaussians,
    targets: Sequence[tuple[View, Tensor]],
    rng: np.random.Generator,
    epochs: int,
    rate: float,
    entropy: float,
) -> Gaussians:
    """Adam on opacities alone."""
    logits = gaussians.logit_opacities.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    for row in np.concatenate([rng.permutation(len(targets)) for _ in range(epochs)]):
        view, target = targets[int(row)]
        drawn, _ = render_view(replace(gaussians, logit_opacities=logits), view)
        loss = photometric_loss(drawn, target, 0.2)
        spread = torch.nn.functional.binary_cross_entropy_with_logits(logits, logits.sigmoid())
        optimizer.zero_grad()
        (loss + entropy * spread).backward()
        optimizer.step()
    return replace(gaussians, logit_opacities=logits.detach())
