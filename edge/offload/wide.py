"""The search for many users: neighbouring clusters in groups, all groups improved side by side, then grouped anew."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from numpy import ndarray

from edge.offload.descent import descend
from edge.offload.grow import GrowConfig, grow
from edge.offload.levels import draw_capacities, levels_of
from edge.offload.model import UNASSIGNED

GROUP: Final = 6  # clusters that are improved together
_COPIES: Final = 12  # of a group: one is only improved, the others are taken apart first
_DESCENDED: Final = 3  # copies that are worth it
_LONE: Final = 40  # users without a cluster that a group takes at most
_PASSES: Final = 3  # in which users without a cluster follow those whom they are tied to
_FIRST: Final = GrowConfig(noises=(0.1,), regrets=(0.0,), seed_ties=(10.0,))  # good by itself, with no choice of many
_COMMON: Final = 0.01  # how much users in common reach count beside ties


class WideSearch:
    """Same steps as `heuristic.Search`, for a slot of hundreds of users and dozens of workers."""

    def __init__(
        self, weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"], config: GrowConfig, seed: int
    ) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.weights = (weights / (weights.max(initial=0) or 1)).astype(np.float32)
        self.pairs = np.nonzero(self.weights)
        self.pair_weights = self.weights[self.pairs]
        self.most, self.levels = most, levels_of(most)
        self.tied = np.any(self.weights, axis=1)
        reached = (most > 0).astype(np.float32)
        self.common = reached.T @ reached / max(1, len(most))  # share of the users whom two workers both reach
        self.seen: list[UInt8[ndarray, "k b"]] = []  # packed rows of clusters
        self.labels = np.full(len(most), most.shape[1])
        self.capacities = draw_capacities(self.levels, 1, self.rng)[0]
        self._first()

    def round(self, opened: float = 0.7) -> None:
        """Group the clusters, and improve every group.

        Args:
            opened: share of the clusters that all but one copy of a group grow anew.
        """
        groups = self._groups()
        users, local = self._users(groups)
        weights = self.weights.reshape(-1).take(users[:, :, None] * len(self.labels) + users[:, None])
        weights *= (local < GROUP + 1)[:, None]
        capacities = np.where(groups < self.most.shape[1], np.append(self.capacities, 0)[groups], 0)
        self._improve(groups, users, local, weights, capacities, opened)

    def worker(self) -> Int[ndarray, "n"]:
        """The assignment so far."""
        return np.where(self.labels == self.most.shape[1], UNASSIGNED, self.labels)

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of all assignments so far."""
        workers, users = self.most.shape[1], len(self.labels)
        packed = np.concatenate([*self.seen, _packed(self.labels, workers)])
        return np.unpackbits(packed, axis=1, count=users).astype(bool)

    def _first(self) -> None:
        opened = np.ones((1, self.most.shape[1]), dtype=bool)
        allowed = self.most[None] >= np.maximum(self.capacities, 1)
        one = self.weights[None]
        self.labels = grow(one, self.labels[None], self.capacities[None], allowed, opened, self.rng, _FIRST)[0]

    def _groups(self) -> Int[ndarray, "g c"]:
        """Clusters, each in one group with those it is tied to most; m stands for none."""
        workers = self.most.shape[1]
        ties = self._ties(self.labels, self.labels, (workers, workers))
        ties = (ties + _COMMON * self.common) * self.rng.random(ties.shape, dtype=np.float32)
        left, groups = np.ones(workers, dtype=bool), []
        for first in self.rng.permutation(workers):
            if left[first]:
                left[first] = False
                others = np.argsort(-np.where(left, ties[first], -1))[: GROUP - 1]
                others = others[left[others]]
                left[others] = False
                groups.append(np.pad(np.append(first, others), (0, GROUP - 1 - len(others)), constant_values=workers))
        return np.array(groups)

    def _users(self, groups: Int[ndarray, "g c"]) -> tuple[Int[ndarray, "g u"], Int[ndarray, "g u"]]:
        """Users of each group and their clusters within it: GROUP for none, GROUP + 1 where the row is shorter."""
        workers = self.most.shape[1]
        group_of, place_of = np.full(workers + 1, len(groups)), np.full(workers + 1, GROUP)
        group_of[groups], place_of[groups] = np.arange(len(groups))[:, None], np.arange(GROUP)
        group_of[workers], place_of[workers] = len(groups), GROUP
        of = group_of[self.labels]
        lone = np.flatnonzero(of == len(groups))
        lone = lone[self.tied[lone]]
        able = np.append(self.most > 0, np.zeros((len(of), 1), dtype=bool), axis=1)
        reach = np.any(able[lone][:, groups], axis=2)
        for _ in range(_PASSES):
            ties = self._ties(np.arange(len(of)), of, (len(of), len(groups)))[lone]
            ties = (ties + _COMMON) * reach * self.rng.random(ties.shape, dtype=np.float32)
            of[lone] = np.where(np.any(reach, axis=1), ties.argmax(axis=1), len(groups))
        rank = np.zeros(len(of))
        rank[lone] = 1 + self.rng.random(len(lone))
        rows = [np.flatnonzero(of == group) for group in range(len(groups))]
        rows = [row[np.argsort(rank[row])][: (rank[row] == 0).sum() + _LONE] for row in rows]
        width = max((len(row) for row in rows), default=1) or 1
        index, local = np.zeros((len(rows), width), dtype=np.int64), np.full((len(rows), width), GROUP + 1)
        for group, row in enumerate(rows):
            index[group, : len(row)] = row
            local[group, : len(row)] = place_of[self.labels[row]]
        return index, local

    def _promising(self, weights: Float32[ndarray, "g u u"], labels: Int[ndarray, "s u"]) -> Int[ndarray, "k"]:
        """Of each group the copy that was not taken apart, and the best of the others."""
        member = (labels[:, None] == np.arange(GROUP)[:, None]).astype(np.float32)
        member = member.reshape(len(weights), -1, labels.shape[1])
        values = (np.matmul(member, weights) * member).reshape(len(weights), _COPIES, -1).sum(axis=2)
        values[:, 0] = np.inf
        best = np.argsort(-values, axis=1, kind="stable")[:, :_DESCENDED]
        return (best + np.arange(len(values))[:, None] * _COPIES).reshape(-1)

    def _ties(self, row: Int[ndarray, "n"], column: Int[ndarray, "n"], shape: tuple[int, int]) -> Float[ndarray, "r c"]:
        """Weights summed by what `row` and `column` say of the two users; what is beyond the shape does not count."""
        first, second = row[self.pairs[0]], column[self.pairs[1]]
        inside = (first < shape[0]) & (second < shape[1])
        flat = first[inside] * shape[1] + second[inside]
        return np.bincount(flat, self.pair_weights[inside], shape[0] * shape[1]).reshape(shape)

    def _improve(
        self,
        groups: Int[ndarray, "g c"],
        users: Int[ndarray, "g u"],
        local: Int[ndarray, "g u"],
        weights: Float32[ndarray, "g u u"],
        capacities: Int[ndarray, "g c"],
        share: float,
    ) -> None:
        copies = np.repeat(np.arange(len(groups)), _COPIES)
        real = local < GROUP + 1
        opened = self.rng.random((len(copies), GROUP)) < share
        opened[::_COPIES] = False
        most = np.append(self.most, np.zeros((len(self.most), 1), dtype=np.int64), axis=1)
        able = most[users[:, :, None], groups[:, None]] * real[:, :, None]
        drawn = draw_capacities([*self.levels, np.zeros(1, dtype=np.int64)], len(copies), self.rng)
        drawn = np.take_along_axis(drawn, groups[copies], axis=1)
        places = np.where(opened, drawn, capacities[copies])
        allowed = able[copies] >= np.maximum(places, 1)[:, None]
        start = np.minimum(local, GROUP)[copies]
        labels = grow(weights, start, places, allowed, opened, self.rng, self.config)
        kept = self._promising(weights, labels)
        labels, values = descend(weights[copies[kept]], labels[kept], places[kept], allowed[kept])
        best = values.reshape(len(groups), -1).argmax(axis=1) + np.arange(len(groups)) * _DESCENDED
        places = places[kept]
        chosen = np.concatenate([groups, np.full((len(groups), 1), self.most.shape[1])], axis=1)
        new = np.take_along_axis(chosen, labels[best], axis=1)
        self.labels[users[real]] = new[real]
        filled = groups < self.most.shape[1]
        self.capacities[groups[filled]] = places[best][filled]
        self.seen.append(_packed(self.labels, self.most.shape[1]))


def _allowed(most: Int[ndarray, "n m"], capacities: Int[ndarray, "s m"]) -> Bool[ndarray, "s n m"] | None:
    if (most == capacities[:1]).all():
        return None
    return most >= np.maximum(capacities, 1)[:, None]


def _value(weights: Float32[ndarray, "n n"], labels: Int[ndarray, "n"], none: int) -> float:
    return float(weights[(labels[:, None] == labels) & (labels < none)].sum() / 2)


def _packed(labels: Int[ndarray, "n"], workers: int) -> UInt8[ndarray, "m b"]:
    return np.packbits(labels == np.arange(workers)[:, None], axis=1)
