"""A merged scene learns on at the vehicles: what each would change, weighed by how much it saw, is the next scene."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from recon.fit_config import WEIGHTS, FitConfig
from recon.gaussians import Gaussians
from recon.objective import LossWeights, render_view, view_loss
from recon.optimizer import joined_gaussians, make_optimizer
from recon.render import Backend, rasterize
from recon.size_limit import SizeLimit
from recon.ssim import photometric_loss
from recon.views import View

REFINE_WEIGHTS: Final = replace(WEIGHTS, opacity=0.0)
SEEN_PX: Final = 0.1  # that a vehicle's views show of a Gaussian, all together, for it to be looked at


@dataclass(frozen=True, eq=False)
class Update:
    """What a vehicle sends in a round of `refine`.

    Args:
        changes: to add to each tensor, by the names that `Gaussians.tensors` has.
        visibility: see `blend_weights`, [n].
    """

    changes: Mapping[str, Tensor]
    visibility: Float[Tensor, "n"]


UpdateOf = Callable[[Gaussians, int], Update]
"""One vehicle's answer to the Gaussians of all in a round."""


def blend_weights(gaussians: Gaussians, views: Sequence[View], backend: Backend = "auto") -> Float[Tensor, "n"]:
    """How much of each Gaussian the views show: its share in the colour of each pixel, summed, in pixels.

    What is hidden behind others or out of view has 0. Pixels that do not count are counted.
    """
    fixed = gaussians.detach()
    white = torch.ones_like(fixed.means).requires_grad_()
    total = torch.zeros_like(fixed.logit_opacities)
    for index in range(len(views)):
        view, (height, width) = views[index], views[index].size_px
        image, _, _ = rasterize(
            *(fixed.means, fixed.quats, fixed.scales, fixed.opacities, white),
            *(view.viewmat[None].to(white), view.intrinsics[None].to(white), width, height),
            backend=backend,
        )
        total += torch.autograd.grad(image[..., 0].sum(), white)[0][:, 0]
    return total


def local_update(
    gaussians: Gaussians,
    round_number: int,
    views: Sequence[View],
    config: FitConfig,
    scale_m: float,
    *,
    log_gains: Float[Tensor, "v 3"] | None = None,
    weights: LossWeights = REFINE_WEIGHTS,
    teacher: Gaussians | None = None,
    limit: SizeLimit | None = None,
    backend: Backend = "auto",
) -> Update:
    """A vehicle's part in a round: `config.steps` of Adam at its own views, from the Gaussians of all.

    Those of which its views show less than `SEEN_PX` are left as they are, are not drawn, and count as not seen.

    Args:
        gaussians: of all.
        round_number: decides, with `config.seed`, which views are looked at.
        views: the vehicle's own.
        config: steps of a round, learning rates (the same all along) and seed.
        scale_m: see `recon.scene_scale`.
        log_gains: of the views, see `recon.exposure`.
        weights: of the loss.
        teacher: a smoothed scene whose images count as much as the photos do (Fan et al. 2024, "Momentum-GS", section
            3.2, where it is a shared decoder); None for none.
        limit: how large Gaussians may be, held after every step; None for as large as they like.
        backend: see `rasterize`.

    Raises:
        ValueError: there are no views.
    """
    if not len(views):
        raise ValueError("local_update needs a view; a vehicle without one has nothing to send")
    visibility = blend_weights(gaussians, views, backend)
    rows = torch.nonzero(visibility >= SEEN_PX)[:, 0]
    start = gaussians.detach().select(rows)
    optimizer = make_optimizer(start, config, scale_m)
    moved = {group["name"]: group["params"][0] for group in optimizer.param_groups}
    rng, order = np.random.default_rng([config.seed, round_number]), np.zeros(0, np.int64)
    for _ in range(config.steps):
        order = order if len(order) else rng.permutation(len(views))
        index, order = int(order[0]), order[1:]
        current = joined_gaussians(moved)
        gain = None if log_gains is None else log_gains[index]
        loss = view_loss(current, views[index], weights, scale_m, log_gain=gain, backend=backend)
        if teacher is not None:
            loss = 0.5 * (loss + _distance(current, teacher, views[index], weights.dssim, backend))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if limit is not None:
            limit.hold(moved["means"], moved["log_scales"])
    last = joined_gaussians({name: parameter.detach() for name, parameter in moved.items()})
    before = start.tensors()
    changes = {name: tensor - before[name] for name, tensor in last.tensors().items()}
    return spread(Update(changes, visibility[rows]), rows, len(gaussians))


def _distance(gaussians: Gaussians, teacher: Gaussians, view: View, dssim: float, backend: Backend) -> Tensor:
    """Between what a scene and its teacher show in a view."""
    with torch.no_grad():
        target, _ = render_view(teacher, view, backend=backend)
    return photometric_loss(render_view(gaussians, view, backend=backend)[0], target, dssim, mask=view.counted)


