"""What rasterising Gaussians means, written to be read: dense torch, any dtype, gradients by autograd.

The image model is that of Kerbl et al. 2023 (3D Gaussian Splatting): Gaussians are projected with the affine
approximation of Zwicker et al. 2001 (EWA volume splatting), sorted by depth and blended front to back. Constants and
limits are gsplat's. The compiled kernel is tested against this module, and where it cannot be compiled
`render_tiled` stands in for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

ALPHA_MAX = 0.999
ALPHA_CUT = 1 / 255
T_STOP = 1e-4
MAX_SIGMAS = 3.33
FRUSTUM_MARGIN = 0.3  # of half the field of view: beyond it the Jacobian is taken at the margin
TILE_PX = 16


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians in one image: centres and radii in pixels, inverse covariances (xx, xy, yy) in 1/px²."""

    means2d: Float[Tensor, "n 2"]
    conics: Float[Tensor, "n 3"]
    depths_m: Float[Tensor, "n"]
    opacities: Float[Tensor, "n"]
    features: Float[Tensor, "n d"]
    radii: Int[Tensor, "n 2"]

    def take(self, index: Tensor) -> "Splats":
        """Those at `index`: integers or a mask."""
        return Splats(*(getattr(self, field.name)[index] for field in fields(self)))


def rotations(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z), normalised here."""
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def jacobians(points_cam: Float[Tensor, "n 3"], k: Float[Tensor, "3 3"], size_px: tuple[int, int]) -> Tensor:
    """Derivative [n, 2, 3] of the projection at points, whose x/z and y/z are kept within the frustum's margin."""
    height, width = size_px
    z = points_cam[:, 2]
    rows = []
    for axis, extent in ((0, width), (1, height)):
        focal, centre = k[axis, axis], k[axis, 2]
        margin = FRUSTUM_MARGIN * 0.5 * extent / focal
        ratio = torch.clamp(points_cam[:, axis] / z, -(centre / focal + margin), (extent - centre) / focal + margin)
        row = [torch.zeros_like(z), torch.zeros_like(z), -focal * ratio / z]
        row[axis] = focal / z
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def project(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colors: Float[Tensor, "n k"],
    viewmat: Float[Tensor, "4 4"],
    k: Float[Tensor, "3 3"],
    size_px: tuple[int, int],
    *,
    eps2d: float,
    near_plane: float,
    depth: bool,
) -> Splats:
    """Gaussians as one camera sees them; radii are 0 where nothing is to be drawn.

    `depth` appends the distance along the camera's z as a last feature.
    """
    points_cam = means @ viewmat[:3, :3].T + viewmat[:3, 3]
    ahead = points_cam[:, 2] >= near_plane
    points_cam = torch.where(ahead[:, None], points_cam, points_cam.new_tensor([0.0, 0.0, 1.0]))
    z = points_cam[:, 2]
    means2d = points_cam[:, :2] / z[:, None] * torch.stack([k[0, 0], k[1, 1]]) + k[:2, 2]
    half = jacobians(points_cam, k, size_px) @ viewmat[:3, :3] @ rotations(quats) * scales[:, None, :]
    covariances = half @ half.mT + eps2d * torch.eye(2, dtype=means.dtype, device=means.device)
    xx, xy, yy = covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]
    determinants = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], -1) / determinants[:, None]
    sizes = torch.stack([xx, yy], -1)
    drawn = ahead & (opacities >= ALPHA_CUT) & (determinants > 0)
    radii = _radii(means2d, sizes, opacities, drawn, size_px)
    features = torch.cat([colors, z[:, None]], -1) if depth else colors
    return Splats(means2d, conics, z, opacities, features, radii)


