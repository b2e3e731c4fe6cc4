"""A slot as a set-packing problem: which clusters there are, what each is worth, and which workers can have it.

Workers at which every user has the same head-count are one kind. A cluster is a set of users; an assignment is a choice
of clusters that share no user, with no more clusters for a kind than it has workers.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.capacity import places
from edge.offload.model import UNASSIGNED, Slot

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class Packing:
    """What clusters are made of.

    Args:
        weights: worth of a pair in one cluster, symmetric [n, n].
        most: head-count of each user at each kind of worker [n, t].
        workers: of each kind [t].
        kind: of each worker [m].
    """

    weights: Float[ndarray, "n n"]
    most: Int[ndarray, "n t"]
    workers: Int[ndarray, "t"]
    kind: Int[ndarray, "m"]

    @classmethod
    def of(cls, slot: Slot) -> "Packing":
        """The packing problem of a slot."""
        most, kind, workers = np.unique(places(slot), axis=1, return_inverse=True, return_counts=True)
        return cls(slot.pair_value, most, workers, kind.reshape(-1))

    @cached_property
    def sparse(self) -> "csr_array":
        """The weights."""
        from scipy.sparse import csr_array

        return csr_array(self.weights)

    def largest(self, kind: int) -> int:
        """Most users that a cluster at a worker of a kind can have."""
        counts = np.sort(self.most[:, kind])[::-1]
        return int(np.minimum(counts, np.arange(1, len(counts) + 1)).max(initial=0))


@dataclass(frozen=True, eq=False)
class Pool:
    """Clusters that differ, each of two users or more.

    Args:
        members: users of each [k, n].
        values: what each is worth [k].
        fits: whether it may be at a worker of a kind [k, t].
    """

    members: Bool[ndarray, "k n"]
    values: Float[ndarray, "k"]
    fits: Bool[ndarray, "k t"]

    @classmethod
    def of(cls, packing: Packing, members: Bool[ndarray, "k n"]) -> "Pool":
        """The clusters among `members` that some kind of worker can have, each once, without users that add nothing."""
        members = members & _with_ties(packing, members)[0]
        members = members[_first_of_each(members) & (members.sum(axis=1) >= 2)]
        fits = _fits(packing, members)
        members, fits = members[fits.any(axis=1)], fits[fits.any(axis=1)]
        return cls(members, _with_ties(packing, members)[1], fits)

    def __len__(self) -> int:
        return len(self.values)

    def pick(self, index: Int[ndarray, "j"] | Bool[ndarray, "k"]) -> "Pool":
        """Some of the clusters."""
        return Pool(self.members[index], self.values[index], self.fits[index])

    def join(self, other: "Pool") -> "Pool":
        """Both, each cluster once; those that are new come last."""
        both = np.concatenate([self.members, other.members])
        new = other.pick(_first_of_each(both)[len(self) :])
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return Pool(*(np.concatenate(pair) for pair in pairs))


def members_of(labels: Int[ndarray, "s n"], clusters: int) -> Bool[ndarray, "k n"]:
    """The clusters of labelled users, as rows; labels below 0 or from `clusters` on are none."""
    return (labels[:, None] == np.arange(clusters)[:, None]).reshape(-1, labels.shape[1])


def all_clusters(packing: Packing, limit: int) -> Bool[ndarray, "k n"] | None:
    """Every set of users that could be a cluster; None if there were more than `limit`."""
    users = len(packing.weights)
    largest = max((packing.largest(kind) for kind in range(len(packing.workers))), default=0)
    sizes = range(2, largest + 1)
    if sum(comb(users, size) for size in sizes) > limit:
        return None
    sets = [members for size in sizes for members in combinations(range(users), size)]
    found = np.zeros((len(sets), users), dtype=bool)
    for row, members in enumerate(sets):
        found[row, list(members)] = True
    return found


def workers_of(packing: Packing, pool: Pool, kinds: Int[ndarray, "k"]) -> Int[ndarray, "n"]:
    """Worker of each user when the clusters of a pool get workers of the kinds."""
    worker = np.full(len(packing.weights), UNASSIGNED)
    for kind in range(len(packing.workers)):
        rows, workers = np.flatnonzero(kinds == kind), np.flatnonzero(packing.kind == kind)
        for row, one in zip(rows, workers, strict=False):
            worker[pool.members[row]] = one
    return worker


def _with_ties(packing: Packing, members: Bool[ndarray, "k n"]) -> tuple[Bool[ndarray, "k n"], Float[ndarray, "k"]]:
    """Who is tied to anybody else of its set, and the sets' values."""
    from scipy.sparse import csr_array

    sets = csr_array(members.astype(np.float64))
    ties = (sets @ packing.sparse).multiply(sets)
    return ties.toarray() > 0, ties.sum(axis=1) / 2


def _first_of_each(members: Bool[ndarray, "k n"]) -> Bool[ndarray, "k"]:
    """Rows that are not equal to an earlier one."""
    rows = {row.tobytes(): index for index, row in reversed([*enumerate(np.packbits(members, axis=1))])}
    first = np.zeros(len(members), dtype=bool)
    first[list(rows.values())] = True
    return first


def _fits(packing: Packing, members: Bool[ndarray, "k n"]) -> Bool[ndarray, "k t"]:
    sizes = members.sum(axis=1)
    # Users with too small a count for the size, found by one product for each size that occurs.
    fits = np.zeros((len(members), len(packing.workers)), dtype=bool)
    for size in np.unique(sizes):
        rows = sizes == size
        fits[rows] = members[rows].astype(np.float32) @ (packing.most < size).astype(np.float32) == 0
    return fits
