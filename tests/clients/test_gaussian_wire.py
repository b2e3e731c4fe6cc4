"""What is said while a scene is rebuilt, over Flower's records: there and back, and damage that is one clear error."""

import math
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import jaxtyping
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
    LIDAR,
    AlignReply,
    AlignRequest,
    FitReply,
    FitRequest,
    Found,
    JudgeRequest,
    RefineReply,
    RefineRequest,
)
from clients.gaussian_wire import (
    JOB,
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
    pack_sim3,
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
from recon.compressed import (
    compress_gaussians,
    compress_points,
    compress_update,
    expand_gaussians,
    expand_points,
    expand_update,
)
from recon.gaussians import Gaussians
from recon.refine import Update
from recon.size_limit import SizeLimit
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
    return Update(gaussians(rows, degree, seed).tensors(), torch.arange(1, rows + 1).float())


def as_sent(values: Any) -> Any:
    """What becomes of Gaussians or points on the way; `tests.recon.test_compressed` says how little."""
    if isinstance(values, Gaussians):
        return expand_gaussians(compress_gaussians(values))
    return expand_points(compress_points(values))


def update_as_sent(reply: RefineReply, scene: Gaussians) -> RefineReply:
    _, arrived = expand_update(compress_update(reply.rows, reply.update), scene)
    return replace(reply, update=arrived)


def refine_reply(rows: tuple[int, ...] = (0, 2, 4), degree: int = 0) -> RefineReply:
    return RefineReply(torch.tensor(rows, dtype=torch.int64), update(len(rows), degree), 7, {"refine-cpu-s": 0.5})


LIMIT = SizeLimit(WAY, 0.2, 4.0)


def refine_request(**changed: Any) -> RefineRequest:
    values: dict[str, Any] = {"scene": gaussians(), "world_from_own": sim3(), "steps": 12, "round_number": 3}
    return RefineRequest(**{**values, "pace": 0.8, "rate": 1.5, "seed": 9, **changed})


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
    for limit in (None, LIMIT):
        request = FitRequest(WAY, WAY[:1] + 30, 40, 500, margin_m, 3, 2000, limit)
        same(decode_fit(over_wire(encode_fit(request))), request)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.integers(0, 3), SEEDS)
def test_fit_replies_there_and_back(count: int, degree: int, seed: int) -> None:
    reply = FitReply(gaussians(count, degree, seed), 17, {"fit-cpu-s": 1.5, "gaussians-sent": 3})
    arrived = back(encode_fit_reply(reply))
    assert {name: values.dtype for name, values in arrived.arrays.items()} == {"part": np.uint8}
    same(decode_fit_reply(arrived), replace(reply, gaussians=as_sent(reply.gaussians)))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_landmarks_there_and_back(count: int) -> None:
    marks = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    reply = back(encode_fit_reply(FitReply(gaussians(2), 4, {}, marks)))
    same(decode_fit_reply(reply), FitReply(as_sent(gaussians(2)), 4, {}, as_sent(marks)))
    assert ("landmarks" in reply.arrays) == (count > 0)
    arrived = decode_align(over_wire(encode_align(AlignRequest({}, landmarks={"c/1:é": marks, "scene": marks + 1}))))
    same(arrived, AlignRequest({}, landmarks={"c/1:é": as_sent(marks), "scene": as_sent(marks + 1)}))


def test_what_was_found_by_lidar_says_so() -> None:
    reply = AlignReply({"b": Found(sim3(), 0.2, 0.01, 1500, LIDAR), "c": Found(sim3(2), 0.5, 0.1, 8)})
    arrays = encode_align_reply(reply).arrays
    assert set(arrays) == {"felt:b", "found:c"}
    same(decode_align_reply(back(encode_align_reply(reply))), reply)


@pytest.mark.parametrize("name", ["vehicle-1", "scene", "a/b:c", "Straße 7"])
def test_align_there_and_back(name: str) -> None:
    others, marks = {name: gaussians(3), "vehicle-2": gaussians(2, 1)}, {name: np.ones((1, 3), np.float32)}
    for together in (False, True):
        wanted = AlignRequest({key: as_sent(other) for key, other in others.items()}, together, marks)
        same(decode_align(over_wire(encode_align(AlignRequest(others, together, marks)))), wanted)
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
    request = refine_request(teacher=teacher, report_quality=report_quality, limit=LIMIT if report_quality else None)
    wanted = replace(request, scene=as_sent(request.scene), teacher=None if teacher is None else as_sent(teacher))
    same(decode_refine(over_wire(encode_refine(request))), wanted)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 19), unique=True).map(sorted).map(tuple), st.integers(0, 2))
def test_refine_replies_there_and_back(rows: tuple[int, ...], degree: int) -> None:
    reply, scene = refine_reply(rows, degree), gaussians(20, degree)
    arrived = back(encode_refine_reply(reply))
    assert {name: values.dtype for name, values in arrived.arrays.items()} == {"update": np.uint8}
    same(decode_refine_reply(arrived, scene), update_as_sent(reply, scene))


