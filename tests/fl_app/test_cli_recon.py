"""`convoy recon fit` and `convoy recon eval` on six photos of a cube, run in process and, for Ctrl-C, as a program."""

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from fl_app.cli_recon import recon_app
from geometry import SE3, Camera
from recon.fit import advance as original_advance
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.ply import read_ply
from recon.render import KernelUnavailableError
from recon.trajectories import turntable

ROOT = Path(__file__).parents[2]
CAMERA = Camera(SE3.identity(), 30.0, 30.0, 16.0, 12.0, 32, 24)
INTRINSICS = {"fl_x": 30, "fl_y": 30, "cx": 16, "cy": 12, "w": 32, "h": 24}
SELECTION = ("--holdout", "3")
OPTIONS = ("--points", "random", "--steps", "20", "--cap", "200", *SELECTION)


@pytest.fixture(autouse=True)
def as_a_user() -> Iterator[None]:
    """On one thread, and without the checks of types, which read frames of their own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `transforms.json` with six photos of a coloured cube."""
    root = tmp_path_factory.mktemp("data") / "cube"
    root.mkdir()
    xyz = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    cube, rows = Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9), []
    for number, camera in enumerate(turntable(np.zeros(3), 4.0, 1.0, CAMERA, 6)):
        Image.fromarray(render_camera(cube, camera)[0]).save(root / f"{number}.png")
        pose = camera.world_from_cam.matrix @ np.diag([1.0, -1, -1, 1])  # the format has OpenGL's axes
        rows.append({"file_path": f"{number}.png", "transform_matrix": pose.tolist()})
    (root / "transforms.json").write_text(json.dumps({**INTRINSICS, "frames": rows}))
    return root


@pytest.fixture
def photos(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "cube"))


