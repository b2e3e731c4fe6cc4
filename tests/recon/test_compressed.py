"""Gaussians, updates and points as bytes: rounded to a grid, the same again, and damage that is one clear error."""

import math
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor

from recon.compressed import (
    CHANGE_STEPS,
    POINT_STEP_M,
    STEPS,
    compress_gaussians,
    compress_points,
    compress_update,
    compressed_shapes,
    count_of,
    expand_gaussians,
    expand_points,
    expand_update,
)
from recon.gaussians import Gaussians
from recon.refine import Update

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS, COUNTS, DEGREES = st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 3)
SIZES = st.sampled_from([0.0, 1e-3, 1.0, 100.0, 2e5])  # the largest: means of 1e6 m
LARGE = 2**32 - 1


def gaussians(count: int = 3, degree: int = 0, seed: int = 0, size: float = 1.0) -> Gaussians:
    """Any numbers of about a size; rotations of any."""
    rng = np.random.default_rng(seed)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3)]
    means, quats, *rest = [torch.tensor(rng.normal(size=shape)).float() for shape in shapes]
    return Gaussians(means * size, quats, *[tensor * size for tensor in rest])


def update(rows: int = 3, degree: int = 0, seed: int = 1, size: float = 0.1) -> Update:
    """Any changes, and anything that was seen."""
    seen = torch.tensor(np.exp(np.random.default_rng(seed).normal(0, 4, rows))).float().clamp_min(1e-5)
    return Update({name: size * tensor for name, tensor in gaussians(rows, degree, seed).tensors().items()}, seen)


def within(found: Tensor, wanted: Tensor, step: float) -> None:
    """Half a step away at most; float32 holds the grid exactly as far as it reaches."""
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert ((found.double() - wanted.double()).abs() <= step / 2).all()


def bytes_of(data: bytes) -> ndarray:
    return np.frombuffer(data, np.uint8)


def packed(count: int, coefficients: int, body: bytes) -> ndarray:
    return bytes_of(struct.pack("<II", count, coefficients) + zlib.compress(body))


# There and back


@settings(max_examples=25, deadline=None)
@given(COUNTS, DEGREES, SEEDS, SIZES)
def test_gaussians_are_off_by_half_a_step_at_most(count: int, degree: int, seed: int, size: float) -> None:
    sent = gaussians(count, degree, seed, size)
    came = expand_gaussians(compress_gaussians(sent)).tensors()
    for name, wanted in sent.tensors().items():
        if name != "quats":
            within(came[name], wanted, STEPS[name])


@settings(max_examples=25, deadline=None)
@given(COUNTS, SEEDS, st.sampled_from([1e-3, 1.0, 1e6]))
def test_rotations_are_off_by_half_a_degree_at_most(count: int, seed: int, length: float) -> None:
    """Four parts, half a 256th off each: 1 / 256 in all, an angle of 2 · asin(1 / 256) or 0.45°."""
    sent = gaussians(count, 0, seed)
    came = expand_gaussians(compress_gaussians(replace(sent, quats=sent.quats * length)))
    assert ((came.quats.norm(dim=1) - 1).abs() <= 1.001 / 256).all()
    cosine = (came.quats * sent.quats).sum(dim=1) / came.quats.norm(dim=1) / sent.quats.norm(dim=1)
    assert (cosine >= math.sqrt(1 - 1 / 256**2) - 1e-6).all()


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e25])
def test_a_rotation_may_have_any_length(length: float) -> None:
    sent = replace(gaussians(1), quats=torch.tensor([[0.6, 0, -0.8, 0]]) * length)
    came = expand_gaussians(compress_gaussians(sent))
    assert came.quats.tolist() == [[154 / 256, 0, -205 / 256, 0]]  # 153.6 and 204.8


@settings(max_examples=25, deadline=None)
@given(COUNTS, DEGREES, SEEDS, SIZES)
def test_what_was_expanded_gives_the_same_bytes(count: int, degree: int, seed: int, size: float) -> None:
    """Where rotations are quarter turns, which the grid has at length 1; others may go a step further, see below."""
    axes = torch.eye(4)[np.random.default_rng(seed).integers(4, size=count)]
    data = compress_gaussians(replace(gaussians(count, degree, seed, size), quats=-axes))
    assert compress_gaussians(expand_gaussians(data)).tobytes() == data.tobytes()


