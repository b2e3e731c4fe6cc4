"""What all exports share: bad input, folders that appear whole or not at all."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geometry import Boxes, Frame
from perception.datasets.base import DataError
from perception.datasets.export import EXPORTS, export_frames
from tests.perception.export_frames import Frames, drive, without

ALL = sorted(EXPORTS)


def with_box(frame: Frame, *xyxy_px: float, label: int = 0) -> Frame:
    return replace(frame, boxes=Boxes(np.array([xyxy_px], np.float32), np.array([label])))


def with_points(frame: Frame, *point: float) -> Frame:
    return replace(frame, points_lidar=np.array([point], np.float32))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no export to 'kitti'; choose one of kitti-object, kitti-raw, colmap"):
        export_frames(Frames(drive(1)), "kitti", tmp_path / "out")


@pytest.mark.parametrize("to", ["kitti-raw", "colmap", "transforms", "nuscenes"])
def test_frames_without_a_common_world_are_refused_but_one_alone_is_not(tmp_path: Path, to: str) -> None:
    frames = Frames(drive(2), posed=False)
    with pytest.raises(DataError, match=r"by hand: .* no poses in one world, which .* needs; choose data with poses"):
        export_frames(frames, to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_frames(frames, to, tmp_path / "out", indices=[1]).written == 1


@pytest.mark.parametrize("to", ["kitti-object", "colmap", "transforms", "nuscenes", "mp4"])
def test_frames_without_images_give_one_error(tmp_path: Path, to: str) -> None:
    with pytest.raises(DataError) as caught:
        export_frames(Frames([without(frame, "image") for frame in drive(2)]), to, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("by hand: none of 2 frames fits")
    assert "the first: frame 5: no image;" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "says", "formats"),
    [
        (lambda f: with_points(f, 5, 0, np.nan, 0.5), "1 of 1 points hold NaN", set(ALL) - {"mp4"}),
        (lambda f: with_points(f, 5, 0, 1, 200), "intensity runs from 200", set(ALL) - {"mp4"}),
        (lambda f: replace(f, timestamp_s=float("nan")), "timestamp_s is nan", {"kitti-raw", "nuscenes", "transforms"}),
        (lambda f: with_box(f, 130, 10, 150, 20), "shows less than a pixel inside the 120x80 image", {"kitti-object"}),
        (lambda f: with_box(f, 10, 10, 10.5, 20), "shows less than a pixel", {"kitti-raw", "nuscenes", "mp4"}),
        (lambda f: with_box(f, 10, 10, 30, 20, label=3), "box label 3, want 0..2", {"kitti-object", "nuscenes"}),
        (lambda f: DataError("x.png: not a readable image; fetch it again"), "x.png: not a readable", set(ALL)),
    ],
)
def test_an_unsound_frame_costs_that_frame_alone(
    tmp_path: Path, spoil: Callable[[Frame], Frame], says: str, formats: set[str]
) -> None:
    good, bad, other = drive(3)
    for to in sorted(formats):
        report = export_frames(Frames([good, spoil(bad), other]), to, tmp_path / to)
        assert report.written == 2
        assert len(report.problems) == 1
        assert says in report.problems[0]
        assert ";" in report.problems[0], "the remedy"
        assert json.loads((tmp_path / to / "export.json").read_text())["left out"] == list(report.problems)
        with pytest.raises(DataError, match="none of 1 frames fits"):
            export_frames(Frames([spoil(bad)]), to, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_box_that_reaches_outside_is_clipped(tmp_path: Path) -> None:
    frames = [with_box(drive(1)[0], -20, 10, 30, 500)]
    export_frames(Frames(frames), "kitti-object", tmp_path / "out")
    fields = (tmp_path / "out/training/label_2/000000.txt").read_text().split()
    assert fields[4:8] == ["0.00", "9.50", "29.50", "79.00"]


@pytest.mark.parametrize("to", ALL)
def test_the_folder_may_be_empty_and_says_what_it_holds(tmp_path: Path, to: str) -> None:
    (tmp_path / "out").mkdir()
    export_frames(Frames(drive(2)), to, tmp_path / "out")
    marker = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (marker["data set"], marker["licence"], marker["frames"]) == ("by hand", "CC0-1.0", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing beside it"


def test_a_folder_in_use_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for overwrite, says in ((False, "is not empty"), (True, "holds files that no export wrote")):
        with pytest.raises(DataError, match=says):
            export_frames(Frames(drive(1)), "colmap", out, overwrite=overwrite)
    assert files(tmp_path) == ["out/thesis.txt"]
    with pytest.raises(DataError, match="is a file"):
        export_frames(Frames(drive(1)), "colmap", out / "thesis.txt")


def test_overwrite_replaces_an_earlier_export_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_frames(Frames(drive(3)), "kitti-object", out)
    with pytest.raises(DataError, match="--overwrite"):
        export_frames(Frames(drive(1)), "mp4", out)
    export_frames(Frames(drive(1)), "mp4", out, overwrite=True)
    assert files(tmp_path) == ["out/export.json", "out/video.mp4"]


@pytest.mark.parametrize("before", [None, "mp4"])
def test_ctrl_c_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    out = tmp_path / "out"
    if before:
        export_frames(Frames(drive(1)), before, out)
    kept = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export_frames(Frames([*drive(2), KeyboardInterrupt()]), "kitti-object", out, overwrite=True)
    assert files(tmp_path) == kept
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])


def test_a_failing_last_rename_brings_the_earlier_export_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export_frames(Frames(drive(1)), "mp4", out)
    kept, rename = files(tmp_path), os.replace

    def fail_from_staging(source: Path, target: Path) -> None:
        if ".part-" in str(source):
            raise OSError(errno.EIO, "input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_from_staging)
    with pytest.raises(DataError, match="input/output error"):
        export_frames(Frames(drive(1)), "colmap", out, overwrite=True)
    assert files(tmp_path) == kept


@pytest.mark.parametrize("to", sorted(set(ALL) - {"mp4"}))
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    def full(self: Image.Image, path: Path, **settings: int) -> None:
        Path(path).write_bytes(b"half a pic")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match=r"out: cannot be written \(.*No space left on device\); free space or give"):
        export_frames(Frames(drive(2)), to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *arguments: object, **settings: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(DataError, match=r"out: cannot be written \(.*Permission denied"):
        export_frames(Frames(drive(1)), "colmap", tmp_path / "out")


def test_the_working_folder_is_not_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for out in (Path(), tmp_path):
        with pytest.raises(DataError, match="is the working folder or holds it"):
            export_frames(Frames(drive(1)), "colmap", out)


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 0 frames"):
        export_frames(Frames([]), "colmap", tmp_path / "out")
