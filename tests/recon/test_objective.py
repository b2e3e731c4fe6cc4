"""The loss of a view: its terms by arithmetic, and pixels that do not count."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geometry import SE3, Camera, Frame
from recon.gaussians import Gaussians
from recon.objective import LossWeights, disparity_loss, render_view, view_loss
from recon.render import rasterize
from recon.ssim import photometric_loss
from recon.views import View, known_pixels, view_of

HEIGHT, WIDTH = 24, 32
CAMERA = Camera(SE3.identity(), 30.0, 30.0, 16.0, 12.0, WIDTH, HEIGHT)


def balls(count: int = 60, degree: int = 1, **fields: Any) -> Gaussians:
    """Before the camera, 2 to 6 m away, as leaves."""
    generator = torch.Generator().manual_seed(0)
    xyz = (torch.rand(count, 3, generator=generator) - 0.5) * 4 + torch.tensor([0.0, 0.0, 4.0])
    made = Gaussians.from_points(xyz, torch.rand(count, 3, generator=generator), degree=degree, opacity=0.6)
    sh = made.sh + 0.1 * torch.randn(made.sh.shape, generator=generator)
    return replace(made, **{"sh": sh, **fields}).requires_grad_()


def photo(depth_m: np.ndarray | None = None, ignored: np.ndarray | None = None, seed: int = 0) -> View:
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    frame = Frame(0.0, CAMERA, image, depth_m=depth_m, source="photo")
    return view_of(frame, ignored=ignored, with_depth=depth_m is not None)


def left_half() -> np.ndarray:
    ignored = np.zeros((HEIGHT, WIDTH), bool)
    ignored[:, : WIDTH // 2] = True
    return ignored


def gradients(loss: Tensor, gaussians: Gaussians) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(gaussians.tensors().values()), allow_unused=True)
    return [torch.zeros(1) if gradient is None else gradient for gradient in found]


@pytest.mark.parametrize("degree", [0, 1, None])
def test_a_view_is_what_the_rasterizer_draws(degree: int | None) -> None:
    gaussians, view = balls(), photo()
    image, alpha = render_view(gaussians, view, degree=degree, mode="RGB+ED")
    expected, expected_alpha, _ = rasterize(
        *(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh),
        view.viewmat[None],
        view.intrinsics[None],
        WIDTH,
        HEIGHT,
        sh_degree=1 if degree is None else degree,
        render_mode="RGB+ED",
    )
    assert torch.equal(image, expected[0])
    assert torch.equal(alpha, expected_alpha[0, ..., 0])
    assert (image.shape, alpha.shape) == ((HEIGHT, WIDTH, 4), (HEIGHT, WIDTH))


@pytest.mark.parametrize("dssim", [0.0, 0.2, 1.0])
def test_without_other_terms_it_is_the_photometric_loss(dssim: float) -> None:
    gaussians, view = balls(), photo()
    drawn, _ = render_view(gaussians, view)
    expected = photometric_loss(drawn, view.image / 255, dssim)
    torch.testing.assert_close(view_loss(gaussians, view, LossWeights(dssim), 1.0), expected)


def test_l1_by_hand() -> None:
    """Nothing is drawn, so that the loss is the mean of the image."""
    away = balls(means=torch.full((60, 3), -10.0))
    image = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    image[0, 0] = torch.tensor([255, 102, 0], dtype=torch.uint8)
    view = replace(photo(), image=image)
    assert view_loss(away, view, LossWeights(0.0), 1.0).item() == pytest.approx((1 + 0.4) / (HEIGHT * WIDTH * 3))


def test_exposure_by_hand() -> None:
    """A grey of 0.4 before a photo of 0.8: with a gain of 2 nothing is left to learn in that colour."""
    wall = Gaussians.from_points(torch.tensor([[0.0, 0, 3]]), torch.full((1, 3), 0.4), opacity=0.5, lone_scale_m=2.0)
    drawn, _ = render_view(wall, photo())
    view = replace(photo(), image=(2 * drawn * 255).round().byte())
    log_gain = torch.tensor([math.log(2), 0.0, -math.log(2)], requires_grad=True)
    loss = view_loss(wall, view, LossWeights(0.0), 1.0, log_gain=log_gain)
    expected = (drawn + 1.5 * drawn).mean() / 3  # nothing in red, 2 - 1 in green, 2 - 1/2 in blue; they are alike
    assert loss.item() == pytest.approx(expected.item(), abs=1e-3)
    loss.backward()
    assert log_gain.grad is not None
    # d |g x - 2 x| / d log g = -g x in green and blue, where the image is too dark.
    assert log_gain.grad[1].item() == pytest.approx(-drawn.mean().item() / 3, rel=1e-3)
    assert log_gain.grad[2].item() == pytest.approx(-drawn.mean().item() / 6, rel=1e-3)


def test_terms_of_size_and_opacity_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), -math.log(3)])  # opacities 1/2, 3/4, 1/4
    log_scales = torch.tensor([1.0, 2.0, 3.0]).log()[:, None].repeat(1, 3)
    gaussians = balls(3, logit_opacities=logits, log_scales=log_scales)
    base = view_loss(gaussians, photo(), LossWeights(), 5.0).item()
    opaque = view_loss(gaussians, photo(), LossWeights(opacity=0.1), 5.0).item()
    large = view_loss(gaussians, photo(), LossWeights(scale=0.1), 5.0).item()
    assert opaque - base == pytest.approx(0.1 * 0.5, abs=1e-6)
    assert large - base == pytest.approx(0.1 * 2 / 5, abs=1e-6)  # mean deviation 2 m over a scale of 5 m


def test_disparity_by_hand() -> None:
    found = torch.tensor([2.0, 4.0, 0.0, 8.0])
    known = torch.tensor([4.0, 4.0, 2.0, 2.0])
    # Nothing was drawn at the third: left are |1/2 - 1/4|, 0 and |1/8 - 1/2|.
    assert disparity_loss(found, 1 / known, 1.0).item() == pytest.approx((0.25 + 0 + 0.375) / 3)
    assert disparity_loss(found, 1 / known, 10.0).item() == pytest.approx(10 * 0.625 / 3)


def test_gradient_of_disparity_by_hand() -> None:
    found = torch.tensor([2.0, 4.0, 0.0], requires_grad=True)
    known = torch.tensor([4.0, 1.0, 2.0])
    disparity_loss(found, 1 / known, 3.0).backward()
    # d |1/f - 1/k| / df = -sign(1/f - 1/k) / f², over two pixels and times 3.
    torch.testing.assert_close(found.grad, 3 / 2 * torch.tensor([-1 / 4, 1 / 16, 0]))


def test_nothing_drawn_costs_nothing() -> None:
    found = torch.zeros(3, requires_grad=True)
    loss = disparity_loss(found, torch.ones(3), 1.0)
    loss.backward()
    assert loss.item() == 0
    assert found.grad is not None
    assert not found.grad.any()


def test_which_depths_are_known() -> None:
    depth_m = torch.tensor([[4.0, 0.0, 2.0], [math.inf, 5.0, 8.0]])
    places, inverse = known_pixels(depth_m, None) or pytest.fail("none is known")
    assert places.tolist() == [0, 2, 4, 5]
    torch.testing.assert_close(inverse, torch.tensor([1 / 4, 1 / 2, 1 / 5, 1 / 8]))
    counted = torch.tensor([[True, True, False], [True, True, False]])
    assert (known_pixels(depth_m, counted) or pytest.fail("none is known"))[0].tolist() == [0, 4]
    assert known_pixels(torch.zeros(2, 3), None) is None
    assert known_pixels(torch.full((2, 3), math.inf), None) is None


def test_the_term_of_depth_is_weighed() -> None:
    gaussians, view = balls(), photo(np.full((HEIGHT, WIDTH), 3.0, np.float32))
    drawn, _ = render_view(gaussians, view, mode="RGB+ED")
    covered = drawn[..., 3] > 1e-3
    term = 7 * (1 / drawn[..., 3][covered] - 1 / 3).abs().mean()
    assert covered.any()
    without, with_depth = (view_loss(gaussians, view, LossWeights(depth=weight), 7.0).item() for weight in (0.0, 0.5))
    assert with_depth - without == pytest.approx(0.5 * term.item(), rel=1e-4)


def test_a_view_without_depth_has_no_such_term() -> None:
    gaussians = balls()
    plain, weighed = (view_loss(gaussians, photo(), LossWeights(depth=weight), 1.0) for weight in (0.0, 0.5))
    assert plain.item() == weighed.item()


@pytest.mark.parametrize("weights", [LossWeights(0.0), LossWeights(0.2), LossWeights(1.0), LossWeights(0.2, depth=0.5)])
def test_what_ignored_pixels_show_changes_nothing(weights: LossWeights) -> None:
    """SSIM's windows reach over the edge of the mask, so only the photo right there may be seen by others."""
    gaussians, depth_m = balls(), np.full((HEIGHT, WIDTH), 3.0, np.float32)
    depth_m[:, :4] = 50
    views = [photo(depth_m, left_half()), photo(np.where(left_half(), 9, depth_m).astype(np.float32), left_half())]
    image = views[1].image.clone()
    image[:, :6] = 255 - image[:, :6]  # ten columns from those that count: twice the window's radius
    views[1] = replace(views[1], image=image)
    first, second = (gradients(view_loss(gaussians, view, weights, 4.0), gaussians) for view in views)
    assert any(gradient.any() for gradient in first)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-5)