@settings(max_examples=25, deadline=None)
@given(COUNTS, SEEDS)
def test_rotations_that_were_expanded_go_a_step_further_at_most(count: int, seed: int) -> None:
    once = expand_gaussians(compress_gaussians(gaussians(count, 0, seed)))
    twice = expand_gaussians(compress_gaussians(once))
    assert ((twice.quats - once.quats).abs() <= STEPS["quats"]).all()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 19)), DEGREES, SEEDS, st.sampled_from([0.0, 1e-3, 1.0, 1e5]))
def test_updates_are_off_by_half_a_step_at_most(rows: set[int], degree: int, seed: int, size: float) -> None:
    there, sent = torch.tensor(sorted(rows), dtype=torch.int64), update(len(rows), degree, seed, size)
    data = compress_update(there, sent)
    came_rows, came = expand_update(data, gaussians(20, degree))
    assert torch.equal(came_rows, there)
    assert came_rows.dtype == torch.int64
    for name, wanted in sent.changes.items():
        within(came.changes[name], wanted, CHANGE_STEPS[name])
    octaves = (came.visibility.double() / sent.visibility.double()).log2().abs()
    assert (octaves <= 1 / 32 + 1e-6).all()
    assert compress_update(came_rows, came).tobytes() == data.tobytes()


@settings(max_examples=25, deadline=None)
@given(COUNTS, SEEDS, st.sampled_from([1.0, 1e5]))
def test_points_are_off_by_half_a_millimetre_at_most(count: int, seed: int, size: float) -> None:
    sent = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32) * np.float32(size)
    came = expand_points(compress_points(sent))
    assert (came.dtype, came.shape) == (np.float32, sent.shape)
    assert (np.abs(came.astype(np.float64) - sent) <= POINT_STEP_M / 2).all()
    assert compress_points(came).tobytes() == compress_points(sent).tobytes()


def test_doubles_are_taken_and_come_back_as_floats() -> None:
    sent = gaussians()
    data = compress_gaussians(sent.to(dtype=torch.float64))
    assert expand_gaussians(data).means.dtype == torch.float32
    assert compress_points(np.array([[1.0, 2, 3]])).tobytes() == compress_points(np.float32([[1, 2, 3]])).tobytes()


def test_what_was_seen_keeps_its_size_and_is_never_none() -> None:
    """Steps of a sixteenth of an octave from 1: 1 and 2 are on them, 3 is 2^(25.36 / 16); nothing is a millionth."""
    sent = replace(update(4), visibility=torch.tensor([1.0, 2, 3, 0]))
    _, came = expand_update(compress_update(torch.arange(4), sent), gaussians(4))
    assert came.visibility.tolist() == pytest.approx([1, 2, 2 ** (25 / 16), 1e-6], rel=0.022)
    assert came.visibility[:3].tolist() == pytest.approx([1, 2, 2 ** (25 / 16)], rel=1e-6)


def test_inputs_are_left_alone_and_results_are_ones_own() -> None:
    sent, changes = gaussians().requires_grad_(), update()
    data, marks = compress_gaussians(sent), np.ones((2, 3), np.float32)
    before = data.tobytes()
    came, points = expand_gaussians(data), expand_points(compress_points(marks))
    rows, seen = expand_update(compress_update(torch.arange(3), changes), gaussians())
    for tensor in (*came.tensors().values(), *seen.changes.values(), rows, seen.visibility):
        tensor.fill_(7)
    points[:] = 7
    assert data.tobytes() == before
    assert torch.equal(changes.changes["means"], update().changes["means"])
    assert torch.equal(sent.means, gaussians().means)
    assert (marks == 1).all()


# The format


