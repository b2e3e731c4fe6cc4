"""Gaussians from posed images: the optimisation of Kerbl et al. 2023 with the densification of Kheradmand et al. 2024.

A step is a pure function of what `FitState` holds and of (seed, step): a fit that goes on from a saved state ends with
the same bits as one that was never interrupted.
"""

import math
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

from recon.densify import DensifyConfig, DensifyState, densify, install, moments_of, sgld_noise
from recon.exposure import centred
from recon.gaussians import Gaussians
from recon.objective import LossWeights, render_view, view_loss
from recon.render import Backend
from recon.views import View

WEIGHTS: Final = LossWeights(depth=0.1, opacity=0.003)
START_SHARE: Final = 0.7  # of the cap
DEAD: Final = 0.03  # opacity below which a Gaussian is sent elsewhere
SCALE_VIEWS: Final = 16  # that are looked at to find it
_ORDER: Final = 3  # purpose of a random stream, beside those of `recon.densify`
Stop = Literal["steps", "time", "interrupt"]


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of a fit. Learning rates of the means are in units of `FitState.scale_m`.

    Args:
        steps: images that are looked at, one a step.
        cap: the most Gaussians there may be.
        degree: of the spherical harmonics, 0..3; bands come in one after the other.
        seed: decides everything random.
        weights: of the terms of the loss.
        means_lr: at the first step; it falls to `last_lr` of that.
        quats_lr, log_scales_lr, logit_opacities_lr, sh_lr: the same all along; bands above 0 get a twentieth.
        exposures_lr: of the views' gains, see `recon.exposure`; 0 leaves them at 1. It falls as that of the means does.
        last_lr: learning rate of the means at the last step, as a share of the first.
        densify_every: steps between changes of the set.
        noise_lr: see `DensifyConfig`.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    steps: int = 3000
    cap: int = 50_000
    degree: int = 0
    seed: int = 0
    weights: LossWeights = WEIGHTS
    means_lr: float = 2e-3
    quats_lr: float = 2e-3
    log_scales_lr: float = 1.5e-2
    logit_opacities_lr: float = 5e-2
    sh_lr: float = 1e-2
    exposures_lr: float = 3e-3
    last_lr: float = 0.03
    densify_every: int = 50
    noise_lr: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "cap", "densify_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"FitConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.degree <= 3:
            raise ValueError(f"FitConfig.degree lies in 0..3, got {self.degree}")
        for name in (name for name in self.__dataclass_fields__ if name.endswith("_lr")):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"FitConfig.{name} must be finite and not negative, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"FitConfig.seed must not be negative, got {self.seed}")

    @property
    def start_points(self) -> int:
        """Initial points to ask for; the rest of the cap is for where the scene turns out to need it."""
        return max(round(START_SHARE * self.cap), 1)

    def densify_config(self, start_count: int) -> DensifyConfig:
        """Changes from 5 % to 80 % of the steps, the cap reached half way from `start_count` on.

        Where these are fewer than `densify_every`, the set does not change.
        """
        start, stop = self.steps // 20, round(0.8 * self.steps)
        times = max((self.steps // 2 - start) // self.densify_every, 1)
        grow = max(self.cap / max(start_count, 1), 1.0) ** (1 / times)
        limits: dict[str, Any] = {"start": start, "stop": stop, "every": self.densify_every, "grow": grow}
        return DensifyConfig(self.cap, **limits, min_opacity=DEAD, noise_lr=self.noise_lr, draw_by="pull")

    def degree_at(self, step: int) -> int:
        """Bands come in at a tenth, two tenths and three tenths of the steps."""
        return min(self.degree, step * 10 // self.steps)


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
        return _joined({group["name"]: group["params"][0] for group in self.optimizer.param_groups})

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


def make_optimizer(gaussians: Gaussians, config: FitConfig, scale_m: float) -> torch.optim.Adam:
    """Adam over copies of the Gaussians' tensors."""
    rates = {"quats": config.quats_lr, "log_scales": config.log_scales_lr, "sh_0": config.sh_lr}
    rates |= {"means": config.means_lr * scale_m, "logit_opacities": config.logit_opacities_lr}
    rates |= {"sh_rest": config.sh_lr / 20}
    groups = [
        {"name": name, "params": [torch.nn.Parameter(tensor.detach().clone())], "lr": rates[name]}
        for name, tensor in _split(gaussians).items()
    ]
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


def exposure_optimizer(views: int, config: FitConfig, device: torch.device | str = "cpu") -> torch.optim.Adam:
    """Adam over gains of 1."""
    return torch.optim.Adam(
        [torch.nn.Parameter(torch.zeros(views, 3, device=device))], lr=config.exposures_lr, eps=1e-15, fused=True
    )


def advance(state: FitState, config: FitConfig, views: Sequence[View], backend: Backend = "auto") -> float:
    """One step: look at one image, correct all Gaussians, change the set when it is time. Returns the loss.

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
        install(state.optimizer, _split(changed.gaussians), changed.moments)


def pick_view(seed: int, step: int, count: int) -> int:
    """Which of `count` views step `step` (from 0) looks at: every one once in each round, in an order of its own."""
    epoch, place = divmod(step, count)
    return int(_order(seed, epoch, count)[place])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Int64[ndarray, "v"]:
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(count)


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


def fit(
    state: FitState,
    config: FitConfig,
    views: Sequence[View],
    *,
    seconds: float | None = None,
    on_step: Callable[[Progress], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    backend: Backend = "auto",
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

    Raises:
        ValueError: as `advance`.
    """
    began = time.monotonic()
    while state.step < config.steps:
        if interrupted():
            return "interrupt"
        if seconds is not None and time.monotonic() - began >= seconds:
            return "time"
        loss = advance(state, config, views, backend)
        if on_step is not None:
            on_step(Progress(state.step, loss, len(state.optimizer.param_groups[0]["params"][0])))
    return "steps"


def _split(gaussians: Gaussians) -> dict[str, Tensor]:
    """The tensors that are learned, by name: spherical harmonics in two, since their learning rates differ."""
    tensors = gaussians.tensors()
    sh = tensors.pop("sh")
    return tensors | {"sh_0": sh[:, :1]} | ({"sh_rest": sh[:, 1:]} if sh.shape[1] > 1 else {})


def _joined(parameters: dict[str, Tensor]) -> Gaussians:
    parts = [parameters[name] for name in ("sh_0", "sh_rest") if name in parameters]
    rest = {name: tensor for name, tensor in parameters.items() if not name.startswith("sh_")}
    return Gaussians.unchecked(**rest, sh=torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
