"""The same call on a GPU, by gsplat (Ye et al. 2024), which must be installed for it."""

from typing import Any

from torch import Tensor


def render(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, **options: Any) -> Any:
    """`gsplat.rasterization` with dense outputs: image, alpha and its dictionary.

    Raises:
        ImportError: gsplat is not installed.
        ValueError: the tensors are not on a CUDA device.
    """
    if not means.is_cuda:
        raise ValueError('backend "gsplat" renders tensors on a CUDA device; these are on the CPU: use backend "cpu"')
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ImportError('backend "gsplat" needs gsplat: pip install "gsplat>=1.5.3,<1.6" packaging') from error
    return rasterization(means, quats, scales, opacities, colors, packed=False, **options)
