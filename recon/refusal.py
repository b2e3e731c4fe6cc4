"""What of an upload of Gaussians is refused as a whole: shapes first, then types, then values.

An upload beyond the budget is told by its shapes, so that it is neither decoded nor copied.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from recon.gaussians import Gaussians
from recon.memory import floats

FIELDS: Final = ("means", "quats", "log_scales", "logit_opacities", "sh")
_FLOATS: Final = ("float32", "float16", "bfloat16", "float64")  # in the machine's byte order
_MAY_BE_0: Final = ("clear_sigma", "weight_floor")


class Cause(StrEnum):
    """Why an upload was refused, or, the last three, a row of it dropped."""

    FIELDS = "fields"
    SHAPE = "shape"
    COUNT = "count"
    BYTES = "bytes"
    DTYPE = "dtype"
    NOT_FINITE = "not-finite"
    POSITION = "position"
    SCALE = "scale"
    ROTATION = "rotation"
    OPACITY = "opacity"
    COLOUR = "colour"
    FOG = "fog"
    UNSEEN = "unseen"
    CROWDED = "crowded"


@dataclass(frozen=True)
class Budget:
    """What one vehicle may upload.

    Args:
        gaussians: at most.
        bytes: at most, as they arrive.

    Raises:
        ValueError: one is negative.
    """

    gaussians: int
    bytes: int

    def __post_init__(self) -> None:
        if min(self.gaussians, self.bytes) < 0:
            raise ValueError(f"Budget must not be negative, got {self}")

    @classmethod
    def of(cls, gaussians: int, degree: int = 0) -> "Budget":
        """For so many Gaussians of a degree of harmonics, float32 and not packed."""
        return cls(gaussians, 4 * floats(degree) * gaussians)


@dataclass(frozen=True)
class AcceptanceConfig:
    """Limits of what is accepted.

    Args:
        largest_m, smallest_m: largest and smallest standard deviation of a Gaussian, metres.
        centre_m: of the RSU's part of the world.
        farthest_m: a mean, or a landmark, may lie from the centre, along any axis.
        largest_logit: of an opacity, either sign; float32 cannot tell 17 from opaque.
        largest_sh: of a coefficient of a colour, either sign.
        clear_sigma: no check camera may stand within so many standard deviations of a Gaussian; 0 lets it.
        weight_floor: least accumulated blending weight over the check views, pixels; 0 asks for none.
        density_ratio: the most Gaussians in a ground cell, over the neighbours' typical number; see `typical_count`.
        cell_m: side of a ground cell.

    Raises:
        ValueError: a limit is not finite or not positive (floor and `clear_sigma` may be 0); the message names it.
    """

    largest_m: float = 500.0
    smallest_m: float = 1e-5
    centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    farthest_m: float = 5000.0
    largest_logit: float = 30.0
    largest_sh: float = 50.0
    clear_sigma: float = 1.0
    weight_floor: float = 0.1
    density_ratio: float = 4.0
    cell_m: float = 8.0

    def __post_init__(self) -> None:
        limits = asdict(self)
        if not all(map(math.isfinite, limits.pop("centre_m"))):
            raise ValueError(f"AcceptanceConfig.centre_m must be finite, got {self.centre_m}")
        for name, value in limits.items():
            if not (math.isfinite(value) and (value > 0 or (name in _MAY_BE_0 and value == 0))):
                raise ValueError(f"AcceptanceConfig.{name} must be finite and positive, got {value}")

    def about(self, waypoints_m: Float[ndarray, "k 2"]) -> "AcceptanceConfig":
        """The same limits around the middle of some waypoints, at height 0."""
        east_m, north_m = np.asarray(waypoints_m, np.float64).mean(axis=0).tolist()
        return replace(self, centre_m=(east_m, north_m, 0.0))

    def within(self, points_m: Float[ndarray, "k 3"]) -> Bool[ndarray, "k"]:
        """Which places are not too far away."""
        return (np.abs(points_m - np.array(self.centre_m)) <= self.farthest_m).all(axis=1)


class Refusal(NamedTuple):
    """Why nothing of an upload is taken: a name to count by, and a sentence for the vehicle."""

    cause: Cause
    sentence: str


class UploadRefusedError(ValueError):
    """An upload of which nothing is taken; `cause` is what it is counted by."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.cause = refusal.cause


def oversized(shapes: Mapping[str, Sequence[Any]], nbytes: int, budget: Budget) -> Refusal | None:
    """What is wrong with an upload, by what it says of itself: names and shapes; no value is looked at.

    Args:
        shapes: of the fields, as declared: what is no length is refused.
        nbytes: of all of them, as they arrived.
        budget: of the vehicle.
    """
    if len(shapes) != len(FIELDS) or set(shapes) != set(FIELDS):
        return Refusal(Cause.FIELDS, f"an upload has {len(shapes)} fields or other names; send {', '.join(FIELDS)}")
    if not all(isinstance(side, int | np.integer) and side >= 0 for shape in shapes.values() for side in shape[:4]):
        return Refusal(Cause.SHAPE, "a shape of the upload holds what is no length; send whole numbers from 0 on")
    count = int(shapes["means"][0]) if len(shapes["means"]) else 0
    if count > budget.gaussians:
        remedy = "send no more than the budget"
        return Refusal(Cause.COUNT, f"means has {count} rows, the budget is {budget.gaussians} Gaussians; {remedy}")
    if nbytes > budget.bytes:
        return Refusal(Cause.BYTES, f"the upload has {nbytes} bytes, the budget is {budget.bytes}; send fewer or pack")
    bands = next((k for k in (1, 4, 9, 16) if tuple(shapes["sh"]) == (count, k, 3)), 1)
    wanted = ((count, 3), (count, 4), (count, 3), (count,), (count, bands, 3))
    for name, shape in zip(FIELDS, wanted, strict=True):
        if tuple(shapes[name]) != shape:
            k = ", k = 1, 4, 9 or 16" if name == "sh" else ""
            return Refusal(Cause.SHAPE, f"{name} is not {list(shape)}{k}, which {count} rows of means ask for")
    return None


