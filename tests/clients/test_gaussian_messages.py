"""What is said while a scene is rebuilt: there and back over Flower's records, and damage that is one clear error."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor

from clients.gaussian_messages import (
    FIELDS,
    JOB,
    LIDAR,
    AlignReply,
    AlignRequest,
    FitReply,
    FitRequest,
    Found,
    JudgeRequest,
    RefineReply,
    RefineRequest,
    decode_align,
    decode_align_reply,
    decode_fit,
    decode_fit_reply,
    decode_judge,
    decode_refine,
    decode_refine_reply,
    encode_align,
    encode_align_reply,
    encode_fit,
    encode_fit_reply,
    encode_judge,
    encode_refine,
    encode_refine_reply,
    pack_gaussians,
    pack_sim3,
    unpack_gaussians,
    unpack_sim3,
)
from clients.messages import (
    MessageError,
    TrainReply,
    TrainRequest,
    count_bytes,
    decode_request,
    decode_train_reply,
    encode_request,
    encode_train_reply,
    to_record,
)
from geometry import Sim3
from geometry.se3 import rotation_from_quat
from recon.gaussians import Gaussians
from recon.refine import Update
from tests.fakes import TRAIN, train_request

SEEDS = st.integers(0, 2**32 - 1)
WAY = np.array([[0.0, 0.0], [2.5, -1.0], [5.0, 0.125]])


def gaussians(count: int = 5, degree: int = 0, seed: int = 0) -> Gaussians:
    """Any numbers."""
    rng = np.random.default_rng(seed)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3)]
    return Gaussians(*[torch.tensor(rng.normal(size=shape)).float() for shape in shapes])


def sim3(seed: int = 1) -> Sim3:
    """Any similarity."""
    rng = np.random.default_rng(seed)
    quat = rng.normal(size=4)
    return Sim3(rotation_from_quat(quat / np.linalg.norm(quat)), rng.normal(size=3) * 50, float(np.exp(rng.normal())))


def update(rows: int, degree: int = 0, seed: int = 2) -> Update:
    """Any changes, and what was seen."""
    return Update(gaussians(rows, degree, seed).tensors(), torch.arange(rows).float())


def refine_reply(rows: tuple[int, ...] = (0, 2, 4), degree: int = 0) -> RefineReply:
    return RefineReply(torch.tensor(rows, dtype=torch.int64), update(len(rows), degree), 7, {"refine-cpu-s": 0.5})


def refine_request(**changed: Any) -> RefineRequest:
    values: dict[str, Any] = {"scene": gaussians(), "world_from_own": sim3(), "steps": 12, "round_number": 3}
    return RefineRequest(**{**values, "pace": 0.8, "seed": 9, **changed})


def judge_request() -> JudgeRequest:
    return JudgeRequest(gaussians(4), sim3(), WAY, np.zeros((0, 2)), 6.0)


def over_wire(request: TrainRequest) -> TrainRequest:
    """Through Flower's records and protocol buffers, as between processes."""
    message = Message(encode_request(to_record(request.arrays), request.config), 4, TRAIN)
    message.metadata.__dict__["_message_id"] = "1"
    return decode_request(message_from_proto(message_to_proto(message)))


def back(reply: TrainReply) -> TrainReply:
    """The same for a reply."""
    message = encode_train_reply(reply, train_request(1))
    message.metadata.__dict__["_message_id"] = "1"
    return decode_train_reply(message_from_proto(message_to_proto(message)))


