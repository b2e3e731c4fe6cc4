"""Small tensors side by side in one array: a rule takes a few long steps instead of many short ones."""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from strategies.arithmetic import Arrays

SMALL = 1 << 18  # bytes; a larger tensor is worth its own pass and is not copied


class Layout:
    """Where each tensor of a model lies once it is packed.

    Every rule of `aggregation` works element by element (or on sums over all elements), so that it gives the same for
    packed models. Tensors of `SMALL` bytes or more stay as they are; smaller ones are joined by dtype.

    Args:
        reference: a model; others must have its names, shapes and dtypes.
    """

    def __init__(self, reference: Mapping[str, ndarray]) -> None:
        self._names = tuple(reference)
        self._large = tuple(name for name, values in reference.items() if values.nbytes >= SMALL)
        self._groups: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}
        for name, values in reference.items():
            if values.nbytes < SMALL:
                self._groups.setdefault(f"packed/{values.dtype.str}", []).append((name, values.shape, values.size))

    def pack(self, arrays: Mapping[str, ndarray]) -> Arrays:
        """One array per dtype of the small tensors, and the large ones themselves."""
        packed = {name: arrays[name] for name in self._large}
        for group, members in self._groups.items():
            packed[group] = np.concatenate([arrays[name] for name, _, _ in members], axis=None)
        return packed

    def unpack(self, packed: Mapping[str, ndarray]) -> Arrays:
        """Inverse of `pack`; small tensors are views of the packed array."""
        arrays = {name: packed[name] for name in self._large}
        for group, members in self._groups.items():
            ends = np.cumsum([size for _, _, size in members])
            for (name, shape, _), part in zip(members, np.split(packed[group], ends[:-1]), strict=True):
                arrays[name] = part.reshape(shape)
        return {name: arrays[name] for name in self._names}
