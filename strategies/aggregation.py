"""Merging of models: pure, no Flower. What comes in are (arrays, weight) pairs, what goes out is arrays."""

from collections.abc import Mapping

from numpy import ndarray

from strategies.accumulator import Accumulator, RuleConfig, WeightedMean
from strategies.arithmetic import Arrays
from strategies.robust import FLTrust, Krum, Median, NormClip, TrimmedMean
from strategies.validated_mean import RootLoss, ValidatedMean

RULES: dict[str, type[Accumulator]] = {
    "mean": WeightedMean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "norm-clip": NormClip,
    "fltrust": FLTrust,
    "validated-mean": ValidatedMean,
}
ROOT_RULES = frozenset({"fltrust", "validated-mean"})  # which take labelled frames of the tier's own


def new_accumulator(
    rule: str,
    reference: Mapping[str, ndarray],
    config: RuleConfig,
    expected_weight: float,
    root: Arrays | None = None,
    loss: RootLoss | None = None,
) -> Accumulator:
    """Returns an empty accumulator of a rule of `RULES`.

    Args:
        rule: its name.
        reference: the model that all updates started from.
        config: settings of the rules.
        expected_weight: sum of the weights that are expected.
        root: for "fltrust", the model trained on the tier's own frames.
        loss: for "validated-mean", the loss of a model on these frames.
    """
    if rule == "fltrust":
        return FLTrust(reference, config, expected_weight, root)
    if rule == "validated-mean":
        return ValidatedMean(reference, config, expected_weight, loss)
    return RULES[rule](reference, config, expected_weight)


def merge(
    rule: str,
    updates: list[tuple[Arrays, float]],
    reference: Arrays,
    config: RuleConfig,
    root: Arrays | None = None,
    loss: RootLoss | None = None,
) -> Arrays:
    """Merge a list of (arrays, weight) at once by a rule of `RULES`; the reference stands in when the list is empty."""
    if not updates:
        return dict(reference)
    accumulator = new_accumulator(rule, reference, config, sum(weight for _, weight in updates), root, loss)
    for arrays, weight in updates:
        accumulator.add(arrays, weight)
    return accumulator.result()
