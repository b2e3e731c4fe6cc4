"""How many tasks a worker can fuse at once so that nobody's deadline passes.

Task i at worker j, one of η that share its processor evenly, ends bits_i / uplink_ij + η · cycles_i / cycles_per_s_j
seconds after it began, which may be deadline_i at most: every user has a largest η of its own at every worker. A
cluster is feasible where its size is at most the least of its members' numbers; with equal tasks and links that is one
head-count per worker.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.model import UNASSIGNED, Assignment, Reason, Slot


@lru_cache(maxsize=4)
def places(slot: Slot) -> Int[ndarray, "n m"]:
    """The most tasks, its own included, with which a user still ends in time at a worker.

    0 where it would be late alone or may not go; at most the number of users; read-only [n, m].
    """
    left_s = slot.deadline_s[:, None] - slot.transmission_s
    alone_s = slot.cycles[:, None] / slot.cycles_per_s
    count = np.clip(np.floor(left_s / alone_s), 0, len(slot))
    # Division rounds: one more if it ends in time after all, one less if it does not.
    count += _in_time(slot, count + 1) & (count < len(slot))
    count -= ~_in_time(slot, count) & (count > 0)
    counts = count.astype(np.int64)
    counts.setflags(write=False)
    return counts


def nothing_to_decide(slot: Slot) -> bool:
    """Whether no assignment has any value: there is nobody, nobody gains, or no two tasks end in time anywhere."""
    return not slot.pair_value.any() or bool((places(slot) < 2).all())


def loose_bound(slot: Slot) -> float:
    """What no assignment exceeds, without any search: every user with as many of its best partners as find place."""
    partners = np.maximum(places(slot).max(axis=1, initial=0) - 1, 0)
    user, other = np.nonzero(slot.pair_value)
    worth = slot.pair_value[user, other]
    order = np.lexsort((-worth, user))
    rank = np.arange(len(order)) - np.searchsorted(user, user)  # among the partners of a user, best first
    return float(worth[order][rank < partners[user]].sum() / 2)


def feasible(slot: Slot, worker: Int[ndarray, "n"]) -> bool:
    """Whether every assigned user is allowed where it is and ends in time."""
    used = np.flatnonzero(worker != UNASSIGNED)
    at = worker[used]
    return bool((places(slot)[used, at] >= np.bincount(at, minlength=len(slot.workers))[at]).all())


def value_of(pair_value: Float[ndarray, "n n"], worker: Int[ndarray, "n"]) -> float:
    """Sum of `Slot.value` over all ordered pairs of users at the same worker."""
    same = (worker[:, None] == worker) & (worker != UNASSIGNED)
    return float(pair_value[same].sum() / 2)


def assignment_of(slot: Slot, worker: Int[ndarray, "n"]) -> Assignment:
    """An assignment with the reason why each of the others is left out."""
    return Assignment(worker, tuple(_reasons(slot, worker)))


def _reasons(slot: Slot, worker: Int[ndarray, "n"]) -> list[Reason]:
    most = places(slot)
    reachable = slot.allowed.any(axis=1)
    fast_enough = most.max(axis=1, initial=0) >= 2
    together = (most >= 2).astype(np.float32)
    useful = ((slot.pair_value > 0) & (together @ together.T > 0)).any(axis=1)
    cases = [worker != UNASSIGNED, ~reachable, ~fast_enough, ~useful]
    names = [Reason.ASSIGNED, Reason.OUT_OF_REACH, Reason.TOO_LATE, Reason.NO_GAIN]
    picked = np.select(cases, range(len(names)), default=len(names))
    return [[*names, Reason.NO_PLACE][case] for case in picked.tolist()]


def _in_time(slot: Slot, count: Float[ndarray, "n m"]) -> Bool[ndarray, "n m"]:
    return slot.transmission_s + count * (slot.cycles[:, None] / slot.cycles_per_s) <= slot.deadline_s[:, None]
