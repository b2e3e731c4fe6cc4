"""How many Gaussians and images fit into a memory budget while a scene is fitted."""

from dataclasses import dataclass
from typing import Final

COPIES: Final = 6  # of every parameter: itself, its gradient, Adam's two moments, and what a change of the set copies
RENDER_BYTES: Final = 160  # a Gaussian: what it looks like from the camera, and gradients of that
PAIR_BYTES: Final = 80  # a pair of Gaussian and tile
PAIRS_A_MEGAPIXEL: Final = 150  # of them that a Gaussian has in a view, as seen on streets that begin from LiDAR
IMAGE_SHARE: Final = 0.3  # of the budget for images that are kept


@dataclass(frozen=True)
class MemoryPlan:
    """A budget, dealt out.

    Args:
        cap: the most Gaussians.
        image_bytes: for images that are kept; others are read again.
    """

    cap: int
    image_bytes: int


def plan_memory(budget_bytes: int, cap: int, degree: int, pixels: int) -> MemoryPlan:
    """The cap that a budget allows, at most the one asked for.

    Args:
        budget_bytes: for the fit, beside the program itself (Python, torch and the data's libraries: about 1 GB).
        cap: the most Gaussians that are wanted.
        degree: of the spherical harmonics.
        pixels: of an image.

    Raises:
        ValueError: the budget holds fewer than 100 Gaussians.
    """
    image_bytes = round(IMAGE_SHARE * budget_bytes)
    allowed = (budget_bytes - image_bytes) // gaussian_bytes(degree, pixels)
    if allowed < 100:
        raise ValueError(f"a memory budget of {budget_bytes / 1e6:.1f} MB holds {allowed} Gaussians; give more")
    return MemoryPlan(min(cap, allowed), image_bytes)


def gaussian_bytes(degree: int, pixels: int) -> int:
    """Bytes that one Gaussian takes during a fit, float32."""
    pairs = max(round(PAIRS_A_MEGAPIXEL * pixels / 1e6), 4)
    return COPIES * 4 * floats(degree) + RENDER_BYTES + pairs * PAIR_BYTES


def ply_bytes(degree: int) -> int:
    """Bytes of one Gaussian in a .ply: its parameters and three unused normals."""
    return 4 * (floats(degree) + 3)


def floats(degree: int) -> int:
    """Parameters of a Gaussian."""
    return 11 + 3 * (degree + 1) ** 2
