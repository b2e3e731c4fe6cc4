"""What an assignment is worth and whether it keeps its promises, worked out anew from the slot.

This is the referee: it takes nothing from the solvers, their capacities or their objective, and adds up one user after
the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from edge.offload.model import Assignment, Slot

Seen = Callable[[Int[ndarray, "n"]], Float[ndarray, "n"]]
"""From the worker of each user (-1 is none) to the share of its region of interest that each user then knows."""

_ROUNDING_S: Final = 1e-12  # a delay is a sum of rounded quotients


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found.

    Args:
        value: sum of `Slot.value` over all ordered pairs of users at the same worker.
        delay_s: of each user's task, NaN for who is not assigned [n].
        violations: a sentence for each broken promise.
        awareness: share of its region that each user knows, NaN if that was not asked for [n].
        satisfied: share of the users who know at least what is required, NaN if that was not asked for.
    """

    value: float
    delay_s: Float[ndarray, "n"]
    violations: tuple[str, ...]
    awareness: Float[ndarray, "n"]
    satisfied: float

    @property
    def served(self) -> int:
        """Users who are assigned."""
        return int(np.isfinite(self.delay_s).sum())

    def figures(self) -> dict[str, float]:
        """Means over the users; the delay is that of those who are served, NaN if nobody is."""
        delays_s = self.delay_s[np.isfinite(self.delay_s)]
        return {
            "value": self.value,
            "served": float(self.served),
            "delay_s": float(delays_s.mean()) if len(delays_s) else float("nan"),
            "awareness": float(self.awareness.mean()) if len(self.awareness) else float("nan"),
            "satisfied": self.satisfied,
            "violations": float(len(self.violations)),
        }


def evaluate(slot: Slot, assignment: Assignment, *, seen: Seen | None = None, required: float = 0.35) -> Evaluation:
    """Judge an assignment.

    Args:
        slot, assignment: what was decided.
        seen: gives the users' awareness; None leaves it out.
        required: share of its region that satisfies a user, φ of the paper.

    Raises:
        ValueError: the assignment is not of this slot's users, or names a worker that there is not.
    """
    if len(assignment.worker) != len(slot.users):
        raise ValueError(f"the assignment is of {len(assignment.worker)} users, the slot has {len(slot.users)}")
    chosen = [int(worker) for worker in assignment.worker]
    for user, worker in zip(slot.users, chosen, strict=True):
        if worker >= len(slot.workers):
            raise ValueError(f"user {user.name!r} is at worker {worker}, and the slot has {len(slot.workers)}")
    delay_s = [_delay_s(slot, chosen, user) for user in range(len(chosen))]
    awareness = np.full(len(chosen), np.nan) if seen is None else seen(assignment.worker)
    satisfied = float((awareness >= required).mean()) if seen is not None and len(chosen) else float("nan")
    return Evaluation(
        _value(slot, chosen), np.array(delay_s), tuple(_violations(slot, chosen, delay_s)), awareness, satisfied
    )


def _delay_s(slot: Slot, chosen: list[int], user: int) -> float:
    """Sending, then computing at an even share of the processor."""
    worker = chosen[user]
    if worker < 0:
        return float("nan")
    rate_bps = float(slot.uplink_bps[user, worker])
    sending_s = slot.tasks[user].bits / rate_bps if rate_bps > 0 else float("inf")
    share = slot.workers[worker].cycles_per_s / chosen.count(worker)
    return sending_s + slot.tasks[user].cycles / share


def _value(slot: Slot, chosen: list[int]) -> float:
    total = 0.0
    for gainer, at in enumerate(chosen):
        for giver, other in enumerate(chosen):
            if at >= 0 and at == other and gainer != giver:
                total += float(slot.value[gainer, giver])
    return total


def _violations(slot: Slot, chosen: list[int], delay_s: list[float]) -> list[str]:
    broken = []
    for user, worker in enumerate(chosen):
        if worker < 0:
            continue
        name, where = slot.users[user].name, slot.workers[worker].name
        if not slot.allowed[user, worker]:
            broken.append(f"user {name!r} may not offload to worker {where!r}")
        if delay_s[user] > slot.tasks[user].deadline_s + _ROUNDING_S:
            broken.append(
                f"user {name!r} is {delay_s[user] - slot.tasks[user].deadline_s:.3g} s late at worker {where!r}"
            )
    return broken
