"""How well a decision served those who truly turned, where a record tells who did."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

from edge.offload.mobility import Prediction, TurnCount
from edge.offload.model import UNASSIGNED, Assignment
from edge.offload.roi import fields_of_view, regions_of_interest
from edge.offload.scenario import ScenarioConfig, Situation
from edge.offload.value import awareness


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the truth says of one tick.

    Args:
        turns: how many turns were predicted.
        awareness: of every vehicle that truly turns, user or not, the share of the region on that side that it knows;
            a missed turn leaves the vehicle alone with its own view, [k].
    """

    turns: TurnCount
    awareness: Float[ndarray, "k"]


def judge(
    situation: Situation,
    assignment: Assignment,
    expected: Prediction,
    truth: Int8[ndarray, "n"],
    config: ScenarioConfig,
) -> Judgement:
    """Compare predictions and what the clusters see with who truly turns.

    Args:
        situation, assignment: of the tick.
        expected: of everybody on the road.
        truth: -1 right, 0 straight on, 1 left, of everybody, int8 [n].
        config: the fields of view and regions of interest.

    Raises:
        ModuleNotFoundError: shapely is not installed.
    """
    everybody = situation.everybody
    users = set(situation.states.names)
    rows = np.array([i for i, name in enumerate(everybody.names) if truth[i] or name in users], int)
    worker_of = dict(zip(situation.states.names, assignment.worker.tolist(), strict=True))
    worker = np.array([worker_of.get(everybody.names[i], UNASSIGNED) for i in rows], int)
    position_m, heading_rad = everybody.position_m[rows], everybody.heading_rad[rows]
    roi_m = regions_of_interest(position_m, heading_rad, truth[rows], config.roi)
    known = awareness(roi_m, fields_of_view(position_m, heading_rad, config.fov), worker)
    return Judgement(TurnCount.of(expected.turn, truth), known[truth[rows] != 0])
