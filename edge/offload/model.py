"""What is decided in one tick, and what a decision is: users, workers, tasks, links, value, assignment.

Matrices have a row per user; columns are users [n, n] or workers [n, m], in the order of `Slot.users` and
`Slot.workers`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.participants import UNIT_BITS, Task, User, Worker

__all__ = [
    "UNASSIGNED",
    "UNIT_BITS",
    "Assignment",
    "ClusterValue",
    "OffloadPolicy",
    "Reason",
    "Slot",
    "Solution",
    "Task",
    "User",
    "Worker",
    "within_reach",
]

UNASSIGNED: Final = -1


@dataclass(frozen=True, eq=False)
class Slot:
    """What is to be decided in one tick; make it with `Slot.of`.

    Args:
        users, workers: rows and columns, unique names each.
        tasks: one for each user.
        value: what user i (row) gains when user k (column) is fused at the same worker, 0 or more, 0 on the
            diagonal [n, n].
        uplink_bps: rate at which a user sends to a worker; 0 is no link [n, m].
        allowed: whether a user may offload to a worker [n, m].
        time_s: of the tick.
    """

    users: tuple[User, ...]
    workers: tuple[Worker, ...]
    tasks: tuple[Task, ...]
    value: Float[ndarray, "n n"]
    uplink_bps: Float[ndarray, "n m"]
    allowed: Bool[ndarray, "n m"]
    time_s: float = 0.0

    @classmethod
    def of(
        cls,
        users: Sequence[User],
        workers: Sequence[Worker],
        tasks: Task | Sequence[Task],
        *,
        value: Float[ndarray, "_ _"],
        uplink_bps: float | Float[ndarray, "_ _"],
        allowed: Bool[ndarray, "_ _"] | None = None,
        time_s: float = 0.0,
    ) -> "Slot":
        """Check everything; a single task or rate is that of all.

        Args:
            users, workers, time_s: see the class. There may be no users.
            tasks: one for each user, or one for all.
            value: see the class [n, n].
            uplink_bps: [n, m], or one rate for all.
            allowed: [n, m]; by default who is within a worker's `reach_m`. A pair without a link is never allowed.

        Raises:
            ValueError: there are no workers, a name comes twice, a shape is wrong, a value or rate is negative, NaN or
                infinite, or a user has a value for itself.
        """
        tasks = (tasks,) * len(users) if isinstance(tasks, Task) else tuple(tasks)
        shape = (len(users), len(workers))
        _check_names("users", [user.name for user in users])
        _check_names("workers", [worker.name for worker in workers])
        if not workers:
            raise ValueError("workers is empty: a slot needs at least one worker")
        if len(tasks) != len(users):
            raise ValueError(f"tasks has {len(tasks)} entries for {len(users)} users: give one each, or a single Task")
        rates_bps = np.full(shape, uplink_bps) if isinstance(uplink_bps, int | float) else uplink_bps
        rates_bps = _matrix("uplink_bps", rates_bps, shape)
        value = _matrix("value", value, (len(users), len(users)))
        if value.diagonal().any():
            raise ValueError(f"value of user {users[int(value.diagonal().argmax())].name!r} for itself must be 0")
        near = within_reach(users, workers) if allowed is None else np.asarray(allowed, dtype=bool)
        if near.shape != shape:
            raise ValueError(f"allowed has shape {near.shape}, want {shape}: a row per user, a column per worker")
        return cls(tuple(users), tuple(workers), tasks, value, rates_bps, near & (rates_bps > 0), time_s)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def bits(self) -> Float[ndarray, "n"]:
        """What each user sends."""
        return np.array([task.bits for task in self.tasks], dtype=np.float64)

    @cached_property
    def cycles(self) -> Float[ndarray, "n"]:
        """Work for each user."""
        return np.array([task.cycles for task in self.tasks], dtype=np.float64)

    @cached_property
    def deadline_s(self) -> Float[ndarray, "n"]:
        """When each user's result must be there."""
        return np.array([task.deadline_s for task in self.tasks], dtype=np.float64)

    @cached_property
    def cycles_per_s(self) -> Float[ndarray, "m"]:
        """Speed of each worker."""
        return np.array([worker.cycles_per_s for worker in self.workers], dtype=np.float64)

    @cached_property
    def transmission_s(self) -> Float[ndarray, "n m"]:
        """Seconds to send a user's bits to a worker; infinity where it may not."""
        rates_bps = np.where(self.allowed, self.uplink_bps, 1.0)
        return np.where(self.allowed, self.bits[:, None] / rates_bps, np.inf)

    @cached_property
    def pair_value(self) -> Float[ndarray, "n n"]:
        """What two users gain together by being fused at the same worker: value plus its transpose."""
        return self.value + self.value.T


