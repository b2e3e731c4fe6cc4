"""`convoy data`, run in process."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from fl_app.cli_data import data_app
from fl_app.cli_export import bar, spread
from perception.datasets.export import EXPORTS

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


@pytest.fixture(scope="module")
def town_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for generated frames, filled on first use."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_CACHE", str(folder))
        yield folder


@pytest.mark.slow
@pytest.mark.usefixtures("town_cache")
def test_generated_towns_are_data_too(tmp_path: Path) -> None:
    result = invoke("info", "town:hamlet")
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("in one world", "boxes: vehicle", "mask: road", "LiDAR"))
    assert invoke("show", "town:hamlet", "--out", tmp_path / "town.png", "--frames", "2").exit_code == 0
    with Image.open(tmp_path / "town.png") as sheet:
        assert sheet.width == 4 * 640, "image, masks, LiDAR, depth"
    result = invoke("info", "town:atlantis")
    assert result.exit_code == 2
    assert "atlantis" in result.stderr


@pytest.mark.usefixtures("town_cache")
@pytest.mark.parametrize("to", EXPORTS)
def test_a_town_goes_into_every_format(tmp_path: Path, to: str) -> None:
    result = invoke("export", "town:hamlet", "--to", to, "--out", tmp_path / "out", "--frames", "4", "--boxes")
    assert result.exit_code == 0, result.stderr
    assert f"4 of 12 frames of town/hamlet as {EXPORTS[to].format}" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("town_cache")
def test_town_prints_what_it_holds_and_previews_it(tmp_path: Path) -> None:
    result = invoke("town", "--preset", "hamlet")
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("town/hamlet", "in one world", "boxes: vehicle"))
    out = tmp_path / "preview"
    result = invoke("town", "--preset", "hamlet", "--preview", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "map.png", "sheet.png", "video.mp4"]
    with Image.open(out / "map.png") as plan, Image.open(out / "sheet.png") as sheet:
        assert plan.width == 1080
        assert sheet.size == (4 * 640, sheet.height)
    assert "is not empty" in invoke("town", "--preset", "hamlet", "--preview", "--out", out).stderr
    result = invoke("town", "--preset", "atlantis")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no preset 'atlantis'" in result.stderr


def test_export_writes_what_a_folder_holds_and_names_what_is_broken(camvid: Path, tmp_path: Path) -> None:
    (camvid / "images/0001TP_2.png").write_bytes(b"not an image")
    result = invoke("export", camvid, "--to", "mp4", "--out", tmp_path / "out", "--rate-fps", "5")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].endswith("out: 3 of 4 frames of CamVid as MP4")
    assert lines[1] == "note: 5 pictures a second"
    assert lines[2].startswith(f"left out: {camvid}/images/0001TP_2.png: not a readable image")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "kitty"), "no export to 'kitty'; choose one of kitti-object"),
        (("--to", "colmap"), "no poses in one world, which COLMAP needs"),
        (("--to", "nuscenes", "--frames", "1"), "no LiDAR points; nuScenes needs them"),
    ],
)
def test_a_mistake_ends_an_export_with_one_line_and_code_2(
    camvid: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = invoke("export", camvid, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_keeps_folders_in_use_and_replaces_its_own(camvid: Path, tmp_path: Path) -> None:
    arguments = ("export", camvid, "--to", "mp4", "--out")
    for used in (camvid, camvid / "images"):
        assert "is not empty" in invoke(*arguments, used).stderr
        assert "no export wrote" in invoke(*arguments, used, "--overwrite").stderr
    assert invoke(*arguments, tmp_path / "out").exit_code == 0
    assert invoke(*arguments, tmp_path / "out").exit_code == 2
    assert invoke(*arguments, tmp_path / "out", "--overwrite").exit_code == 0


def test_a_folder_that_cannot_be_written_and_ctrl_c(
    camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("export", camvid, "--to", "kitti-object", "--out", tmp_path / "out")
    for error, code, says in (
        (OSError(errno.ENOSPC, "No space left on device"), 2, "cannot be written"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", failing(error))
            result = invoke(*arguments)
        assert result.exit_code == code
        assert says in result.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["camvid"]


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    return fail


def test_a_progress_bar_passes_everything_on_and_stays_off_where_nobody_looks(capsys: pytest.CaptureFixture) -> None:
    assert list(bar("working")([3, 1, 2])) == [3, 1, 2]
    assert capsys.readouterr().err == ""


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
