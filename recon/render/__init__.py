"""Images of 3D Gaussians, with gradients: one call, three backends.

`rasterize` means the same as `gsplat.rasterization` 1.5: image model of Kerbl et al. 2023, EWA projection of Zwicker et
al. 2001.
"""

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from recon.render import cpu, gsplat, oracle
from recon.render.build import KernelUnavailableError, load_kernel
from recon.render.sh import sh_colors

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Backend = Literal["auto", "cpu", "gsplat", "oracle"]
Rendered = tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w 1"], dict[str, Any]]

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
    _check(means, quats, scales, opacities, colors_or_sh, viewmats, Ks, width, height, backgrounds, sh_degree)
    for name, value, choices in (("render_mode", render_mode, RenderMode), ("backend", backend, Backend)):
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
    chosen, fallback = _choose(backend, means)
    gaussians, cameras = (means, quats, scales, opacities), (viewmats, Ks)
    if chosen == "gsplat":
        options: dict[str, Any] = {
            "width": width,
            "height": height,
            "sh_degree": sh_degree,
            "eps2d": eps2d,
            "near_plane": near_plane,
        }
        options |= {"viewmats": viewmats, "Ks": Ks, "backgrounds": backgrounds, "render_mode": render_mode}
        image, alpha, info = gsplat.render(*gaussians, colors_or_sh, **options)
        return image, alpha, _info(chosen, fallback, info["means2d"], info["radii"])
    colors, backgrounds = _features(means, colors_or_sh, sh_degree, viewmats, backgrounds, render_mode)
    setting = cpu.Setting(width, height, eps2d, near_plane, depth="D" in render_mode)
    if chosen == "cpu":
        image, alpha, means2d, radii = cpu.render(setting, *gaussians, colors, *cameras, backgrounds)
    else:
        image, alpha, means2d, radii = _oracle(
            setting, gaussians, colors, cameras, backgrounds, tiled=chosen == "tiled"
        )
    if "ED" in render_mode:
        expected = image[..., -1:] / alpha.clamp_min(1e-10)
        image = torch.cat([image[..., :-1], expected], dim=-1)
    return image, alpha, _info("oracle" if chosen == "tiled" else chosen, fallback, means2d, radii)


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


def _features(
    means: Tensor, colors: Tensor, degree: int | None, viewmats: Tensor, backgrounds: Tensor | None, mode: str
) -> tuple[Tensor, Tensor | None]:
    """Colours [c, n, 0 or 3] and backgrounds of the same width, one wider with depth."""
    if "RGB" not in mode:
        return means.new_zeros(len(viewmats), len(means), 0), None
    colors = colors.expand(len(viewmats), -1, -1) if degree is None else sh_colors(means, colors, degree, viewmats)
    if backgrounds is not None and "D" in mode:
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(len(viewmats), 1)], dim=-1)
    return colors, backgrounds


def _oracle(
    setting: cpu.Setting,
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor],
    colors: Tensor,
    cameras: tuple[Tensor, Tensor],
    backgrounds: Tensor | None,
    *,
    tiled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, alphas, centres and radii of all cameras by plain torch."""
    size_px, views = (setting.height, setting.width), []
    limits: dict[str, Any] = {"eps2d": setting.eps2d, "near_plane": setting.near_plane, "depth": setting.depth}
    for i, (viewmat, k) in enumerate(zip(*cameras, strict=True)):
        splats = oracle.project(*gaussians, colors[i], viewmat, k, size_px, **limits)
        image, rest = (oracle.render_tiled if tiled else oracle.render)(splats, size_px)
        if backgrounds is not None:
            image = image + rest[..., None] * backgrounds[i]
        views.append((image, 1 - rest[..., None], splats.means2d.detach(), splats.radii))
    image, alpha, means2d, radii = (torch.stack(column) for column in zip(*views, strict=True))
    return image, alpha, means2d, radii


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    ks: Tensor,
    width: int,
    height: int,
    backgrounds: Tensor | None,
    degree: int | None,
) -> None:
    n, c = len(means), len(viewmats)
    wanted = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    wanted |= {"viewmats": (c, 4, 4), "Ks": (c, 3, 3), "backgrounds": (c, 3)}
    got = {"means": means, "quats": quats, "scales": scales, "opacities": opacities}
    got |= {"viewmats": viewmats, "Ks": ks} | ({} if backgrounds is None else {"backgrounds": backgrounds})
    for name, tensor in got.items():
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must have shape {list(wanted[name])}, got {list(tensor.shape)}")
        if tensor.device != means.device:
            raise ValueError(f"{name} is on {tensor.device}, means on {means.device}: move them together")
    middle = () if degree is None else (colors.shape[1],) if colors.ndim == 3 else (-1,)
    if tuple(colors.shape) != (n, *middle, 3):
        kind = "[n, 3] without sh_degree" if degree is None else "[n, k, 3] with sh_degree"
        raise ValueError(f"colors_or_sh must have shape {kind} and n = {n}, got {list(colors.shape)}")
    if min(width, height) < 1 or c < 1:
        raise ValueError(f"an image has at least one pixel and one camera, got {width} x {height} px, {c} cameras")
