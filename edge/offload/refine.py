"""A second pass over an assignment, for what clusters see together rather than pair by pair."""

from edge.offload.capacity import assignment_of
from edge.offload.model import Assignment
from edge.offload.post import rematch
from edge.offload.scenario import Situation
from edge.offload.union import raise_value, without_gain


def refine_by_union(situation: Situation, assignment: Assignment) -> Assignment:
    """Move users as long as the union of views covers more of the regions of interest; for `Controller.refine`.

    Who then adds nothing is left out, and the largest clusters go to the fastest workers. No deadline is broken that
    was kept before.

    Raises:
        ValueError: a field of view is not convex.
    """
    slot, value = situation.slot, situation.union_coverage()
    worker = raise_value(slot, assignment.worker, value)
    return assignment_of(slot, rematch(slot, without_gain(slot, worker, value)))