def refusal(
    upload: Gaussians | Mapping[str, Tensor | ndarray], budget: Budget, config: AcceptanceConfig
) -> Refusal | None:
    """Why nothing of an upload is taken, or None: shapes first, then types, then values.

    Args:
        upload: Gaussians, or arrays by the names of their fields.
        budget: of the vehicle.
        config: limits of values.
    """
    arrays = upload.tensors() if isinstance(upload, Gaussians) else upload
    nbytes = sum(array.nbytes for array in arrays.values()) if len(arrays) == len(FIELDS) else 0
    wrong = oversized({name: array.shape for name, array in arrays.items()}, nbytes, budget)
    if wrong is not None:
        return wrong
    types = {str(array.dtype).removeprefix("torch.")[:40] for array in arrays.values()}
    if len(types) > 1 or not types <= set(_FLOATS):
        return Refusal(Cause.DTYPE, f"the upload is of {', '.join(sorted(types))}; send one of {', '.join(_FLOATS)}")
    values = {name: _numpy(array) for name, array in arrays.items()}
    for name, column in values.items():
        if bad := _count(~np.isfinite(column)):
            return Refusal(Cause.NOT_FINITE, f"{name} holds NaN or infinity in {bad} rows; leave these out")
    return _insane(values, config)


def landmarks_refusal(points_m: Float[ndarray, "k 3"], config: AcceptanceConfig) -> Refusal | None:
    """Why landmarks are not taken, or None: not finite, or too far away.

    Args:
        points_m: as they were sent.
        config: limits of values.
    """
    if bad := _count(~np.isfinite(points_m)):
        return Refusal(Cause.NOT_FINITE, f"landmarks hold NaN or infinity in {bad} rows; leave these out")
    if bad := int((~config.within(points_m)).sum()):
        return Refusal(Cause.POSITION, f"{bad} landmarks lie beyond {config.farthest_m:g} m from the centre")
    return None


def sound_rows(gaussians: Gaussians, config: AcceptanceConfig) -> Bool[Tensor, "n"]:
    """Which Gaussians an RSU would take by their values: what an honest vehicle sends, for one row spoils an upload."""
    values = {name: _numpy(tensor) for name, tensor in gaussians.tensors().items()}
    sound = np.ones(len(gaussians), bool)
    for column in values.values():
        sound &= np.isfinite(column).reshape(len(column), math.prod(column.shape[1:])).all(axis=1)
    with np.errstate(invalid="ignore"):
        for _, _, broken, _ in _limits(values, config):
            sound &= ~broken.reshape(len(broken), math.prod(broken.shape[1:])).any(axis=1)
    return torch.from_numpy(sound)


def _insane(values: Mapping[str, ndarray], config: AcceptanceConfig) -> Refusal | None:
    """The first limit of values that a finite upload breaks."""
    for cause, name, broken, what in _limits(values, config):
        if bad := _count(broken):
            return Refusal(cause, f"{name} is {what} in {bad} of {len(broken)} rows; leave these out")
    return None


def _limits(values: Mapping[str, ndarray], config: AcceptanceConfig) -> list[tuple[Cause, str, ndarray, str]]:
    """Each limit of values: its cause, the field, where it is broken, and what that is called."""
    away_m = np.abs(values["means"] - np.array(config.centre_m))
    length = np.abs(values["quats"]).max(axis=1, initial=0)
    small, large = math.log(config.smallest_m), math.log(config.largest_m)
    off_scale = (values["log_scales"] < small) | (values["log_scales"] > large)
    limits = f"{config.smallest_m:g}..{config.largest_m:g}"
    return [
        (Cause.POSITION, "means", away_m > config.farthest_m, f"beyond {config.farthest_m:g} m from the centre"),
        (Cause.SCALE, "log_scales", off_scale, f"outside the log of {limits} m"),
        (Cause.ROTATION, "quats", (length < 1e-6) | (length > 1e6), "zero or too large to be normalised"),
        (Cause.OPACITY, "logit_opacities", np.abs(values["logit_opacities"]) > config.largest_logit, "out of range"),
        (Cause.COLOUR, "sh", np.abs(values["sh"]) > config.largest_sh, f"beyond {config.largest_sh:g}"),
    ]


def _numpy(array: Tensor | ndarray) -> ndarray:
    """The same memory where it is at least float32, which limits are told apart in."""
    if isinstance(array, Tensor):
        held = array.detach().cpu()
        array = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    return array if array.itemsize >= 4 else array.astype(np.float32)


def _count(broken: Bool[ndarray, "n *k"]) -> int:
    return int(broken.reshape(len(broken), math.prod(broken.shape[1:])).any(axis=1).sum())
