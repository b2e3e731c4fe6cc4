"""Hyper-parameters of a fit; docs/decisions/007 says where they come from."""

import math
from dataclasses import dataclass
from typing import Any, Final

from recon.densify import DensifyConfig
from recon.objective import LossWeights

WEIGHTS: Final = LossWeights(depth=0.1, opacity=0.003)
START_SHARE: Final = 0.7  # of the cap
DEAD: Final = 0.03  # opacity below which a Gaussian is sent elsewhere


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
        visible_only: move only what a step shows, see `VisibleAdam`: much better where one image shows a small part of
            the scene (more than about 100 views along a street), a little worse where it shows most.

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
    visible_only: bool = False

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
