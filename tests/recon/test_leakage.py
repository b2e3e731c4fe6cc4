"""What an upload gives away: errors by arithmetic, and less of them after trimming."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.evaluate import score_view
from recon.gaussians import Gaussians
from recon.leakage import leakage, shown
from recon.region import Region
from recon.views import View

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE_PX = (24, 32)
INTRINSICS = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])


def west(xyz: Tensor) -> Tensor:
    """A region: all west of the origin."""
    return -xyz[:, 0].double()


def view(image: Tensor, counted: Tensor | None = None) -> View:
    """From the origin to the north of a world whose axes are the camera's."""
    return View(image, torch.eye(4), INTRINSICS, counted, None, "a view")


def grey(value: int) -> Tensor:
    return torch.full((*SIZE_PX, 3), value, dtype=torch.uint8)


def left_half() -> Tensor:
    counted = torch.zeros(SIZE_PX, dtype=torch.bool)
    counted[:, :16] = True
    return counted


def balls(xyz: Any, size_m: float = 0.5) -> Gaussians:
    places = np.asarray(xyz, np.float64).reshape(-1, 3)
    made = Gaussians.from_points(places, np.full(places.shape, 0.8), opacity=0.99)
    return replace(made, log_scales=torch.full((len(places), 3), math.log(size_m)))


def test_errors_are_pooled_over_views_by_pixels() -> None:
    behind = balls([[0, 0, -5]])  # is not in view: all that is drawn is black
    views = [view(grey(51), left_half()), view(grey(102))]
    found = shown(behind, views, west)
    assert found.psnr_db == pytest.approx(-10 * math.log10((0.2**2 + 2 * 0.4**2) / 3))  # half an image, and a whole
    assert found.transient_psnr_db == pytest.approx(-20 * math.log10(0.2))
    assert found.gaussians == 1


def test_what_is_shown_exactly_has_no_limit() -> None:
    found = shown(Gaussians.empty(), [view(grey(0))], west)
    assert found.psnr_db == math.inf
    assert found.transient_psnr_db is None
    assert found.outside_share == 0


def test_gains_are_those_of_the_views() -> None:
    wall = balls([[0, 0, 2]], size_m=50.0)
    views, half = [view(grey(153))], torch.full((1, 3), math.log(0.5))
    errors = [0.99 * 0.8 - 0.6, 0.99 * 0.4 - 0.6]  # a wall of 0.8 that lets a hundredth through, and half as bright
    found = [shown(wall, views, west, log_gains=gains).psnr_db for gains in (None, half)]
    assert found == pytest.approx([-20 * math.log10(abs(error)) for error in errors], abs=0.1)


def test_one_view_scores_as_it_is_evaluated() -> None:
    scene = balls([[-1, 0, 4], [1, 0.5, 5]])
    one = view(grey(120), left_half())
    assert shown(scene, [one], west).psnr_db == pytest.approx(score_view(scene, one)[0].image.psnr_db, abs=1e-6)


def test_trimming_takes_what_lies_beyond_the_margin() -> None:
    scene = balls([[-3, 0, 4], [-1, 0, 4], [0.5, 0, 4], [3, 0, 4]], size_m=0.1)
    found = leakage(scene, [view(grey(100))], west, 1.0)
    assert (found.whole.gaussians, found.trimmed.gaussians) == (4, 3)
    assert (found.whole.outside_share, found.trimmed.outside_share) == (0.5, pytest.approx(1 / 3))
    assert leakage(scene, [view(grey(100))], west, 0.0).trimmed.outside_share == 0
    assert leakage(scene, [view(grey(100))], west, 9.0).trimmed == found.whole


def test_trimming_hides_who_was_outside() -> None:
    scene = balls([[-1.5, 0, 4], [1.5, 0, 4]])
    picture = balls([[-1.5, 0, 4], [1.5, 0, 4]])
    seen = (255 * rendered(picture)).round().to(torch.uint8)
    found = leakage(scene, [view(seen, left_half())], west, 0.0)
    assert found.whole.transient_psnr_db is not None
    assert found.trimmed.transient_psnr_db is not None
    assert found.whole.transient_psnr_db > 50
    assert found.trimmed.transient_psnr_db < 15
    assert found.trimmed.psnr_db > 30


def rendered(scene: Gaussians) -> Tensor:
    return score_view(scene, view(grey(0)))[1]


def test_a_row_leaves_out_what_is_not_known() -> None:
    scene = balls([[-1, 0, 4]])
    row = leakage(scene, [view(grey(100))], west, 2.0).row()
    names = {"gaussians", "psnr_db", "outside_share"}
    assert set(row) == {"margin_m", *names, *[f"trimmed_{name}" for name in names]}
    masked = leakage(scene, [view(grey(100), left_half())], west, 2.0).row()
    assert set(masked) - set(row) == {"transient_psnr_db", "trimmed_transient_psnr_db"}


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_no_order_matters(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scene = balls(rng.uniform((-2, -1, 2), (2, 1, 6), (count, 3)))
    views = [view(torch.from_numpy(rng.integers(0, 256, (*SIZE_PX, 3), dtype=np.uint8)), left_half()) for _ in "abc"]
    shuffle = torch.from_numpy(rng.permutation(count))
    found, other = leakage(scene, views, west, 0.5), leakage(scene.select(shuffle), views[::-1], west, 0.5)
    assert found.row() == pytest.approx(other.row(), abs=1e-5)


@pytest.mark.parametrize(
    ("views", "region", "margin_m", "gains", "message"),
    [
        ([], west, 1.0, None, "no pixel of 0 views counts"),
        ([view(grey(0), torch.zeros(SIZE_PX, dtype=torch.bool))], west, 1.0, None, "no pixel of 1 views counts"),
        ([view(grey(0))], west, -1.0, None, "margin_m must be finite and not negative"),
        ([view(grey(0))], west, 1.0, torch.zeros(2, 3), "one gain a view, got 2 for 1"),
    ],
)
def test_bad_arguments_are_named(
    views: list[View], region: Region, margin_m: float, gains: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        leakage(balls([[0, 0, 4]]), views, region, margin_m, log_gains=gains)
