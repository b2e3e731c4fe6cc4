"""`convoy recon render` and `convoy recon view`, run in process."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from fl_app import cli_recon_show
from fl_app.cli_recon_show import PathKind, cameras_of, parse_size, render, view
from geometry import SE3, Camera, Frame
from recon.gaussians import Gaussians
from recon.ply import write_ply
from recon.spz import write_spz
from recon.trajectories import turntable

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
CAMERA = Camera(SE3.identity(), 50.0, 50.0, 31.0, 25.0, 64, 48)

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(render)
app.command()(view)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(argument) for argument in arguments])


def cube() -> Gaussians:
    xyz = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    return Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    write_ply(tmp_path / "scene.ply", cube())
    return tmp_path / "scene.ply"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A data set with poses: four photos on half a circle round the cube."""
    root = tmp_path / "photos"
    (root / "images").mkdir(parents=True)
    rows = []
    for index, camera in enumerate(turntable(np.zeros(3), 5.0, 1.0, CAMERA, 8)[:4]):
        Image.fromarray(np.full((48, 64, 3), 40 * index, np.uint8)).save(root / f"images/{index}.png")
        pose = camera.world_from_cam.matrix @ np.diag([1.0, -1, -1, 1])  # the format has OpenGL's axes
        rows.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
    intrinsics = {"fl_x": 50, "fl_y": 50, "cx": 32, "cy": 24, "w": 64, "h": 48}
    (root / "transforms.json").write_text(json.dumps({**intrinsics, "frames": rows}))
    return root


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    root = tmp_path / "camvid"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((30, 40), np.uint8)).convert("RGB" if folder == "images" else "L").save(
            root / folder / "0001TP_0.png"
        )
    return root


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.png", "out"])
def test_a_scene_is_rendered_into_what_the_name_ends_in(scene: Path, tmp_path: Path, name: str) -> None:
    result = invoke("render", scene, "-o", tmp_path / name, "--frames", "3", "--size-px", "60x40")
    assert result.exit_code == 0, result.stderr
    count = 1 if name == "out.png" else 3
    assert result.stdout == f"{tmp_path / name}: {count} pictures of 60x40, 400 Gaussians\n"
    picture = {"out.gif": tmp_path / name, "out.png": tmp_path / name}.get(name, tmp_path / "out/00002.png")
    if name != "out.mp4":
        with Image.open(picture) as found:
            assert found.size == (60, 40)
            assert np.asarray(found.convert("RGB"))[20, 30].max() > 60, "the cube is in the middle"


def test_spz_is_a_scene_too(tmp_path: Path) -> None:
    pytest.importorskip("gsply", reason="pip install convoy[spz]")
    write_spz(tmp_path / "scene.spz", cube())
    result = invoke("render", tmp_path / "scene.spz", "-o", tmp_path / "out.png", "--size-px", "60x40")
    assert result.exit_code == 0, result.stderr


def test_depth_takes_the_place_of_colours(scene: Path, tmp_path: Path) -> None:
    common = ("render", scene, "--size-px", "60x40", "-o")
    assert invoke(*common, tmp_path / "rgb.png").exit_code == 0
    assert invoke(*common, tmp_path / "depth.png", "--depth").exit_code == 0
    rgb, depth = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("rgb", "depth"))
    assert not np.array_equal(rgb, depth)
    assert depth[0, 0].tolist() == [0, 0, 0]
    assert depth[20, 30].sum() > 200


def test_a_flight_through_the_data_and_a_wobble_about_its_first_camera(
    scene: Path, photos: Path, tmp_path: Path
) -> None:
    for kind in PathKind:
        out = tmp_path / str(kind)
        result = invoke("render", scene, "-o", out, "--path", kind, "--data", photos, "--frames", "5")
        assert result.exit_code == 0, result.stderr
        assert "5 pictures of 64x48" in result.stdout
    flight, wobbling = (
        [np.asarray(Image.open(tmp_path / kind / f"{i:05}.png")).astype(int) for i in range(5)]
        for kind in ("fly", "wobble")
    )
    assert np.abs(flight[0] - flight[4]).mean() > 2 * np.abs(wobbling[0] - wobbling[4]).mean() > 0