def written(columns: list[list[list[int]]], coefficients: int) -> tuple[bytes, bytes]:
    """Number by number: head and, before it is deflated, body."""
    body = bytearray()
    for column in columns:
        for axis in range(len(column[0])):
            for place in range(4):
                for row in column:
                    folded = 2 * row[axis] if row[axis] >= 0 else -2 * row[axis] - 1
                    body.append(folded >> 8 * place & 255)
    return struct.pack("<II", len(columns[0]), coefficients), bytes(body)


def on_grid(values: Tensor, step: float) -> list[list[int]]:
    return [[round(value / step) for value in row] for row in values.double().reshape(len(values), -1).tolist()]


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_gaussians_are_written_as_the_format_has_it(degree: int, size: float) -> None:
    sent = gaussians(3, degree, 5, size)
    unit = {**sent.tensors(), "quats": sent.quats / sent.quats.norm(dim=1, keepdim=True)}
    head, body = written([on_grid(unit[name], step) for name, step in STEPS.items()], (degree + 1) ** 2)
    data = compress_gaussians(sent).tobytes()
    assert data[:8] == head
    assert zlib.decompress(data[8:]) == body


def test_updates_are_written_as_the_format_has_it() -> None:
    """Rows as gaps, then how much was seen, then changes."""
    sent = update(3)
    seen = [[round(16 * math.log2(value))] for value in sent.visibility.tolist()]
    changes = [on_grid(sent.changes[name], step) for name, step in CHANGE_STEPS.items()]
    head, body = written([[[2], [1], [4]], seen, *changes], 1)
    data = compress_update(torch.tensor([2, 3, 7]), sent).tobytes()
    assert data[:8] == head
    assert zlib.decompress(data[8:]) == body


def test_points_are_written_as_the_format_has_it() -> None:
    """A metre is 1024 steps, folded 2048 or, if negative, 2047: bytes 0, 8 and 255, 7."""
    data = compress_points(np.array([[1.0, -1.0, 0.0]])).tobytes()
    assert data[:8] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
    assert zlib.decompress(data[8:]) == bytes([0, 8, 0, 0, 255, 7, 0, 0, 0, 0, 0, 0])


def test_the_head_says_how_many() -> None:
    data = compress_gaussians(gaussians(5, 2))
    assert count_of(data) == 5
    wanted = {"means": (5, 3), "quats": (5, 4), "log_scales": (5, 3), "logit_opacities": (5,), "sh": (5, 9, 3)}
    assert compressed_shapes(data) == compressed_shapes(data[:8]) == wanted
    assert count_of(compress_points(np.zeros((7, 3)))) == 7
    assert count_of(compress_update(torch.arange(3), update(3))) == 3


def test_a_street_takes_a_third_of_its_floats() -> None:
    rng, count = np.random.default_rng(0), 5000
    street = Gaussians(
        means=torch.tensor(rng.uniform(0, [300, 100, 10], (count, 3))).float(),
        quats=torch.tensor(rng.normal(size=(count, 4))).float(),
        log_scales=torch.tensor(rng.normal(-2, 1.2, (count, 3))).float(),
        logit_opacities=torch.tensor(rng.normal(0, 1.5, count)).float(),
        sh=torch.tensor(rng.normal(0, 0.9, (count, 1, 3))).float(),
    )
    assert street.nbytes == 56 * count
    assert compress_gaussians(street).nbytes < 20 * count


# What cannot be sent


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", STEPS)
def test_gaussians_that_are_not_finite_are_named(field: str, value: float) -> None:
    tensors = gaussians().tensors()
    tensors[field].view(-1)[4 % tensors[field].numel()] = value
    with pytest.raises(ValueError, match=f"{field} holds NaN"):
        compress_gaussians(Gaussians.unchecked(**tensors))