def same(found: Any, wanted: Any) -> None:
    """Field by field: Gaussians, arrays and tensors bit by bit, similarities to rounding."""
    assert type(found) is type(wanted)
    if isinstance(wanted, Sim3):
        np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-12, atol=1e-12)
    elif isinstance(wanted, Tensor | ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            same(found[name], wanted[name])
    elif hasattr(wanted, "__dataclass_fields__"):
        for each in fields(wanted):
            same(getattr(found, each.name), getattr(wanted, each.name))
    else:
        assert found == wanted


# There and back


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 8), st.integers(0, 3), SEEDS)
def test_gaussians_there_and_back(count: int, degree: int, seed: int) -> None:
    sent = gaussians(count, degree, seed)
    arrays = pack_gaussians(sent, "part")
    assert list(arrays) == [f"part/{name}" for name in FIELDS]
    assert count_bytes(arrays) == sent.nbytes == 4 * count * (3 + 4 + 3 + 1 + 3 * (degree + 1) ** 2)
    same(unpack_gaussians(arrays, "part"), sent)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_similarities_there_and_back(seed: int) -> None:
    numbers = pack_sim3(sim3(seed))
    assert numbers.shape == (8,)
    same(unpack_sim3(numbers), sim3(seed))


def test_a_similarity_is_quaternion_metres_and_scale() -> None:
    # A quarter turn about up: w = z = cos 45°.
    quarter = Sim3(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]), 1.03)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(pack_sim3(quarter), [half, 0, 0, half, 1, 2, 3, 1.03], atol=1e-15)


@pytest.mark.parametrize("margin_m", [0.0, 12.5, math.inf])
def test_fit_there_and_back(margin_m: float) -> None:
    request = FitRequest(WAY, WAY[:1] + 30, 40, 500, margin_m, 3, 2000)
    same(decode_fit(over_wire(encode_fit(request))), request)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.integers(0, 3), SEEDS)
def test_fit_replies_there_and_back(count: int, degree: int, seed: int) -> None:
    reply = FitReply(gaussians(count, degree, seed), 17, {"fit-cpu-s": 1.5, "gaussians-sent": 3})
    same(decode_fit_reply(back(encode_fit_reply(reply))), reply)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_landmarks_there_and_back(count: int) -> None:
    marks = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    reply = back(encode_fit_reply(FitReply(gaussians(2), 4, {}, marks)))
    same(decode_fit_reply(reply), FitReply(gaussians(2), 4, {}, marks))
    assert ("landmarks" in reply.arrays) == (count > 0)
    request = AlignRequest({"b": gaussians(2)}, landmarks={"c/1:é": marks, "scene": marks})
    same(decode_align(over_wire(encode_align(request))), request)


@pytest.mark.parametrize(
    "marks", [np.zeros((2, 3)), np.zeros((2, 2), np.float32), np.zeros(3, np.float32), np.zeros((2, 3), np.int32)]
)
def test_landmarks_of_another_shape_or_type_are_named(marks: ndarray) -> None:
    reply = encode_fit_reply(FitReply(gaussians(2), 4))
    with pytest.raises(MessageError, match=r"landmarks travel as float32 \[k, 3\], got"):
        decode_fit_reply(TrainReply({**reply.arrays, "landmarks": marks}, 4))


def test_what_was_found_by_lidar_says_so() -> None:
    reply = AlignReply({"b": Found(sim3(), 0.2, 0.01, 1500, LIDAR), "c": Found(sim3(2), 0.5, 0.1, 8)})
    arrays = encode_align_reply(reply).arrays
    assert set(arrays) == {"felt:b", "found:c"}
    same(decode_align_reply(back(encode_align_reply(reply))), reply)


@pytest.mark.parametrize("name", ["vehicle-1", "scene", "a/b:c", "Straße 7"])
def test_align_there_and_back(name: str) -> None:
    others = {name: gaussians(3), "vehicle-2": gaussians(2, 1)}
    for together in (False, True):
        request = AlignRequest(others, together)
        same(decode_align(over_wire(encode_align(request))), request)
    assert decode_align(encode_align(AlignRequest({}))).others == {}


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.sampled_from(["b", "scene", "x/y", "found:z"]), unique=True))
def test_align_replies_there_and_back(seed: int, names: list[str]) -> None:
    reply = AlignReply({n: Found(sim3(seed), 0.25, 0.125, k + 1) for k, n in enumerate(names)}, {"align-cpu-s": 2.0})
    same(decode_align_reply(back(encode_align_reply(reply))), reply)


