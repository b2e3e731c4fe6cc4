"""Scores of views: by arithmetic, and over the pixels that count alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.evaluate import ViewScore, gains_between, mean_scores, score, score_view
from recon.gaussians import Gaussians
from recon.metrics import DepthMetrics, ImageMetrics, depth_metrics, image_metrics
from recon.objective import render_view
from recon.views import View
from tests.recon.test_objective import HEIGHT, WIDTH, balls, left_half, photo

NOTHING = Gaussians.empty()  # draws black


def painted(grey: int, ignored: np.ndarray | None = None) -> View:
    """A photo of one grey."""
    image = torch.full((HEIGHT, WIDTH, 3), grey, dtype=torch.uint8)
    return replace(photo(ignored=ignored), image=image)


def test_psnr_by_hand() -> None:
    found, image = score_view(NOTHING, painted(51))
    assert found.image.psnr_db == pytest.approx(-20 * math.log10(0.2))  # 51/255 off everywhere
    assert not image.any()
    assert (found.source, found.depth, found.image.lpips) == ("photo", None, None)


def test_psnr_is_over_the_pixels_that_count() -> None:
    view = painted(51, left_half())
    view.image[:, : WIDTH // 2] = 255
    assert score_view(NOTHING, view)[0].image.psnr_db == pytest.approx(-20 * math.log10(0.2), rel=1e-6)
    corner = np.ones((HEIGHT, WIDTH), bool)
    corner[3, 4] = False
    view = painted(0, corner)
    view.image[3, 4] = torch.tensor([255, 0, 51], dtype=torch.uint8)
    assert score_view(NOTHING, view)[0].image.psnr_db == pytest.approx(-10 * math.log10((1 + 0 + 0.04) / 3), rel=1e-6)


def test_equal_images_are_infinitely_good() -> None:
    found, _ = score_view(NOTHING, painted(0))
    assert (found.image.psnr_db, found.image.ssim) == (math.inf, pytest.approx(1))


def test_scores_are_those_of_the_images() -> None:
    gaussians, view = balls().detach(), photo()
    found, image = score_view(gaussians, view)
    drawn, _ = render_view(gaussians, view)
    expected = image_metrics(drawn, view.image / 255)
    assert torch.equal(image, drawn.clamp(0, 1))
    assert (found.image.psnr_db, found.image.ssim) == pytest.approx((expected.psnr_db, expected.ssim))


def test_bright_colours_are_clipped_as_in_a_file() -> None:
    gaussians = balls(degree=0, sh=torch.full((60, 1, 3), 20.0)).detach()
    drawn, _ = render_view(gaussians, photo())
    assert drawn.max() > 1
    assert score_view(gaussians, photo())[1].max() == 1


def test_what_is_drawn_where_nothing_counts_changes_no_score() -> None:
    """A ball that shows in ignored pixels alone."""
    aside = Gaussians.from_points(np.array([[-1.0, 0, 3]]), np.ones((1, 3)), opacity=0.9)
    ignored = photo(ignored=left_half())
    assert score_view(aside, photo())[0].image != score_view(NOTHING, photo())[0].image
    assert score_view(aside, ignored)[0].image == score_view(NOTHING, ignored)[0].image
    assert torch.equal(score_view(aside, ignored)[1][:, : WIDTH // 2], ignored.image[:, : WIDTH // 2] / 255)


def test_depth_is_scored_where_it_is_known_and_counts() -> None:
    known = np.full((HEIGHT, WIDTH), 4.0, np.float32)
    known[:3] = 0
    view, gaussians = photo(known, left_half()), balls().detach()
    drawn, _ = render_view(gaussians, view, mode="RGB+ED")
    assert view.depth_m is not None
    assert view.counted is not None
    expected = depth_metrics(drawn[..., 3], view.depth_m, view.counted)
    found = score_view(gaussians, view)[0].depth
    assert found == expected
    rows = drawn[3:, WIDTH // 2 :, 3]
    assert expected is not None
    assert expected.abs_rel == pytest.approx(((rows[rows > 0] - 4).abs() / 4).mean().item(), rel=1e-5)


def test_a_view_of_which_no_pixel_counts_is_refused() -> None:
    view = photo(ignored=np.ones((HEIGHT, WIDTH), bool))
    with pytest.raises(ValueError, match=r"^photo: no pixel counts, so there is nothing to score$"):
        score(NOTHING, [view])


def test_scores_with_an_exposure_are_those_of_a_brighter_image() -> None:
    gaussians, view = balls(degree=0, sh=torch.full((60, 1, 3), -1.0)).detach(), photo()
    drawn, _ = render_view(gaussians, view)
    gain = torch.tensor([2.0, 1.0, 0.5])
    found, image = score_view(gaussians, view, log_gain=gain.log())
    torch.testing.assert_close(image, (drawn * gain).clamp(0, 1))
    assert found.image.psnr_db == pytest.approx(image_metrics(drawn * gain, view.image / 255).psnr_db)
    both = score(gaussians, [view, view], torch.stack([torch.zeros(3), gain.log()]))
    assert [row.image for row in both] == [score_view(gaussians, view)[0].image, found.image]


def test_exposures_of_views_between_others_by_hand() -> None:
    at = lambda *times_s: [replace(photo(), timestamp_s=time_s) for time_s in times_s]  # noqa: E731
    gains = torch.tensor([[0.4, 0.0, 1.0], [0.0, 0.2, 1.0]])  # of views at 2 s and at 0 s
    found = gains_between(gains, at(2.0, 0.0), at(1.5, -1.0, 9.0))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.05, 1.0], [0.0, 0.2, 1.0], [0.4, 0.0, 1.0]]))


def made(psnr_db: float, depth: float | None = None) -> ViewScore:
    return ViewScore("v", ImageMetrics(psnr_db, 0.5), None if depth is None else DepthMetrics(depth, 1.0, 0.5, 10))


def test_means_by_hand() -> None:
    found = mean_scores([made(20.0, 0.1), made(30.0, 0.3)])
    assert found["psnr_db"] == 25
    assert found["depth_abs_rel"] == pytest.approx(0.2)
    assert set(found) == {"psnr_db", "ssim", "depth_abs_rel", "depth_rmse_m", "depth_delta1", "depth_pixels"}


def test_a_mean_is_of_what_all_views_have() -> None:
    assert set(mean_scores([made(20.0, 0.1), made(30.0)])) == {"psnr_db", "ssim"}


def test_no_scores_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no views were scored; hold some out"):
        mean_scores([])


def test_scores_are_in_the_order_of_the_views() -> None:
    views = [replace(painted(grey), source=f"grey {grey}") for grey in (25, 51, 102)]
    found = score(NOTHING, views)
    assert [row.source for row in found] == ["grey 25", "grey 51", "grey 102"]
    assert found[0].image.psnr_db > found[1].image.psnr_db > found[2].image.psnr_db
    assert found[0].row() == {"view": "grey 25", "psnr_db": found[0].image.psnr_db, "ssim": found[0].image.ssim}
