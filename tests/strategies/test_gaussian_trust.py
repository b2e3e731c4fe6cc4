"""What is believed: budgets before anything is decoded, values, and what the others sent."""

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies.gaussian_trust
from clients.gaussian_messages import FitReply, RefineReply
from clients.gaussian_wire import encode_fit_reply
from clients.messages import MessageError, TrainReply
from recon.compressed import compress_gaussians, expand_gaussians
from recon.gaussians import Gaussians
from recon.plan import Stretch
from recon.refine import Update
from recon.refusal import AcceptanceConfig
from strategies.gate import Cause
from strategies.gaussian_trust import MOST_GROWTH, MOST_VISIBILITY, accepted_parts, believed, length_of, upload_of
from strategies.report import Loss

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = AcceptanceConfig()
WAY = np.column_stack([np.arange(0.0, 21), np.zeros(21)])
STRETCH = Stretch("v", "rsu", WAY, 4, 30)


def houses(count: int = 20, seed: int = 0) -> Gaussians:
    """Balls of three decimetres on both sides of the street, in sight from it."""
    rng = np.random.default_rng(seed)
    side = np.where(np.arange(count) % 2, 5.0, -5.0)
    places = np.column_stack([np.linspace(0, 20, count), side, rng.uniform(1, 2, count)])
    made = Gaussians.from_points(places, rng.uniform(size=(count, 3)), opacity=0.8)
    return replace(made, log_scales=torch.full((count, 3), math.log(0.3)))


def reply(gaussians: Gaussians) -> TrainReply:
    return encode_fit_reply(FitReply(gaussians, 5, {"fit-cpu-s": 1.0}))


def bits(gaussians: Gaussians) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in gaussians.tensors().values()]


def changed(field: str, row: int, value: float) -> TrainReply:
    """An upload with one number replaced."""
    tensors = houses().tensors()
    tensors[field][row] = value
    return reply(Gaussians(**tensors))


def with_head(content: TrainReply, name: str, place: int, number: int) -> TrainReply:
    """A message in which the bytes of an array say something else of themselves."""
    data = content.arrays[name].copy()
    data[4 * place : 4 * place + 4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
    return TrainReply({**content.arrays, name: data}, 5)


# Uploads


@pytest.mark.parametrize("config", [LIMITS, None])
def test_an_honest_upload_is_taken_as_it_came(config: AcceptanceConfig | None) -> None:
    upload = upload_of(reply(houses(30)), STRETCH, config)
    assert isinstance(upload, FitReply)
    assert bits(upload.gaussians) == bits(expand_gaussians(compress_gaussians(houses(30))))
    assert (upload.views, upload.metrics) == (5, {"fit-cpu-s": 1.0})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_who_sends_as_many_as_the_budget_has_is_within_it(count: int) -> None:
    """However badly so few can be deflated."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        part = replace(houses(count), means=torch.tensor(rng.uniform(-900, 900, (count, 3))).float())
        noisy = replace(part, quats=torch.tensor(rng.normal(size=(count, 4))).float())
        noisy = replace(noisy, sh=torch.tensor(rng.normal(0, 9, (count, 1, 3))).float())
        assert isinstance(upload_of(reply(noisy), replace(STRETCH, max_gaussians=count), LIMITS), FitReply)


def never(*_: Any) -> Any:
    raise AssertionError("was decoded")


@pytest.mark.parametrize("config", [LIMITS, None])
def test_what_is_over_budget_is_told_without_decoding(
    config: AcceptanceConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    loss = upload_of(reply(houses(31)), STRETCH, config)
    assert isinstance(loss, Loss)
    assert (loss.vehicle, loss.cause) == ("v", Cause.BUDGET)
    assert "31 rows, the budget is 30" in loss.detail


def test_more_bytes_than_so_many_gaussians_take_are_told_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    loss = upload_of(reply(houses(20).with_degree(3)), STRETCH, LIMITS)  # 20 · 59 numbers, the budget has 30 · 14
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.BUDGET
    assert f"{20 * 59 * 4} bytes, the budget is {30 * 14 * 4}" in loss.detail


@pytest.mark.parametrize(("place", "number"), [(0, 31), (0, 2**32 - 1), (1, 4), (1, 16)])
def test_what_bytes_say_of_themselves_is_enough_to_refuse_them(
    place: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many rows, or harmonics of 1 and 3 for 20 Gaussians: 23 or 59 numbers each, where the budget has 21."""
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    loss = upload_of(with_head(reply(houses(20)), "part", place, number), STRETCH, LIMITS)
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.BUDGET


def test_bytes_beyond_the_budget_are_told_whatever_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    honest = reply(houses(3))
    padded = {"part": np.concatenate([honest.arrays["part"], np.zeros(100_000, np.uint8)])}
    loss = upload_of(TrainReply(padded, 5), STRETCH, LIMITS)
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.BUDGET


STOWAWAYS = {
    "an image": {"photo": np.zeros((8, 8, 3), np.uint8)},
    "a second part": {"part2": compress_gaussians(houses(3))},
    "a field": {"part/means": np.zeros((3, 3), np.float32)},
    "an update": {"update": np.zeros(9, np.uint8)},
}


@pytest.mark.parametrize("extra", STOWAWAYS.values(), ids=STOWAWAYS)
def test_a_stowaway_is_told_without_decoding(extra: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    loss = upload_of(TrainReply({**reply(houses(3)).arrays, **extra}, 5), STRETCH, LIMITS)
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.KEYS
    assert next(iter(extra)) in loss.detail


@pytest.mark.parametrize("arrays", [{}, {"landmarks": np.zeros(8, np.uint8)}, {"scene": compress_gaussians(houses(3))}])
def test_an_upload_without_gaussians_is_told(arrays: dict[str, np.ndarray]) -> None:
    loss = upload_of(TrainReply(arrays, 5), STRETCH, LIMITS, 50)
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.KEYS


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("log_scales", math.log(501.0), "log_scales is outside the log of 1e-05..500 m"),
        ("log_scales", math.log(9e-6), "log_scales is outside"),
        ("means", 5001.0, "means is beyond 5000 m"),
        ("logit_opacities", 31.0, "logit_opacities is out of range"),
        ("sh", 51.0, "sh is beyond 50"),
    ],
)
def test_values_of_no_scene_are_refused(field: str, value: float, words: str) -> None:
    loss = upload_of(changed(field, 7, value), STRETCH, LIMITS)
    assert isinstance(loss, Loss)
    assert loss.cause == Cause.VALUES
    assert words in loss.detail


