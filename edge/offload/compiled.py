"""The compiled search (`search.cpp`), and why there is none where it cannot be compiled."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32
from numpy import ndarray

from edge.offload.clusters import members_of
from edge.offload.model import UNASSIGNED
from geometry.native import BASE_FLAGS, KernelUnavailableError, Source, build

# Without fused multiply-adds, so that a seed decides the same on every machine.
SOURCE: Final = Source(
    Path(__file__).with_name("search.cpp"),
    "offload",
    "to decide who fuses where in a tenth of the time",
    (*BASE_FLAGS, "-ffp-contract=off"),
)
_CHAINED: Final = 320  # users times chains, about


class CompiledSearch:
    """Chains of assignments of one slot; in each, some clusters at a time are grown anew and kept if that is no worse.

    Args:
        weights: worth of a pair, symmetric, 0 or more.
        most: head-count of each user at each worker.
        chains: for few users; for many there is one.
        seed: decides everything.

    Raises:
        KernelUnavailableError: it cannot be compiled here.
    """

    rounds: ClassVar[int] = 8
    """Rounds that are usually enough."""

    def __init__(self, weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"], chains: int, seed: int) -> None:
        self.rng, self.function = np.random.default_rng(seed), load()
        users, self.none = most.shape
        chains = max(1, min(chains, _CHAINED // max(1, users)))
        self.problem = _problem(weights, most)
        self.labels: Int32[ndarray, "s n"] = np.full((chains, users), self.none, dtype=np.int32)
        self.values = np.zeros(chains, dtype=np.float32)
        self.seen: list[Int32[ndarray, "s n"]] = []  # all that was found between two rounds
        self._search(starts=chains, steps=0)

    def round(self) -> None:
        """As many steps as there are users, shared by the chains."""
        chains, users = self.labels.shape
        self._search(starts=0, steps=-(-users // chains))

    def worker(self) -> Int[ndarray, "n"]:
        """The best so far."""
        best = self.labels[int(self.values.argmax())].astype(np.int64)
        return np.where(best == self.none, UNASSIGNED, best)

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of the assignments between all rounds."""
        return np.concatenate([members_of(labels, self.none) for labels in self.seen])

    def _search(self, starts: int, steps: int) -> None:
        chains, users = self.labels.shape
        seed = int(self.rng.integers(2**63))
        self.function(
            users, self.none, *self.problem, chains, self.labels, self.values, starts, steps, ctypes.c_uint64(seed)
        )
        self.seen.append(self.labels.copy())


@cache
def unavailable() -> str | None:
    """Why the search cannot be compiled here; None if it can. Asked once per process."""
    try:
        load()
    except KernelUnavailableError as error:
        return str(error)
    return None


@cache
def load() -> Any:
    """The compiled function.

    Raises:
        KernelUnavailableError: it cannot be compiled here.
    """
    function = build(SOURCE).convoy_offload_search
    number = ctypes.c_int32
    integers, floats = (np.ctypeslib.ndpointer(kind, flags="C") for kind in (np.int32, np.float32))
    function.restype = None
    function.argtypes = [number, number, integers, integers, floats, integers, number, integers, floats, number, number]
    function.argtypes += [ctypes.c_uint64]
    return function


def _problem(
    weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"]
) -> tuple[Int32[ndarray, "o"], Int32[ndarray, "p"], Float32[ndarray, "p"], Int32[ndarray, "m n"]]:
    """Where each user's ties begin, whom they are with, how strong they are, 1 at most, and the head-counts."""
    users = len(weights)
    at = np.flatnonzero(weights)
    user, other = np.divmod(at, max(1, users))
    begin = np.searchsorted(user, np.arange(users + 1)).astype(np.int32)
    weight = (weights.ravel()[at] / (weights.max(initial=0) or 1)).astype(np.float32)
    return begin, other.astype(np.int32), weight, np.ascontiguousarray(most.T, dtype=np.int32)
