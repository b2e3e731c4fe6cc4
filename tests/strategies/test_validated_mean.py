"""The mean that a tier checks on frames of its own: what it leaves out, and what it does not."""

import byzfl
import numpy as np
import pytest
from numpy import ndarray

from strategies.accumulator import RuleConfig
from strategies.aggregation import RULES, merge
from strategies.arithmetic import Arrays

START = np.zeros(2, np.float32)
TARGET = np.array([10.0, 0.0])  # where the tier's own frames say the model should be


def arrays(values: object) -> Arrays:
    return {"w": np.asarray(values, np.float32)}


def distance(model: Arrays) -> float:
    """A loss whose lowest point is the target."""
    return float(np.linalg.norm(model["w"] - TARGET))


def merged(updates: list, weights: list[float] | None = None, loss: object = distance) -> ndarray:
    pairs = [(arrays(update), weight) for update, weight in zip(updates, weights or [1.0] * len(updates), strict=True)]
    return merge("validated-mean", pairs, arrays(START), RuleConfig(), loss=loss)["w"]


def test_honest_updates_are_averaged_by_weight() -> None:
    assert merged([[1, 0], [0.8, 0.6]], [3, 1]) == pytest.approx([0.95, 0.15])


def test_unlike_updates_that_help_together_are_kept() -> None:
    # By themselves both lead astray, to either side; together they lead to the target.
    assert merged([[3, 4], [3, -4]]) == pytest.approx([3, 0])


def test_long_updates_are_shortened_to_the_median_length() -> None:
    assert merged([[1, 0], [2, 0], [300, 0]], loss=None) == pytest.approx([(1 + 2 + 2) / 3, 0])
    assert merged([[1, 0], [300, 0]], loss=None) == pytest.approx([1, 0])  # without frames the shorter of two
    assert merged([[1, 0], [300, 0]]) == pytest.approx([1, 0])  # with them the longer one is seen to do harm


def test_what_harms_is_left_out_even_where_liars_are_more() -> None:
    assert merged([[1, 0], [-1, 0.1], [-1, -0.1]]) == pytest.approx([1, 0])


def test_without_frames_a_minority_that_points_the_other_way_is_left_out() -> None:
    assert merged([[1, 0], [0.8, 0.6], [-0.9, 0]], loss=None) == pytest.approx([0.9, 0.3])


def test_few_that_turn_the_mean_against_the_many_are_left_out_without_frames_too() -> None:
    # Two that agree outweigh three that differ: the mean is (-0.08, 0), and the three point against it.
    unlike = [[0.6, 0.8], [0.6, -0.8], [0.4, 0.0]]
    assert merged([*unlike, [-1.0, 0.0], [-1.0, 0.0]], loss=None) == pytest.approx([1.6 / 3, 0])


def test_one_update_is_kept_whatever_it_is() -> None:
    assert merged([[-1, 0]]) == pytest.approx([-1, 0])
    assert merged([[-1, 0], [-1, 0]]) == pytest.approx([-1, 0])


def test_next_to_no_update_holds_nobody_up_unless_most_send_it() -> None:
    assert merged([[0, 0], [1, 0]]) == pytest.approx([1, 0])
    assert merged([[1e-6, 0], [1, 0]]) == pytest.approx([1, 0])
    assert merged([[0, 0], [0, 0], [1, 0], [1, 0]]) == pytest.approx([0.5, 0])  # leaving one out saves 1.8 %
    assert merged([[0, 0], [1, 0], [1, 0]], loss=None) == pytest.approx([2 / 3, 0])
    assert merged([[0, 0], [0, 0], [1, 0]]) == pytest.approx([0, 0])


def test_several_that_ruin_the_loss_are_left_out_together() -> None:
    def breaking(model: Arrays) -> float:
        return float("inf") if model["w"][1] != 0 else distance(model)

    assert merged([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], loss=breaking) == pytest.approx([1, 0])


def test_the_model_stays_where_all_that_came_would_ruin_it() -> None:
    assert merged([[-30, 0], [-30, 0]]) == pytest.approx([0, 0])


def test_a_loss_that_is_never_finite_chooses_nobody() -> None:
    assert merged([[1, 0], [0.8, 0.6]], loss=lambda _: float("inf")) == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize(
    ("rule", "theirs"), [("median", byzfl.Median()), ("trimmed-mean", byzfl.TrMean(f=2)), ("krum", byzfl.Krum(f=2))]
)
def test_the_other_robust_rules_are_byzfls(rule: str, theirs: object) -> None:
    rng = np.random.default_rng(0)
    updates = rng.standard_normal((7, 30)).astype(np.float32)
    pairs = [(arrays(update), 1.0) for update in updates]
    ours = merge(rule, pairs, arrays(np.zeros(30)), RuleConfig(trim_fraction=0.0, byzantine=2))["w"]
    np.testing.assert_allclose(ours, theirs(updates), atol=1e-6)


def test_the_rule_takes_few_updates_and_no_number_of_liars() -> None:
    assert RULES["validated-mean"].count_needed(RuleConfig(byzantine=5)) == 1
