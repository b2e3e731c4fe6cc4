"""Images of 3D Gaussians, with gradients: one call, three backends.

`rasterize` means the same as `gsplat.rasterization` 1.5: image model of Kerbl et al. 2023, EWA projection of Zwicker et
al. 2001.
"""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon.render import cpu, gsplat, oracle
from recon.render.build import KernelUnavailableError, load_kernel
from recon.render.inputs import Backend, Inputs, RenderMode, Setting, check, check_choice
from recon.render.sh import sh_colors

Rendered = tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w 1"], dict[str, Any]]
Images = tuple[Tensor, Tensor, Tensor, Tensor]  # images, alphas, centres and radii of all cameras

__all__ = ["Backend", "KernelUnavailableError", "RenderMode", "rasterize"]


def rasterize(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colors_or_sh: Float[Tensor, "n 3"] | Float[Tensor, "n k 3"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    *,
    backgrounds: Float[Tensor, "c 3"] | None = None,
    sh_degree: int | None = None,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    render_mode: RenderMode = "RGB",
    backend: Backend = "auto",
) -> Rendered:
    """Images of Gaussians in cameras, differentiable in all of them and in the cameras' poses.

    Args:
        means: centres in the world, metres.
        quats: rotations w, x, y, z; normalised here.
        scales: standard deviations along the Gaussian's axes, metres.
        opacities: 0 to 1.
        colors_or_sh: RGB, or spherical harmonics with `sh_degree` given.
        viewmats: camera from world, OpenCV axes.
        Ks: intrinsics in pixels; the centre of the first pixel is (0.5, 0.5). Skew is ignored.
        width, height: of the images, pixels.
        backgrounds: RGB behind all Gaussians; black by default. Depth has none.
        sh_degree: 0 to 3; harmonics above it are ignored.
        eps2d: added to the variances in the image, px², so that no splat falls between pixels.
        near_plane: Gaussians nearer than this along z are not drawn, metres.
        render_mode: "D" blends depth along z like a colour, "ED" divides that by alpha (expected depth; 0 where nothing
            was hit), "RGB+…" appends it to the colours.
        backend: "cpu" is the compiled kernel, in float32; "gsplat" a GPU; "oracle" the dense definition in the dtype
            of `means`; "auto" gsplat for tensors on a GPU, else cpu.

    Returns:
        image [c, h, w, d], alpha [c, h, w, 1], and a dictionary: `means2d` [c, n, 2] in pixels, `radii` [c, n, 2] (half
        width and height, 0 where not drawn), `visibility` [c, n] (drawn or not), `backend`, and `fallback` with the
        reason if the backend that was asked for cannot run here and a slower one did.

    Raises:
        ValueError: shapes, devices or options that do not fit; the message names the argument.
        ImportError: "gsplat" was asked for and is not installed.
        MemoryError: more pairs of Gaussian and tile than the kernel counts.
    """
    inputs = Inputs(means, quats, scales, opacities, colors_or_sh, viewmats, Ks, backgrounds)
    depth, expected = "D" in render_mode, "ED" in render_mode
    setting = Setting(width, height, eps2d, near_plane, depth=depth, sh_degree=sh_degree, expected=expected)
    check(inputs, setting)
    check_choice("render_mode", render_mode, RenderMode)
    check_choice("backend", backend, Backend)
    chosen, fallback = _choose(backend, means)
    if chosen == "gsplat":
        image, alpha, means2d, radii = gsplat.render(inputs, setting, render_mode)
    else:
        image, alpha, means2d, radii = _render_here(inputs, setting, render_mode, chosen)
    return image, alpha, _info("oracle" if chosen == "tiled" else chosen, fallback, means2d, radii)


def _render_here(inputs: Inputs, setting: Setting, mode: RenderMode, chosen: str) -> Images:
    """By the kernel or by torch."""
    inputs = inputs.for_mode(mode)
    if "RGB" not in mode:
        setting = replace(setting, sh_degree=None)
    render = cpu.render if chosen == "cpu" else partial(_by_torch, tiled=chosen == "tiled")
    return render(inputs, setting)


def _info(backend: str, fallback: str | None, means2d: Tensor, radii: Tensor) -> dict[str, Any]:
    info = {"means2d": means2d, "radii": radii, "visibility": (radii > 0).all(-1), "backend": backend}
    return info if fallback is None else info | {"fallback": fallback}


def _choose(backend: str, means: Tensor) -> tuple[str, str | None]:
    """What renders, and why it is not what was asked for."""
    if backend == "auto" and means.is_cuda:
        if find_spec("gsplat"):
            return "gsplat", None
        return "tiled", "gsplat is not installed; rendering with plain torch, slowly: pip install gsplat packaging"
    if backend == "cpu" and means.is_cuda:
        raise ValueError('backend "cpu" renders tensors on the CPU; these are on a GPU: use backend "gsplat"')
    if backend not in ("auto", "cpu"):
        return backend, None
    try:
        load_kernel()
    except KernelUnavailableError as error:
        return "tiled", f"{error}; rendering with plain torch, slowly"
    return "cpu", None


def _by_torch(inputs: Inputs, setting: Setting, *, tiled: bool) -> Images:
    """What `cpu.render` does, by plain torch."""
    size_px, views, viewmats = (setting.height, setting.width), [], inputs.viewmats
    colors = inputs.colors_or_sh.expand(len(viewmats), *inputs.colors_or_sh.shape)
    if setting.sh_degree is not None:
        colors = sh_colors(inputs.means, inputs.colors_or_sh, setting.sh_degree, viewmats)
    limits: dict[str, Any] = {"eps2d": setting.eps2d, "near_plane": setting.near_plane, "depth": setting.depth}
    for i, (viewmat, k) in enumerate(zip(viewmats, inputs.Ks, strict=True)):
        splats = oracle.project(*inputs.shape_and_opacity, colors[i], viewmat, k, size_px, **limits)
        image, rest = (oracle.render_tiled if tiled else oracle.render)(splats, size_px)
        if inputs.backgrounds is not None:
            image = image + rest[..., None] * inputs.backgrounds[i]
        views.append((image, 1 - rest[..., None], splats.means2d.detach(), splats.radii))
    image, alpha, means2d, radii = (torch.stack(column) for column in zip(*views, strict=True))
    if setting.expected:
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp_min(1e-10)], dim=-1)
    return image, alpha, means2d, radii