@torch.no_grad()
def _radii(means2d: Tensor, sizes: Tensor, opacities: Tensor, drawn: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Half the width and height [n, 2] of each ellipse, rounded up; 0 for those not drawn or outside the image."""
    sigmas = torch.sqrt(2 * torch.log(opacities.clamp_min(ALPHA_CUT) / ALPHA_CUT)).clamp_max(MAX_SIGMAS)
    radii = torch.ceil(sigmas[:, None] * sizes.sqrt())
    limits = means2d.new_tensor([size_px[1], size_px[0]])
    inside = ((means2d + radii > 0) & (means2d - radii < limits)).all(-1)
    return torch.where((drawn & inside)[:, None], radii, 0).clamp_max(2**30).to(torch.int32)


def alphas(splats: Splats, pixels: Float[Tensor, "p 2"]) -> Float[Tensor, "n p"]:
    """Opacity of each splat at each pixel centre before it is limited and cut."""
    dx, dy = (pixels[None] - splats.means2d[:, None]).unbind(-1)
    a, b, c = splats.conics[:, :, None].unbind(1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return splats.opacities[:, None] * torch.exp(-sigma)


def blend(splats: Splats, pixels: Float[Tensor, "p 2"]) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p"]]:
    """Features and remaining transmittance at pixel centres; `splats` are sorted by depth."""
    alpha = torch.clamp_max(alphas(splats, pixels), ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_CUT, alpha, 0)
    after = torch.cumprod(1 - alpha, dim=0)
    alpha = torch.where(after > T_STOP, alpha, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    return (alpha * before).T @ splats.features, torch.prod(1 - alpha, dim=0)


def by_depth(splats: Splats) -> Splats:
    """Those that are drawn, nearest first; equal depths keep their order."""
    splats = splats.take((splats.radii > 0).all(-1))
    return splats.take(torch.argsort(splats.depths_m, stable=True))


def pixel_centres(splats: Splats, left: int, top: int, right: int, bottom: int) -> Float[Tensor, "p 2"]:
    """Centres of the pixels of a rectangle, row by row."""
    u = torch.arange(left, right, dtype=splats.means2d.dtype, device=splats.means2d.device) + 0.5
    v = torch.arange(top, bottom, dtype=splats.means2d.dtype, device=splats.means2d.device) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)


def render(splats: Splats, size_px: tuple[int, int]) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w"]]:
    """One image and its transmittance, all splats at all pixels: the definition."""
    height, width = size_px
    image, transmittance = blend(by_depth(splats), pixel_centres(splats, 0, 0, width, height))
    return image.reshape(height, width, -1), transmittance.reshape(height, width)


def render_tiled(splats: Splats, size_px: tuple[int, int]) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w"]]:
    """`render` by tiles of 16 pixels with the splats that reach into each: the same up to rounding, much less work."""
    height, width = size_px
    splats = by_depth(splats)
    image, transmittance = [], []
    for top in range(0, height, TILE_PX):
        bottom = min(top + TILE_PX, height)
        row = list(_tiles_of_row(splats, top, bottom, width))
        image.append(torch.cat([colors for colors, _ in row], dim=1))
        transmittance.append(torch.cat([rest for _, rest in row], dim=1))
    return torch.cat(image), torch.cat(transmittance)


def _tiles_of_row(splats: Splats, top: int, bottom: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = splats.means2d.detach().unbind(-1)
    rx, ry = splats.radii.unbind(-1)
    row = splats.take((y + ry > top) & (y - ry < bottom))
    x, rx = row.means2d.detach()[:, 0], row.radii[:, 0]
    for left in range(0, width, TILE_PX):
        right = min(left + TILE_PX, width)
        inside = row.take((x + rx > left) & (x - rx < right))
        colors, rest = blend(inside, pixel_centres(splats, left, top, right, bottom))
        yield colors.reshape(bottom - top, right - left, -1), rest.reshape(bottom - top, right - left)


@torch.no_grad()
def undecided_pixels(splats: Splats, size_px: tuple[int, int], tolerance: float = 1e-5) -> Bool[Tensor, "h w"]:
    """Pixels where an opacity or a transmittance stands within a relative `tolerance` of a limit of the definition.

    There the image jumps: arithmetic of lower precision may fall on the other side, and neither is wrong.
    """
    height, width = size_px
    splats = by_depth(splats)
    alpha = alphas(splats, pixel_centres(splats, 0, 0, width, height))
    after = torch.cumprod(1 - torch.where(alpha >= ALPHA_CUT, alpha.clamp_max(ALPHA_MAX), 0), dim=0)
    limits = [(alpha, ALPHA_CUT), (alpha, ALPHA_MAX), (after, T_STOP)]
    near = [(value / limit - 1).abs() < tolerance for value, limit in limits]
    return torch.stack(near).any(0).any(0).reshape(height, width)
