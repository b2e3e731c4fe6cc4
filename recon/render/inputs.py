"""What `rasterize` takes, and the checks that it fits together."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from recon.spherical import MAX_DEGREE

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Backend = Literal["auto", "cpu", "gsplat", "oracle"]


@dataclass(frozen=True)
class Setting:
    """What all cameras of one call share.

    Args:
        width, height: of the images, pixels.
        eps2d: added to the variances in the image, px².
        near_plane: nothing nearer is drawn, metres along z.
        depth: append the distance along z to the colours.
        expected: divide that distance, blended, by alpha; only with `depth`.
        vector_floats: of the kernel; by default what the machine has.
        sh_degree: colours are spherical harmonics of this degree; None: they are RGB.
    """

    width: int
    height: int
    eps2d: float
    near_plane: float
    depth: bool
    vector_floats: int | None = None
    sh_degree: int | None = None
    expected: bool = False


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of one call, named and shaped as `rasterize` has them."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors_or_sh: Tensor
    viewmats: Tensor
    Ks: Tensor
    backgrounds: Tensor | None

    @property
    def shape_and_opacity(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means, quats, scales and opacities."""
        return self.means, self.quats, self.scales, self.opacities

    def for_mode(self, mode: RenderMode) -> "Inputs":
        """Without colours if only depth is drawn, with a background for the depth that is appended."""
        if "RGB" not in mode:
            return replace(self, colors_or_sh=self.means.new_zeros(len(self.means), 0), backgrounds=None)
        if self.backgrounds is None or "D" not in mode:
            return self
        behind = torch.cat([self.backgrounds, self.backgrounds.new_zeros(len(self.viewmats), 1)], dim=-1)
        return replace(self, backgrounds=behind)


def check(inputs: Inputs, setting: Setting) -> None:
    """Shapes, devices, degree and size.

    Raises:
        ValueError: one does not fit; the message names the argument.
    """
    n, c = len(inputs.means), len(inputs.viewmats)
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    shapes |= {"viewmats": (c, 4, 4), "Ks": (c, 3, 3), "backgrounds": (c, 3)}
    for name, shape in shapes.items():
        _check_tensor(name, getattr(inputs, name), shape, inputs.means.device)
    _check_colors(inputs.colors_or_sh, n, setting.sh_degree)
    if min(setting.width, setting.height) < 1 or c < 1:
        size = f"{setting.width} x {setting.height} px, {c} cameras"
        raise ValueError(f"an image has at least one pixel and one camera, got {size}")


def check_choice(name: str, value: str, choices: Any) -> None:
    """One of a `Literal`.

    Raises:
        ValueError: it is none of them.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")


def _check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, means on {device}: move them together")


def _check_colors(colors: Tensor, n: int, degree: int | None) -> None:
    middle = () if degree is None else (colors.shape[1],) if colors.ndim == 3 else (-1,)
    if tuple(colors.shape) != (n, *middle, 3):
        kind = "[n, 3] without sh_degree" if degree is None else "[n, k, 3] with sh_degree"
        raise ValueError(f"colors_or_sh must have shape {kind} and n = {n}, got {list(colors.shape)}")
    if degree is None:
        return
    wanted = (degree + 1) ** 2
    if not 0 <= degree <= MAX_DEGREE or colors.shape[1] < wanted:
        raise ValueError(
            f"sh_degree {degree} needs {wanted} coefficients and lies in 0 to {MAX_DEGREE}; got {colors.shape[1]}"
        )
