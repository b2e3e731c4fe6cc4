"""The numpy search for many users: a few clusters that are near each other at a time, as a small slot of their own."""

from typing import ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.batch import BatchSearch
from edge.offload.clusters import members_of
from edge.offload.grow import GrowConfig, grow, scaled
from edge.offload.levels import draw_capacities, levels_of
from edge.offload.model import UNASSIGNED

PATCH: Final = 6  # clusters that are improved together
_FREE: Final = 30  # users without a cluster that a patch takes at most
_FIRST: Final = GrowConfig(noises=(0.1,), regrets=(0.0,), seed_ties=(10.0,))  # good by itself, with no choice of many
_COMMON: Final = 0.01  # how much users in common reach count beside ties


class PatchSearch:
    """The search over one slot's clusters, a round at a time.

    Args:
        weights: worth of a pair, symmetric, 0 or more.
        most: head-count of each user at each worker.
        seed: decides everything.
    """

    rounds: ClassVar[int] = 6
    """Rounds that are usually enough."""

    def __init__(self, weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"], seed: int) -> None:
        self.weights, self.most = weights, most
        self.rng, self.none = np.random.default_rng(seed), most.shape[1]
        self.labels = _first_labels(weights, most, self.rng)
        self.seen = [self.labels.copy()]  # all that was found between two rounds
        reached = (most > 0).astype(np.float32)
        self.common = reached.T @ reached / max(1, len(most))  # share of the users whom two workers both reach

    def round(self) -> None:
        """Improve every cluster once, together with some that it is tied to or has users in common with."""
        for clusters in self._patches():
            users = self._users(clusters)
            if len(users) > 1:
                self._improve(users, clusters)
        self.seen.append(self.labels.copy())

    def worker(self) -> Int[ndarray, "n"]:
        """The best so far."""
        return np.where(self.labels == self.none, UNASSIGNED, self.labels)

    def clusters(self) -> Bool[ndarray, "k n"]:
        """Clusters of the assignments between all rounds."""
        return members_of(np.array(self.seen), self.none)

    def _patches(self) -> list[Int[ndarray, "_"]]:
        """Clusters, each in one patch."""
        member = members_of(self.labels[None], self.none).astype(np.float32)
        ties = (member @ self.weights @ member.T + _COMMON * self.common) * self.rng.random((self.none, self.none))
        left, patches = np.ones(self.none, dtype=bool), []
        for first in self.rng.permutation(self.none):
            if left[first]:
                left[first] = False
                others = np.argsort(-np.where(left, ties[first], -1))[: PATCH - 1]
                patches.append(np.append(first, others[left[others]]))
                left[others] = False
        return patches

    def _users(self, clusters: Int[ndarray, "c"]) -> Int[ndarray, "u"]:
        """Members of the clusters, and free users who are tied to them most."""
        inside, free = np.isin(self.labels, clusters), self.labels == self.none
        ties = np.where(free, self.weights[inside].sum(axis=0), 0)
        near = np.argsort(-ties, kind="stable")[:_FREE]
        return np.append(np.flatnonzero(inside), near[ties[near] > 0])

    def _improve(self, users: Int[ndarray, "u"], clusters: Int[ndarray, "c"]) -> None:
        place = np.full(self.none + 1, len(clusters))
        place[clusters] = np.arange(len(clusters))
        patch = self.weights[np.ix_(users, users)], self.most[np.ix_(users, clusters)]
        search = BatchSearch(*patch, int(self.rng.integers(2**32)), place[self.labels[users]])
        search.round()
        self.labels[users] = np.append(clusters, self.none)[search.worker()]


def _first_labels(
    weights: Float[ndarray, "n n"], most: Int[ndarray, "n m"], rng: np.random.Generator
) -> Int[ndarray, "n"]:
    users, workers = most.shape
    capacities, opened = draw_capacities(levels_of(most), 1, rng), np.ones((1, workers), dtype=bool)
    allowed = most[None] >= np.maximum(capacities, 1)
    return grow(scaled(weights), np.full((1, users), workers), capacities, allowed, opened, rng, _FIRST)[0]
