"""Sets of Gaussians: from points, moved, put together, refused."""

import builtins
import math
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from geometry import SE3, Sim3
from geometry.se3 import rotation_from_quat
from recon import spherical
from recon.gaussians import Gaussians, neighbour_distance

KNOWN = Sim3.from_se3(SE3.from_quat(np.array([0.9, 0.1, -0.3, 0.2]), np.array([10.0, -20, 3])), 1.5)


def scene(count: int = 7, degree: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return Gaussians(
        normal(count, 3), normal(count, 4), normal(count, 3), normal(count), normal(count, (degree + 1) ** 2, 3)
    )


def covariances(gaussians: Gaussians) -> np.ndarray:
    turns = np.stack([rotation_from_quat(quat) for quat in gaussians.quats.numpy()])
    return turns @ (gaussians.scales.numpy()[:, :, None] ** 2 * turns.transpose(0, 2, 1))


def test_from_points_on_a_grid() -> None:
    square = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0]])
    rgb = np.array([[255, 0, 51], [0, 0, 0], [255, 255, 255], [10, 20, 30]], np.uint8)
    found = Gaussians.from_points(square, rgb, degree=2, opacity=0.25)
    torch.testing.assert_close(found.scales, torch.full((4, 3), (2 + 2 + 2 * math.sqrt(2)) / 3))
    torch.testing.assert_close(found.opacities, torch.full((4,), 0.25))
    assert (found.degree, found.sh.shape) == (2, (4, 9, 3))
    seen = spherical.colours(found.sh, torch.tensor([[0.6, 0.0, 0.8]]).repeat(4, 1))
    torch.testing.assert_close(seen, torch.tensor(rgb).float() / 255, atol=1e-6, rtol=0)
    np.testing.assert_allclose(found.quats.numpy(), np.tile([1.0, 0, 0, 0], (4, 1)))


@pytest.mark.parametrize(("count", "scale"), [(0, []), (1, [0.3]), (2, [5.0, 5.0])])
def test_few_points(count: int, scale: list[float]) -> None:
    xyz = torch.tensor([[0.0, 0, 0], [3, 4, 0]])[:count]
    found = Gaussians.from_points(xyz, torch.rand(count, 3), lone_scale_m=0.3)
    torch.testing.assert_close(found.scales[:, 0], torch.tensor(scale))


def test_points_that_coincide_get_the_smallest_scale() -> None:
    found = Gaussians.from_points(torch.zeros(5, 3), torch.rand(5, 3), min_scale_m=0.02)
    torch.testing.assert_close(found.scales, torch.full((5, 3), 0.02))


def test_neighbours_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    with_scipy, real = neighbour_distance(xyz), builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr("recon.gaussians._CHUNK", 1000)
    torch.testing.assert_close(neighbour_distance(xyz), with_scipy)


def test_neighbours_of_one_point() -> None:
    with pytest.raises(ValueError, match="two points, got 1"):
        neighbour_distance(torch.zeros(1, 3))


def test_moved_gaussians_are_the_moved_shapes() -> None:
    before = scene()
    after = before.transformed(KNOWN)
    np.testing.assert_allclose(after.means.numpy(), KNOWN.apply(before.means.numpy()), atol=1e-12)
    linear = KNOWN.scale * KNOWN.rotation
    np.testing.assert_allclose(covariances(after), linear @ covariances(before) @ linear.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.logit_opacities, before.logit_opacities)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_moved_gaussians_look_the_same_to_a_camera_that_moved_along(degree: int) -> None:
    before, eye = scene(degree=degree), np.array([[5.0, 6, 7]])

    def seen(gaussians: Gaussians, from_: np.ndarray) -> torch.Tensor:
        rays = gaussians.means - torch.tensor(from_)
        return spherical.colours(gaussians.sh, rays / rays.norm(dim=1, keepdim=True))

    moved = seen(before.transformed(KNOWN), KNOWN.apply(eye))
    torch.testing.assert_close(moved, seen(before, eye), atol=1e-12, rtol=0)


def test_moving_there_and_back_in_float32() -> None:
    before = scene(dtype=torch.float32)
    back = before.transformed(KNOWN).transformed(KNOWN.inverse())
    for name, tensor in back.tensors().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, before.tensors()[name], atol=1e-5, rtol=1e-5)


