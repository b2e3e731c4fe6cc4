"""The compiled loss against the torch one in float64: values, gradients, masks, and when which of them runs."""

import jaxtyping
import pytest
import torch
from torch import Tensor

import recon.ssim
from recon.render import photometric
from recon.render.build import KernelUnavailableError, load_kernel
from recon.ssim import photometric_loss

SHAPES = [(20, 31, 3), (1, 1, 3), (1, 5, 2), (3, 40, 1), (33, 1, 4), (2, 6, 17, 3), (7, 70, 5), (2, 2, 9, 12, 3)]


def images(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random image, a disturbed copy and a mask that leaves out a corner and some pixels, float32."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(shape, generator=generator)
    mask = torch.rand(shape[:-1], generator=generator) < 0.8
    mask[..., : shape[-3] // 2, : shape[-2] // 2] = False
    return (first + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1), first, mask


def loss_and_gradient(
    image: Tensor, reference: Tensor, weight: float = 0.2, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    leaf = image.clone().requires_grad_()
    loss = photometric_loss(leaf, reference, weight, mask=mask)
    return loss.detach(), torch.autograd.grad(3 * loss, leaf)[0] / 3


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every loss that the kernel computes."""
    calls, real = [], photometric.CompiledPhotometric.apply

    def counted(*inputs: object) -> object:
        calls.append(1)
        return real(*inputs)

    monkeypatch.setattr(photometric.CompiledPhotometric, "apply", counted)
    return calls


@pytest.fixture(params=[None, 4])
def vector_floats(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The machine's vectors, and the narrowest."""
    if request.param:
        monkeypatch.setattr(photometric, "load_kernel", lambda: load_kernel(request.param))
    return request.param


@pytest.mark.usefixtures("vector_floats")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_the_formula(
    shape: tuple[int, ...], weight: float, masked: bool, kernel_calls: list[int]
) -> None:
    x, y, mask = images(*shape)
    chosen = mask if masked else None
    loss, gradient = loss_and_gradient(x, y, weight, chosen)
    assert len(kernel_calls) == 1
    exact, exact_gradient = loss_and_gradient(x.double(), y.double(), weight, chosen)
    assert len(kernel_calls) == 1  # float64 is torch's
    assert abs(loss - exact) < 1e-6
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_masked_is_as_if_it_were_the_reference(dtype: torch.dtype) -> None:
    x, y, mask = (part.to(dtype) for part in images(24, 30, 3))
    mask = mask.bool()
    replaced = torch.where(mask[..., None], x, y)
    loss, gradient = loss_and_gradient(x, y, mask=mask)
    expected, whole = loss_and_gradient(replaced, y)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient[mask], whole[mask])
    assert (gradient[~mask] == 0).all()
    unknown = torch.where(mask[..., None], x, torch.nan)  # whatever stands there
    assert torch.equal(loss_and_gradient(unknown, y, mask=mask)[1], gradient)
    assert abs(loss_and_gradient(x, y, mask=torch.zeros_like(mask))[0]) < 1e-7


def test_one_pixel_by_hand() -> None:
    x, y = torch.tensor([[[0.5]]]), torch.tensor([[[0.25]]])
    l1, gradient = loss_and_gradient(x, y, 0.0)
    assert (l1.item(), gradient.item()) == (0.25, 1.0)
    # The middle of the window is the square of 1 / (1 + 2 (e^-2/9 + e^-8/9 + e^-18/9 + e^-32/9 + e^-50/9)) = 0.2660117.
    w = 0.26601172**2
    mx, my = 0.5 * w, 0.25 * w
    vx, vy, cov = 0.25 * w - mx * mx, 0.0625 * w - my * my, 0.125 * w - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4))
    assert photometric_loss(x, y, 1.0).item() == pytest.approx(1 - ssim, abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 33, 3), (2, 47, 21, 3)])
def test_any_number_of_threads_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    x, y, mask = images(*shape)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(loss_and_gradient(x, y, mask=mask))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_rows_that_are_not_in_order_in_memory() -> None:
    x, y, mask = images(12, 15, 3)
    turned_x, turned_y = (part.movedim(-1, 0).contiguous().movedim(0, -1) for part in (x, y))
    found = loss_and_gradient(turned_x, turned_y, mask=mask.T.contiguous().T)
    assert all(torch.equal(a, b) for a, b in zip(loss_and_gradient(x, y, mask=mask), found, strict=True))


def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch, kernel_calls: list[int]) -> None:
    x, y, mask = images(20, 31, 3)
    loss, gradient = loss_and_gradient(x, y, mask=mask)

    def unavailable() -> None:
        raise KernelUnavailableError("no C++ compiler")

    monkeypatch.setattr(recon.ssim, "load_kernel", unavailable)
    plain, plain_gradient = loss_and_gradient(x, y, mask=mask)
    assert len(kernel_calls) == 1
    assert abs(loss - plain) < 1e-6
    assert (gradient - plain_gradient).norm() <= 1e-5 * gradient.norm()


def test_gradcheck_with_a_mask() -> None:
    x, y, mask = (part[:7, :9] for part in images(8, 10, 2))
    double = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: photometric_loss(leaf, y.double(), 0.3, mask=mask), (double,))


@pytest.mark.parametrize("mask", [torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 4)])
def test_masks_that_do_not_fit_are_refused(mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    x, y, _ = images(4, 4, 3)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \[4, 4\]"):
        photometric_loss(x, y, mask=mask)
