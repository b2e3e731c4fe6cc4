"""Rules of aggregation against Flower, numpy, scipy, hand arithmetic and slow oracles."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from strategies import accumulator, arithmetic, robust
from strategies.accumulator import RuleConfig, WeightedMean
from strategies.aggregation import RULES, merge, new_accumulator
from strategies.arithmetic import CHUNK, Arrays, add_scaled, update_dot, update_norm
from tests.fakes import train_reply

CONFIG = RuleConfig()
seeds = st.integers(0, 2**32 - 1)


def model(seed: int, dtype: type = np.float32, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "head.weight": (5, 7), "none": (0, 3)}
    return {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def vector(*values: float, dtype: type = np.float32) -> Arrays:
    return {"w": np.array(values, dtype)}


def close(first: Arrays, second: Arrays, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    assert list(first) == list(second)
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=rtol, atol=atol)


def same_bits(first: Arrays, second: Arrays) -> None:
    assert list(first) == list(second)
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        assert values.tobytes() == second[name].tobytes(), name


# The weighted mean


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_mean_is_flowers_fedavg_bit_for_bit(seed: int, examples: list[int]) -> None:
    updates = [(model(seed + k), float(n)) for k, n in enumerate(examples)]
    replies = [train_reply(k, arrays, int(n)) for k, (arrays, n) in enumerate(updates, start=1)]
    flowers, _ = FedAvg().aggregate_train(1, replies)
    assert flowers is not None
    same_bits(merge("mean", updates, model(0), CONFIG), {name: array.numpy() for name, array in flowers.items()})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8, np.bool_])
@pytest.mark.parametrize("weight", [1.0, 3.0, 7e5])
def test_mean_of_one_is_that_one(dtype: type, weight: float) -> None:
    update = model(3, dtype, scale=1.0 if dtype in (np.float16, np.float32, np.float64) else 0.0)
    same_bits(merge("mean", [(update, weight)], model(4, dtype, 0.0), CONFIG), update)


@settings(max_examples=25, deadline=None)
@given(seeds, st.permutations(range(5)), st.lists(st.integers(1, 900), min_size=5, max_size=5))
def test_mean_does_not_depend_on_the_order(seed: int, order: list[int], examples: list[int]) -> None:
    updates = [(model(seed + k), float(n)) for k, n in enumerate(examples)]
    close(merge("mean", updates, model(0), CONFIG), merge("mean", [updates[k] for k in order], model(0), CONFIG))


@pytest.mark.parametrize("expected_weight", [5.0, 10.0, 1000.0, 0.5])
def test_mean_of_what_came_when_other_weights_were_expected(expected_weight: float) -> None:
    mean = WeightedMean(vector(0, 0), CONFIG, expected_weight)
    mean.add(vector(1, 10), 2.0)
    mean.add(vector(2, -10), 3.0)
    close(mean.result(), vector((2 * 1 + 3 * 2) / 5, (2 * 10 - 3 * 10) / 5))


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(1, 900), min_size=4, max_size=9), st.integers(1, 3))
def test_mean_of_rsu_means_weighted_by_their_examples_is_the_mean_of_all(
    seed: int, examples: list[int], cut: int
) -> None:
    reference = model(0)
    updates = [(model(seed + k), float(n)) for k, n in enumerate(examples)]
    rsus = [updates[:cut], updates[cut:]]
    means = [(merge("mean", group, reference, CONFIG), sum(weight for _, weight in group)) for group in rsus]
    close(merge("mean", means, reference, CONFIG), merge("mean", updates, reference, CONFIG))


@pytest.mark.parametrize(("dtype", "expected"), [(np.int64, 2), (np.uint8, 2), (np.int16, 2), (np.bool_, True)])
def test_mean_keeps_integers_integers_and_rounds(dtype: type, expected: int) -> None:
    # (1 · 1 + 2 · 2) / 3 = 1.67, which rounds to 2; as booleans both are true.
    merged = merge(
        "mean", [(vector(1, dtype=dtype), 1.0), (vector(2, dtype=dtype), 2.0)], vector(0, dtype=dtype), CONFIG
    )
    assert merged["w"].dtype == dtype
    assert merged["w"].tolist() == [expected]


def test_mean_sums_float16_in_float64() -> None:
    # 2048 is where float16 steps by 2: summing 1 at a time in float16 would stop there.
    updates = [(vector(1, dtype=np.float16), 1.0)] * 4096
    assert merge("mean", updates, vector(0, dtype=np.float16), CONFIG)["w"].tolist() == [1.0]


def test_mean_of_float64_keeps_what_float32_would_lose() -> None:
    updates = [(vector(1 + 1e-12, dtype=np.float64), 1.0), (vector(1 + 3e-12, dtype=np.float64), 1.0)]
    merged = merge("mean", updates, vector(0, dtype=np.float64), CONFIG)["w"]
    assert merged.dtype == np.float64
    np.testing.assert_allclose(merged - 1, 2e-12, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_mean_of_tensors_without_axes(dtype: type) -> None:
    updates = [({"steps": np.array(value, dtype)}, weight) for value, weight in ((1, 1.0), (3, 3.0), (6, 2.0))]
    merged = merge("mean", updates, {"steps": np.array(0, dtype)}, CONFIG)["steps"]
    assert (merged.shape, merged.dtype) == ((), dtype)
    expected = (1 * 1 + 3 * 3 + 6 * 2) / 6  # 3.67, which rounds to 4
    assert float(merged) == (4 if dtype is np.int64 else pytest.approx(expected, rel=1e-3))


# Rules that look at all updates at once


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 9))
def test_median_is_numpys(seed: int, count: int) -> None:
    updates = [model(seed + k) for k in range(count)]
    merged = merge("median", [(arrays, 1.0) for arrays in updates], model(0), CONFIG)
    same_bits(merged, {name: np.median([arrays[name] for arrays in updates], axis=0) for name in merged})


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49]))
def test_trimmed_mean_is_scipys(seed: int, count: int, share: float) -> None:
    updates = [model(seed + k) for k in range(count)]
    merged = merge("trimmed-mean", [(a, 1.0) for a in updates], model(0), RuleConfig(trim_fraction=share, byzantine=0))
    close(merged, {name: trim_mean(np.stack([a[name] for a in updates]), share, axis=0) for name in merged})


@pytest.mark.parametrize(
    ("share", "byzantine", "count", "cut"),
    [
        (0.2, 1, 3, 1),  # a fifth of three is less than one, but one liar is to be survived
        (0.2, 2, 20, 4),  # the share is more than the liars
        (0.29, 0, 100, 29),  # 0.29 * 100 is 28.999999999999996 in floating point
        (0.49, 0, 100, 49),
        (0.2, 3, 4, 1),  # of fewer than 2 * 3 + 1 the middle ones are left
        (0.0, 5, 1, 0),
    ],
)
def test_trimmed_mean_cuts_its_share_but_as_many_as_there_are_liars(
    share: float, byzantine: int, count: int, cut: int
) -> None:
    updates = [(vector(float(k) ** 2), 1.0) for k in range(count)]
    merged = merge("trimmed-mean", updates, vector(0.0), RuleConfig(trim_fraction=share, byzantine=byzantine))["w"]
    assert merged[0] == pytest.approx(np.mean([k**2 for k in range(cut, count - cut)]), rel=1e-6)


@pytest.mark.parametrize(("byzantine", "needed"), [(0, (1, 1, 3)), (1, (3, 3, 5)), (2, (5, 5, 7))])
def test_updates_that_rules_need(byzantine: int, needed: tuple[int, int, int]) -> None:
    # Yin et al. 2018: fewer than half may lie. Blanchard et al. 2017, proposition 1: n >= 2f + 3.
    config = RuleConfig(byzantine=byzantine)
    assert tuple(RULES[rule].count_needed(config) for rule in ("median", "trimmed-mean", "krum")) == needed
    assert all(RULES[rule].count_needed(config) == 1 for rule in ("mean", "norm-clip", "fltrust"))


def test_a_tiny_update_leaves_fltrust_its_direction() -> None:
    # Scaled up 10,000,000 times to the root's length: x and the start, added by themselves, would cancel in float32.
    rng = np.random.default_rng(0)
    start, direction = (rng.standard_normal(1000).astype(np.float32) for _ in range(2))
    root = {"w": start + 0.01 * direction}
    tiny = {"w": start + np.float32(1e-7) * direction}
    merged = merge("fltrust", [(tiny, 1.0), (root, 1.0)], {"w": start}, RuleConfig(), root)["w"]
    true = 0.01 * np.linalg.norm(direction)
    assert np.linalg.norm(merged - start) == pytest.approx(true, rel=0.3)


@pytest.mark.parametrize("rule", ["norm-clip", "fltrust", "mean", "median", "trimmed-mean"])
def test_half_floats_are_summed_in_wider_ones(rule: str) -> None:
    # 100 * 800 is beyond the largest half float, 65504.
    updates = [({"w": np.full(4, 100.0 + k, np.float16)}, 800.0) for k in (-1, 0, 1)]
    root = {"w": np.full(4, 100.0, np.float16)}
    merged = merge(rule, updates, {"w": np.zeros(4, np.float16)}, RuleConfig(clip_norm=1e4), root)["w"]
    np.testing.assert_allclose(merged, 100.0, rtol=1e-3)


@pytest.mark.parametrize(("rule", "expected"), [("median", 2), ("trimmed-mean", 3)])
def test_column_rules_round_integers(rule: str, expected: int) -> None:
    # Of 0, 1, 3, 9 the median is 2; without 0 and 9 the mean is 2; of 0, 3, 3, 9 the trimmed mean is 3.
    values = [0, 1, 3, 9] if rule == "median" else [0, 3, 3, 9]
    updates = [(vector(v, dtype=np.int64), 1.0) for v in values]
    merged = merge(rule, updates, vector(0, dtype=np.int64), RuleConfig(trim_fraction=0.25))["w"]
    assert (merged.dtype, merged.tolist()) == (np.int64, [expected])


def krum_by_definition(updates: list[Arrays], f: int) -> int:
    """Blanchard et al. 2017, section 4: s(i) sums |V_i - V_j|^2 over the n - f - 2 vectors closest to V_i."""
    flat = [np.concatenate([values.ravel() for values in arrays.values()]).astype(np.float64) for arrays in updates]
    scores = []
    for i, own in enumerate(flat):
        distances = sorted(float(((own - other) ** 2).sum()) for j, other in enumerate(flat) if j != i)
        scores.append(sum(distances[: len(flat) - f - 2]))
    return scores.index(min(scores))


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 3), st.integers(0, 3))
def test_krum_chooses_as_the_papers_definition_does(seed: int, f: int, more: int) -> None:
    updates = [model(seed + k) for k in range(f + 3 + more)]
    merged = merge("krum", [(arrays, 1.0) for arrays in updates], model(0), RuleConfig(byzantine=f))
    same_bits(merged, updates[krum_by_definition(updates, f)])


@pytest.mark.parametrize("count", [1, 2])
def test_krum_with_too_few_updates_still_gives_one_of_them(count: int) -> None:
    updates = [(vector(1, 2), 1.0), (vector(3, 4), 1.0)][:count]
    assert merge("krum", updates, vector(0, 0), CONFIG)["w"].tolist() in ([1, 2], [3, 4])


@pytest.mark.parametrize("rule", ["krum", "median", "trimmed-mean"])
@pytest.mark.parametrize("liar", [1e6, -1e6])
def test_robust_rules_survive_liars_where_the_mean_does_not(rule: str, liar: float) -> None:
    honest = [(vector(1 + 0.01 * k, 2 - 0.01 * k), 1.0) for k in range(7)]
    updates = [*honest[:3], (vector(liar, liar), 1.0), *honest[3:], (vector(liar, -liar), 1.0)]
    config = RuleConfig(trim_fraction=0.23, byzantine=2)  # int(0.23 · 9) = 2 from each end
    merged, mean = merge(rule, updates, vector(0, 0), config)["w"], merge("mean", updates, vector(0, 0), config)["w"]
    assert 1 <= merged[0] <= 1.06
    assert 1.94 <= merged[1] <= 2
    assert abs(mean[0]) > 1e5


@pytest.mark.parametrize("rule", ["krum", "median", "trimmed-mean"])
def test_rules_that_vote_ignore_the_claimed_weights(rule: str) -> None:
    updates = [(vector(1, 1), 1.0), (vector(2, 2), 1.0), (vector(2.5, 2.5), 1.0), (vector(50, 50), 1e6)]
    weightless = [(arrays, 1.0) for arrays, _ in updates]
    same_bits(merge(rule, updates, vector(0, 0), CONFIG), merge(rule, weightless, vector(0, 0), CONFIG))


# Rules that measure updates


def test_norm_clip_shortens_an_update_to_the_limit_and_keeps_its_direction() -> None:
    reference = {"a": np.array([10.0], np.float32), "b": np.array([[20.0]], np.float32)}
    update = {"a": np.array([13.0], np.float32), "b": np.array([[24.0]], np.float32)}  # (3, 4) away: length 5
    merged = merge("norm-clip", [(update, 7.0)], reference, RuleConfig(clip_norm=2.0))
    close(merged, {"a": np.array([10 + 3 * 2 / 5]), "b": np.array([[20 + 4 * 2 / 5]])})
    assert update_norm(merged, reference) == pytest.approx(2.0, rel=1e-6)


def test_norm_clip_lets_shorter_updates_through_and_weighs_them() -> None:
    # (3, 4) is cut to (0.6, 0.8), (0, 0.5) stays: weights 1 and 3.
    updates = [(vector(3, 4), 1.0), (vector(0, 0.5), 3.0)]
    merged = merge("norm-clip", updates, vector(0, 0), RuleConfig(clip_norm=1.0))
    close(merged, vector(0.6 / 4, (0.8 + 3 * 0.5) / 4))


def test_norm_clip_averages_integers_unclipped() -> None:
    reference = {"w": np.zeros(1, np.float32), "n": np.array([0])}
    updates = [({"w": np.array([9.0], np.float32), "n": np.array([n])}, 1.0) for n in (1, 4)]
    merged = merge("norm-clip", updates, reference, RuleConfig(clip_norm=1.0))
    close(merged, {"w": np.array([1.0]), "n": np.array([2])})  # 2.5 rounds to even


def test_fltrust_by_hand() -> None:
    # Root (2, 0). (4, 0): cosine 1, scaled to (2, 0). (3, 3): cosine 1/√2, scaled to (√2, √2).
    # (0, 5) is at right angles and (-9, 0) opposite: no trust, whatever weight they claim.
    updates = [(vector(4, 0), 1.0), (vector(3, 3), 1.0), (vector(0, 5), 1e6), (vector(-9, 0), 1e6)]
    merged = merge("fltrust", updates, vector(0, 0), CONFIG, root=vector(2, 0))
    trust = 1 + 1 / np.sqrt(2)
    close(merged, vector((1 * 2 + 1) / trust, 1 / trust))


def test_fltrust_measures_from_the_reference() -> None:
    shift = np.array([100.0, -50.0], np.float32)
    updates = [({"w": vector(4, 0)["w"] + shift}, 1.0), ({"w": vector(-1, 0)["w"] + shift}, 1.0)]
    merged = merge("fltrust", updates, {"w": shift}, CONFIG, root={"w": vector(2, 0)["w"] + shift})
    close(merged, {"w": vector(2, 0)["w"] + shift}, atol=1e-4)


@pytest.mark.parametrize("update", [vector(-1, 0), vector(0, 0)], ids=["opposite", "no update"])
def test_fltrust_without_a_trusted_update_stays_where_it_is(update: Arrays) -> None:
    close(merge("fltrust", [(update, 1.0)], vector(0, 0), CONFIG, root=vector(1, 0)), vector(0, 0))


def test_fltrust_with_a_root_that_did_not_move_stays_where_it_is() -> None:
    close(merge("fltrust", [(vector(1, 0), 1.0)], vector(0, 0), CONFIG, root=vector(0, 0)), vector(0, 0))


def test_fltrust_needs_a_root() -> None:
    with pytest.raises(ValueError, match="root model"):
        new_accumulator("fltrust", vector(0), CONFIG, 1.0)


# Machinery


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_nothing(rule: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = [(model(k), float(k)) for k in range(1, 6)]
    run: Callable[[], Arrays] = lambda: merge(rule, updates, model(0), CONFIG, model(99))  # noqa: E731
    whole = run()
    for module in (accumulator, arithmetic, robust):
        monkeypatch.setattr(module, "CHUNK", chunk)
    close(run(), whole, rtol=1e-5)


def test_tensors_longer_than_a_chunk_equal_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    size = 2 * CHUNK + 3
    rows, weights = rng.standard_normal((3, size)).astype(np.float32), [1.0, 2.0, 5.0]
    updates = [({"w": row}, weight) for row, weight in zip(rows, weights, strict=True)]
    reference = {"w": np.zeros(size, np.float32)}
    mean = np.average(rows.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(merge("mean", updates, reference, CONFIG)["w"], mean, atol=1e-6)
    np.testing.assert_array_equal(merge("median", updates, reference, CONFIG)["w"], np.median(rows, axis=0))
    assert update_norm({"w": rows[0]}, reference) == pytest.approx(np.linalg.norm(rows[0].astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_update_dot_is_the_inner_product_of_the_differences(dtype: type) -> None:
    first, second, reference = model(1, dtype), model(2, dtype), model(3, dtype)
    flat = [np.concatenate([v.ravel() for v in m.values()]).astype(np.float64) for m in (first, second, reference)]
    dot = float((flat[0] - flat[2]) @ (flat[1] - flat[2]))
    assert update_dot(first, second, reference) == pytest.approx(dot, rel=1e-5)
    assert update_norm(first, reference) == pytest.approx(np.linalg.norm(flat[0] - flat[2]), rel=1e-6)


def test_update_norm_leaves_integers_out() -> None:
    reference = {"w": np.zeros(2, np.float32), "n": np.zeros(2, np.int64)}
    assert update_norm({"w": np.array([3, 4], np.float32), "n": np.array([10**9, 0])}, reference) == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_update_norm_is_not_finite_if_an_element_is_not_or_its_square_overflows(bad: float) -> None:
    assert not np.isfinite(update_norm(vector(1, bad), vector(0, 0)))


def test_add_scaled_adds_in_place() -> None:
    total = np.ones((2, 3), np.float32)
    add_scaled(total, np.arange(6, dtype=np.float32).reshape(2, 3), 0.5)
    assert total.tolist() == [[1, 1.5, 2], [2.5, 3, 3.5]]


@pytest.mark.parametrize(
    ("field", "value"),
    [("trim_fraction", -0.1), ("trim_fraction", 0.5), ("trim_fraction", np.nan), ("byzantine", -1), ("clip_norm", 0.0)],
)
def test_rule_config_names_the_bad_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        RuleConfig(**{field: value})