def invoke(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(recon_app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    """What a command printed that went well, in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return " ".join(result.stdout.split())


def refused(*arguments: str | Path) -> str:
    """The one line that a user's mistake ends with."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit), "no traceback"
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def psnrs(words: str) -> list[str]:
    """All that were printed, as they were printed."""
    return re.findall(r"PSNR (-?[\d.]+) dB", words)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean_psnr(path: Path) -> str:
    """Of a table, as it would be printed."""
    return f"{np.mean([float(row['psnr_db']) for row in rows_of(path)]):.2f}"


def test_a_fit_writes_a_scene_scores_and_pictures_and_eval_finds_the_same(original: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "scene.ply", tmp_path / "scene.scores.csv"
    words = done("fit", original, "-o", out, *OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.ply", "scene.scores.csv", "scene.views.png"]
    assert 100 < len(read_ply(out)) <= 200
    assert f"{len(read_ply(out))} Gaussians" in words
    names = [Path(row["view"].split()[0]).name for row in rows_of(table)]
    assert names == ["1.png", "4.png"], "of 0..5 every third from 1 on"
    assert mean_psnr(table) == psnrs(words)[0]
    with Image.open(tmp_path / "scene.views.png") as sheet:
        assert sheet.width >= 3 * 32
        assert sheet.height >= 2 * 24
    for path in (table, tmp_path / "scene.views.png"):
        path.unlink()
    again = done("eval", out, original, *SELECTION)
    assert psnrs(again)[0] == psnrs(words)[0]
    assert mean_psnr(table) == psnrs(again)[0]
    assert (tmp_path / "scene.views.png").exists()


def test_without_a_compiler_the_slower_way_is_named(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise KernelUnavailableError("no C++ compiler (c++) on PATH: install one")

    for module in ("recon.render", "recon.ssim", "fl_app.cli_recon"):
        monkeypatch.setattr(f"{module}.load_kernel", missing)
    words = done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--steps", "2")
    assert "note: no C++ compiler (c++) on PATH: install one; fitting with plain torch instead" in words
    assert (tmp_path / "scene.ply").is_file()


def test_more_steps_come_nearer_to_what_was_shown(original: Path, tmp_path: Path) -> None:
    found = []
    for steps in ("1", "300"):
        done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--steps", steps, "--holdout", "0")
        found.append(float(psnrs(done("eval", tmp_path / "scene.ply", original, "--all"))[0]))
    assert found[1] > found[0] + 5, found


def test_eval_of_all_frames(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "scene.ply"
    done("fit", original, "-o", out, *OPTIONS)
    assert "6 views that were looked at" in done("eval", out, original, *SELECTION, "--all")


def test_without_held_back_frames_there_are_no_scores(original: Path, tmp_path: Path) -> None:
    words = done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--holdout", "0")
    assert "no frames were held back" in words
    assert [path.name for path in tmp_path.iterdir()] == ["scene.ply"]


def test_the_same_seed_gives_the_same_file(original: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        done("fit", original, "-o", tmp_path / f"{name}.ply", *OPTIONS, "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.ply").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("cap", ["1", "2", "199"])
def test_caps_are_kept(original: Path, tmp_path: Path, cap: str) -> None:
    done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--cap", cap)
    assert 1 <= len(read_ply(tmp_path / "scene.ply")) <= int(cap)


def test_a_size_lowers_the_cap(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "scene.ply"
    words = done("fit", original, "-o", out, *OPTIONS, "--steps", "70", "--max-mb", "0.01")
    cap = re.search(r"the budget lowers the cap from 200 to (\d+) Gaussians", words)
    assert cap
    assert 100 < int(cap[1]) <= 10_000 // 68
    assert 100 < len(read_ply(out)) <= int(cap[1])


@pytest.mark.slow
def test_a_smaller_file_of_the_same_scene(original: Path, tmp_path: Path) -> None:
    pytest.importorskip("gsply", reason="pip install convoy[spz]")
    words = {name: done("fit", original, "-o", tmp_path / f"scene.{name}", *OPTIONS) for name in ("ply", "spz")}
    assert psnrs(words["ply"]) == psnrs(words["spz"])
    assert (tmp_path / "scene.spz").stat().st_size < (tmp_path / "scene.ply").stat().st_size
    found = float(psnrs(done("eval", tmp_path / "scene.spz", original, *SELECTION))[0])
    assert found == pytest.approx(float(psnrs(words["ply"])[0]), abs=0.3)


def test_a_memory_budget_lowers_the_cap(original: Path, tmp_path: Path) -> None:
    words = done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--memory-mb", "0.2")
    assert "the budget lowers the cap from 200 to 171 Gaussians" in words  # 70 % of it over 816 bytes each


def test_a_time_budget_keeps_what_there_is_and_goes_on(original: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.ply", tmp_path / "parts.ply"
    done("fit", original, "-o", whole, *OPTIONS)
    words = done("fit", original, "-o", parts, *OPTIONS, "--seconds", "0")
    assert "time was up at step 0 of 20" in words
    assert len(read_ply(parts)) > 0
    assert parts.with_name("parts.ply.fit").exists()
    assert "going on from step 0 of 20" in done("fit", original, "-o", parts, *OPTIONS, "--resume")
    assert parts.read_bytes() == whole.read_bytes()
    assert not parts.with_name("parts.ply.fit").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cap", "0"], "FitConfig.cap must be at least 1, got 0"),
        (["--points", "nowhere"], "source is 'nowhere', want one of auto, lidar, depth, known, sfm, random"),
        (["--points", "lidar"], "source is 'lidar', but no frame has LiDAR points; use another source, or 'auto'"),
        (["--holdout", "1"], "cube: all 6 frames are held out; choose a larger holdout, or 0 for none"),
        (["--first", "6"], "from number 6 on; it has 6"),
        (["--max-mb", "0.00001"], "--max-mb 1e-05: holds no Gaussian"),
        (["--memory-mb", "0.1"], "a memory budget of 0.1 MB holds 85 Gaussians; give more"),
        (["--depth-weight", "nan"], "LossWeights.depth must be finite and not negative, got nan"),
    ],
)
def test_a_wrong_option_is_refused(original: Path, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refused("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, *options)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    message = refused("fit", tmp_path / "nowhere", "-o", tmp_path / "scene.obj")
    assert message.endswith("scene.obj: want a name that ends in .ply or .spz")
    message = refused("fit", tmp_path / "nowhere", "-o", tmp_path / "missing" / "scene.ply")
    assert message.endswith("missing/scene.ply: cannot be written; name a file in a folder that exists")
    (tmp_path / "folder.ply").mkdir()
    assert "cannot be written" in refused("fit", tmp_path / "nowhere", "-o", tmp_path / "folder.ply")


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--max-mb", "inf", "--max-mb must be a positive number, got inf"),
        ("--memory-mb", "nan", "--memory-mb must be a positive number, got nan"),
        ("--seconds", "nan", "--seconds must be a number, got nan"),
        ("--apart-m", "nan", "--apart-m must be a number of metres, got nan"),
        ("--lpips-weights", "nowhere.pth", "nowhere.pth: cannot be used for LPIPS"),
    ],
)
def test_options_are_looked_at_before_the_fit(
    original: Path, tmp_path: Path, option: str, value: str, text: str
) -> None:
    assert text in refused("fit", original, "-o", tmp_path / "scene.ply", option, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x89PNG no fit", pickle.dumps({"step": 3})])
def test_a_file_that_is_no_saved_fit_is_refused(original: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scene.ply.fit").write_bytes(content)
    message = refused("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--resume")
    assert "scene.ply.fit: damaged or no saved fit" in message


def test_a_flipped_bit_in_a_saved_fit_is_seen(original: Path, tmp_path: Path) -> None:
    saved = tmp_path / "scene.ply.fit"
    done("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--seconds", "0")
    content = bytearray(saved.read_bytes())
    content[len(content) // 3] ^= 1
    saved.write_bytes(content)
    assert "damaged" in refused("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--resume")


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    assert "nowhere: no such folder; give a data folder" in refused(
        "fit", tmp_path / "nowhere", "-o", tmp_path / "a.ply"
    )


def change(root: Path, number: int, **fields: Any) -> None:
    """Other fields for one frame."""
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][number].update(fields)
    (root / "transforms.json").write_text(json.dumps(content))


def pose_with(value: float) -> list[list[float]]:
    return [[1, 0, 0, 0], [0, 1, 0, value], [0, 0, 1, 0], [0, 0, 0, 1]]


STRETCHED = [[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
FLAT = [[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("matrix", [STRETCHED, FLAT, pose_with(np.nan), pose_with(np.inf), [[1, 0], [0, 1]], "none"])
def test_a_pose_that_is_none_names_the_frame(photos: Path, tmp_path: Path, matrix: Any) -> None:
    change(photos, 2, transform_matrix=matrix)
    message = refused("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS)
    assert "transforms.json: frame 2 (2.png)" in message
    assert "; " in message.partition("2.png")[2], "a remedy"


def test_a_camera_far_away_is_named(photos: Path, tmp_path: Path) -> None:
    change(photos, 2, transform_matrix=pose_with(1e6))
    message = refused("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS, "--holdout", "0")
    assert "2.png" in message
    assert "subtract a common offset from all poses" in message


def test_a_missing_image_is_left_out_and_a_damaged_one_named(photos: Path, tmp_path: Path) -> None:
    (photos / "3.png").unlink()
    words = done("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS, "--holdout", "0")
    assert "random in the frusta of 5 frames" in words
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:60])
    message = refused("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS)
    assert "2.png" in message
    for path in photos.glob("*.png"):
        path.unlink()
    message = refused("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS)
    assert "transforms.json: none of its 6 frames has an image; fetch the images beside it" in message


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"frames": 3}', '{"frames": []}', "\x00\x01", '{"frames": [{}]}']
)
def test_a_damaged_transforms_file_is_named(photos: Path, tmp_path: Path, content: str) -> None:
    (photos / "transforms.json").write_text(content)
    assert "transforms.json" in refused("fit", photos, "-o", tmp_path / "scene.ply", *OPTIONS)


def test_eval_refuses_what_is_no_scene(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    done("fit", original, "-o", path, *OPTIONS)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-7], "cut off, "),
        (whole[:50], "no line 'end_header'"),
        (b"", "scene.ply"),
        (b"solid cube\n", "does not begin with the line 'ply'"),
        (whole[:-4] + b"\x00\x00\xc0\x7f", "NaN or infinity"),
    ):
        path.write_bytes(content)
        found = refused("eval", path, original, *SELECTION)
        assert str(path) in found
        assert message in found
    assert "cannot be read" in refused("eval", tmp_path / "missing.ply", original, *SELECTION)
    assert "a scene ends in .ply or .spz" in refused("eval", original / "0.png", original, *SELECTION)


def test_going_on_needs_a_file_and_the_same_settings(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "scene.ply"
    message = refused("fit", original, "-o", out, *OPTIONS, "--resume")
    assert "scene.ply.fit" in message
    assert "start afresh without --resume" in message
    done("fit", original, "-o", out, *OPTIONS, "--seconds", "0")
    for options, words in (
        (["--cap", "100"], "was fitted with cap 200, now it is 100"),
        (["--steps", "21"], "was fitted with steps 20, now it is 21"),
        (["--seed", "5"], "was fitted with seed 0, now it is 5"),
        (["--holdout", "2"], "was fitted with data "),
        (["--points", "auto"], "was fitted with data "),
    ):
        message = refused("fit", original, "-o", out, *OPTIONS, *options, "--resume")
        assert f"scene.ply.fit: {words}" in message
        assert "give the same, or start afresh" in message


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do something at the end of a step."""
    steps = count(1)

    def advance(*arguments: Any) -> float:
        loss = original_advance(*arguments)
        if next(steps) == number:
            action()
        return loss

    monkeypatch.setattr("recon.fit.advance", advance)


def fail() -> None:
    raise RuntimeError("the machine is switched off")


@pytest.fixture
def ctrl_c_as_usual() -> Iterator[None]:
    """Whatever tests before this one left behind, Ctrl-C interrupts, as it does where a command begins."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_as_usual")
def test_ctrl_c_in_process(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole, before = tmp_path / "parts.ply", tmp_path / "whole.ply", signal.getsignal(signal.SIGINT)
    done("fit", original, "-o", whole, *OPTIONS)
    with monkeypatch.context() as patched:
        at_step(patched, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        result = invoke("fit", original, "-o", out, *OPTIONS)
    assert result.exit_code == 130, (result.stderr, result.exception)
    assert "interrupted at step 7 of 20; --resume goes on from" in " ".join(result.stdout.split())
    assert not out.exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert "going on from step 7 of 20" in done("fit", original, "-o", out, *OPTIONS, "--resume")
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("ctrl_c_as_usual")
def test_ctrl_c_twice_ends_at_once(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # two at once count as one
        time.sleep(5)  # the second one ends this

    before = signal.getsignal(signal.SIGINT)
    at_step(monkeypatch, 7, twice)
    result = invoke("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_saved_now_and_then_is_enough_to_go_on(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "parts.ply", tmp_path / "whole.ply"
    done("fit", original, "-o", whole, *OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr("fl_app.scene_fit.SAVE_EVERY_S", -1.0)
        at_step(patched, 12, fail)
        result = invoke("fit", original, "-o", out, *OPTIONS)
    assert isinstance(result.exception, RuntimeError)
    assert "going on from step 11 of 20" in done("fit", original, "-o", out, *OPTIONS, "--resume")
    assert out.read_bytes() == whole.read_bytes()


def test_a_full_disk_is_said(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl_app.scene_fit.save_fit", full)
    message = refused("fit", original, "-o", tmp_path / "scene.ply", *OPTIONS, "--seconds", "0")
    assert "scene.ply.fit: cannot be written" in message
    assert "free some space or choose another folder" in message


LONG = (*OPTIONS, "--steps", "400")


@pytest.mark.simulation
def test_ctrl_c_ends_a_fit_that_then_goes_on(original: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "parts.ply", tmp_path / "whole.ply"
    code = "from fl_app.cli_recon import recon_app; recon_app()"
    command = [sys.executable, "-c", code, "fit", str(original), "-o", str(out), *LONG]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step "):
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.stdout.read(), process.stderr.read()
        code_after = process.wait(timeout=30)
    assert code_after == 130, errors
    assert "Traceback" not in errors
    assert "interrupted at step" in rest
    assert [path.name for path in tmp_path.iterdir()] == ["parts.ply.fit"]
    assert "going on from step" in done("fit", original, "-o", out, *LONG, "--resume")
    done("fit", original, "-o", whole, *LONG)
    assert out.read_bytes() == whole.read_bytes()
