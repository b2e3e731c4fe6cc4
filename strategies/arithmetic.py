"""Sums, products and lengths over models of many tensors, in pieces that fit the cache."""

import math
from collections.abc import Mapping

import numpy as np
from numpy import ndarray

Arrays = dict[str, ndarray]
CHUNK = 1 << 16  # elements worked on at a time: a few float32 buffers of it stay in the L2 cache
ROW = 1 << 13  # elements of one inner product: BLAS starts threads beyond 10,000, which fight for busy cores


def update_norm(arrays: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> float:
    """L2 norm of arrays - reference over all float tensors; NaN or infinity if any element is."""
    return float(np.sqrt(update_dot(arrays, arrays, reference)))


def update_dot(first: Mapping[str, ndarray], second: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> float:
    """Inner product of (first - reference) and (second - reference) over all float tensors, in float64 sums."""
    scratch = np.empty(CHUNK, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(
            _dot(first[name].ravel(), None if second is first else second[name].ravel(), start.ravel(), scratch)
            for name, start in reference.items()
            if start.dtype.kind in "fc"
        )


def model_norm(arrays: Mapping[str, ndarray]) -> float:
    """L2 norm over all float tensors."""
    nothing = {name: np.broadcast_to(values.dtype.type(0), values.shape) for name, values in arrays.items()}
    return update_norm(arrays, nothing)


def add_scaled(total: ndarray, values: ndarray, share: float, scratch: ndarray | None = None) -> None:
    """total += values * share, in place, rounding after the product and after the sum as numpy would.

    Product and sum are taken in the dtype of `total`, whatever that of `values`. `total` is C-contiguous; `scratch` may
    be lent, `CHUNK` elements of its dtype.
    """
    scratch = np.empty(CHUNK, total.dtype) if scratch is None else scratch
    flat_total, flat = total.reshape(-1), values.ravel()
    for begin in range(0, flat.size, CHUNK):
        part = flat[begin : begin + CHUNK]
        product = np.multiply(part, share, out=scratch[: part.size], dtype=total.dtype, casting="unsafe")
        target = flat_total[begin : begin + CHUNK]
        np.add(target, product, out=target)


def add_scaled_difference(total: ndarray, values: ndarray, start: ndarray, share: float) -> None:
    """total += (values - start) * share, in place, each step in the dtype of `total`, which is C-contiguous.

    The difference comes first: added and subtracted one by one, a large multiple of `values` loses its low digits.
    """
    flat_total, flat, flat_start = total.reshape(-1), values.ravel(), start.ravel()
    for begin in range(0, flat.size, CHUNK):
        end = begin + CHUNK
        step = np.subtract(flat[begin:end], flat_start[begin:end], dtype=total.dtype, casting="unsafe")
        step *= share
        flat_total[begin:end] += step


def is_integer(dtype: np.dtype) -> bool:
    """Whether a tensor of this dtype counts things: it is averaged and rounded, and has no part in lengths."""
    return dtype.kind not in "fc"


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """What sums are taken in: float64 for integers and half floats, else the dtype itself."""
    return np.dtype(np.float64) if is_integer(dtype) or dtype == np.float16 else dtype


def scaled(values: ndarray, share: float, dtype: np.dtype) -> ndarray:
    """values * share as a new C-contiguous array in the dtype that sums of `dtype` are taken in."""
    return np.asarray(np.multiply(values, share, dtype=sum_dtype(dtype), order="C"))  # a 0-d product is a scalar


def wide_dtype(dtype: np.dtype) -> np.dtype:
    """Returns the dtype that arithmetic on tensors of `dtype` is done in: float32 for half floats, else its own."""
    return np.result_type(dtype, np.float32) if dtype.kind == "f" else dtype


def share_of(fraction: float, count: int) -> int:
    """`fraction` of `count`, rounded up; the product's own rounding error does not count (0.07 of 100 is 7)."""
    return math.ceil(fraction * count - 1e-9)


def floor_share(fraction: float, count: int) -> int:
    """Returns `fraction` of `count`, rounded down, but for the product's own rounding error (0.29 of 100 is 29)."""
    return math.floor(fraction * count + 1e-9)


def cast(values: ndarray, dtype: np.dtype) -> ndarray:
    """Back to the model's dtype; integers are rounded to the nearest."""
    if is_integer(dtype):
        values = np.asarray(np.rint(values))
    return np.asarray(values, dtype)


def _dot(a: ndarray, b: ndarray | None, origin: ndarray, scratch: ndarray) -> float:
    """(a - origin) · (b - origin), b = a when it is None; products are summed by rows, rows in float64."""
    buffer = scratch if origin.dtype in (np.float16, np.float32) else np.empty(CHUNK, origin.dtype)
    other = buffer if b is None else np.empty_like(buffer)
    total = 0.0
    for begin in range(0, origin.size, CHUNK):
        start = origin[begin : begin + CHUNK]
        rows = _difference(a, start, begin, buffer)
        others = rows if b is None else _difference(b, start, begin, other)
        total += float(np.vecdot(rows, others).sum(dtype=np.float64))
    return total


def _difference(a: ndarray, start: ndarray, begin: int, buffer: ndarray) -> ndarray:
    """A chunk of a less its start, as rows of the buffer; what is over is zero."""
    np.subtract(a[begin : begin + start.size], start, out=buffer[: start.size], dtype=buffer.dtype)
    row = min(ROW, buffer.size)
    filled = -(-start.size // row) * row
    buffer[start.size : filled] = 0
    return buffer[:filled].reshape(-1, row)