def test_paths_by_hand() -> None:
    given = turntable(np.zeros(3), 5.0, 1.0, CAMERA, 8)[:4]
    flight = cameras_of(cube(), PathKind.FLY, given, 7, None, 0.0)
    for end, camera in ((0, given[0]), (-1, given[3])):
        found, wanted = flight[end].world_from_cam, camera.world_from_cam
        np.testing.assert_allclose(found.matrix, wanted.matrix, atol=1e-6)
    around = cameras_of(cube(), PathKind.WOBBLE, given, 4, None, 0.0)
    mean = np.mean([camera.world_from_cam.translation_m for camera in around], axis=0)
    np.testing.assert_allclose(mean, given[0].world_from_cam.translation_m, atol=1e-9)
    turning = cameras_of(cube(), PathKind.TURNTABLE, [], 3, (80, 60), 90.0)
    assert [camera.fx_px for camera in turning] == pytest.approx([40.0] * 3)  # 80 / 2 / tan 45°
    alone = cameras_of(cube(), PathKind.WOBBLE, [], 2, (80, 60), 0.0)
    pixels, depth_m = alone[0].project(np.zeros((1, 3)))
    assert depth_m[0] > 0
    assert np.abs(pixels[0] - [40, 30]).max() < 10


def test_sizes_are_read() -> None:
    assert parse_size("") is None
    assert parse_size("960x540") == (960, 540)
    for text in ("960", "0x5", "5x0", "ax5", "5X5", "1e3x5", "-5x5", "123456x5"):
        with pytest.raises(ValueError, match="give WIDTHxHEIGHT"):
            parse_size(text)


def test_a_drive_ends_where_time_goes_back() -> None:
    class Drive:
        def __len__(self) -> int:
            return len(times_s)

        def __getitem__(self, index: int) -> Any:
            return Frame(times_s[index], CAMERA)

    times_s = [0.0, 1.0, 1.0, 2.0, 0.5, 3.0]
    assert len(cli_recon_show._first_drive(Drive())) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("out.mp4", "--path", "fly"), "name it with --data"),
        (("out.mp4", "--size-px", "big"), "--size-px is 'big'"),
        (("out.mov",), "cannot write .mov files"),
        (("none/out.mp4",), "none does not exist; make it first"),
        (("out.mp4", "--backend", "gpu"), "--backend is 'gpu'; choose one of auto, cpu"),
        (("out.mp4", "--data", "nowhere"), "nowhere: no such folder"),
        (("out.mp4", "--data", "camvid"), "no poses in one world"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    scene: Path, camvid: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(scene.parent)
    result = invoke("render", scene, "-o", *arguments)
    check_one_line(result, says)
    assert sorted(path.name for path in scene.parent.iterdir()) == ["camvid", "scene.ply"]


def check_one_line(result: Result, says: str) -> None:
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.ply", None, "absent.ply: cannot be read"),
        ("broken.ply", b"ply\n", "broken.ply: the header has no line 'end_header'"),
        ("scene.obj", b"", "scene.obj: a scene ends in .ply or .spz"),
    ],
)
@pytest.mark.parametrize("command", ["render", "view"])
def test_a_scene_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, says: str, command: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    check_one_line(invoke(command, tmp_path / name, *(("-o", tmp_path / "a.png") if command == "render" else ())), says)


def test_a_scene_without_gaussians(tmp_path: Path) -> None:
    write_ply(tmp_path / "empty.ply", Gaussians.empty())
    check_one_line(invoke("render", tmp_path / "empty.ply", "-o", tmp_path / "out.gif"), "no Gaussians")


@pytest.mark.skipif(torch.cuda.is_available(), reason="gsplat may render here")
def test_gsplat_without_a_gpu(scene: Path, tmp_path: Path) -> None:
    result = invoke("render", scene, "-o", tmp_path / "out.gif", "--backend", "gsplat")
    check_one_line(result, 'use backend "cpu"')


def test_the_viewer_runs_until_ctrl_c(scene: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("viser", reason="pip install convoy[view]")
    from recon import viewer

    started: list[Any] = []

    def start(*arguments: Any, **options: Any) -> Any:
        started.append((arguments, real(*arguments, **options)))
        return started[-1][1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    real = viewer.view_scene
    monkeypatch.setattr(viewer, "view_scene", start)
    monkeypatch.setattr(cli_recon_show, "_wait", interrupt)
    result = invoke("view", scene, "--data", photos, "--port", "0")
    assert result.exit_code == 0, result.stderr
    ((gaussians, frames), server) = started[0]
    assert (len(gaussians), len(frames)) == (400, 4)
    assert f"400 Gaussians at http://127.0.0.1:{server.get_port()}, Ctrl-C ends" in result.stdout
    assert "stopped" in result.stdout
    assert not server._websock_server._server_thread.is_alive()


@pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "fox").is_dir()),
    reason="set CONVOY_DATA to a folder with fox/ to fly past real cameras",
)
def test_a_flight_past_real_cameras(scene: Path, tmp_path: Path) -> None:
    fox = Path(CONVOY_DATA) / "fox"
    along = ("--path", "fly", "--data", fox, "--frames", "4", "--size-px", "90x160")
    result = invoke("render", scene, "-o", tmp_path / "out.gif", *along)
    assert result.exit_code == 0, result.stderr
    assert "4 pictures of 90x160" in result.stdout
