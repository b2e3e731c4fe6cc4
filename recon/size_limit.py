"""How large a Gaussian may be where it lies: skies and far fronts must not hang as haze over somebody's street."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from recon.gaussians import Gaussians
from recon.region import distance_m


@dataclass(frozen=True, eq=False)
class SizeLimit:
    """The largest deviation is a share of the way to whoever drives nearest; `least_m` any may have.

    What one vehicle takes for sky may hang beside another's street. At the edge of its view a rasterizer, which puts
    a plane in place of the perspective (Zwicker et al. 2001, "EWA volume splatting"), spreads what is large and near
    over the image: a haze that moves every depth behind it.

    Args:
        waypoints_m: east, north of all planned waypoints, at least one; they lie at height 0.
        share: a slope, radians for small ones.
        least_m: metres.

    Raises:
        ValueError: no waypoint, one that is not finite, or a number that is not positive and finite.
    """

    waypoints_m: Float[ndarray, "k 2"]
    share: float
    least_m: float

    def __post_init__(self) -> None:
        if np.shape(self.waypoints_m)[1:] != (2,) or not len(self.waypoints_m):
            raise ValueError(f"SizeLimit.waypoints_m must be [k, 2], k > 0, got {np.shape(self.waypoints_m)}")
        if not np.isfinite(self.waypoints_m).all():
            raise ValueError("SizeLimit.waypoints_m holds NaN or infinity")
        for name in ("share", "least_m"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"SizeLimit.{name} must be finite and above 0, got {value}")

    def largest_m(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """The largest deviation at each place, metres."""
        ways_m = np.column_stack([self.waypoints_m, np.zeros(len(self.waypoints_m))])
        away_m = torch.from_numpy(distance_m(ways_m, xyz.detach().double().cpu().numpy()))
        return (self.share * away_m).clamp_min(self.least_m)

    def bounded(self, gaussians: Gaussians) -> Gaussians:
        """Gaussians of which none is larger than it may be, nor changed in anything else."""
        log_scales = gaussians.log_scales.detach().clone()
        self.hold(gaussians.means, log_scales)
        return replace(gaussians, log_scales=log_scales)

    @torch.no_grad()
    def hold(self, means: Float[Tensor, "n 3"], log_scales: Float[Tensor, "n 3"]) -> None:
        """The same in place, for what an optimizer has moved; places are looked up of what is above `least_m` only."""
        rows = torch.nonzero(log_scales.amax(dim=1) > math.log(self.least_m))[:, 0]
        if len(rows):
            most = self.largest_m(means[rows]).log().to(log_scales)
            log_scales[rows] = torch.minimum(log_scales[rows], most[:, None])