def test_judge_there_and_back() -> None:
    wanted = replace(judge_request(), scene=as_sent(judge_request().scene))
    same(decode_judge(over_wire(encode_judge(judge_request()))), wanted)


def test_what_is_sent_is_what_is_counted() -> None:
    """Bytes, whatever they hold: nothing is sent beside them."""
    marks = np.ones((3, 3), np.float32)
    fit = encode_fit_reply(FitReply(gaussians(), 4, {}, marks))
    assert count_bytes(fit.arrays) == len(compress_gaussians(gaussians())) + len(compress_points(marks))
    refine = encode_refine_reply(refine_reply())
    assert count_bytes(refine.arrays) == len(compress_update(refine_reply().rows, refine_reply().update))
    request = encode_refine(refine_request(teacher=gaussians()))
    assert count_bytes(request.arrays) == 2 * len(compress_gaussians(gaussians())) + 8 * 8  # and a similarity


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
    "fit": (decode_fit, encode_fit(FitRequest(WAY, WAY, 4, 9, 1.0, 0, limit=LIMIT))),
    "align": (decode_align, encode_align(AlignRequest({"b": gaussians()}))),
    "refine": (decode_refine, encode_refine(refine_request(teacher=gaussians(5, 0, 6), limit=LIMIT))),
    "judge": (decode_judge, encode_judge(judge_request())),
}
OPTIONAL = {"quality", "together", "teacher", "limit", "other:b", JOB}  # whose absence means something
MISSING = [(job, name) for job, (_, full) in REQUESTS.items() for name in [*full.arrays, *full.config]]


@pytest.mark.parametrize(("job", "name"), [pair for pair in MISSING if pair[1] not in OPTIONAL])
def test_what_a_request_lacks_is_named(job: str, name: str) -> None:
    decode, full = REQUESTS[job]
    decode(full)
    with pytest.raises(MessageError, match=f"lacks? the (array|number) '{name}'"):
        decode(without(full, name))


@pytest.mark.parametrize("value", [True, "12", "nan"])
@pytest.mark.parametrize(
    ("job", "name"),
    [("fit", "steps"), ("fit", "margin-m"), ("refine", "pace"), ("refine", "size-m"), ("judge", "border-m")],
)
def test_a_setting_that_is_no_number_is_named(job: str, name: str, value: object) -> None:
    decode, full = REQUESTS[job]
    with pytest.raises(MessageError, match=f"lack the number '{name}'"):
        decode(TrainRequest(full.arrays, {**full.config, name: value}))  # type: ignore[dict-item]


def test_a_limit_that_is_none_is_named() -> None:
    full = REQUESTS["refine"][1]
    with pytest.raises(MessageError, match=r"SizeLimit\.share must be finite and above 0"):
        decode_refine(TrainRequest(full.arrays, {**full.config, "size-share": -1.0}))
    with pytest.raises(MessageError, match="waypoints_m must be"):
        decode_refine(with_array(full, "limit", np.zeros((0, 2))))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_count_that_is_not_finite_is_named(value: float) -> None:
    full = REQUESTS["fit"][1]
    with pytest.raises(MessageError, match="steps"):
        decode_fit(TrainRequest(full.arrays, {**full.config, "steps": value}))


DAMAGED_BYTES: dict[str, tuple[Callable[[ndarray], ndarray], str]] = {
    "cut short": (lambda data: data[:-1], "bytes do not hold"),
    "too short for a head": (lambda data: data[:7], "at least 8; got uint8"),
    "nothing": (lambda data: data[:0], "at least 8"),
    "a byte more": (lambda data: np.append(data, np.uint8(0)), "bytes do not hold"),
    "noise": (lambda data: np.append(data[:8], np.arange(99, dtype=np.uint8)), "bytes that cannot be inflated"),
    "a checksum": (lambda data: np.append(data[:-1], ~data[-1:]), "bytes that cannot be inflated"),
    "more rows": (lambda data: np.append(data[:1] + 1, data[1:]), "bytes do not hold"),
}
MARKED = encode_fit_reply(FitReply(gaussians(), 3, {}, np.ones((4, 3), np.float32)))
COMPRESSED: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "fit": (decode_fit_reply, MARKED, "part"),
    "landmarks": (decode_fit_reply, MARKED, "landmarks"),
    "align": (*REQUESTS["align"], "other:b"),
    "others' landmarks": (
        decode_align,
        encode_align(AlignRequest({}, landmarks={"b": np.ones((4, 3), np.float32)})),
        "landmarks:b",
    ),
    "refine": (*REQUESTS["refine"], "scene"),
    "teacher": (*REQUESTS["refine"], "teacher"),
    "judge": (*REQUESTS["judge"], "scene"),
    "update": (lambda reply: decode_refine_reply(reply, gaussians()), encode_refine_reply(refine_reply()), "update"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGED_BYTES.values(), ids=DAMAGED_BYTES)
