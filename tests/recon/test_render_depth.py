"""Expected depth: the kernel's gradients against the float64 definition, where few Gaussians stand at like depths."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import recon.render
from recon.render import cpu, rasterize
from recon.render.build import KernelUnavailableError, load_kernel
from tests.recon.test_render import NAMES, Scene, decided, draw, make_scene, with_tensor

BOUND = 1e-5
PROBES = 6
modes = pytest.mark.parametrize("mode", ["ED", "RGB+ED"])


def layered(n: int, seed: int, nearest_m: float, gap_m: float, faint: bool = False, degree: int | None = None) -> Scene:
    """Gaussians that overlap in the image, at depths within `gap_m`; the first may be far in front, hardly visible."""
    scene = make_scene(n, 24, 19, degree=degree, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    depth_m = nearest_m + gap_m * torch.rand(n, generator=generator)
    opacities = 0.05 + 0.94 * scene.tensors[3]
    if faint:
        depth_m[0], opacities[0] = 0.5 * nearest_m, 0.006
    means = torch.cat([0.1 * scene.tensors[0][:, :2], torch.ones(n, 1)], dim=1) * depth_m[:, None]
    scene = with_tensor(scene, "means", means)
    scene = with_tensor(scene, "scales", 0.5 * scene.tensors[2] * depth_m[:, None])
    return with_tensor(scene, "opacities", opacities)


def gradients(scene: Scene, backend: str, mode: str, weights: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of every input [probes, ...], for losses that weigh the pixels of image and alpha."""
    dtype = torch.float64 if backend == "oracle" else torch.float32
    image, alpha, info, inputs = draw(scene, backend, mode, dtype, grad=True)
    assert info["backend"] == backend
    found = []
    for of_image, of_alpha in weights:
        loss = (image * of_image.to(image)).sum() + (alpha * of_alpha.to(alpha)).sum()
        found.append(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True))
    columns = zip(NAMES, zip(*found, strict=True), strict=True)
    return {name: torch.stack(column).double() for name, column in columns if column[0] is not None}


def errors(scene: Scene, mode: str) -> dict[str, float]:
    """Relative L2 error of each input's gradient over several losses with random weights of the pixels.

    Several, because the sum of one loss over the pixels may nearly vanish for an input that is a single number. Pixels
    at a jump of the definition have no weight.
    """
    mask, generator = decided(scene), torch.Generator().manual_seed(7)
    sizes = (*mask.shape[:3], 4 if "RGB" in mode else 1), mask.shape
    of_image, of_alpha = (torch.randn(PROBES, *size, generator=generator) * mask for size in sizes)
    weights = list(zip(of_image, of_alpha, strict=True))
    exact, found = (gradients(scene, backend, mode, weights) for backend in ("oracle", "cpu"))
    assert exact.keys() == found.keys()
    return {name: float((found[name] - g).norm() / g.norm().clamp_min(1e-12)) for name, g in exact.items()}


@modes
@given(
    n=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    nearest_m=st.sampled_from([0.5, 4.0, 80.0]),
    gap_m=st.sampled_from([1e-3, 0.1, 3.0, 40.0]),
    faint=st.booleans(),
)
@example(n=1, seed=0, nearest_m=4.0, gap_m=0.1, faint=False)
@example(n=8, seed=1, nearest_m=80.0, gap_m=1e-3, faint=True)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_gradients_are_those_of_the_definition(
    mode: Any, n: int, seed: int, nearest_m: float, gap_m: float, faint: bool
) -> None:
    found = errors(layered(n, seed, nearest_m, gap_m, faint and n > 1), mode)
    assert max(found.values()) <= BOUND, found


@modes
@pytest.mark.parametrize("n", [1, 2, 30])
def test_narrow_vectors_give_the_same_gradients(mode: Any, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "load_kernel", lambda _: load_kernel(4))
    found = errors(layered(n, 3, 4.0, 0.1), mode)
    assert max(found.values()) <= BOUND, found


@pytest.mark.parametrize("degree", [0, 3])
def test_harmonics_and_several_cameras(degree: int) -> None:
    scene = make_scene(40, 37, 29, cameras=3, degree=degree, seed=9)
    found = errors(scene, "RGB+ED")
    assert max(found.values()) <= BOUND, found