@pytest.mark.parametrize("field", ["means", "log_scales", "logit_opacities", "sh"])
def test_gaussians_beyond_what_can_be_written_are_named(field: str) -> None:
    tensors = gaussians().tensors()
    flat = tensors[field].view(-1)
    flat[1] = -(2**31 - 256) * STEPS[field]  # float32's next to the last
    within(expand_gaussians(compress_gaussians(Gaussians(**tensors))).tensors()[field], tensors[field], STEPS[field])
    flat[1] = -(2**31) * STEPS[field]
    words = f"{field} holds NaN or numbers beyond {STEPS[field] * 2**31:.3g}, which cannot be sent"
    with pytest.raises(ValueError, match=re.escape(words)):
        compress_gaussians(Gaussians(**tensors))


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("field", [*CHANGE_STEPS, "visibility"])
def test_changes_that_cannot_be_written_are_named(field: str, value: float) -> None:
    sent = update()
    tensor = sent.visibility if field == "visibility" else sent.changes[field]
    tensor.view(-1)[2] = value
    if (field, value) == ("visibility", 3e38):
        assert math.isfinite(expand_update(compress_update(torch.arange(3), sent), gaussians())[1].visibility.max())
        return
    with pytest.raises(ValueError, match=f"{field} holds NaN or numbers beyond"):
        compress_update(torch.arange(3), sent)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0**21])
def test_points_that_cannot_be_written_are_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"points holds NaN or numbers beyond 2.1e\+06"):
        compress_points(np.array([[0.0, value, 0]]))


# Damage

EXPANDERS: dict[str, tuple[ndarray, Callable[[ndarray], Any]]] = {
    "gaussians": (compress_gaussians(gaussians()), expand_gaussians),
    "update": (compress_update(torch.tensor([0, 2, 4]), update()), lambda data: expand_update(data, gaussians(5))),
    "points": (compress_points(np.arange(9.0).reshape(3, 3)), expand_points),
}
EACH = pytest.mark.parametrize(("data", "expand"), EXPANDERS.values(), ids=EXPANDERS)


def sound(data: ndarray, expand: Callable[[ndarray], Any]) -> None:
    """What comes of bytes is finite and of as many rows as they say."""
    came = expand(data)
    if isinstance(came, Gaussians):
        assert {name: tuple(tensor.shape) for name, tensor in came.tensors().items()} == compressed_shapes(data)
        found = list(came.tensors().values())
    elif isinstance(came, tuple):
        found = [came[0], came[1].visibility, *came[1].changes.values()]
        assert (came[1].visibility > 0).all()
    else:
        found = [torch.tensor(came)]
    assert all(len(tensor) == count_of(data) and torch.isfinite(tensor).all() for tensor in found)


@EACH
def test_bytes_that_are_cut_short_or_too_long_are_refused(data: ndarray, expand: Callable[[ndarray], Any]) -> None:
    sound(data, expand)
    for length in range(8):
        with pytest.raises(ValueError, match="compressed rows are bytes, at least 8; got uint8"):
            expand(data[:length])
    for length in range(8, len(data)):
        with pytest.raises(ValueError, match="bytes do not hold the 3 rows that they say they do"):
            expand(data[:length])
    with pytest.raises(ValueError, match="bytes do not hold the 3 rows"):
        expand(np.append(data, np.uint8(0)))


@EACH
def test_what_is_no_row_of_bytes_is_refused(
    data: ndarray, expand: Callable[[ndarray], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for wrong in (data.astype(np.float32), data.astype(np.int8), data[None], data[0].reshape(()), data.astype(str)):
        with pytest.raises(ValueError, match=r"compressed rows are bytes, at least 8; got .* \["):
            expand(wrong)


@EACH
@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 255))
def test_no_changed_byte_gives_anything_but_rows_or_a_value_error(
    data: ndarray, expand: Callable[[ndarray], Any], draw: st.DataObject, flip: int
) -> None:
    damaged = data.copy()
    damaged[draw.draw(st.integers(0, len(data) - 1))] ^= flip
    try:
        sound(damaged, expand)
    except ValueError as error:
        assert str(error)  # noqa: PT017


@EACH
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0, 1, 3]))
def test_any_numbers_give_rows_or_a_value_error(
    data: ndarray, expand: Callable[[ndarray], Any], seed: int, count: int
) -> None:
    """What inflates well may hold anything: largest numbers, rows that fall."""
    width = len(zlib.decompress(data[8:].tobytes())) // 3
    coefficients = int(data[4])
    body = np.random.default_rng(seed).choice([0, 1, 254, 255], width * count).astype(np.uint8).tobytes()
    try:
        sound(packed(count, coefficients, body), expand)
    except ValueError as error:
        assert "rows of an update must rise" in str(error) or "quats is zero" in str(error)  # noqa: PT017


