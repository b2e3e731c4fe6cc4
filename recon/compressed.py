"""Gaussians, changes of them and points as few bytes: what travels between vehicles, RSUs and the cloud.

Numbers are rounded to a grid, as in Niantic's .spz, and written byte by byte: first the lowest byte of every number of
a column, then the next, so that the high bytes, nearly all 0, cost next to nothing once they are deflated. Unlike
.spz this takes steps fine enough to be trained on, positions out to thousands of kilometres, and changes.
"""

import zlib
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from recon.gaussians import Gaussians
from recon.refine import Update
from recon.spherical import degree_of

STEPS: Final = {"means": 2**-10, "quats": 2**-8, "log_scales": 2**-6, "logit_opacities": 2**-3, "sh": 2**-6}
"""Grid of Gaussians: metres, parts of a unit quaternion, and the rest as `Gaussians` has it."""
CHANGE_STEPS: Final = {name: step / 4 for name, step in STEPS.items()}
POINT_STEP_M: Final = 2**-10
OCTAVE: Final = 16  # steps in which a visibility doubles
_LEAST_VISIBILITY: Final = 1e-6
_MOST_OCTAVES: Final = 40  # more pixels than any views have, and few enough that sums of many stay finite
_HEAD: Final = np.dtype([("count", "<u4"), ("coefficients", "<u4")])
_BYTES: Final = 4  # of a number before it is deflated
Bytes = UInt8[ndarray, "b"]


def compress_gaussians(gaussians: Gaussians) -> Bytes:
    """Rounded to `STEPS`, rotations as unit quaternions.

    `expand_gaussians` of it is what the other side has.

    Raises:
        ValueError: a number is too large to be written; the message names the field.
    """
    tensors = gaussians.detach().tensors()
    tensors["quats"] = _unit(tensors["quats"])
    return _written([_on_grid(name, tensor, STEPS[name]) for name, tensor in tensors.items()], gaussians.sh.shape[1])


def expand_gaussians(data: ndarray) -> Gaussians:
    """Inverse of `compress_gaussians`, but for the rounding; float32.

    Raises:
        ValueError: damaged, or no Gaussians.
    """
    shapes = compressed_shapes(data)
    columns = _read(data, [int(np.prod(shape[1:])) for shape in shapes.values()])
    named = zip(shapes.items(), columns, strict=True)
    return Gaussians(**{name: _off_grid(column, STEPS[name], shape) for (name, shape), column in named})


def compressed_shapes(data: ndarray) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that bytes say they hold, of which nothing else is looked at.

    Raises:
        ValueError: too short to say, or a number of harmonics that there is not.
    """
    count, coefficients = _head(data)
    degree_of(coefficients)
    return {
        "means": (count, 3),
        "quats": (count, 4),
        "log_scales": (count, 3),
        "logit_opacities": (count,),
        "sh": (count, coefficients, 3),
    }


def compress_update(rows: Int64[Tensor, "r"], update: Update) -> Bytes:
    """Changes of some rows, rounded to `CHANGE_STEPS`; visibility to a forty-sixth of itself.

    Args:
        rows: ascending.
        update: of these.

    Raises:
        ValueError: as `compress_gaussians`.
    """
    seen = update.visibility.detach().double().clamp_min(_LEAST_VISIBILITY)
    changes = [_on_grid(name, update.changes[name].detach(), step) for name, step in CHANGE_STEPS.items()]
    gaps = torch.diff(rows, prepend=rows.new_zeros(1)).numpy()[:, None]
    return _written([gaps, _on_grid("visibility", seen.log2(), 1 / OCTAVE), *changes], update.changes["sh"].shape[1])


def expand_update(data: ndarray, gaussians: Gaussians) -> tuple[Int64[Tensor, "r"], Update]:
    """Inverse of `compress_update`, but for the rounding.

    Args:
        data: as it came.
        gaussians: that the update is of.

    Raises:
        ValueError: damaged, no update of these Gaussians, or rows that do not rise or are not theirs.
    """
    count, coefficients = _head(data)
    if count > len(gaussians) or coefficients != gaussians.sh.shape[1]:
        raise ValueError(
            f"an update of {count} rows with {coefficients} harmonics is none of {len(gaussians)} Gaussians with "
            f"{gaussians.sh.shape[1]}"
        )
    shapes = {name: (count, *tensor.shape[1:]) for name, tensor in gaussians.tensors().items()}
    gaps, seen, *columns = _read(data, [1, 1, *(int(np.prod(shape[1:])) for shape in shapes.values())])
    rows = torch.from_numpy(np.cumsum(gaps[:, 0]))
    if count and not ((gaps[0] >= 0).all() and (gaps[1:] > 0).all() and rows[-1] < len(gaussians)):
        raise ValueError(f"rows of an update must rise and lie below {len(gaussians)}")
    named = zip(shapes.items(), columns, strict=True)
    changes = {name: _off_grid(column, CHANGE_STEPS[name], shape) for (name, shape), column in named}
    exponents = np.clip(seen[:, 0] / OCTAVE, -_MOST_OCTAVES, _MOST_OCTAVES)
    return rows, Update(changes, torch.from_numpy(np.exp2(exponents).astype(np.float32)))


def compress_points(points_m: Float[ndarray, "k 3"]) -> Bytes:
    """Rounded to a millimetre.

    Raises:
        ValueError: as `compress_gaussians`.
    """
    return _written([_on_grid("points", torch.from_numpy(np.asarray(points_m, np.float64)), POINT_STEP_M)], 0)


def expand_points(data: ndarray) -> Float32[ndarray, "k 3"]:
    """Inverse of `compress_points`, but for the rounding; ValueError: damaged."""
    return (_read(data, [3])[0] * POINT_STEP_M).astype(np.float32)


def count_of(data: ndarray) -> int:
    """Rows that bytes say they hold; ValueError: too short to say."""
    return _head(data)[0]


def _unit(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Of length 1, whatever length they have: squares of the smallest and largest numbers would vanish or overflow."""
    scaled = quats.double() / quats.double().abs().amax(dim=1, keepdim=True)
    return scaled / scaled.norm(dim=1, keepdim=True)


