"""A similarity as seven numbers about a pivot: what a vehicle answers a gradient of."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geometry import Sim3
from geometry.se3 import SE3
from recon.gaussians import Gaussians
from recon.spherical import rotate


@dataclass(frozen=True, eq=False)
class Chart:
    """Seven numbers for a similarity, all of like effect: turning and scaling about a pivot, and a shift.

    Rotation vector in radians (three), logarithm of the scale, translation over `reach_m` (three): a change of 0.01
    in any of them moves what lies `reach_m` from the pivot by about `reach_m` / 100.

    Args:
        pivot_m: in the Gaussians' own frame, float64, [3].
        reach_m: typical distance from it, above 0.

    Raises:
        ValueError: a value is not finite, or the reach is not positive.
    """

    pivot_m: Float[ndarray, "3"]
    reach_m: float

    def __post_init__(self) -> None:
        pivot_m = np.array(self.pivot_m, np.float64)
        if pivot_m.shape != (3,) or not np.isfinite(pivot_m).all():
            raise ValueError(f"Chart.pivot_m must be three finite numbers, got {self.pivot_m}")
        if not (math.isfinite(self.reach_m) and self.reach_m > 0):
            raise ValueError(f"Chart.reach_m must be finite and positive, got {self.reach_m}")
        object.__setattr__(self, "pivot_m", pivot_m)

    @classmethod
    def of(cls, gaussians: Gaussians, pivot_m: Float[ndarray, "3"] | None = None) -> "Chart":
        """About a pivot, with the median distance of the Gaussians from it.

        Args:
            gaussians: that are to be moved.
            pivot_m: in their own frame, best near the cameras that look at them, as where two regions meet; by default
                the median of their centres.

        Raises:
            ValueError: there are none, or all lie on the pivot.
        """
        if not len(gaussians):
            raise ValueError("Chart.of takes Gaussians, got none")
        means = gaussians.means.detach().cpu().double().numpy()
        pivot_m = np.median(means, axis=0) if pivot_m is None else pivot_m
        return cls(pivot_m, float(np.median(np.linalg.norm(means - pivot_m, axis=1))))

    def parameters(self, sim3: Sim3) -> Float[Tensor, "7"]:
        """Of a similarity, float64."""
        shift_m = sim3.apply(self.pivot_m[None])[0] - self.pivot_m
        parts = [rotation_vector(sim3.rotation), [math.log(sim3.scale)], shift_m / self.reach_m]
        return torch.tensor(np.concatenate(parts))

    def matrices(self, parameters: Float[Tensor, "7"]) -> tuple[Tensor, Tensor, Tensor]:
        """Rotation [3, 3], scale [] and translation in metres [3], with gradients."""
        pivot_m = torch.tensor(self.pivot_m).to(parameters)
        rotation, scale = rotation_matrix(parameters[:3]), parameters[3].exp()
        return rotation, scale, pivot_m + self.reach_m * parameters[4:] - scale * (rotation @ pivot_m)

    def sim3(self, parameters: Float[Tensor, "7"]) -> Sim3:
        """The similarity."""
        rotation, scale, translation_m = self.matrices(parameters.detach().double())
        return Sim3(rotation.numpy(), translation_m.numpy(), float(scale))


def rotation_matrix(vector_rad: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Of a rotation vector (axis times angle); differentiable at 0 too."""
    x, y, z = vector_rad
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3))


def rotation_vector(rotation: Float[ndarray, "3 3"]) -> Float[ndarray, "3"]:
    """Axis times angle in radians, angle 0..π."""
    quat = SE3(rotation, np.zeros(3)).quat_wxyz
    sine = float(np.linalg.norm(quat[1:]))
    return quat[1:] * (2 * math.atan2(sine, quat[0]) / sine if sine > 1e-12 else 2.0)


def similarity(gaussians: Gaussians, parameters: Float[Tensor, "7"], chart: Chart) -> Gaussians:
    """`Gaussians.transformed` by seven parameters that get gradients.

    The harmonics turn as well, but pass no gradient to the parameters; `gradient_at` leaves nothing out.
    """
    rotation, scale, translation_m = chart.matrices(parameters)
    angle = torch.linalg.vector_norm(parameters[:3])
    half = 0.5 * torch.sinc(angle / (2 * math.pi)) * parameters[:3]
    turn = torch.cat([torch.cos(angle / 2)[None], half]).to(gaussians.quats)
    return Gaussians(
        means=gaussians.means @ (scale * rotation).T.to(gaussians.means) + translation_m.to(gaussians.means),
        quats=_turned(turn, gaussians.quats),
        log_scales=gaussians.log_scales + parameters[3].to(gaussians.log_scales),
        logit_opacities=gaussians.logit_opacities,
        sh=rotate(gaussians.sh, rotation),
    )


def _turned(turn: Float[Tensor, "4"], quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Hamilton's product, w x y z."""
    scalar = turn[0] * quats[:, :1] - quats[:, 1:] @ turn[1:, None]
    vector = (
        turn[0] * quats[:, 1:]
        + quats[:, :1] * turn[1:]
        + torch.linalg.cross(turn[1:].expand(len(quats), 3), quats[:, 1:])
    )
    return torch.cat([scalar, vector], dim=1)