@pytest.mark.parametrize(("lowest", "wanted"), [(254, 2.0**40), (255, 2.0**-40)], ids=["most", "least"])
def test_what_was_seen_is_a_number_that_can_be_added_up(lowest: int, wanted: float) -> None:
    """Whatever is claimed: two to the 134 millionth, or to the minus 134 millionth."""
    _, came = expand_update(packed(1, 1, bytes([0, 0, 0, 0, lowest, 255, 255, 255]) + bytes(4 * 14)), gaussians(5))
    assert came.visibility.tolist() == [wanted]


@pytest.mark.parametrize("coefficients", [0, 2, 3, 5, 15, 17, 25, LARGE])
def test_a_number_of_harmonics_that_there_is_not_is_refused(coefficients: int) -> None:
    data = packed(1, coefficients, bytes(4 * (11 + 3 * min(coefficients, 99))))
    for look in (expand_gaussians, compressed_shapes):
        with pytest.raises(
            ValueError, match=f"spherical harmonics have 1, 4, 9 or 16 coefficients, got {coefficients}"
        ):
            look(data)


def peak_bytes(expand: Callable[[ndarray], Any], data: ndarray, words: str) -> int:
    """The most memory that a refusal took."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words):
            expand(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A hundred megabytes of zeros."""
    piece = zlib.compressobj(1, wbits=-15)
    block = piece.compress(bytes(1 << 20)) + piece.flush(zlib.Z_FULL_FLUSH)
    checksum = (100 << 20) % 65521 << 16 | 1
    return b"\x78\x01" + 100 * block + piece.flush() + struct.pack(">I", checksum)


def test_the_bomb_is_one(bomb: bytes) -> None:
    stream = zlib.decompressobj()
    assert len(stream.decompress(bomb, 1 << 20)) == 1 << 20
    assert len(bomb) < 1_000_000


@EACH
def test_a_bomb_is_refused_without_being_held(bomb: bytes, data: ndarray, expand: Callable[[ndarray], Any]) -> None:
    head = struct.pack("<II", 1, int(data[4]))
    wrong = bytes_of(head + bomb)
    assert peak_bytes(expand, wrong, "bytes do not hold the 1 rows") < 2 * len(bomb) + 100_000


@EACH
def test_four_billion_rows_are_not_believed(data: ndarray, expand: Callable[[ndarray], Any]) -> None:
    wrong = bytes_of(struct.pack("<I", LARGE) + data[4:].tobytes())
    assert peak_bytes(expand, wrong, f"{LARGE} rows") < 100_000


REFUSED_UPDATES = {
    "falling": ([4, 2, 0], 5, 0, "rows of an update must rise and lie below 5"),
    "twice": ([0, 0, 4], 5, 0, "rows of an update must rise"),
    "beyond": ([0, 2, 5], 5, 0, "lie below 5"),
    "negative": ([-1, 2, 4], 5, 0, "rise and lie below 5"),
    "more than there are": ([0, 1, 2], 2, 0, "an update of 3 rows with 1 harmonics is none of 2 Gaussians with 1"),
    "other harmonics": ([0, 2, 4], 5, 1, "an update of 3 rows with 1 harmonics is none of 5 Gaussians with 4"),
}


@pytest.mark.parametrize(("rows", "count", "degree", "words"), REFUSED_UPDATES.values(), ids=REFUSED_UPDATES)
def test_an_update_of_other_gaussians_is_refused(rows: list[int], count: int, degree: int, words: str) -> None:
    data = compress_update(torch.tensor(rows), update())
    with pytest.raises(ValueError, match=words):
        expand_update(data, gaussians(count, degree))


def test_one_is_not_taken_for_the_other() -> None:
    for name, (_, expand) in EXPANDERS.items():
        for other, (data, _) in EXPANDERS.items():
            if name != other:
                with pytest.raises(ValueError, match=r"harmonics|bytes do not hold"):
                    expand(data)
