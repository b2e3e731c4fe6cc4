"""One party's Gaussians laid onto another's world, by a similarity that the other's private images decide.

A seed comes from pairs of positions. It is refined at the cameras of those whose world it is: each vehicle draws the
Gaussians where it took its images, and tells only its loss and the gradient, seven numbers (`gradient_at`); a server
sums these and decides on the next step (`align`). Neither images nor poses leave a vehicle.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geometry import Sim3
from geometry.sim3 import robust_sim3
from recon.chart import Chart
from recon.exposure import exposed
from recon.gaussians import Gaussians
from recon.objective import LossWeights, Mode, disparity_loss, render_view
from recon.render import Backend
from recon.ssim import photometric_loss
from recon.views import View

GradientOf = Callable[[Tensor], tuple[float, Tensor]]
"""What one vehicle answers to seven parameters: its loss and the gradient [7], float64."""

Solver = Literal["lbfgs", "adam"]
COVERED: Final = 0.5  # alpha from which a pixel shows the Gaussians that are moved, rather than what they lack
_WEIGHTS: Final = LossWeights(depth=0.3)


def seed(own_m: Float[ndarray, "n 3"], world_m: Float[ndarray, "n 3"], threshold_m: float, seed: int = 0) -> Sim3:
    """World from own model, from positions of one vehicle in both: by its model, and by GNSS or odometry.

    See `geometry.sim3.robust_sim3`.

    Raises:
        ValueError: no three pairs agree, they lie on a line, or a value is not finite.
    """
    return robust_sim3(own_m, world_m, threshold_m, seed)[0]


def moved_view(view: View, parameters: Float[Tensor, "7"], chart: Chart) -> View:
    """The view that shows Gaussians as it would show them after a similarity; its pose has gradients.

    An image stays the same if the scene, the camera's place and depths are scaled together. So the camera moves, not
    the Gaussians: exact, harmonics included. Depth is divided by the scale.
    """
    rotation, scale, translation_m = chart.matrices(parameters)
    viewmat = view.viewmat.to(parameters)
    turned = viewmat[:3, :3] @ rotation
    shift = (viewmat[:3, :3] @ translation_m + viewmat[:3, 3]) / scale
    bottom = torch.tensor([[0, 0, 0, 1.0]]).to(parameters)
    depth_m = None if view.depth_m is None else view.depth_m / float(scale.detach())
    return replace(view, viewmat=torch.cat([torch.cat([turned, shift[:, None]], dim=1), bottom]), depth_m=depth_m)


def gradient_at(
    gaussians: Gaussians,
    parameters: Float[Tensor, "7"],
    views: Sequence[View],
    chart: Chart,
    *,
    weights: LossWeights = _WEIGHTS,
    log_gains: Float[Tensor, "v 3"] | None = None,
    backend: Backend = "auto",
) -> tuple[float, Float[Tensor, "7"]]:
    """What a vehicle tells about another party's Gaussians at seven parameters: all that leaves it.

    Pixels that the Gaussians do not cover do not count, for they may show what the other party never saw.

    Args:
        gaussians: in their owner's frame.
        parameters: of the similarity from that frame to the views' world, see `Chart`.
        views: this vehicle's own.
        chart: the same for all vehicles.
        weights: dssim, and depth for views that know it.
        log_gains: exposure of each view, see `recon.exposure`.
        backend: see `rasterize`.

    Returns:
        mean loss of the covered pixels of all views, and its gradient, float64; 1 and zeros if none is covered.

    Raises:
        ValueError: there are no views.
    """
    if not len(views):
        raise ValueError("gradient_at needs a view; a vehicle without one has nothing to tell")
    fixed, leaf = gaussians.detach(), parameters.detach().double().clone().requires_grad_()
    total, gradient, pixels = 0.0, torch.zeros(7, dtype=torch.float64), 0
    for index in range(len(views)):
        gain = None if log_gains is None else log_gains[index]
        loss, covered = _covered_loss(fixed, moved_view(views[index], leaf, chart), leaf, weights, gain, backend)
        if covered:
            total, pixels = total + covered * loss.item(), pixels + covered
            gradient += covered * torch.autograd.grad(loss, leaf)[0]
    return (total / pixels, gradient / pixels) if pixels else (1.0, gradient)


def _covered_loss(
    gaussians: Gaussians, view: View, leaf: Tensor, weights: LossWeights, log_gain: Tensor | None, backend: Backend
) -> tuple[Tensor, int]:
    """Photometric loss, and disparity, where the Gaussians are, and how many pixels these are.

    A mean over these pixels alone: else it would pay to cover less.
    """
    known = view.known_depth if weights.depth else None
    mode: Mode = "RGB" if known is None else "RGB+D"
    drawn, alpha = render_view(gaussians, view, mode=mode, backend=backend)
    rgb = drawn[..., :3] if log_gain is None else exposed(drawn[..., :3], log_gain)
    covered = alpha.detach() > COVERED
    mask = covered if view.counted is None else covered & view.counted
    count = int(mask.sum())
    share = max(count, 1) / mask.numel()
    loss = photometric_loss(rgb, view.image.to(drawn) / 255, weights.dssim, mask=mask) / share
    if known is not None:
        places = covered.flatten()[known[0]]
        rows, inverse = known[0][places], known[1][places].to(drawn)
        stretch = (leaf[3] - leaf[3].detach()).exp().to(drawn)  # 1, with the gradient of the scale
        found_m = stretch * drawn[..., 3].flatten()[rows] / alpha.flatten()[rows]
        scale_m = 1 / float(inverse.median()) if len(inverse) else 1.0
        loss = loss + weights.depth * disparity_loss(found_m, inverse, scale_m)
    return loss, count


def noisy(gradient_of: GradientOf, most: float, deviation: float, seed: int) -> GradientOf:
    """The same vehicle, more private: its gradient is cut to a length and has noise added; its loss is kept back.

    Args:
        gradient_of: what it would tell.
        most: length that gradients are cut to.
        deviation: of the noise in each number, as a share of `most`.
        seed: of the noise; a vehicle keeps it to itself.

    Returns:
        a function that tells 0 for the loss.

    Raises:
        ValueError: `most` is not positive or the deviation is negative.
    """
    if not (most > 0 and deviation >= 0):
        raise ValueError(f"noisy takes most > 0 and deviation >= 0, got {most} and {deviation}")
    generator = torch.Generator().manual_seed(seed)

    def told(parameters: Tensor) -> tuple[float, Tensor]:
        gradient = gradient_of(parameters)[1]
        cut = gradient * min(1.0, most / max(float(gradient.norm()), 1e-30))
        return 0.0, cut + most * deviation * torch.randn(7, generator=generator, dtype=torch.float64)

    return told


def align(
    gradient_of: Sequence[GradientOf],
    start: Sim3,
    chart: Chart,
    *,
    steps: int = 40,
    rate: float = 0.01,
    solver: Solver = "lbfgs",
) -> Sim3:
    """The similarity that many vehicles' gradients lead to.

    Args:
        gradient_of: one a vehicle; all count alike.
        start: the seed.
        chart: what the seven numbers mean.
        steps: how often all vehicles are asked, about: a line search is ended first.
        rate: the longest first step, in the chart's numbers.
        solver: "lbfgs" needs losses that belong to the gradients (scipy's L-BFGS-B); "adam" does without the loss and
            bears noise, but wants a pivot near the cameras: about another, forward and scale are mixed up, and it
            creeps. Its rate falls to a tenth.

    Raises:
        ValueError: no vehicle, an unknown solver, or a vehicle answers with NaN or infinity.
        ImportError: scipy is missing.
    """
    if not gradient_of:
        raise ValueError("align needs the gradients of at least one vehicle")
    if solver not in get_args(Solver):
        raise ValueError(f"solver is one of {', '.join(get_args(Solver))}, got {solver!r}")

    def ask(parameters: Tensor) -> tuple[float, Tensor]:
        return _sum_of([tell(parameters.clone()) for tell in gradient_of])

    walk = _by_lbfgs if solver == "lbfgs" else _by_adam
    return chart.sim3(walk(ask, chart.parameters(start), steps, rate))


def _sum_of(told: Sequence[tuple[float, Tensor]]) -> tuple[float, Float[Tensor, "7"]]:
    for number, (loss, gradient) in enumerate(told):
        if not (math.isfinite(loss) and torch.isfinite(gradient).all()):
            raise ValueError(f"vehicle {number} told a loss or gradient of NaN or infinity; leave it out")
    return sum(loss for loss, _ in told), torch.stack([gradient for _, gradient in told]).sum(dim=0)


def _by_lbfgs(ask: GradientOf, parameters: Tensor, steps: int, rate: float) -> Float[Tensor, "7"]:
    """In units of `rate`, for the first step of L-BFGS-B is one unit at most."""
    from scipy.optimize import minimize

    def asked(units: Float[ndarray, "7"]) -> tuple[float, Float[ndarray, "7"]]:
        loss, gradient = ask(torch.tensor(units * rate))
        return loss, gradient.numpy() * rate

    options = {"maxfun": steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-9}
    found = minimize(asked, parameters.numpy() / rate, jac=True, method="L-BFGS-B", options=options)
    return torch.tensor(found.x * rate)


def _by_adam(ask: GradientOf, parameters: Tensor, steps: int, rate: float) -> Float[Tensor, "7"]:
    optimizer = torch.optim.Adam([parameters], lr=rate, betas=(0.9, 0.95), eps=1e-15)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.1 ** (step / steps)
        parameters.grad = ask(parameters)[1]
        optimizer.step()
    return parameters


def align_coarse_to_fine(
    gaussians: Gaussians,
    vehicles: Sequence[Sequence[View]],
    start: Sim3,
    *,
    pivot_m: Float[ndarray, "3"] | None = None,
    steps: Sequence[int] = (40, 30, 30),
    weights: LossWeights = _WEIGHTS,
    backend: Backend = "auto",
) -> Sim3:
    """`align` at images that double in size from level to level; blurred ones lead from farther away.

    Args:
        gaussians: to be moved.
        vehicles: views of each vehicle in whose world they shall lie; those that look at the Gaussians.
        start: the seed.
        pivot_m: see `Chart.of`.
        steps: at each level; the last is at full size.
        weights, backend: see `gradient_at`.

    Raises:
        ValueError: as `align` and `gradient_at`, or images are too small to be halved so often.
    """
    chart, current = Chart.of(gaussians, pivot_m), start
    for level, count in enumerate(steps):
        halvings = len(steps) - 1 - level
        seen = [[_halved_times(view, halvings) for view in views] for views in vehicles]
        asked: list[GradientOf] = [
            partial(_tell, gaussians=gaussians, views=views, chart=chart, weights=weights, backend=backend)
            for views in seen
        ]
        current = align(asked, current, chart, steps=count)
    return current


def _tell(
    parameters: Tensor, *, gaussians: Gaussians, views: Sequence[View], chart: Chart, **options: Any
) -> tuple[float, Tensor]:
    return gradient_at(gaussians, parameters, views, chart, **options)


def halved(view: View) -> View:
    """The view at half its size, means of 2 x 2 pixels; an odd last row or column is left out.

    A pixel counts if all four do. Depth is the harmonic mean of what is known of the four.

    Raises:
        ValueError: a side has a single pixel.
    """
    height, width = (side // 2 for side in view.size_px)
    if not (height and width):
        raise ValueError(f"{view.source}: an image of {view.size_px} pixels cannot be halved; use fewer levels")
    scaling = torch.tensor([0.5, 0.5, 1.0]).to(view.intrinsics)

    def blocks(image: Tensor) -> Tensor:
        cut = image[: 2 * height, : 2 * width]
        return cut.reshape(height, 2, width, 2, *image.shape[2:]).transpose(1, 2).flatten(2, 3)

    image = blocks(view.image).float().mean(dim=2).round().to(torch.uint8)
    counted = None if view.counted is None else blocks(view.counted).all(dim=2)
    depth_m = None if view.depth_m is None else _harmonic(blocks(view.depth_m))
    return replace(view, image=image, intrinsics=scaling[:, None] * view.intrinsics, counted=counted, depth_m=depth_m)


def _halved_times(view: View, times: int) -> View:
    for _ in range(times):
        view = halved(view)
    return view


def _harmonic(depth_m: Float[Tensor, "h w 4"]) -> Float[Tensor, "h w"]:
    known = depth_m > 0
    inverse = torch.where(known, 1 / depth_m.clamp_min(1e-9), 0).sum(dim=2) / known.sum(dim=2).clamp_min(1)
    return torch.where(known.any(dim=2), 1 / inverse, 0)