def test_eleven_numbers_a_neighbour_are_all_that_an_alignment_sends() -> None:
    reply = encode_align_reply(AlignReply({"b": Found(sim3(), 0.25, 0.125, 4), "c": Found(sim3(2), 1, 1, 1)}))
    assert {name: values.shape for name, values in reply.arrays.items()} == {"found:b": (11,), "found:c": (11,)}
    assert count_bytes(reply.arrays) == 2 * 11 * 8


@pytest.mark.parametrize("teacher", [None, gaussians(5, 0, 6)])
@pytest.mark.parametrize("report_quality", [False, True])
def test_refine_there_and_back(teacher: Gaussians | None, report_quality: bool) -> None:
    request = refine_request(teacher=teacher, report_quality=report_quality)
    same(decode_refine(over_wire(encode_refine(request))), request)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 19), unique=True).map(sorted).map(tuple), st.integers(0, 2))
def test_refine_replies_there_and_back(rows: tuple[int, ...], degree: int) -> None:
    reply, scene = refine_reply(rows, degree), gaussians(20, degree)
    same(decode_refine_reply(back(encode_refine_reply(reply)), scene), reply)


def test_judge_there_and_back() -> None:
    same(decode_judge(over_wire(encode_judge(judge_request()))), judge_request())


# Damage


def without(content: TrainRequest, name: str) -> TrainRequest:
    """A request that lacks an array or a setting."""
    arrays = {key: values for key, values in content.arrays.items() if key != name}
    return TrainRequest(arrays, {key: value for key, value in content.config.items() if key != name})


def with_array(content: Any, name: str, values: ndarray) -> Any:
    """A request or reply with one array replaced or added."""
    if isinstance(content, TrainReply):
        return TrainReply({**content.arrays, name: values}, content.num_examples, content.metrics)
    return TrainRequest({**content.arrays, name: values}, content.config)


REQUESTS = {
    "fit": (decode_fit, encode_fit(FitRequest(WAY, WAY, 4, 9, 1.0, 0))),
    "align": (decode_align, encode_align(AlignRequest({"b": gaussians()}))),
    "refine": (decode_refine, encode_refine(refine_request(teacher=gaussians(5, 0, 6)))),
    "judge": (decode_judge, encode_judge(judge_request())),
}
OPTIONAL = {"quality", "together", "teacher/means", JOB}  # whose absence means something
MISSING = [(job, name) for job, (_, full) in REQUESTS.items() for name in [*full.arrays, *full.config]]


@pytest.mark.parametrize(("job", "name"), [pair for pair in MISSING if pair[1] not in OPTIONAL])
def test_what_a_request_lacks_is_named(job: str, name: str) -> None:
    decode, full = REQUESTS[job]
    decode(full)
    with pytest.raises(MessageError, match=f"lacks? the (array|number) '{name}'"):
        decode(without(full, name))


@pytest.mark.parametrize("value", [True, "12", "nan"])
@pytest.mark.parametrize(
    ("job", "name"), [("fit", "steps"), ("fit", "margin-m"), ("refine", "pace"), ("judge", "border-m")]
)
def test_a_setting_that_is_no_number_is_named(job: str, name: str, value: object) -> None:
    decode, full = REQUESTS[job]
    with pytest.raises(MessageError, match=f"lack the number '{name}'"):
        decode(TrainRequest(full.arrays, {**full.config, name: value}))  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_count_that_is_not_finite_is_named(value: float) -> None:
    full = REQUESTS["fit"][1]
    with pytest.raises(MessageError, match="steps"):
        decode_fit(TrainRequest(full.arrays, {**full.config, "steps": value}))