class Reason(StrEnum):
    """Why a user is not assigned."""

    ASSIGNED = "assigned"
    OUT_OF_REACH = "no worker in reach"
    TOO_LATE = "no worker in reach is fast enough for two tasks by the deadline"
    NO_GAIN = "gains nothing and gives nothing where it could be"
    NO_PLACE = "others fill the places"


@dataclass(frozen=True, eq=False)
class Assignment:
    """Where each user offloads to.

    Args:
        worker: index of the user's worker, or `UNASSIGNED` [n].
        reasons: why not, `Reason.ASSIGNED` for those who are; one for each user.

    Raises:
        ValueError: lengths differ, an index is below -1, or an index and a reason contradict each other.
    """

    worker: Int[ndarray, "n"]
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if len(self.worker) != len(self.reasons):
            raise ValueError(f"reasons has {len(self.reasons)} entries for {len(self.worker)} users: give one each")
        if len(self.worker) and self.worker.min() < UNASSIGNED:
            raise ValueError(f"worker holds {self.worker.min()}: give an index of a worker, or {UNASSIGNED}")
        for user, (worker, reason) in enumerate(zip(self.worker.tolist(), self.reasons, strict=True)):
            if (worker == UNASSIGNED) == (reason is Reason.ASSIGNED):
                raise ValueError(f"user {user} has worker {worker} and reason {reason.value!r}: correct one of them")

    def members(self, worker: int) -> Int[ndarray, "k"]:
        """Indices of the users at a worker."""
        return np.flatnonzero(self.worker == worker)


@dataclass(frozen=True, eq=False)
class Solution:
    """A decision with what is known of its quality.

    Args:
        assignment: the decision.
        value: sum of `Slot.value` over all ordered pairs at the same worker.
        bound: no assignment has more; infinity if nothing is known.
        seconds: time that it took.
    """

    assignment: Assignment
    value: float
    bound: float = math.inf
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """Share of the bound that may be missing: 0 is proven best, NaN if there is no bound."""
        if math.isinf(self.bound):
            return math.nan
        return max(0.0, 1 - self.value / self.bound) if self.bound > 0 else 0.0


ClusterValue = Callable[[Sequence[Int[ndarray, "_"]]], Float[ndarray, "c"]]
"""What the members of each cluster (user indices, any order) have together, e.g. the sum of their regions' shares that
the union of the members' fields of view covers. A user more in a cluster never lowers its value."""


@runtime_checkable
class OffloadPolicy(Protocol):
    """A rule that assigns; its settings and seed are its own fields."""

    def assign(self, slot: Slot) -> Assignment:
        """Decide one slot; the same slot and settings give the same assignment."""
        ...


def within_reach(users: Sequence[User], workers: Sequence[Worker]) -> Bool[ndarray, "n m"]:
    """Whether a user stands no further from a worker than `reach_m`."""
    users_m = np.array([user.position_m for user in users], dtype=np.float64).reshape(-1, 2)
    workers_m = np.array([worker.position_m for worker in workers], dtype=np.float64).reshape(-1, 2)
    reach_m = np.array([worker.reach_m for worker in workers], dtype=np.float64)
    return np.linalg.norm(users_m[:, None] - workers_m, axis=2) <= reach_m


def _check_names(field: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{field} need unique names, {twice!r} comes twice: rename one")


def _matrix(field: str, given: Float[ndarray, "n k"], shape: tuple[int, int]) -> Float[ndarray, "n k"]:
    matrix = np.asarray(given, dtype=np.float64)
    if matrix.shape != shape:
        raise ValueError(f"{field} has shape {matrix.shape}, want {shape}: a row per user")
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise ValueError(f"{field} must be finite, 0 or more, and holds negative or non-finite entries: correct them")
    return matrix