@pytest.mark.parametrize(
    ("field", "value"),
    [("log_scales", math.log(490.0)), ("means", -4900.0), ("logit_opacities", 30.0), ("sh", -50.0), ("quats", 1e7)],
)
def test_values_within_the_limits_are_taken(field: str, value: float) -> None:
    """A rotation may be of any length: it comes as a unit quaternion."""
    assert isinstance(upload_of(changed(field, 7, value), STRETCH, LIMITS), FitReply)


GARBAGE = {
    "nothing": np.zeros(0, np.uint8),
    "no head": np.arange(7, dtype=np.uint8),
    "a head alone": np.array([3, 0, 0, 0, 1, 0, 0, 0], np.uint8),
    "noise": np.array([3, 0, 0, 0, 1, 0, 0, 0, *range(40)], np.uint8),
    "no harmonics": np.array([3, 0, 0, 0, 2, 0, 0, 0, *range(40)], np.uint8),
    "cut short": compress_gaussians(houses(3))[:-1],
    "a byte more": np.append(compress_gaussians(houses(3)), np.uint8(0)),
    "floats": np.zeros(20, np.float32),
    "a table": np.zeros((3, 14), np.float32),
    "an image": np.zeros((8, 8, 3), np.uint8),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("name", ["part", "landmarks"])
def test_bytes_that_hold_nothing_break_the_contract(
    data: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(MessageError, match=r"rows|inflated|harmonics"):
        upload_of(TrainReply({**reply(houses(3)).arrays, name: data}, 5), STRETCH, LIMITS, 50)


def with_landmarks(points_m: np.ndarray) -> TrainReply:
    return encode_fit_reply(FitReply(houses(), 5, {}, points_m.astype(np.float32)))


def test_landmarks_that_were_asked_for_are_taken_beside_the_budget() -> None:
    full = replace(STRETCH, max_gaussians=len(houses()))
    upload = upload_of(with_landmarks(np.ones((50, 3))), full, LIMITS, 50)
    assert isinstance(upload, FitReply)
    assert upload.landmarks.shape == (50, 3)


@pytest.mark.parametrize(
    ("points_m", "cause", "words"),
    [
        (np.ones((51, 3)), Cause.BUDGET, "51 landmarks, at most 50"),
        (np.array([[0, 0, 5001.0]]), Cause.VALUES, "1 landmarks lie beyond 5000 m"),
    ],
)
def test_landmarks_that_are_none_are_refused(points_m: np.ndarray, cause: Cause, words: str) -> None:
    loss = upload_of(with_landmarks(points_m), STRETCH, LIMITS, 50)
    assert isinstance(loss, Loss)
    assert loss.cause == cause
    assert words in loss.detail


def test_too_many_landmarks_are_told_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    assert isinstance(upload_of(with_landmarks(np.ones((1, 3))), STRETCH, LIMITS), Loss)


def test_landmarks_that_say_they_are_many_are_told_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies.gaussian_trust, "decode_fit_reply", never)
    loss = upload_of(with_head(with_landmarks(np.ones((3, 3))), "landmarks", 0, 2**32 - 1), STRETCH, LIMITS, 50)
    assert isinstance(loss, Loss)
    assert "4294967295 landmarks, at most 50" in loss.detail


# Parts at an RSU


def test_what_can_be_seen_is_accepted_and_what_cannot_is_dropped() -> None:
    cellar = replace(houses(4), means=houses(4).means - torch.tensor([0.0, 0, 400]))
    tower = replace(houses(1), means=torch.tensor([[10.0, 0, 1.5]]), log_scales=torch.full((1, 3), math.log(2.0)))
    kept, dropped, _ = accepted_parts({"v": Gaussians.concat([houses(), cellar, tower])}, {"v": STRETCH}, LIMITS)
    assert bits(kept["v"]) == bits(houses())
    assert (dropped["fog"], dropped["unseen"]) == (1, 4)


def test_without_limits_all_is_accepted() -> None:
    parts = {"v": replace(houses(), means=houses().means - torch.tensor([0.0, 0, 400]))}
    kept, dropped, _ = accepted_parts(parts, {"v": STRETCH}, None)
    assert bits(kept["v"]) == bits(parts["v"])
    assert dropped == {}


@pytest.mark.parametrize("waypoints_m", [WAY[:1], np.repeat(WAY[:1], 3, axis=0)])
def test_a_vehicle_that_is_to_stand_is_judged_by_what_is_around_it(waypoints_m: np.ndarray) -> None:
    fog = replace(houses(1), means=torch.tensor([[0.0, 0, 1.5]]), log_scales=torch.full((1, 3), math.log(2.0)))
    standing = replace(STRETCH, waypoints_m=waypoints_m)
    kept, dropped, _ = accepted_parts({"v": Gaussians.concat([houses(), fog])}, {"v": standing}, LIMITS)
    assert 0 < len(kept["v"]) <= 20
    assert dropped["fog"] == 1


def test_a_vehicle_whose_world_was_blown_up_costs_its_own_part() -> None:
    """Within limits where it was sent, beyond them where it is said to lie."""
    stretches = {name: replace(STRETCH, vehicle=name) for name in "ab"}
    away = replace(houses(1), means=torch.tensor([[3 * LIMITS.farthest_m, 0, 0]]))
    parts = {"a": houses(20, 1), "b": Gaussians.concat([houses(), away])}
    kept, _, losses = accepted_parts(parts, stretches, LIMITS)
    assert [(loss.vehicle, loss.cause) for loss in losses] == [("b", Cause.VALUES)]
    assert list(kept) == ["a"]


def test_a_crowd_beside_sparse_neighbours_is_thinned() -> None:
    rng = np.random.default_rng(0)
    crowd = Gaussians.concat([houses(), *[replace(houses(1), means=torch.tensor([[10.0, 5, 1]]))] * 400])
    crowd = replace(crowd, means=crowd.means + torch.tensor(rng.normal(0, 0.2, crowd.means.shape)).float())
    stretches = {name: replace(STRETCH, vehicle=name, max_gaussians=1000) for name in "abc"}
    parts = {"a": houses(40, 1), "b": crowd, "c": houses(40, 2)}
    kept, dropped, _ = accepted_parts(parts, stretches, LIMITS)
    assert len(kept["b"]) < len(crowd) / 2
    assert dropped["crowded"] >= len(crowd) / 2
    assert len(kept["a"]) == len(kept["c"]) == 40
    slow = {name: replace(stretches[name], max_gaussians=50) for name in "ac"}  # a twentieth of b's
    assert len(accepted_parts(parts, {**stretches, **slow}, LIMITS)[0]["b"]) > 2 * len(kept["b"])


def test_the_order_of_parts_does_not_matter() -> None:
    stretches = {name: replace(STRETCH, vehicle=name, waypoints_m=WAY[:5]) for name in "abc"}
    parts = {name: houses(20, seed) for seed, name in enumerate("abc")}
    one, other = (accepted_parts(p, stretches, LIMITS) for p in (parts, dict(reversed(parts.items()))))
    assert one[1] == other[1]
    assert all(bits(one[0][name]) == bits(other[0][name]) for name in "abc")


def test_what_passed_at_the_limit_still_does_in_the_world_of_all() -> None:
    """An upload at a limit, in a world that turns out to be 3 % larger, must not end the round: e^(397 / 64) is 494."""
    big = replace(houses(1), log_scales=torch.full((1, 3), 397 / 64), means=torch.tensor([[0.0, 900, 0]]))
    upload = upload_of(reply(Gaussians.concat([houses(), big])), STRETCH, LIMITS)
    assert isinstance(upload, FitReply)
    larger = upload.gaussians.map(torch.clone)
    larger.log_scales.add_(math.log(1.03))
    kept, _, _ = accepted_parts({"v": larger}, {"v": STRETCH}, LIMITS)
    assert len(kept["v"]) >= 20


# Updates


def update(rows: int, size: float, visibility: float = 10.0) -> RefineReply:
    """Every number of every row changed by `size`: as long as the square root of 14 numbers times that."""
    shapes = {"means": 3, "quats": 4, "log_scales": 3}
    changes = {name: torch.full((rows, width), size) for name, width in shapes.items()}
    changes |= {"logit_opacities": torch.full((rows,), size), "sh": torch.full((rows, 1, 3), size)}
    return RefineReply(torch.arange(rows), Update(changes, torch.full((rows,), visibility)), 3, {"n": 1.0})


def test_the_length_of_an_update_is_a_mean_over_its_rows() -> None:
    assert length_of(update(5, 0.1).update) == pytest.approx(0.1 * math.sqrt(14))
    assert length_of(update(50, 0.1).update) == pytest.approx(0.1 * math.sqrt(14))
    assert length_of(update(0, 0.1).update) == 0


def test_an_update_much_longer_than_the_others_is_refused() -> None:
    replies = {"a": update(5, 0.1), "b": update(5, 0.12), "c": update(9, 0.12 * MOST_GROWTH + 0.01)}
    kept, losses = believed(replies)
    assert sorted(kept) == ["a", "b"]
    assert [(loss.vehicle, loss.cause) for loss in losses] == [("c", Cause.NORM)]
    kept, losses = believed({**replies, "c": update(9, 0.12 * MOST_GROWTH - 0.01)})
    assert sorted(kept) == ["a", "b", "c"]
    assert not losses


def test_claims_of_visibility_are_cut_to_what_is_usual() -> None:
    # Totals are 50, 60 and 9000; the median's fourfold is 240, so each of 9 rows keeps 240 / 9.
    kept, losses = believed({"a": update(5, 0.1), "b": update(6, 0.1), "liar": update(9, 0.1, 1000.0)})
    assert not losses
    np.testing.assert_allclose(kept["liar"].update.visibility, 60 * MOST_VISIBILITY / 9, rtol=1e-6)
    assert kept["a"].update.visibility.tolist() == [10] * 5
    assert kept["liar"].rows.tolist() == list(range(9))
    assert (kept["liar"].views, kept["liar"].metrics) == (3, {"n": 1.0})


def test_two_vehicles_are_not_compared() -> None:
    kept, losses = believed({"a": update(5, 0.1), "b": update(5, 10.0, 1000.0)})
    assert sorted(kept) == ["a", "b"]
    assert not losses
    assert kept["b"].update.visibility.tolist() == [1000] * 5


@pytest.mark.parametrize("others", ["", "a", "ab"])
def test_an_update_without_measure_is_refused_whoever_else_sent_one(others: str) -> None:
    kept, losses = believed({**{name: update(5, 0.1) for name in others}, "z": update(5, 1e6)})
    assert sorted(kept) == list(others)
    assert [(loss.vehicle, loss.cause) for loss in losses] == [("z", Cause.NORM)]


def test_nobody_moves_nobody_is_refused() -> None:
    kept, losses = believed({name: update(5, 0.0, 0.0) for name in "abc"})
    assert sorted(kept) == ["a", "b", "c"]
    assert not losses
    assert believed({}) == ({}, [])


def test_who_sees_something_counts_beside_those_that_see_nothing() -> None:
    kept, _ = believed({"a": update(0, 0.0), "b": update(0, 0.0), "c": update(5, 0.1)})
    assert kept["c"].update.visibility.tolist() == [10] * 5


def test_a_long_update_is_refused_also_beside_those_that_see_nothing() -> None:
    quiet = {"a": update(0, 0.0), "b": update(0, 0.0), "c": update(0, 0.0)}
    kept, losses = believed({**quiet, "d": update(5, 0.1), "e": update(5, 0.1), "f": update(5, 1e6)})
    assert [loss.vehicle for loss in losses] == ["f"]
    assert "f" not in kept


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=7), st.floats(1e2, 1e6), st.randoms(use_true_random=False))
def test_one_liar_among_many_never_has_the_last_word(sizes: list[float], claim: float, random: Any) -> None:
    replies = {f"v{k}": update(4, 0.1, size) for k, size in enumerate(sizes)}
    replies["liar"] = update(4, 0.1, claim)
    names = sorted(replies)
    random.shuffle(names)
    kept, losses = believed({name: replies[name] for name in names})
    assert not losses
    usual = float(np.median([reply.update.visibility.double().sum() for reply in replies.values()]))
    assert float(kept["liar"].update.visibility.double().sum()) <= MOST_VISIBILITY * usual * (1 + 1e-6)
    assert all(torch.all(kept[name].update.visibility <= replies[name].update.visibility) for name in names)
