"""The second pass for the union of views."""

import numpy as np
import pytest

from edge.offload.baselines import GreedyOffloading, LeastDelay
from edge.offload.evaluate import evaluate
from edge.offload.heuristic import Heuristic
from edge.offload.model import OffloadPolicy
from edge.offload.refine import refine_by_union
from edge.offload.scenario import ScenarioConfig
from edge.offload.scenario_random import random_scenario
from edge.offload.value import awareness

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")


@pytest.mark.parametrize(
    "policy", [Heuristic(), GreedyOffloading(), LeastDelay()], ids=lambda policy: type(policy).__name__
)
def test_whoever_decided_first_more_is_seen_and_no_deadline_passes(policy: OffloadPolicy) -> None:
    gains = []
    for seed in range(4):
        seen = random_scenario(40, 8, seed, ScenarioConfig(size_unit="kbyte"))
        before = policy.assign(seen.slot)
        after = refine_by_union(seen, before)
        assert evaluate(seen.slot, after).violations == ()
        means = [awareness(seen.roi_m, seen.fov_m, found.worker).mean() for found in (before, after)]
        gains.append(means[1] - means[0])
    assert min(gains) > -0.002, "points of a region stand for its area"
    assert np.mean(gains) > 0