def test_of_one_gaussian_nothing_but_its_depth_matters() -> None:
    scene = layered(1, 5, 80.0, 0.0)
    scene = with_tensor(scene, "viewmats", torch.eye(4)[None])
    image, alpha, _, inputs = draw(scene, "cpu", "ED", grad=True)
    covered = alpha > 0
    assert covered.sum() > 20
    torch.testing.assert_close(image, torch.where(covered, 80.0, 0.0), rtol=1e-6, atol=0)
    by_name = dict(zip(NAMES, torch.autograd.grad(image.sum(), inputs, allow_unused=True), strict=True))
    torch.testing.assert_close(by_name["means"][0, 2], covered.sum().float(), rtol=1e-4, atol=0)
    assert all(by_name[name].abs().max() < 1e-6 for name in ("quats", "scales", "opacities"))
    torch.testing.assert_close(by_name["means"][0, :2], torch.zeros(2), rtol=0, atol=1e-6)


def test_two_gaussians_by_hand() -> None:
    opacities = torch.tensor([0.8, 0.8]).requires_grad_()
    depth_m = torch.tensor([4.0, 8.0]).requires_grad_()
    image, *_ = rasterize(
        torch.stack([torch.zeros(2), torch.zeros(2), depth_m], dim=1),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        torch.tensor([[0.08] * 3, [0.16] * 3]),
        opacities,
        torch.ones(2, 3),
        torch.eye(4)[None],
        torch.tensor([[[100.0, 0, 8.5], [0, 100.0, 6.5], [0, 0, 1]]]),
        width=16,
        height=12,
        render_mode="ED",
        backend="cpu",
    )
    # At the centre the weights are 0.8 and 0.2 * 0.8 = 0.16, their sum 0.96: depth (3.2 + 1.28) / 0.96 = 14 / 3.
    assert image[0, 6, 8, 0].item() == pytest.approx(14 / 3, rel=1e-6)
    near, far = torch.autograd.grad(image[0, 6, 8, 0], opacities, retain_graph=True)[0].tolist()
    # By the first opacity: (4 - 0.8 * 8 - 14 / 3 * (1 - 0.8)) / 0.96; by the second: 0.2 * (8 - 14 / 3) / 0.96.
    assert near == pytest.approx(-125 / 36, rel=1e-6)
    assert far == pytest.approx(25 / 36, rel=1e-6)
    by_depth = torch.autograd.grad(image[0, 6, 8, 0], depth_m)[0]
    torch.testing.assert_close(by_depth, torch.tensor([0.8 / 0.96, 0.16 / 0.96]))


def test_the_background_has_no_depth() -> None:
    scene = layered(5, 6, 4.0, 3.0)
    results = []
    for mode in ("RGB", "RGB+ED"):
        image, _, _, inputs = draw(scene, "cpu", mode, grad=True)
        results.append((image.detach(), *torch.autograd.grad(image[..., :3].sin().sum(), inputs)))
    (image, *by_colour), (with_depth, *by_both) = results
    assert torch.equal(image, with_depth[..., :3])
    for one, other in zip(by_colour, by_both, strict=True):  # the weight of depth is 0
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(one.abs().max()))
    black = with_tensor(scene, "backgrounds", torch.zeros(1, 3))
    assert torch.equal(draw(black, "cpu", "RGB+ED")[0][..., 3], with_depth[..., 3])


@modes
def test_where_nothing_was_hit_depth_is_0_and_so_are_gradients(mode: Any) -> None:
    scene = layered(4, 7, 4.0, 3.0)
    scene = with_tensor(scene, "means", scene.tensors[0] * torch.tensor([1, 1, -1]))
    image, *_, inputs = draw(scene, "cpu", mode, grad=True)
    assert (image[..., -1] == 0).all()
    for gradient in torch.autograd.grad(image[..., -1].sum(), inputs, allow_unused=True):
        assert gradient is None or (gradient == 0).all()


def test_without_the_kernel_it_is_depth_over_alpha_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise KernelUnavailableError("no C++ compiler")

    scene = layered(8, 8, 4.0, 3.0)
    exact, *_ = draw(scene, "oracle", "RGB+ED", torch.float64)
    blended, alpha, *_ = draw(scene, "oracle", "RGB+D", torch.float64)
    torch.testing.assert_close(exact[..., 3:] * alpha, blended[..., 3:])
    monkeypatch.setattr(recon.render, "load_kernel", unavailable)
    image, _, info, _ = draw(scene, "auto", "RGB+ED")
    assert "no C++ compiler" in info["fallback"]
    assert ((image - exact) * decided(scene)).abs().max() < 1e-4