@pytest.mark.parametrize(("decode", "whole", "name"), COMPRESSED.values(), ids=COMPRESSED)
def test_damaged_bytes_are_named(
    decode: Callable[[Any], Any], whole: Any, name: str, damage: Callable[[ndarray], ndarray], words: str
) -> None:
    decode(whole)
    with pytest.raises(MessageError, match=f"^{name}: .*{words}"):
        decode(with_array(whole, name, damage(whole.arrays[name])))


@pytest.mark.parametrize(("decode", "whole", "name"), COMPRESSED.values(), ids=COMPRESSED)
def test_what_is_no_row_of_bytes_is_named(
    decode: Callable[[Any], Any], whole: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    data = whole.arrays[name]
    for wrong in (data.astype(np.float32), data.astype(str), data[None], np.zeros((32, 48, 3), np.uint8)):
        with pytest.raises(MessageError, match=f"^{name}: compressed rows are bytes, at least 8; got {wrong.dtype}"):
            decode(with_array(whole, name, wrong))


@pytest.mark.parametrize("name", ["part", "scene", "teacher", "other:b"])
def test_what_holds_no_gaussians_is_named(name: str) -> None:
    """Harmonics that there are not, a rotation of length 0, and bytes of something else."""
    content = {"part": MARKED, "other:b": REQUESTS["align"][1]}.get(name, REQUESTS["refine"][1])
    decode: Any = {"part": decode_fit_reply, "other:b": decode_align}.get(name, decode_refine)
    data, nothing = content.arrays[name], zlib.compress(bytes(4 * 14))
    wrong = {
        "harmonics have 1, 4, 9 or 16 coefficients, got 2": np.concatenate([data[:4], [2, 0, 0, 0], data[8:]]),
        "quats is zero in 1 rows": np.concatenate([[1, 0, 0, 0, 1, 0, 0, 0], np.frombuffer(nothing, np.uint8)]),
        "got 0": compress_points(np.ones((5, 3))),
    }
    for words, damaged in wrong.items():
        with pytest.raises(MessageError, match=f"^{name}: .*{words}"):
            decode(with_array(content, name, damaged.astype(np.uint8)))


def test_a_reply_without_gaussians_is_named() -> None:
    with pytest.raises(MessageError, match="lacks the array 'part'"):
        decode_fit_reply(TrainReply({"landmarks": MARKED.arrays["landmarks"]}, 3))


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


REFUSED_ROWS = {
    "falling rows": ((4, 2, 0), "rows of an update must rise and lie below 5"),
    "a row twice": ((0, 0, 4), "must rise"),
    "a row beyond": ((0, 2, 5), "lie below 5"),
    "a negative row": ((-1, 2, 4), "must rise and lie below 5"),
    "a huge row": ((0, 2, 2**31 - 1), "lie below 5"),
    "more than there are": ((0, 1, 2, 3, 4, 5), "6 rows with 1 harmonics is none of 5 Gaussians"),
}


@pytest.mark.parametrize(("rows", "words"), REFUSED_ROWS.values(), ids=REFUSED_ROWS)
def test_rows_that_are_none_of_the_scene_are_named(rows: tuple[int, ...], words: str) -> None:
    with pytest.raises(MessageError, match=f"^update: .*{words}"):
        decode_refine_reply(encode_refine_reply(refine_reply(rows)), gaussians())


def test_an_update_holds_one_array() -> None:
    whole = encode_refine_reply(refine_reply())
    for arrays in ({}, {**whole.arrays, "image": np.zeros((32, 48, 3), np.uint8)}, {"part": whole.arrays["update"]}):
        with pytest.raises(MessageError, match="a reply to refine holds one array, 'update'; got"):
            decode_refine_reply(TrainReply(arrays, 7), gaussians())


def test_an_update_of_another_scene_is_refused() -> None:
    reply = encode_refine_reply(refine_reply((0, 2, 4)))
    with pytest.raises(MessageError, match="lie below 4"):
        decode_refine_reply(reply, gaussians(4))
    with pytest.raises(MessageError, match="3 rows with 1 harmonics is none of 5 Gaussians with 4"):
        decode_refine_reply(reply, gaussians(5, degree=1))
    with pytest.raises(MessageError, match="update: bytes do not hold the 3 rows"):
        decode_refine_reply(with_array(reply, "update", compress_gaussians(gaussians(3))), gaussians())


def test_what_was_decoded_is_ones_own() -> None:
    """Arrays come read-only and shared; tensors may be written to without a change of the message."""
    whole = encode_refine_reply(refine_reply())
    decoded = decode_refine_reply(back(whole), gaussians())
    for tensor in (decoded.rows, decoded.update.visibility, *decoded.update.changes.values()):
        tensor.fill_(9)
    same(decode_refine_reply(whole, gaussians()), update_as_sent(refine_reply(), gaussians()))
    fit = decode_fit_reply(back(MARKED))
    fit.landmarks[:] = 9
    fit.gaussians.means.fill_(9)
    same(decode_fit_reply(MARKED).gaussians, as_sent(gaussians()))
    assert (decode_fit_reply(MARKED).landmarks == 1).all()