def test_gradients_pass_through_a_move() -> None:
    leaf = scene().requires_grad_()
    (gradient,) = torch.autograd.grad(leaf.transformed(KNOWN).means.sum(), [leaf.means])
    expected = KNOWN.scale * KNOWN.rotation.sum(axis=0)  # d(sum of s R x + t) / dx
    np.testing.assert_allclose(gradient.numpy(), np.tile(expected, (7, 1)), atol=1e-12)


def test_quaternions_turn_as_scipys_do() -> None:
    before = scene()
    turned = before.transformed(KNOWN).quats.numpy()
    expected = Rotation.from_matrix(KNOWN.rotation) * Rotation.from_quat(before.quats.numpy(), scalar_first=True)
    np.testing.assert_allclose(
        Rotation.from_quat(turned, scalar_first=True).as_matrix(), expected.as_matrix(), atol=1e-12
    )


def test_rotations_are_those_of_the_quaternions() -> None:
    expected = np.stack([rotation_from_quat(quat) for quat in scene().quats.numpy()])
    np.testing.assert_allclose(scene().rotations.numpy(), expected, atol=1e-12)


def test_select_and_concat_undo_each_other() -> None:
    whole = scene()
    mask = torch.arange(7) % 2 == 0
    parts = Gaussians.concat([whole.select(mask), whole.select(~mask)])
    order = torch.cat([torch.arange(7)[mask], torch.arange(7)[~mask]])
    torch.testing.assert_close(parts.sh, whole.select(order).sh)
    assert len(whole.select(mask)) == 4


def test_concat_fills_up_degrees() -> None:
    both = Gaussians.concat([scene(2, degree=0), scene(3, degree=2)])
    assert (len(both), both.degree) == (5, 2)
    assert (both.sh[:2, 1:] == 0).all()
    torch.testing.assert_close(both.with_degree(0).sh[2:], scene(3, degree=2).sh[:, :1])


def test_concat_refusals() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Gaussians.concat([])
    with pytest.raises(ValueError, match="one type and device"):
        Gaussians.concat([scene(), scene(dtype=torch.float32)])


def test_bytes_are_those_of_the_ply_without_normals() -> None:
    assert scene(10, degree=3, dtype=torch.float32).nbytes == 10 * 59 * 4


def test_clone_detach_and_to() -> None:
    leaf = scene().requires_grad_()
    assert leaf.clone().means.requires_grad
    assert not leaf.detach().means.requires_grad
    assert leaf.detach().means.data_ptr() == leaf.means.data_ptr() != leaf.clone().means.data_ptr()
    assert leaf.to(dtype=torch.float32).sh.dtype == torch.float32


def test_an_empty_set_can_do_all_that() -> None:
    nothing = Gaussians.empty(degree=3)
    assert len(nothing.transformed(KNOWN)) == nothing.nbytes == 0
    assert len(Gaussians.concat([nothing, scene(2, dtype=torch.float32)])) == 2


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: without the checks of annotations, which would refuse first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("means", torch.zeros(7, 2), r"means has shape \(7, 2\), want \[n, 3\]"),
        ("means", torch.tensor(0.0), r"means has shape \(\), want \[n, 3\]"),
        ("means", torch.zeros(7, 3, 1), r"means has shape \(7, 3, 1\), want \[n, 3\]"),
        ("logit_opacities", torch.zeros(7, 1), r"logit_opacities has shape \(7, 1\), want \[n\]"),
        ("quats", torch.zeros(6, 4, dtype=torch.float64), r"quats has shape \(6, 4\), want \[n, 4\]; means \(7, 3\)"),
        ("quats", torch.zeros(7, 4, dtype=torch.float64), "quats is zero in 7 rows"),
        ("log_scales", torch.full((7, 3), math.inf, dtype=torch.float64), "log_scales holds NaN or infinity in 7 of 7"),
        ("logit_opacities", torch.zeros(7), "logit_opacities is torch.float32"),
        ("logit_opacities", torch.tensor([math.nan, *[0.0] * 6], dtype=torch.float64), "opacities .* in 1 of 7"),
        ("sh", torch.zeros(7, 5, 3, dtype=torch.float64), "1, 4, 9 or 16"),
        ("sh", torch.zeros(7, 3, dtype=torch.float64), r"sh has shape \(7, 3\), want \[n, k, 3\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_fields(field: str, value: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Gaussians(**{**scene().tensors(), field: value})


def test_bad_points() -> None:
    with pytest.raises(ValueError, match="xyz holds NaN"):
        Gaussians.from_points(torch.full((2, 3), math.nan), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="opacity must lie"):
        Gaussians.from_points(torch.zeros(2, 3), torch.zeros(2, 3), opacity=1.0)
