"""The policies by name."""

from collections.abc import Callable
from typing import Final

from edge.offload.algorithm1 import Algorithm1
from edge.offload.anytime import Anytime, LadderConfig
from edge.offload.baselines import GreedyOffloading, LeastDelay, RandomOffloading
from edge.offload.exact import Exact, ExactConfig
from edge.offload.heuristic import Heuristic
from edge.offload.model import OffloadPolicy

POLICIES: Final[dict[str, Callable[[int], OffloadPolicy]]] = {
    "ours": lambda seed: Heuristic(seed=seed),
    "anytime": lambda seed: Anytime(LadderConfig(seed=seed)),
    "exact": lambda seed: Exact(ExactConfig(seed=seed)),
    "algorithm1": lambda seed: Algorithm1(seed=seed),
    "go": lambda seed: GreedyOffloading(),
    "cpto": lambda seed: LeastDelay(),
    "random": lambda seed: RandomOffloading(seed),
}
"""From a seed to a policy; "go" and "cpto" draw nothing."""
