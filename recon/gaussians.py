"""A scene as 3D Gaussians (Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering")."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from geometry import Sim3
from geometry.se3 import quat_from_rotation
from recon.spherical import degree_of, from_rgb, rotate

_AXES: Final = {"means": (3,), "quats": (4,), "log_scales": (3,), "logit_opacities": (), "sh": (None, 3)}
_CHUNK: Final = 1 << 24  # distances held at once where scipy is missing


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A set of Gaussians; every tensor has one row each.

    Args:
        means: centres in the world, metres, [n, 3].
        quats: w x y z of the rotation from the Gaussian's axes to the world; any length but 0, [n, 4].
        log_scales: natural logarithm of the standard deviations along its axes in metres, [n, 3].
        logit_opacities: opacity before the sigmoid, [n].
        sh: colour as spherical harmonics (see `recon.spherical`), k = 1, 4, 9 or 16 coefficients, [n, k, 3].

    Raises:
        ValueError: a shape, type or device does not fit, or a value is not finite; the message names the field.
    """

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    log_scales: Float[Tensor, "n 3"]
    logit_opacities: Float[Tensor, "n"]
    sh: Float[Tensor, "n k 3"]

    def __post_init__(self) -> None:
        for name, tensor in self.tensors().items():
            _check_shape(name, tensor, self.means)
        degree_of(self.sh.shape[1])
        for name, tensor in self.tensors().items():
            broken = ~torch.isfinite(tensor.detach()).flatten(1 if tensor.ndim > 1 else 0)
            if broken.any():
                raise ValueError(f"Gaussians.{name} holds NaN or infinity in {_rows(broken)} of {len(tensor)} rows")
        zero = (self.quats.detach() == 0).all(dim=1)
        if zero.any():
            raise ValueError(f"Gaussians.quats is zero in {_rows(zero)} rows, which is no rotation")

    @classmethod
    def unchecked(cls, **tensors: Tensor) -> "Gaussians":
        """Without the checks, for inner loops whose tensors were checked before."""
        made = object.__new__(cls)
        for name in _AXES:
            object.__setattr__(made, name, tensors[name])
        return made

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0..3."""
        return degree_of(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as they are held."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def scales(self) -> Float[Tensor, "n 3"]:
        """Standard deviations in metres."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, "n"]:
        """Opacity at the centre, 0..1."""
        return self.logit_opacities.sigmoid()

    @property
    def rotations(self) -> Float[Tensor, "n 3 3"]:
        """Matrices from the Gaussians' axes to the world."""
        w, x, y, z = torch.nn.functional.normalize(self.quats, dim=1).unbind(1)
        rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
        rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
        rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
        return torch.stack(rows, dim=1).reshape(-1, 3, 3)

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussians":
        """The same function of every tensor."""
        return Gaussians(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def select(self, keep: Bool[Tensor, "n"] | Int64[Tensor, "m"]) -> "Gaussians":
        """The rows that a mask or an index picks."""
        return self.map(lambda tensor: tensor[keep])

    def detach(self) -> "Gaussians":
        """Cut off from the graph, same memory."""
        return self.map(lambda tensor: tensor.detach())

    def clone(self) -> "Gaussians":
        """A copy in memory of its own."""
        return self.map(lambda tensor: tensor.clone())

    def requires_grad_(self, requires_grad: bool = True) -> "Gaussians":
        """Ask for gradients of every tensor, in place."""
        for tensor in self.tensors().values():
            tensor.requires_grad_(requires_grad)
        return self

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Gaussians":
        """On another device or in another float type."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def with_degree(self, degree: int) -> "Gaussians":
        """Higher bands are dropped, or added as zeros."""
        count = (degree + 1) ** 2
        added = self.sh.new_zeros(len(self), max(count - self.sh.shape[1], 0), 3)
        return Gaussians(**{**self.tensors(), "sh": torch.cat([self.sh[:, :count], added], dim=1)})

    def transformed(self, sim3: Sim3) -> "Gaussians":
        """The scene after a similarity; colours turn with it, band by band. Gradients pass through."""
        rotation = torch.tensor(sim3.rotation)
        turn = torch.tensor(quat_from_rotation(sim3.rotation)).to(self.quats)
        shift = torch.tensor(sim3.translation_m).to(self.means)
        return Gaussians(
            means=sim3.scale * (self.means @ rotation.T.to(self.means)) + shift,
            quats=_quat_product(turn, self.quats),
            log_scales=self.log_scales + math.log(sim3.scale),
            logit_opacities=self.logit_opacities,
            sh=rotate(self.sh, rotation),
        )

    @classmethod
    def empty(cls, degree: int = 0) -> "Gaussians":
        """No Gaussians, float32."""
        shapes = [(0, 3), (0, 4), (0, 3), (0,), (0, (degree + 1) ** 2, 3)]
        return cls(*[torch.zeros(shape) for shape in shapes])

    @classmethod
    def concat(cls, parts: Sequence["Gaussians"]) -> "Gaussians":
        """One set of several, in order; lower degrees are filled up with zeros to the highest.

        Raises:
            ValueError: no parts, or types or devices differ.
        """
        if not parts:
            raise ValueError("Gaussians.concat takes at least one set; Gaussians.empty() is one")
        degree = max(part.degree for part in parts)
        columns = [part.with_degree(degree).tensors() for part in parts]
        kinds = {(part.means.dtype, part.means.device) for part in parts}
        if len(kinds) > 1:
            raise ValueError(f"Gaussians.concat takes one type and device, got {sorted(map(str, kinds))}; use .to(...)")
        return cls(**{name: torch.cat([column[name] for column in columns]) for name in _AXES})

    @classmethod
    def from_points(
        cls,
        xyz: Float[Tensor, "n 3"] | Float[ndarray, "n 3"],
        rgb: Float[Tensor, "n 3"] | Float[ndarray, "n 3"] | UInt8[Tensor, "n 3"] | UInt8[ndarray, "n 3"],
        *,
        degree: int = 0,
        opacity: float = 0.1,
        min_scale_m: float = 1e-3,
        lone_scale_m: float = 0.1,
    ) -> "Gaussians":
        """Balls at points, float32, sized by the mean distance to the three nearest others (Kerbl et al. 2023, 5.1).

        Args:
            xyz: world, metres.
            rgb: 0..255 as uint8 or 0..1 as floats.
            degree: of the spherical harmonics; bands above 0 start at zero.
            opacity: of all of them, between 0 and 1.
            min_scale_m: for points that coincide.
            lone_scale_m: for a point that is alone.

        Raises:
            ValueError: the opacity or a scale is out of range, lengths differ, or a point is not finite.
        """
        if not (0 < opacity < 1 and min_scale_m > 0 and lone_scale_m > 0):
            raise ValueError(f"opacity must lie in (0, 1) and scales above 0: {opacity}, {min_scale_m}, {lone_scale_m}")
        means, colour = torch.as_tensor(xyz).float(), torch.as_tensor(rgb)
        if not torch.isfinite(means).all():
            raise ValueError("Gaussians.from_points: xyz holds NaN or infinity; drop these points")
        colour = colour.float() / 255 if colour.dtype == torch.uint8 else colour.float()
        count = len(means)
        scale_m = neighbour_distance(means).clamp_min(min_scale_m) if count > 1 else torch.full((count,), lone_scale_m)
        sh = torch.zeros(len(colour), (degree + 1) ** 2, 3)
        sh[:, 0] = from_rgb(colour)
        return cls(
            means=means,
            quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            log_scales=scale_m.log()[:, None].repeat(1, 3),
            logit_opacities=torch.full((count,), opacity).logit(),
            sh=sh,
        )


def neighbour_distance(xyz: Float[Tensor, "n 3"], neighbours: int = 3) -> Float[Tensor, "n"]:
    """Mean distance of each point to its nearest others (fewer where there are fewer), metres.

    By scipy's tree, or pair by pair in chunks where scipy is not installed.

    Raises:
        ValueError: fewer than two points.
    """
    if len(xyz) < 2:
        raise ValueError(f"the distance to a neighbour takes two points, got {len(xyz)}")
    count = min(neighbours, len(xyz) - 1)
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        return _brute_force_distance(xyz, count)
    points = xyz.detach().double().cpu().numpy()
    nearest, _ = cKDTree(points).query(points, k=count + 1)
    return torch.from_numpy(nearest[:, 1:].mean(axis=1)).to(xyz)


def _brute_force_distance(xyz: Float[Tensor, "n 3"], count: int) -> Float[Tensor, "n"]:
    points = xyz.detach().double()
    rows = max(_CHUNK // len(points), 1)
    exact = "donot_use_mm_for_euclid_dist"
    near = [torch.cdist(part, points, compute_mode=exact).topk(count + 1, largest=False) for part in points.split(rows)]
    return torch.cat([values.sort(dim=1).values[:, 1:].mean(dim=1) for values, _ in near]).to(xyz)


def _quat_product(left: Float[Tensor, "4"], right: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Hamilton's product, w x y z."""
    w, x, y, z = left
    matrix = torch.stack([w, -x, -y, -z, x, w, -z, y, y, z, w, -x, z, -y, x, w]).reshape(4, 4)
    return right @ matrix.T


def _check_shape(name: str, tensor: Tensor, means: Tensor) -> None:
    pairs = zip_longest(_AXES[name], tensor.shape[1:], fillvalue=-1)
    if tensor.shape != (*means.shape[:1], *[got if want is None else want for want, got in pairs]):
        wanted = ", ".join(["n", *["k" if axis is None else str(axis) for axis in _AXES[name]]])
        raise ValueError(
            f"Gaussians.{name} has shape {tuple(tensor.shape)}, want [{wanted}]; means {tuple(means.shape)}"
        )
    if not tensor.is_floating_point() or tensor.dtype != means.dtype or tensor.device != means.device:
        raise ValueError(
            f"Gaussians.{name} is {tensor.dtype} on {tensor.device}; all fields need one float type and device, "
            f"means are {means.dtype} on {means.device}"
        )


def _rows(broken: Tensor) -> int:
    return int((broken.any(dim=1) if broken.ndim > 1 else broken).sum())
