"""Real spherical harmonics up to degree 3: how the colour of a Gaussian depends on where it is seen from.

Order and signs are those that splat files use: within band l the orders m = -l..l, and a factor (-1)^m, so that band
1 is (-y, z, -x) up to its constant.
"""

import math
from functools import cache
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DEGREE: Final = 3
BAND_0: Final = 1 / math.sqrt(4 * math.pi)


def basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Values of the (degree + 1)² functions in unit directions; orthonormal over the sphere.

    Raises:
        ValueError: the degree is not 0, 1, 2 or 3.
    """
    _check_degree(degree)
    x, y, z = directions.unbind(-1)
    columns = [torch.full_like(x, BAND_0)]
    if degree > 0:
        c = math.sqrt(3 / (4 * math.pi))
        columns += [-c * y, c * z, -c * x]
    if degree > 1:
        columns += _band_2(x, y, z)
    if degree > 2:
        columns += _band_3(x, y, z)
    return torch.stack(columns, dim=-1)


def colours(sh: Float[Tensor, "n k 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """RGB of each Gaussian seen along a unit direction (from the eye to it): ½ + the sum, not below 0.

    Kerbl et al. 2023 leave values above 1 to the image.
    """
    weights = basis(directions, degree_of(sh.shape[-2]))
    return torch.clamp_min(0.5 + torch.einsum("nk,nkc->nc", weights, sh), 0.0)


def from_rgb(rgb: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """The coefficients of band 0 that give this colour from everywhere."""
    return (rgb - 0.5) / BAND_0


def rotate(sh: Float[Tensor, "n k 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "n k 3"]:
    """Coefficients of the functions turned with the world: the new f(R d) is the old f(d). Exact."""
    bands, start = [sh[:, :1]], 1
    for level in range(1, degree_of(sh.shape[1]) + 1):
        turn = _band_rotation(rotation, level).to(sh)
        bands.append(torch.einsum("ij,njc->nic", turn, sh[:, start : start + 2 * level + 1]))
        start += 2 * level + 1
    return torch.cat(bands, dim=1)


def degree_of(coefficients: int) -> int:
    """The degree that has 1, 4, 9 or 16 coefficients.

    Raises:
        ValueError: another number.
    """
    degree = math.isqrt(max(coefficients, 0)) - 1
    if (degree + 1) ** 2 != coefficients or not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics have 1, 4, 9 or 16 coefficients, got {coefficients}")
    return degree


def _band_rotation(rotation: Float[Tensor, "3 3"], level: int) -> Float[Tensor, "m m"]:
    """A band is closed under rotation, so its matrix follows from values in more directions than it has functions."""
    directions, inverse = _probe(level)
    turned = directions @ rotation.detach().to(directions)  # row by row Rᵀ d
    return inverse @ basis(turned, level)[:, level**2 :]


@cache
def _probe(level: int) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "m p"]]:
    """Directions on a golden spiral, and the pseudo-inverse of the band's values there."""
    index = torch.arange(32, dtype=torch.float64)
    z, angle = 1 - (2 * index + 1) / 32, index * math.pi * (3 - math.sqrt(5))
    radius = torch.sqrt(1 - z * z)
    directions = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), z], dim=-1)
    return directions, torch.linalg.pinv(basis(directions, level)[:, level**2 :])


def _band_2(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    a, b, c = math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (16 * math.pi))
    return [a * x * y, -a * y * z, b * (2 * z * z - x * x - y * y), -a * x * z, c * (x * x - y * y)]


def _band_3(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    a, b = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))
    c, d, e = math.sqrt(21 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi)), math.sqrt(105 / (16 * math.pi))
    xx, yy, zz = x * x, y * y, z * z
    return [
        -a * y * (3 * xx - yy),
        b * x * y * z,
        -c * y * (4 * zz - xx - yy),
        d * z * (2 * zz - 3 * xx - 3 * yy),
        -c * x * (4 * zz - xx - yy),
        e * z * (xx - yy),
        -a * x * (xx - 3 * yy),
    ]


def _check_degree(degree: int) -> None:
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"the degree of spherical harmonics is 0..{MAX_DEGREE}, got {degree}")
