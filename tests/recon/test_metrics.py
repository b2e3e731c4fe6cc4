"""Figures of images, depth and surfaces: by arithmetic, and against torchmetrics."""

import math
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim
from torchvision.models import alexnet

from recon.metrics import depth_metrics, image_metrics, lpips, psnr, surface_metrics
from recon.ssim import photometric_loss, ssim


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A random image and a disturbed copy."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(*shape, generator=generator, dtype=dtype)
    return (first + 0.1 * torch.randn(*shape, generator=generator, dtype=dtype)).clamp(0, 1), first


def direct_ssim(x: Tensor, y: Tensor) -> Tensor:
    """The formula of Wang et al. 2004 by a two-dimensional window with zeros outside, [h, w, c]."""
    taps = torch.exp(-0.5 * ((torch.arange(11, dtype=x.dtype) - 5) / 1.5) ** 2)
    window = torch.outer(taps, taps) / torch.outer(taps, taps).sum()
    mean = lambda v: torch.nn.functional.conv2d(v, window[None, None], padding=5)  # noqa: E731
    x, y = x.movedim(-1, 0)[:, None], y.movedim(-1, 0)[:, None]
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    return ((2 * mx * my + 0.01**2) * (2 * cov + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))).mean()


@pytest.mark.parametrize("shape", [(1, 40, 30, 3), (2, 6, 17, 3), (3, 11, 11, 1)])
def test_ssim_is_torchmetrics(shape: tuple[int, ...]) -> None:
    x, y = images(*shape)
    expected = torchmetrics_ssim(x.movedim(-1, 1), y.movedim(-1, 1), data_range=1.0)
    torch.testing.assert_close(ssim(x, y), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(20, 31, 3), (1, 1, 3), (3, 40, 1)])
def test_loss_and_gradient_are_those_of_the_formula(weight: float, shape: tuple[int, ...]) -> None:
    x, y = images(*shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss = photometric_loss(ours, y, weight)
    expected = (1 - weight) * (theirs - y).abs().mean() + weight * (1 - direct_ssim(theirs, y))
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-9)


def test_gradcheck() -> None:
    x, y = images(2, 7, 9, 2)
    assert torch.autograd.gradcheck(photometric_loss, (x.requires_grad_(), y))
    assert torch.autograd.gradcheck(ssim, (x, y))


def test_equal_images_lose_nothing() -> None:
    x, _ = images(16, 16, 3)
    leaf = x.clone().requires_grad_()
    loss = photometric_loss(leaf, x)
    assert abs(loss.item()) < 1e-12
    assert torch.autograd.grad(loss, leaf)[0].abs().max() < 1e-12
    assert ssim(x, x).item() == pytest.approx(1)


def test_float32_is_good_enough_to_train_on() -> None:
    x, y = images(64, 48, 3, dtype=torch.float32)
    single, double = x.clone().requires_grad_(), x.double().requires_grad_()
    (found,) = torch.autograd.grad(photometric_loss(single, y), single)
    (exact,) = torch.autograd.grad(photometric_loss(double, y.double()), double)
    assert (found - exact).norm() < 1e-5 * exact.norm()


def test_descent_recovers_the_image() -> None:
    x, y = images(24, 24, 3, dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        photometric_loss(leaf, y).backward()
        optimizer.step()
    assert psnr(leaf, y) > psnr(x, y) + 10


def test_psnr_by_hand() -> None:
    black = torch.zeros(2, 2, 3)
    assert psnr(black + 0.1, black) == pytest.approx(20, abs=1e-5)  # -10 log10(0.01)
    assert psnr(black, black) == math.inf


def test_image_metrics_say_what_is_missing() -> None:
    x, y = images(16, 16, 3, dtype=torch.float32)
    found = image_metrics(x + 5, torch.ones_like(y))  # clipped to 1
    assert (found.psnr_db, found.ssim, found.lpips) == (math.inf, pytest.approx(1), None)
    assert "LPIPS not computed (no weights given)" in str(found)


def test_lpips_from_a_weights_file(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).state_dict(), tmp_path / "alex.pth")
    x, y = images(64, 64, 3, dtype=torch.float32)
    assert lpips(y, y, tmp_path / "alex.pth") == pytest.approx(0, abs=1e-6)
    worse = image_metrics(1 - y, y, tmp_path / "alex.pth").lpips
    assert worse is not None
    assert worse > lpips(x, y, tmp_path / "alex.pth") > 0


def test_lpips_refuses_other_weights(tmp_path: Path) -> None:
    x, y = images(64, 64, 3, dtype=torch.float32)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("missing.pth", "other.pth"):
        with pytest.raises(
            ValueError, match=rf"{name}: cannot be used for LPIPS.*want torchvision's weights of alexnet"
        ):
            lpips(x, y, tmp_path / name)


def test_depth_by_hand() -> None:
    true = torch.tensor([[2.0, 4.0, math.inf, 5.0, math.nan, 0.0]])
    found = torch.tensor([[3.0, 4.0, 7.0, math.inf, 1.0, 1.0]])
    metrics = depth_metrics(found, true)
    assert metrics is not None
    assert (metrics.abs_rel, metrics.delta1, metrics.pixels) == (0.25, 0.5, 2)
    assert metrics.rmse_m == pytest.approx(math.sqrt(0.5))
    masked = depth_metrics(found, true, torch.tensor([[False] + [True] * 5]))
    assert masked is not None
    assert (masked.abs_rel, masked.delta1, masked.pixels) == (0, 1, 1)
    assert depth_metrics(found[:, 2:], true[:, 2:]) is None


def test_surfaces_by_hand() -> None:
    true = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    found = torch.tensor([[0.0, 0.1, 0], [1, 0.3, 0]])
    metrics = surface_metrics(found, true, 0.2)
    assert (metrics.precision, metrics.recall) == (0.5, 0.25)
    assert metrics.f_score == pytest.approx(1 / 3)
    to_found = (0.1 + 0.3 + math.hypot(1, 0.3) + math.hypot(2, 0.3)) / 4
    assert metrics.chamfer_m == pytest.approx((0.2 + to_found) / 2)
    assert surface_metrics(found, true + 100, 0.2).f_score == 0


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    x, y = images(4, 4, 3)
    with pytest.raises(ValueError, match="6 pixels or more"):
        ssim(x, y)
    with pytest.raises(ValueError, match="one shape"):
        photometric_loss(x, y[:3])
    with pytest.raises(ValueError, match="dssim_weight"):
        photometric_loss(x, y, 1.5)
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, y[:3])
    with pytest.raises(ValueError, match="depths differ"):
        depth_metrics(x[..., 0], y[:3, :, 0])
    with pytest.raises(ValueError, match="threshold_m"):
        surface_metrics(torch.zeros(1, 3), torch.zeros(1, 3), 0.0)
    with pytest.raises(ValueError, match="true_xyz must hold points"):
        surface_metrics(torch.zeros(1, 3), torch.zeros(0, 3), 0.1)
