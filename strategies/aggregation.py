"""Merging of models: pure, no Flower. What comes in are (arrays, weight) pairs, what goes out is arrays."""

from collections.abc import Mapping

from numpy import ndarray

from strategies.accumulator import Accumulator, RuleConfig, WeightedMean
from strategies.arithmetic import Arrays
from strategies.robust import FLTrust, Krum, Median, NormClip, TrimmedMean

RULES: dict[str, type[Accumulator]] = {
    "mean": WeightedMean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "norm-clip": NormClip,
    "fltrust": FLTrust,
}


def new_accumulator(
    rule: str, reference: Mapping[str, ndarray], config: RuleConfig, expected_weight: float, root: Arrays | None = None
) -> Accumulator:
    """An empty accumulator of a rule of `RULES`; `root` is for "fltrust" alone."""
    if rule == "fltrust":
        return FLTrust(reference, config, expected_weight, root)
    return RULES[rule](reference, config, expected_weight)


def merge(
    rule: str, updates: list[tuple[Arrays, float]], reference: Arrays, config: RuleConfig, root: Arrays | None = None
) -> Arrays:
    """Merge a list of (arrays, weight) at once by a rule of `RULES`; the reference stands in when the list is empty."""
    if not updates:
        return dict(reference)
    accumulator = new_accumulator(rule, reference, config, sum(weight for _, weight in updates), root)
    for arrays, weight in updates:
        accumulator.add(arrays, weight)
    return accumulator.result()
