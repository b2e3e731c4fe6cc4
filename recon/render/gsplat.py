"""The same call on a GPU, by gsplat (Ye et al. 2024), which must be installed for it.

Read against its version 1.5.3: it takes RGB backgrounds in every mode and widens them for depth itself, divides
expected depth by alpha, normalises quaternions (w, x, y, z), and works in float32.
"""

from torch import Tensor

from recon.render.inputs import Inputs, RenderMode, Setting


def render(inputs: Inputs, setting: Setting, mode: RenderMode) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, alphas, centres and radii in pixels. Centres of Gaussians that are not drawn hold anything.

    Raises:
        ImportError: gsplat is not installed.
        ValueError: the tensors are not on a CUDA device.
    """
    if not inputs.means.is_cuda:
        raise ValueError('backend "gsplat" renders tensors on a CUDA device; these are on the CPU: use backend "cpu"')
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ImportError('backend "gsplat" needs gsplat: pip install "gsplat>=1.5.3,<1.6" packaging') from error
    image, alpha, info = rasterization(**options(inputs, setting, mode))
    return image, alpha, info["means2d"].detach(), info["radii"]


def options(inputs: Inputs, setting: Setting, mode: RenderMode) -> dict[str, object]:
    """Arguments of `gsplat.rasterization`; `packed=False` gives dense outputs, one row a camera and Gaussian."""
    tensors = {name: None if tensor is None else tensor.float() for name, tensor in vars(inputs).items()}
    tensors["colors"] = tensors.pop("colors_or_sh")
    return tensors | {
        "width": setting.width,
        "height": setting.height,
        "eps2d": setting.eps2d,
        "near_plane": setting.near_plane,
        "sh_degree": setting.sh_degree,
        "render_mode": mode,
        "packed": False,
    }
