"""`convoy data`, run in process."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fl_app.cli_data import data_app, spread

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(data_app, [str(argument) for argument in arguments])


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    root = tmp_path / "camvid"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((30, 40, 3), 120, np.uint8)).save(root / f"images/0001TP_{number}.png")
        masks = np.full((30, 40), 3, np.uint8)
        masks[:9] = 0
        masks[9:12] = 11
        Image.fromarray(masks).save(root / f"labels/0001TP_{number}.png")
    return root


def test_info_counts_what_is_there(camvid: Path) -> None:
    result = invoke("info", camvid)
    assert result.exit_code == 0
    cells = [[cell.strip() for cell in line.strip("│\n").split("│")] for line in result.stdout.splitlines()]
    rows = dict(row for row in cells if len(row) == 2)
    assert rows["format"] == "CamVid"
    assert rows["frames"] == "4"
    assert rows["image size"] == "40x30 (4)"
    assert rows["masks"] == "4 of 4 frames"
    assert rows["boxes"] == rows["LiDAR"] == rows["problems"] == "none"
    assert (rows["mask: road"], rows["mask: sky"], rows["mask: unlabelled"]) == ("60.0%", "30.0%", "10.0%")


def test_info_counts_broken_files_and_goes_on(camvid: Path) -> None:
    (camvid / "images/0001TP_2.png").write_bytes(b"not an image")
    result = invoke("info", camvid)
    assert result.exit_code == 0
    assert "1 frames could not be read" in result.stdout
    assert "3 of 3 frames" in result.stdout
    assert "0001TP_2.png" in result.stdout.replace("\n", "")


def test_show_writes_a_sheet_of_the_frames_asked_for(camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.png"
    result = invoke("show", camvid, "--out", out, "--frames", "3")
    assert result.exit_code == 0
    assert "3 of 4 frames" in result.stdout
    with Image.open(out) as sheet:
        assert sheet.size == (2 * 640, 3 * (480 + 20))


def test_unknown_folders_give_one_error_and_code_2(camvid: Path) -> None:
    for arguments in (("info", camvid.parent), ("show", camvid.parent, "--out", "never.png")):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert isinstance(result.exception, SystemExit), "no traceback"
        assert result.stderr.startswith(f"error: {camvid.parent}: not a data folder")
        assert all(name in result.stderr for name in ("KITTI object", "KITTI raw", "CamVid", "town:PRESET"))
        assert f"{camvid} is CamVid" in result.stderr


@pytest.mark.parametrize("name", ["sheet.unknown", "absent/sheet.png"])
def test_a_picture_that_cannot_be_written_is_named(camvid: Path, tmp_path: Path, name: str) -> None:
    result = invoke("show", camvid, "--out", tmp_path / name)
    assert result.exit_code == 2
    assert str(tmp_path / name) in result.stderr


def test_show_names_a_broken_frame(camvid: Path, tmp_path: Path) -> None:
    (camvid / "images/0001TP_0.png").write_bytes(b"not an image")
    result = invoke("show", camvid, "--out", tmp_path / "data.png")
    assert result.exit_code == 2
    assert "0001TP_0.png: not a readable image" in result.stderr


def test_generated_towns_are_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path))
    result = invoke("info", "town:hamlet")
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("in one world", "boxes: vehicle", "mask: road", "LiDAR"))
    assert invoke("show", "town:hamlet", "--out", tmp_path / "town.png", "--frames", "2").exit_code == 0
    with Image.open(tmp_path / "town.png") as sheet:
        assert sheet.width == 4 * 640, "image, masks, LiDAR, depth"
    result = invoke("info", "town:atlantis")
    assert result.exit_code == 2
    assert "atlantis" in result.stderr


def test_frames_are_spread_evenly() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 5) == spread(3, 0) == [0, 1, 2]
    assert spread(9, 1) == [0]


@pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "kitti_object").is_dir()),
    reason="set CONVOY_DATA to a folder with kitti_object/ to test on real frames",
)
def test_real_kitti_is_described_and_drawn(tmp_path: Path) -> None:
    result = invoke("info", Path(CONVOY_DATA) / "kitti_object")
    assert result.exit_code == 0
    assert "8 of 8 frames" in result.stdout
    assert "boxes: cyclist" in result.stdout
    result = invoke("show", Path(CONVOY_DATA) / "kitti_object", "--out", tmp_path / "kitti.jpg", "--frames", "2")
    assert result.exit_code == 0
    with Image.open(tmp_path / "kitti.jpg") as sheet:
        assert sheet.width == 2 * 640
