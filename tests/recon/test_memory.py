"""Budgets: what fits into them, against real tensors and real files."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.gaussians import Gaussians
from recon.memory import IMAGE_SHARE, floats, gaussian_bytes, plan_memory, ply_bytes
from recon.ply import write_ply

degrees = pytest.mark.parametrize("degree", [0, 1, 2, 3])

PIXELS = 256 * 192


def balls(count: int, degree: int) -> Gaussians:
    return Gaussians.from_points(torch.rand(count, 3), torch.rand(count, 3), degree=degree)


@degrees
def test_floats_are_those_of_the_tensors(degree: int) -> None:
    assert 4 * floats(degree) == balls(1000, degree).nbytes // 1000


@degrees
def test_a_row_of_a_file_is_as_large_as_said(tmp_path: Path, degree: int) -> None:
    for count in (1000, 2000):  # headers are of one length
        write_ply(tmp_path / f"{count}.ply", balls(count, degree))
    sizes = [(tmp_path / f"{count}.ply").stat().st_size for count in (1000, 2000)]
    assert (sizes[1] - sizes[0]) / 1000 == ply_bytes(degree)


def test_bytes_by_hand() -> None:
    assert [ply_bytes(degree) for degree in range(4)] == [68, 104, 164, 248]  # 17, 26, 41 and 62 floats
    assert gaussian_bytes(0, 100_000) == 6 * 4 * 14 + 160 + 15 * 80


@degrees
def test_a_plan_by_hand(degree: int) -> None:
    plan = plan_memory(100_000_000, 10**9, degree, PIXELS)
    assert plan.image_bytes == 30_000_000
    assert plan.cap == 70_000_000 // gaussian_bytes(degree, PIXELS)


def test_a_plan_gives_no_more_than_was_asked_for() -> None:
    assert plan_memory(10**9, 500, 3, PIXELS).cap == 500


@given(st.integers(400_000, 10**12), st.integers(0, 10**9), st.integers(1, 10**9), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_more_memory_never_holds_less_and_the_budget_is_kept(budget: int, more: int, cap: int, degree: int) -> None:
    small, large = plan_memory(budget, cap, degree, PIXELS), plan_memory(budget + more, cap, degree, PIXELS)
    assert small.cap <= large.cap <= cap
    assert small.image_bytes <= large.image_bytes
    assert small.cap * gaussian_bytes(degree, PIXELS) + small.image_bytes <= budget


def test_higher_degrees_take_more_and_so_fewer_fit() -> None:
    caps = [plan_memory(50_000_000, 10**9, degree, PIXELS).cap for degree in range(4)]
    assert caps == sorted(caps, reverse=True)
    assert len(set(caps)) == 4


@degrees
def test_a_budget_that_is_too_small_is_refused(degree: int) -> None:
    least = int(100 * gaussian_bytes(degree, PIXELS) / (1 - IMAGE_SHARE)) + 1
    assert plan_memory(least, 1000, degree, PIXELS).cap == 100
    for budget in (least - gaussian_bytes(degree, PIXELS), 0, -(10**9)):
        with pytest.raises(ValueError, match=r"^a memory budget of -?[\d.]+ MB holds -?\d+ Gaussians; give more$"):
            plan_memory(budget, 1000, degree, PIXELS)


def test_a_cap_below_a_hundred_may_be_asked_for() -> None:
    assert plan_memory(10**9, 1, 0, PIXELS).cap == 1
