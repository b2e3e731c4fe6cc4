"""The frame cache under the town: lossless, resumable, mended when damaged, shared by several at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError
from perception.datasets.cache import CorruptFrame, cache_root, read_frame, write_frame
from perception.datasets.town import PRESETS, town_fleet
from perception.datasets.town import rendering as town_rendering

TINY = replace(PRESETS["hamlet"], vehicles=1, frames_per_vehicle=4, holdout_frames=1, size_px=(32, 64))


def _frame(**kwargs: object) -> Frame:
    pose = SE3.from_yaw(0.3, np.array([1.0, 2.0, 3.0]))
    return Frame(timestamp_s=0.1, camera=Camera(pose, 10.5, 11.5, 4.0, 3.0, 8, 6), source="a test", **kwargs)


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.npz"))}


def test_a_full_frame_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = Boxes(
        rng.random((2, 4), np.float32), np.array([0, 2]), rng.random((2, 7), np.float32), np.array([5, 10**12])
    )
    depth_m = rng.random((6, 8), np.float32)
    depth_m[0, 0] = np.inf
    frame = _frame(
        image=rng.integers(0, 256, (6, 8, 3), np.uint8),
        points_lidar=rng.normal(size=(9, 4)).astype(np.float32),
        boxes=boxes,
        masks=rng.integers(0, 11, (6, 8)).astype(np.uint8),
        depth_m=depth_m,
        lidar_from_cam=SE3.from_yaw(1.0, np.ones(3)),
    )
    write_frame(tmp_path / "a" / "0.npz", frame)
    back = read_frame(tmp_path / "a" / "0.npz")
    for name in ("image", "points_lidar", "masks", "depth_m"):
        assert getattr(back, name).dtype == getattr(frame, name).dtype
        np.testing.assert_array_equal(getattr(back, name), getattr(frame, name))
    for name in ("xyxy_px", "labels", "cuboids_world", "track_ids"):
        np.testing.assert_array_equal(getattr(back.boxes, name), getattr(frame.boxes, name))
    np.testing.assert_array_equal(back.camera.world_from_cam.matrix, frame.camera.world_from_cam.matrix)
    np.testing.assert_array_equal(back.lidar_from_cam.matrix, frame.lidar_from_cam.matrix)
    np.testing.assert_array_equal(back.camera.intrinsics, frame.camera.intrinsics)
    assert (back.timestamp_s, back.source) == (0.1, "a test")
    assert (back.camera.width_px, back.camera.height_px) == (8, 6)


def test_what_a_frame_lacks_stays_none(tmp_path: Path) -> None:
    write_frame(tmp_path / "0.npz", _frame())
    back = read_frame(tmp_path / "0.npz")
    assert [back.image, back.points_lidar, back.boxes, back.masks, back.depth_m, back.lidar_from_cam] == [None] * 6


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:60] + b"\0\0\0" + b[63:]])
def test_a_damaged_file_is_reported_with_its_path(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "0.npz"
    write_frame(path, _frame(image=np.zeros((6, 8, 3), np.uint8)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFrame, match=r"0\.npz.*delete it"):
        read_frame(path)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"No space left on device.*CONVOY_CACHE"):
        write_frame(tmp_path / "0.npz", _frame())
    assert list(tmp_path.iterdir()) == []


def test_the_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CONVOY_CACHE")
    assert cache_root() == Path.home() / ".cache" / "convoy"


@pytest.mark.slow
def test_an_interrupted_rendering_resumes_and_renders_only_what_lacks(tmp_path: Path) -> None:
    town_fleet(TINY, workers=1, root=tmp_path)
    before = _bytes(tmp_path)
    assert len(before) == 5
    lost = [path for path in sorted(tmp_path.rglob("*.npz")) if path.stem in ("00001-0", "00003-0")]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz") if path not in lost}
    for path in lost:
        path.unlink()
    (lost[0].parent / ".part-killed.npz").write_bytes(b"half a frame")
    town_fleet(TINY, workers=1, root=tmp_path)
    assert {key: value for key, value in _bytes(tmp_path).items() if ".part" not in key} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_corrupt_frame_is_rendered_again_with_a_warning(tmp_path: Path) -> None:
    fleet = town_fleet(TINY, workers=1, root=tmp_path)
    path = next(tmp_path.rglob("vehicle-0/00002-0.npz"))
    good = path.read_bytes()
    path.write_bytes(good[:1000])
    with pytest.warns(UserWarning, match=r"00002-0\.npz.*rendering it again"):
        frame = fleet.shares[0].train[2]
    assert path.read_bytes() == good
    np.testing.assert_array_equal(frame.image, read_frame(path).image)


@pytest.mark.slow
def test_the_same_bytes_from_one_process_and_from_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process builds the town from nothing, so this is also two builds from one seed."""
    town_fleet(TINY, workers=1, root=tmp_path / "one")
    monkeypatch.setattr(town_rendering, "FRAMES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(town_rendering, "CHUNK_FRAMES", 2)
    town_fleet(TINY, workers=2, root=tmp_path / "two")
    one = _bytes(tmp_path / "one")
    assert len(one) == 5
    assert one == _bytes(tmp_path / "two")


def test_two_that_want_the_same_frames_at_once_render_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = []
    real = town_rendering.render
    monkeypatch.setattr(town_rendering, "render", lambda config, shot: rendered.append(shot) or real(config, shot))
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(town_fleet, TINY, workers=1, root=tmp_path) for _ in range(2)]
        fleets = [job.result() for job in jobs]
    assert sorted(rendered, key=str) == sorted(set(rendered), key=str)
    assert len(rendered) == 5
    np.testing.assert_array_equal(fleets[0].holdout[0].image, fleets[1].holdout[0].image)


def test_workers_that_die_are_replaced_by_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(town_rendering, "FRAMES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(town_rendering, "_in_processes", _broken)
    with pytest.warns(UserWarning, match="rendering in this process instead"):
        town_fleet(TINY, workers=2, root=tmp_path)
    assert len(_bytes(tmp_path)) == 5


def _broken(*_: object) -> None:
    raise town_rendering.BrokenProcessPool("a worker died")


@pytest.mark.slow
def test_a_script_without_a_main_guard_renders_in_processes_all_the_same(tmp_path: Path) -> None:
    script = Path(__file__).with_name("unguarded.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(_bytes(tmp_path))
    assert "instead" not in done.stderr


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot be written.*CONVOY_CACHE"):
        town_fleet(TINY, workers=1, root=blocked)


def test_the_folder_depends_on_the_content_and_not_on_the_size_of_the_fleet(tmp_path: Path) -> None:
    store = lambda **change: town_rendering.Store(tmp_path, replace(TINY, **change)).folder  # noqa: E731
    assert store() == store(vehicles=9) == store(frames_per_vehicle=7)
    assert len({store(), store(seed=1), store(fov_deg=60.0), store(size_px=(32, 96))}) == 4
