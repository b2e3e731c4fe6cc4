"""Spherical harmonics: scipy's values, orthonormality, rotation of the bands."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y
from torch import Tensor

from recon import spherical


def directions(count: int, seed: int = 0) -> Tensor:
    found = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found / found.norm(dim=1, keepdim=True)


def real_harmonic(level: int, order: int, xyz: np.ndarray) -> np.ndarray:
    """From scipy's complex functions, which carry the Condon-Shortley phase (-1)^m."""
    polar, azimuth = np.arccos(xyz[:, 2]), np.arctan2(xyz[:, 1], xyz[:, 0])
    value = sph_harm_y(level, abs(order), polar, azimuth)
    if order == 0:
        return value.real
    return np.sqrt(2) * (value.real if order > 0 else value.imag)


def test_basis_is_scipys() -> None:
    xyz = directions(50)
    expected = [real_harmonic(level, order, xyz.numpy()) for level in range(4) for order in range(-level, level + 1)]
    np.testing.assert_allclose(spherical.basis(xyz, 3).numpy(), np.stack(expected, axis=1), atol=1e-13)


def test_known_constants() -> None:
    up = spherical.basis(torch.tensor([[0.0, 0.0, 1.0]]), 1)
    torch.testing.assert_close(up, torch.tensor([[0.28209479, 0.0, 0.48860251, 0.0]]))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_lower_degree_is_the_beginning_of_a_higher(degree: int) -> None:
    xyz = directions(5)
    torch.testing.assert_close(spherical.basis(xyz, degree), spherical.basis(xyz, 3)[:, : (degree + 1) ** 2])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_rotated_colours_seen_from_rotated_directions(degree: int, seed: int) -> None:
    rotation = torch.tensor(Rotation.random(rng=seed).as_matrix())
    generator = torch.Generator().manual_seed(seed)
    sh = torch.randn(40, (degree + 1) ** 2, 3, generator=generator, dtype=torch.float64)
    seen = directions(40, seed)
    before = spherical.colours(sh, seen)
    after = spherical.colours(spherical.rotate(sh, rotation), seen @ rotation.T)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)


def test_rotations_compose() -> None:
    first, second = (torch.tensor(Rotation.random(rng=seed).as_matrix()) for seed in (1, 2))
    sh = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = spherical.rotate(spherical.rotate(sh, first), second)
    torch.testing.assert_close(spherical.rotate(sh, second @ first), twice)


def test_a_colour_there_and_back() -> None:
    rgb = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(spherical.colours(spherical.from_rgb(rgb)[:, None], torch.tensor([[0.0, 1, 0]])), rgb)


def test_colours_are_not_negative() -> None:
    dark = torch.full((1, 1, 3), -10.0)
    torch.testing.assert_close(spherical.colours(dark, torch.tensor([[0.0, 1, 0]])), torch.zeros(1, 3))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="1, 4, 9 or 16"):
        spherical.degree_of(5)
    with pytest.raises(ValueError, match="1, 4, 9 or 16"):
        spherical.degree_of(25)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        spherical.basis(directions(1), 4)