DAMAGED_SETS = {
    "half floats": ("means", lambda values: values.astype(np.float16), "travel as float32, got float16"),
    "doubles": ("quats", lambda values: values.astype(np.float64), "travel as float32, got float64"),
    "big endian": ("sh", lambda values: values.astype(">f4"), "travel as float32"),
    "text": ("means", lambda values: values.astype(str), "travel as float32"),
    "nan": ("log_scales", lambda values: values * np.float32("nan"), "log_scales holds NaN or infinity in 5 of 5 rows"),
    "no rotation": ("quats", lambda values: 0 * values, "quats is zero in 5 rows"),
    "too short": ("logit_opacities", lambda values: values[:-1], "(part|other:b): "),
    "a row more": ("sh", lambda values: np.concatenate([values, values[:1]]), "(part|other:b): "),
    "no axes": ("logit_opacities", lambda values: values.sum(), "(part|other:b): "),
    "two bands": ("sh", lambda values: values.repeat(2, axis=1), "(part|other:b): "),
}


@pytest.mark.parametrize(("field", "damage", "words"), DAMAGED_SETS.values(), ids=DAMAGED_SETS)
def test_damaged_gaussians_are_named(field: str, damage: Any, words: str) -> None:
    whole = encode_fit_reply(FitReply(gaussians(), 3))
    key = f"part/{field}"
    with pytest.raises(MessageError, match=words):
        decode_fit_reply(with_array(whole, key, np.asarray(damage(whole.arrays[key]))))
    request = encode_align(AlignRequest({"b": gaussians()}))
    with pytest.raises(MessageError, match=words):
        decode_align(with_array(request, f"other:b/{field}", np.asarray(damage(whole.arrays[key]))))


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field: str) -> None:
    whole = encode_fit_reply(FitReply(gaussians(), 3))
    arrays = {name: values for name, values in whole.arrays.items() if name != f"part/{field}"}
    with pytest.raises(MessageError, match=f"lacks the array 'part/{field}'"):
        decode_fit_reply(TrainReply(arrays, 3))


DAMAGED_SIMILARITIES = {
    "nan": (4, math.nan, "unit quaternion"),
    "infinity": (7, math.inf, "unit quaternion"),
    "long quaternion": (0, 2.0, "unit quaternion"),
    "no scale": (7, 0.0, "scale must be finite and positive"),
    "a mirror": (7, -1.0, "scale must be finite and positive"),
}


@pytest.mark.parametrize(("place", "value", "words"), DAMAGED_SIMILARITIES.values(), ids=DAMAGED_SIMILARITIES)
def test_damaged_similarities_are_named(place: int, value: float, words: str) -> None:
    numbers = pack_sim3(Sim3.identity())
    numbers[place] = value
    with pytest.raises(MessageError, match=words):
        unpack_sim3(numbers)
    for decode, full in (REQUESTS["refine"], REQUESTS["judge"]):
        with pytest.raises(MessageError, match=words):
            decode(with_array(full, "world-from-own", numbers))
    if math.isfinite(value):
        with pytest.raises(MessageError, match=words):
            decode_align_reply(TrainReply({"found:b": np.concatenate([numbers, [1, 1, 1]])}, 1))


ALIGN_DAMAGE = {
    "another name": ("b", np.zeros(11)),
    "too short": ("found:b", np.zeros(10)),
    "a table": ("found:b", np.zeros((1, 11))),
    "an image": ("found:b", np.zeros((32, 48, 3), np.uint8)),
    "nan": ("found:b", np.full(11, np.nan)),
}


@pytest.mark.parametrize(("name", "values"), ALIGN_DAMAGE.values(), ids=ALIGN_DAMAGE)
def test_damaged_alignments_are_named(name: str, values: ndarray) -> None:
    with pytest.raises(MessageError, match=f"eleven finite numbers a party, not {name}"):
        decode_align_reply(TrainReply({name: values}, 1))


@pytest.mark.parametrize("dtype", ["U3", complex])
def test_alignments_of_no_numbers_are_named(dtype: Any) -> None:
    with pytest.raises(MessageError, match="found:b"):
        decode_align_reply(TrainReply({"found:b": np.ones(11).astype(dtype)}, 1))


