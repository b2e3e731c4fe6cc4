"""Gaussians from posed images: the optimisation of Kerbl et al. 2023 with the densification of Kheradmand et al. 2024.

A step is a pure function of what `FitState` holds and of (seed, step): a fit that goes on from a saved state ends with
the same bits as one that was never interrupted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from recon.densify import DensifyState, densify, install, moments_of, sgld_noise
from recon.exposure import centred
from recon.fit_config import WEIGHTS, FitConfig
from recon.gaussians import Gaussians
from recon.objective import view_loss
from recon.optimizer import exposure_optimizer, joined_gaussians, make_optimizer, split_tensors
from recon.render import Backend
from recon.scene_scale import scene_scale
from recon.size_limit import SizeLimit
from recon.views import View

__all__ = ["WEIGHTS", "FitConfig", "FitState", "Progress", "Stop", "advance", "fit", "pick_view", "start"]

_ORDER: Final = 3  # purpose of a random stream, beside those of `recon.densify`
Stop = Literal["steps", "time", "interrupt"]


@dataclass
class FitState:
    """Where a fit stands; `advance` changes it in place.

    Args:
        optimizer: Adam over one parameter a group, the group's "name" is that of the parameter.
        exposures: Adam over the views' logarithmic gains, [v, 3].
        step: how many steps were taken.
        scale_m: typical distance from a camera to what it sees, see `scene_scale`.
        start_count: Gaussians at the start.
        draws: what the changes of the set are drawn by.
    """

    optimizer: torch.optim.Adam
    exposures: torch.optim.Adam
    step: int
    scale_m: float
    start_count: int
    draws: DensifyState

    @property
    def gaussians(self) -> Gaussians:
        """The scene, whose tensors are, or are made of, the optimizer's parameters."""
        return joined_gaussians({group["name"]: group["params"][0] for group in self.optimizer.param_groups})

    @property
    def log_gains(self) -> Float[Tensor, "v 3"]:
        """Exposure of each view that was learned from; their mean is 0."""
        return centred(self.exposures.param_groups[0]["params"][0].detach())


class Progress(NamedTuple):
    """What a caller learns after a step."""

    step: int
    loss: float
    gaussians: int


def start(gaussians: Gaussians, config: FitConfig, views: Sequence[View]) -> FitState:
    """A fit's state before its first step.

    Raises:
        ValueError: no Gaussians, more than the cap, or none in view of any camera.
    """
    if not 0 < len(gaussians) <= config.cap:
        raise ValueError(f"a fit starts from 1 to {config.cap} (the cap) Gaussians, got {len(gaussians)}")
    scale_m, count = scene_scale(gaussians, views), len(gaussians)
    optimizer = make_optimizer(gaussians.with_degree(config.degree), config, scale_m)
    draws = DensifyState.start(config.densify_config(count), config.seed)
    exposures = exposure_optimizer(len(views), config, gaussians.means.device)
    return FitState(optimizer, exposures, 0, scale_m, count, draws)


def advance(
    state: FitState,
    config: FitConfig,
    views: Sequence[View],
    backend: Backend = "auto",
    limit: SizeLimit | None = None,
) -> float:
    """One step: look at one image, correct all Gaussians, change the set when it is time. Returns the loss.

    Args:
        state: changed in place.
        config, views, backend, limit: see `fit`.

    Raises:
        ValueError: the loss is not finite.
    """
    step = state.step + 1
    index = pick_view(config.seed, state.step, len(views))
    view = views[index]
    gaussians, optimizer = state.gaussians, state.optimizer
    degree = config.degree_at(step)
    log_gains = centred(state.exposures.param_groups[0]["params"][0])
    options: dict[str, Any] = {"degree": degree, "backend": backend}
    loss = view_loss(gaussians, view, config.weights, state.scale_m, log_gain=log_gains[index], **options)
    if not torch.isfinite(loss):
        raise ValueError(
            f"{view.source}: the loss is {loss.item()} at step {step}; look at this frame's image and pose"
        )
    for each in (optimizer, state.exposures):
        each.zero_grad()
    loss.backward()
    left = config.last_lr ** (step / config.steps)
    means_lr = config.means_lr * state.scale_m * left
    next(group for group in optimizer.param_groups if group["name"] == "means")["lr"] = means_lr
    state.exposures.param_groups[0]["lr"] = config.exposures_lr * left
    optimizer.step()
    state.exposures.step()
    _explore(state, config, means_lr, step)
    if limit is not None:
        limit.hold(state.gaussians.means, state.gaussians.log_scales)
    state.step = step
    return loss.item()


def _explore(state: FitState, config: FitConfig, means_lr: float, step: int) -> None:
    """Noise on the means and changes of the set."""
    limits = config.densify_config(state.start_count)
    if config.noise_lr:
        gaussians = state.gaussians
        with torch.no_grad():
            gaussians.means.add_(sgld_noise(gaussians, means_lr, state.draws, limits, step))
    if limits.due(step):
        changed = densify(state.gaussians, moments_of(state.optimizer), state.draws, limits, step)
        install(state.optimizer, split_tensors(changed.gaussians), changed.moments)


def pick_view(seed: int, step: int, count: int) -> int:
    """Which of `count` views step `step` (from 0) looks at: every one once in each round, in an order of its own."""
    epoch, place = divmod(step, count)
    return int(_order(seed, epoch, count)[place])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Int64[ndarray, "v"]:
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(count)


def fit(
    state: FitState,
    config: FitConfig,
    views: Sequence[View],
    *,
    seconds: float | None = None,
    on_step: Callable[[Progress], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    backend: Backend = "auto",
    limit: SizeLimit | None = None,
) -> Stop:
    """Advance the state to its last step, to the end of a time budget, or to an interrupt; says which it was.

    Args:
        state: changed in place.
        config: must be that of the steps before.
        views: to learn from.
        seconds: wall time that may be spent in this call; what was fitted by then is the result.
        on_step: called after every step.
        interrupted: asked between steps.
        backend: see `rasterize`.
        limit: how large Gaussians may be, held after every step; None for as large as they like.

    Raises:
        ValueError: as `advance`.
    """
    began = time.monotonic()
    while state.step < config.steps:
        if interrupted():
            return "interrupt"
        if seconds is not None and time.monotonic() - began >= seconds:
            return "time"
        loss = advance(state, config, views, backend, limit)
        if on_step is not None:
            on_step(Progress(state.step, loss, len(state.optimizer.param_groups[0]["params"][0])))
    return "steps"