def combined(gaussians: Gaussians, updates: Sequence[Update], step: float = 1.0) -> Gaussians:
    """The Gaussians after the mean of all updates, weighted by visibility one by one; what nobody sees stays.

    So does what would be no Gaussian any more, because numbers overflow or a rotation vanishes.

    Args:
        gaussians: that the updates are of.
        updates: of vehicles, or `pooled` ones of RSUs.
        step: how far to go along the mean; a mean of many is shorter than each, and bears more than 1.

    Raises:
        ValueError: an update is of another number of Gaussians, or not finite.
    """
    before, count = gaussians.detach().tensors(), len(gaussians)
    for number, update in enumerate(updates):
        fits = {name: update.changes[name].shape == tensor.shape for name, tensor in before.items()}
        numbers = [*update.changes.values(), update.visibility]
        if not all(fits.values()) or update.visibility.shape != (count,):
            raise ValueError(f"update {number} is not of these {count} Gaussians: {fits}")
        if not all(torch.isfinite(tensor).all() for tensor in numbers) or (update.visibility < 0).any():
            raise ValueError(f"update {number} holds NaN, infinity or negative visibility; leave it out")
    total = sum((update.visibility.double() for update in updates), torch.zeros(count).double()).clamp_min(1e-12)
    after = dict(before)
    for update in updates:
        share = (step * update.visibility.double() / total).to(before["means"])
        after = {name: tensor + _rows(share, tensor) * update.changes[name] for name, tensor in after.items()}
    sound = (after["quats"] != 0).any(dim=1)
    for tensor in after.values():
        sound &= torch.isfinite(tensor).flatten(1).all(dim=1) if tensor.ndim > 1 else torch.isfinite(tensor)
    return Gaussians(
        **{name: torch.where(_rows(sound, tensor), tensor, before[name]) for name, tensor in after.items()}
    )


def pooled(gaussians: Gaussians, updates: Sequence[Update]) -> Update:
    """One update that counts as much as all of them: what an RSU passes on to the cloud.

    Raises:
        ValueError: as `combined`.
    """
    before, after = gaussians.detach().tensors(), combined(gaussians, updates).tensors()
    visibility = sum((update.visibility.double() for update in updates), torch.zeros(len(gaussians)).double())
    return Update({name: after[name] - before[name] for name in before}, visibility.to(before["means"]))


def spread(update: Update, rows: Int64[Tensor, "r"], count: int) -> Update:
    """An update of some rows as one of all `count`: nothing changes, and nothing is seen, elsewhere."""

    def whole(tensor: Tensor) -> Tensor:
        return torch.zeros(count, *tensor.shape[1:], dtype=tensor.dtype).index_copy(0, rows, tensor)

    return Update({name: whole(change) for name, change in update.changes.items()}, whole(update.visibility))


def seen_rows(update: Update) -> tuple[Int64[Tensor, "r"], Update]:
    """The rows of which something was seen, ascending, and the update of these: what is worth sending.

    Inverse of `spread`.
    """
    rows = torch.nonzero(update.visibility > 0)[:, 0]
    return rows, Update({name: change[rows] for name, change in update.changes.items()}, update.visibility[rows])


def block_weights(
    psnr_db: Mapping[str, float], ssim: Mapping[str, float], lean: float = 1.0, sigma: float = 1.0
) -> dict[str, float]:
    """How much each party counts: more, up to twice as much, the worse the scene shows its images.

    2 - exp(-(δp² + lean δs²) / (2 sigma²)), δ being how far a party lies below the best in PSNR and SSIM (Fan et al.
    2024, "Momentum-GS", section 3.3). SSIM's δ is taken in hundredths, which is about what a dB is.

    Raises:
        ValueError: the parties of both differ, or sigma is not positive.
    """
    if psnr_db.keys() != ssim.keys() or not sigma > 0:
        raise ValueError(f"block_weights takes PSNR and SSIM of the same parties and sigma > 0, got sigma {sigma}")
    best_db, best = max(psnr_db.values(), default=0.0), max(ssim.values(), default=0.0)
    behind = {n: (best_db - psnr_db[n]) ** 2 + lean * (100 * (best - ssim[n])) ** 2 for n in psnr_db}
    return {name: 2 - math.exp(-value / (2 * sigma**2)) for name, value in behind.items()}


def _rows(share: Shaped[Tensor, "n"], like: Tensor) -> Tensor:
    return share.reshape(-1, *[1] * (like.ndim - 1))


def refine(gaussians: Gaussians, update_of: Mapping[str, UpdateOf], rounds: int) -> Gaussians:
    """Rounds of `combined` over all vehicles, in order of their names."""
    for number in range(rounds):
        gaussians = combined(gaussians, [update_of[name](gaussians, number) for name in sorted(update_of)])
    return gaussians