def _on_grid(name: str, values: Float[Tensor, "n *k"], step: float) -> Int64[ndarray, "n w"]:
    steps = torch.round(values.double() / step)
    if not (steps.abs() < 2**31 - 1).all():
        raise ValueError(f"{name} holds NaN or numbers beyond {step * 2**31:.3g}, which cannot be sent")
    return steps.reshape(len(steps), -1).long().cpu().numpy() if len(steps) else np.zeros((0, 1), np.int64)


def _off_grid(column: Int64[ndarray, "n w"], step: float, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy((column * step).astype(np.float32)).reshape(shape)


def _written(columns: list[Int64[ndarray, "n _"]], coefficients: int) -> Bytes:
    head = np.array((len(columns[0]), coefficients), _HEAD).tobytes()
    body = b"".join(_planes(column) for column in columns)
    return np.frombuffer(head + zlib.compress(body), np.uint8)


def _read(data: ndarray, widths: list[int]) -> list[Int64[ndarray, "n _"]]:
    """Columns of these widths; never more memory than the head says they take."""
    count, _ = _head(data)
    sizes = [_BYTES * count * width for width in widths]
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data[_HEAD.itemsize :].tobytes(), sum(sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"bytes that cannot be inflated: {error}") from None
    if len(body) != sum(sizes) or not stream.eof or stream.unused_data:
        raise ValueError(f"bytes do not hold the {count} rows that they say they do")
    ends = np.cumsum([0, *sizes])
    return [_unplaned(body[a:b], count, w) for a, b, w in zip(ends[:-1], ends[1:], widths, strict=True)]


def _planes(column: Int64[ndarray, "n w"]) -> bytes:
    """Byte by byte, component by component; signs in the lowest bit, so that small numbers have small bytes."""
    folded = ((column << 1) ^ (column >> 63)).T.astype("<u4")
    return np.moveaxis(folded.copy().view(np.uint8).reshape(*folded.shape, _BYTES), 2, 1).tobytes()


def _unplaned(body: bytes, count: int, width: int) -> Int64[ndarray, "n w"]:
    planes = np.frombuffer(body, np.uint8).reshape(width, _BYTES, count)
    folded = np.ascontiguousarray(np.moveaxis(planes, 1, 2)).view("<u4").reshape(width, count).T.astype(np.int64)
    return (folded >> 1) ^ -(folded & 1)


def _head(data: ndarray) -> tuple[int, int]:
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) < _HEAD.itemsize:
        raise ValueError(f"compressed rows are bytes, at least {_HEAD.itemsize}; got {data.dtype} {list(data.shape)}")
    head = np.frombuffer(data[: _HEAD.itemsize].tobytes(), _HEAD)[0]
    return int(head["count"]), int(head["coefficients"])
