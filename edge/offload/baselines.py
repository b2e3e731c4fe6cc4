"""What the paper compares with: greedy offloading (GO) and cooperative perception task offloading (CPTO); and chance.

None of them looks at the value of information. They keep every deadline, as ours does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from edge.offload.algorithm1 import Room
from edge.offload.capacity import assignment_of, places
from edge.offload.model import UNASSIGNED, Assignment, Slot


@dataclass(frozen=True)
class GreedyOffloading:
    """GO: users in order of arrival fill the worker with the largest head-count, then the next.

    Args:
        shuffle_seed: users arrive in an order drawn with this seed; None is the order of the slot.
    """

    shuffle_seed: int | None = None

    def assign(self, slot: Slot) -> Assignment:
        """Every user to the first worker with a place for it."""
        users = np.arange(len(slot))
        if self.shuffle_seed is not None:
            users = np.random.default_rng(self.shuffle_seed).permutation(users)
        most = places(slot)
        largest_first = np.argsort(-most.max(axis=0, initial=0), kind="stable")
        room = Room(most, np.full(len(slot), UNASSIGNED))
        for user in users.tolist():
            free = largest_first[room.open(user)[largest_first]]
            if len(free):
                room.put(user, int(free[0]))
        return assignment_of(slot, room.worker)


@dataclass(frozen=True)
class LeastDelay:
    """CPTO: as many users as possible, and among such assignments one with the least sum of delays.

    Exact where all tasks need as many cycles: the k-th user of a worker raises the sum of its computation delays by
    2k - 1 times a single one's, so places are assigned as in a transport problem. Users with a smaller head-count at a
    worker than most others there do not go to it.
    """

    def assign(self, slot: Slot) -> Assignment:
        """The assignment of users to places by the Hungarian method."""
        from scipy.optimize import linear_sum_assignment

        most = places(slot)
        counts = _common_counts(most)
        worker = np.repeat(np.arange(len(counts)), counts)
        if not len(worker) or not len(slot):
            return assignment_of(slot, np.full(len(slot), UNASSIGNED))
        rank = np.concatenate([np.arange(count) for count in counts])
        delay_s = slot.transmission_s[:, worker] + slot.cycles[:, None] / slot.cycles_per_s[worker] * (2 * rank + 1)
        able = most[:, worker] >= counts[worker]
        never_s = 1 + 2 * len(slot) * delay_s[able].max(initial=0)
        user, place = linear_sum_assignment(np.where(able, delay_s, never_s))
        kept = able[user, place]
        found = np.full(len(slot), UNASSIGNED)
        found[user[kept]] = worker[place[kept]]
        return assignment_of(slot, found)


@dataclass(frozen=True)
class RandomOffloading:
    """Users in random order, each to a random worker that has a place for it.

    Args:
        seed: of both.
    """

    seed: int = 0

    def assign(self, slot: Slot) -> Assignment:
        """Everybody who finds a place."""
        rng = np.random.default_rng(self.seed)
        room = Room(places(slot), np.full(len(slot), UNASSIGNED))
        for user in rng.permutation(len(slot)).tolist():
            free = np.flatnonzero(room.open(user))
            if len(free):
                room.put(user, int(rng.choice(free)))
        return assignment_of(slot, room.worker)


def _common_counts(most: Int[ndarray, "n m"]) -> Int[ndarray, "m"]:
    """For each worker the head-count with which it can have the most users at once."""
    ordered = -np.sort(-most, axis=0)
    return np.minimum(ordered, np.arange(1, len(most) + 1)[:, None]).max(axis=0, initial=0)
