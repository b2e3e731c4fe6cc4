"""Q-CPTO-H as printed: the paper's Algorithm 1, for comparison.

Users in falling order of density (equations 11 and 12: what a user gains from all others over its delay) go to the
first worker with a free place, largest first; then a random part of the assignment is given up and filled in again by
the same rule, with a memory of the configurations that were met. Readings: a user takes one place of a worker's
head-count (the text takes seconds from a head-count); the search ends after a fixed number of rounds (none is given);
the delay of a density is that of a task alone at the fastest worker in reach (none is assigned yet).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, places, value_of
from edge.offload.model import UNASSIGNED, Assignment, Slot

CAPACITIES: Final = ("exact", "printed")
PLACEMENTS: Final = ("first", "gain")


@dataclass(frozen=True)
class Algorithm1:
    """The policy.

    Args:
        rounds: of giving up and filling in.
        capacity: "exact", or "printed" for equation 10, which forgets the transmission and lets deadlines pass.
        placement: "first" worker with a place, as printed, or the one whose members the user gains most with.
        seed: of what is given up.

    Raises:
        ValueError: a value is out of range.
    """

    rounds: int = 500
    capacity: str = "exact"
    placement: str = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"Algorithm1: rounds is {self.rounds}, want 0 or more")
        for name, allowed in (("capacity", CAPACITIES), ("placement", PLACEMENTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Algorithm1: {name} is {getattr(self, name)!r}, want {' or '.join(allowed)}")

    def assign(self, slot: Slot) -> Assignment:
        """The best assignment met; it may hold users without gain, as the paper's does."""
        most = places(slot) if self.capacity == "exact" else printed_places(slot)
        rng = np.random.default_rng(self.seed)
        order = np.argsort(-density(slot), kind="stable")
        current = self._pack(slot, most, order, np.full(len(slot), UNASSIGNED))
        best, best_value = current, value_of(slot.pair_value, current)
        met = {current.tobytes()}
        for _ in range(self.rounds):
            # Lines 20 to 22: a share is given up and filled in.
            kept = np.where(rng.random(len(slot)) < rng.random(), UNASSIGNED, current)
            new = self._pack(slot, most, order, kept)
            if new.tobytes() in met:
                continue
            met.add(new.tobytes())
            value = value_of(slot.pair_value, new)
            if value > best_value:
                best, best_value = new, value
            # Line 24: go on from the best with even odds.
            current = best if rng.random() < 0.5 else new
        return assignment_of(slot, best)

    def _pack(
        self, slot: Slot, most: Int[ndarray, "n m"], order: Int[ndarray, "n"], worker: Int[ndarray, "n"]
    ) -> Int[ndarray, "n"]:
        """Lines 2 to 15: give the users that have no worker one, in order."""
        room = Room(most, worker)
        largest_first = np.argsort(-most.max(axis=0, initial=0), kind="stable")
        for user in order[room.worker[order] == UNASSIGNED].tolist():
            free = largest_first[room.open(user)[largest_first]]
            if len(free):
                room.put(
                    user, int(free[0] if self.placement == "first" else free[room.ties(slot, user)[free].argmax()])
                )
        return room.worker


class Room:
    """An assignment that grows user by user, never beyond anybody's head-count.

    Args:
        most: head-count of each user at each worker [n, m].
        worker: of each user at the beginning, `UNASSIGNED` for none; copied [n].
    """

    def __init__(self, most: Int[ndarray, "n m"], worker: Int[ndarray, "n"]) -> None:
        self.most, self.worker = most, worker.copy()
        used = np.flatnonzero(worker != UNASSIGNED)
        self.count = np.bincount(worker[used], minlength=most.shape[1])
        self.limit = np.full(most.shape[1], len(most))
        np.minimum.at(self.limit, worker[used], most[used, worker[used]])

    def open(self, user: int) -> ndarray:
        """Whether each worker could have the user, too [m]."""
        return self.count < np.minimum(self.limit, self.most[user])

    def put(self, user: int, worker: int) -> None:
        """Assign a user."""
        self.worker[user] = worker
        self.count[worker] += 1
        self.limit[worker] = min(self.limit[worker], self.most[user, worker])

    def ties(self, slot: Slot, user: int) -> Float[ndarray, "m"]:
        """What the user and the members of each worker have of each other."""
        used = self.worker != UNASSIGNED
        return np.bincount(self.worker[used], slot.pair_value[user, used], len(self.count))


def density(slot: Slot) -> Float[ndarray, "n"]:
    """Equation 12: what a user gains from all others, over the delay of its task; 0 for who reaches no worker."""
    alone_s = slot.transmission_s + slot.cycles[:, None] / slot.cycles_per_s
    return slot.value.sum(axis=1) / alone_s.min(axis=1, initial=np.inf)


def printed_places(slot: Slot) -> Int[ndarray, "n m"]:
    """Equation 10: deadline times speed over the mean work, with nothing for the transmission [n, m]."""
    mean_cycles = slot.cycles.mean() if len(slot) else 1.0
    count = np.floor(slot.deadline_s[:, None] * slot.cycles_per_s / mean_cycles).astype(np.int64)
    return np.where(slot.allowed, count, 0)