REFINE_DAMAGE: dict[str, tuple[str, Any, str]] = {
    "falling rows": ("rows", lambda v: v[::-1], "rows must rise and lie below 5"),
    "a row twice": ("rows", lambda v: 0 * v, "rows must rise"),
    "a row beyond": ("rows", lambda v: v + 1, "lie below 5"),
    "a negative row": ("rows", lambda v: v - 1, "rows must rise and lie"),
    "a huge row": ("rows", lambda v: v.astype(np.uint64) + np.uint64(2**63), "rows must rise and lie"),
    "a table of rows": ("rows", lambda v: v[None], "rows must rise"),
    "one row as a number": ("rows", lambda v: v[0], "rows must rise"),
    "fewer rows": ("rows", lambda v: v[:2], "of shape"),
    "nan": ("change/sh", lambda v: v * np.float32("nan"), "sh: not finite"),
    "infinity": ("change/means", lambda v: v * np.float32("inf"), "means: not finite"),
    "doubles": ("change/means", lambda v: v.astype(np.float64), "travel as float32"),
    "another shape": ("change/quats", lambda v: v[:, :3], r"quats: not finite, or of shape \(3, 3\) for 3 rows"),
    "more bands": ("change/sh", lambda v: v.repeat(4, axis=1), r"sh: not finite, or of shape \(3, 4, 3\)"),
    "negative": ("visibility", lambda v: -1 - v, "visibility is negative"),
    "unseen nan": ("visibility", lambda v: v * np.float32("nan"), "visibility: not finite"),
    "visibility of all": (
        "visibility",
        lambda v: np.ones(5, np.float32),
        r"visibility: not finite, or of shape \(5,\)",
    ),
    "an extra array": ("image", lambda v: np.zeros((32, 48, 3), np.uint8), "a reply to refine holds"),
}


@pytest.mark.parametrize(("name", "damage", "words"), REFINE_DAMAGE.values(), ids=REFINE_DAMAGE)
def test_damaged_updates_are_named(name: str, damage: Any, words: str) -> None:
    whole = encode_refine_reply(refine_reply())
    changed = with_array(whole, name, np.asarray(damage(whole.arrays.get(name))))
    with pytest.raises(MessageError, match=words):
        decode_refine_reply(changed, gaussians())


@pytest.mark.parametrize("dtype", [np.float64, "U3", bool])
def test_rows_that_are_no_whole_numbers_are_named(dtype: Any) -> None:
    whole = encode_refine_reply(refine_reply((0, 1)))
    rows = np.array([0, 1.7]) if dtype is np.float64 else np.array([0, 1]).astype(dtype)
    with pytest.raises(MessageError, match="rows"):
        decode_refine_reply(with_array(whole, "rows", rows), gaussians())


@pytest.mark.parametrize("name", ["rows", "visibility", "change/means", "change/sh"])
def test_an_update_that_lacks_an_array_is_named(name: str) -> None:
    whole = encode_refine_reply(refine_reply())
    arrays = {key: values for key, values in whole.arrays.items() if key != name}
    with pytest.raises(MessageError, match="a reply to refine holds"):
        decode_refine_reply(TrainReply(arrays, 7), gaussians())


def test_an_update_of_another_scene_is_refused() -> None:
    reply = encode_refine_reply(refine_reply((0, 2, 4)))
    with pytest.raises(MessageError, match="lie below 4"):
        decode_refine_reply(reply, gaussians(4))
    with pytest.raises(MessageError, match="sh: not finite, or of shape"):
        decode_refine_reply(reply, gaussians(5, degree=1))


def test_what_was_decoded_is_ones_own() -> None:
    """Arrays come read-only and shared; tensors may be written to without a change of the message."""
    whole = encode_refine_reply(refine_reply())
    decoded = decode_refine_reply(back(whole), gaussians())
    decoded.update.visibility[:] = 99
    decoded.rows[:] = 0
    same(decode_refine_reply(whole, gaussians()), refine_reply())
