"""Exports to MP4, read back by OpenCV."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.export import ExportOptions, export_frames
from perception.datasets.export.video import rate_of
from tests.perception.export_frames import HEIGHT, WIDTH, Frames, drive


def pictures(path: Path) -> tuple[float, list[np.ndarray]]:
    """Rate and RGB pictures of a video."""
    video = cv2.VideoCapture(str(path))
    rate_hz, found = video.get(cv2.CAP_PROP_FPS), []
    while (read := video.read())[0]:
        found.append(read[1][..., ::-1].astype(int))
    video.release()
    return rate_hz, found


def grey(count: int) -> list[Frame]:
    """Plain pictures, 40 grey levels apart, which a lossy codec keeps; one pose keeps the boxes in the image."""
    first = drive(1)[0]
    levels = [np.full((HEIGHT, WIDTH, 3), 20 + 40 * (k % 5), np.uint8) for k in range(count)]
    return [replace(first, image=level, timestamp_s=0.1 * k) for k, level in enumerate(levels)]


@pytest.mark.parametrize("count", [1, 3, 9, 11])
def test_every_frame_is_shown_in_order_at_its_own_rate(tmp_path: Path, count: int) -> None:
    report = export_frames(Frames(grey(count)), "mp4", tmp_path / "out")
    rate_hz, found = pictures(tmp_path / "out" / "video.mp4")
    assert report.written == len(found) == count
    assert rate_hz == pytest.approx(10)
    for k, picture in enumerate(found):
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert abs(picture.mean() - (20 + 40 * (k % 5))) < 5


def test_boxes_are_drawn_on_request(tmp_path: Path) -> None:
    frames = grey(1)
    for draw in (False, True):
        export_frames(Frames(frames), "mp4", tmp_path / str(draw), ExportOptions(draw_boxes=draw))
    (plain,), (drawn,) = (pictures(tmp_path / name / "video.mp4")[1] for name in ("False", "True"))
    assert frames[0].boxes is not None
    left, top, right, bottom = frames[0].boxes.xyxy_px[0].astype(int)
    outline, middle = (slice(top, bottom), left), ((top + bottom) // 2, (left + right) // 2)
    assert np.abs(drawn - plain)[outline].mean() > 40
    assert np.abs(drawn - plain)[middle].max() < 20


def test_odd_and_different_sizes(tmp_path: Path) -> None:
    frames = grey(2)
    small = replace(
        frames[0],
        camera=frames[0].camera.resized(61, 41),
        image=np.full((41, 61, 3), 60, np.uint8),
        boxes=None,
    )
    report = export_frames(Frames([small, frames[1]]), "mp4", tmp_path / "out")
    assert report.notes == ("10 pictures a second", "1 pictures scaled to the first one's size")
    first, second = pictures(tmp_path / "out" / "video.mp4")[1]
    assert first.shape == second.shape == (42, 62, 3), "padded to even sizes"


def test_rates() -> None:
    assert rate_of([0, 0.1, 0.2, 1.2]) == pytest.approx(10), "the median is not moved by a gap"
    assert rate_of([3, 4, 0, 1]) == pytest.approx(1), "steps back do not count"
    assert rate_of([5.0]) == rate_of([]) == 10


def test_a_rate_of_ones_own_and_bad_ones(tmp_path: Path) -> None:
    export_frames(Frames(grey(3)), "mp4", tmp_path / "out", ExportOptions(rate_hz=25))
    assert pictures(tmp_path / "out" / "video.mp4")[0] == pytest.approx(25)
    for rate_hz in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="rate_hz"):
            ExportOptions(rate_hz=rate_hz)


def test_a_video_that_was_cut_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV drops pictures in silence when the disk is full."""
    monkeypatch.setattr("perception.datasets.export.video.open_video", lambda *_: Deaf())
    with pytest.raises(DataError, match=r"cannot be written \(the video has 0 of 2 pictures\)"):
        export_frames(Frames(grey(2)), "mp4", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Deaf:
    """Opens no file and writes nothing."""

    def write(self, picture: np.ndarray) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""