def test_ignored_pixels_pass_no_gradient() -> None:
    """Gaussians that show in ignored pixels alone do not move."""
    aside = balls(means=torch.tensor([-1.0, 0.0, 3.0]).repeat(60, 1), log_scales=torch.full((60, 3), -3.0))
    _, alpha = render_view(aside, photo())
    assert alpha[:, : WIDTH // 2].max() > 0.5
    assert alpha[:, WIDTH // 2 :].max() == 0
    known = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    assert any(part.any() for part in gradients(view_loss(aside, photo(known), LossWeights(depth=1), 1.0), aside))
    loss = view_loss(aside, photo(known, left_half()), LossWeights(depth=1), 1.0)
    assert not any(gradient.any() for gradient in gradients(loss, aside))


def test_a_view_of_which_no_pixel_counts_costs_nothing() -> None:
    gaussians = balls()
    view = photo(np.ones((HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), bool))
    loss = view_loss(gaussians, view, LossWeights(0.2, depth=1.0), 1.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert not any(gradient.any() for gradient in gradients(loss, gaussians))


@pytest.mark.parametrize("name", ["dssim", "depth", "opacity", "scale"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^LossWeights\.{name} must be finite and not negative, got {value}$"):
        LossWeights(**{name: value})


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^LossWeights\.dssim lies in 0\.\.1, got 1\.1$"):
        LossWeights(1.1)
    assert LossWeights(1.0, depth=20.0).depth == 20
