"""Synchronised cameras: videos and image folders written here, and the real sample."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.multicamera import MultiCamera, read_calibration
from perception.datasets.video import STEP_LIMIT, Video

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
needs_walk = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "pose2sim_single").is_dir()),
    reason="set CONVOY_DATA to a folder with pose2sim_single/ to test on real videos",
)
WIDTH, HEIGHT = 64, 48
# Looking along the world's y from 3 m up.
CAMERA: dict[str, Any] = {
    "K": [[80, 0, 31.5], [0, 80, 23.5], [0, 0, 1]],
    "R_w2c": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "center_m": [1, 2, 3],
    "fps": 10,
}


def picture(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def write_calibration(root: Path, cameras: dict[str, dict[str, Any]], **shared: Any) -> Path:
    (root / "cameras.json").write_text(json.dumps({"cameras": cameras, **shared}))
    return root


def write_images(folder: Path, numbers: list[int], level: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(picture(level + number)).save(folder / f"frame_{number:04d}.png")


def write_video(path: Path, frames: int) -> Path:
    """Frame i is grey of level 2 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for number in range(frames):
        writer.write(picture(2 * number))
    writer.release()
    return path


def level(frame: Frame) -> int:
    assert frame.image is not None
    return int(frame.image[HEIGHT // 2, WIDTH // 2, 0])


def test_frames_are_in_order_of_time_then_camera(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"right": CAMERA, "left": CAMERA})
    write_images(tmp_path / "images/left", [0, 1, 2])
    write_images(tmp_path / "right", [0, 1, 2], level=100)
    frames = open_dataset(tmp_path)
    assert format_of(tmp_path) == "cameras.json"
    assert isinstance(frames, MultiCamera)
    assert [level(frame) for frame in frames] == [0, 100, 1, 101, 2, 102]
    assert frames.timestamps_s == (0, 0, 0.1, 0.1, 0.2, 0.2)
    assert frames.instants == ((0, 1), (2, 3), (4, 5))
    assert [level(frame) for frame in frames.cameras["right"]] == [100, 101, 102]
    assert frames.missing == ()


def test_projection_follows_the_calibration(tmp_path: Path) -> None:
    write_images(tmp_path / "a", [0])
    point_world = np.array([[2.0, 12.0, 2.5]])  # 10 m ahead, 1 m right, 0.5 m down
    expected_px = np.array([[31.5 + 8, 23.5 + 4]])
    for centre, shift_px in ((0, 0.5), (0.5, 0)):
        write_calibration(tmp_path, {"a": CAMERA}, pixel_centre=centre)
        camera = MultiCamera(tmp_path)[0].camera
        np.testing.assert_allclose(camera.project(point_world)[0], expected_px + shift_px)
        np.testing.assert_allclose(camera.world_from_cam.translation_m, [1, 2, 3])


def test_a_gap_in_the_middle_and_a_camera_without_images_are_counted(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"a": CAMERA, "b": CAMERA, "c": CAMERA})
    write_images(tmp_path / "a", [0, 1, 2])
    write_images(tmp_path / "b", [0, 2], level=100)
    frames = MultiCamera(tmp_path)
    assert [level(frame) for frame in frames] == [0, 100, 1, 2, 102]
    assert frames.instants == ((0, 1), (2,), (3, 4))
    assert frames.missing == ("c: no video and no images", "b: 1 of 3 times have no frame")


def test_a_later_start_and_another_rate_shift_times(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"a": CAMERA, "b": {**CAMERA, "start_s": 0.1, "fps": 5}})
    write_images(tmp_path / "a", [0, 1, 2, 3])
    write_images(tmp_path / "b", [0, 1], level=100)
    frames = MultiCamera(tmp_path)
    assert [(round(t, 3), level(frame)) for t, frame in zip(frames.timestamps_s, frames, strict=True)] == [
        (0, 0), (0.1, 1), (0.1, 100), (0.2, 2), (0.3, 3), (0.3, 101),
    ]  # fmt: skip


def test_a_truncated_image_costs_its_own_frame(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"a": CAMERA})
    write_images(tmp_path / "a", [0, 1])
    path = tmp_path / "a/frame_0000.png"
    path.write_bytes(path.read_bytes()[:60])
    frames = MultiCamera(tmp_path)
    with pytest.raises(DataError, match=r"frame_0000\.png: not a readable image"):
        frames[0]
    assert level(frames[1]) == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("K", None, "no field K"),
        ("K", [[1, 2], [3, 4]], "want 3x3 numbers"),
        ("K", [[-80, 0, 31], [0, 80, 23], [0, 0, 1]], "at least 1 pixel"),
        ("R_w2c", [[1, 0, 0], [0, 1, 0], [0, 0, float("nan")]], "R_w2c holds NaN"),
        ("R_w2c", [[2, 0, 0], [0, 2, 0], [0, 0, 2]], "not rigid"),
        ("center_m", [0, 0], "want 3 numbers"),
        ("dist_k1k2p1p2", [0.1], "want 4 numbers"),
        ("fps", -1, "fps is -1"),
        ("size_px", "large", "size_px is 'large'"),
    ],
)
def test_a_broken_entry_is_named(tmp_path: Path, field: str, value: Any, says: str) -> None:
    write_calibration(tmp_path, {"a": CAMERA, "b": {**CAMERA, field: value}})
    with pytest.raises(DataError, match=rf"cameras\.json: camera b: .*{says}.*; "):
        read_calibration(tmp_path / "cameras.json")


@pytest.mark.parametrize(
    ("text", "says"), [("{", "not a whole JSON file"), ("{}", "no object named cameras"), ("3", "holds a int")]
)
def test_a_broken_calibration_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(DataError, match=rf"cameras\.json: {says}"):
        MultiCamera(tmp_path)


def test_images_without_numbers_and_no_images_at_all_are_refused(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"a": CAMERA})
    with pytest.raises(DataError, match="no frames of a; want"):
        MultiCamera(tmp_path)
    write_images(tmp_path / "a", [1])
    (tmp_path / "a/frame_0001.png").rename(tmp_path / "a/frame.png")
    with pytest.raises(DataError, match=r"frame\.png: no number in its name"):
        MultiCamera(tmp_path)
    write_images(tmp_path / "images/a", [1])
    (tmp_path / "images/a/0001.png").write_bytes((tmp_path / "images/a/frame_0001.png").read_bytes())
    with pytest.raises(DataError, match="number 1 is taken"):
        MultiCamera(tmp_path)


def test_videos_are_read_in_order_without_seeking(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.avi", 60))
    assert len(video) == 60
    levels = [int(video[number][0, 0, 0]) for number in range(60)]
    np.testing.assert_allclose(levels, np.arange(60) * 2, atol=2)
    assert video.seeks == 0
    # A jump back seeks once; the same frame again and steps of up to STEP_LIMIT ahead do not.
    numbers = [5, 5, 6, 8, 8 + STEP_LIMIT, 2]
    np.testing.assert_allclose([int(video[number][0, 0, 0]) for number in numbers], 2 * np.array(numbers), atol=2)
    assert video.seeks == 2
    with pytest.raises(IndexError, match="frame 60 of 60"):
        video[60]


def test_a_video_is_shared_by_threads_and_sent_to_processes(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.avi", 30))
    numbers = np.random.default_rng(0).integers(0, 30, 60).tolist()
    with ThreadPoolExecutor(4) as pool:
        levels = list(pool.map(lambda number: int(video[number][0, 0, 0]), numbers))
    np.testing.assert_allclose(levels, 2 * np.array(numbers), atol=2)
    copy = pickle.loads(pickle.dumps(video))
    np.testing.assert_array_equal(copy[7], video[7])


def test_videos_of_unequal_length(tmp_path: Path) -> None:
    write_calibration(tmp_path, {"a": CAMERA, "b": CAMERA})
    write_video(tmp_path / "videos/a.avi", 4)
    write_video(tmp_path / "b.avi", 3)
    frames = MultiCamera(tmp_path)
    assert len(frames) == 7
    assert [Path(frame.source).name for frame in frames][-2:] == ["b.avi#2", "a.avi#3"]
    assert frames.missing == ("b: 1 of 4 times have no frame",)


def test_a_file_that_is_no_video_and_a_truncated_one(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"a\.avi: not a readable video; fetch"):
        Video(path)
    whole = write_video(path, 40).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    video = Video(path)
    assert int(video[3][0, 0, 0]) == pytest.approx(6, abs=2)
    with pytest.raises((DataError, IndexError), match=r"a\.avi"):
        video[39]
    assert int(video[4][0, 0, 0]) == pytest.approx(8, abs=2)


@needs_walk
def test_real_videos_seek_exactly() -> None:
    video = Video(Path(CONVOY_DATA) / "pose2sim_single/videos/cam03.mp4")
    in_order = [video[number][::16, ::16] for number in range(60)]
    assert video.seeks == 0
    for number in (41, 3, 59, 0):
        np.testing.assert_array_equal(video[number][::16, ::16], in_order[number])


@needs_walk
def test_real_cameras_project_as_opencv_does_with_distortion() -> None:
    """OpenCV projects into the photograph; taking the distortion out must lead to our pinhole's projection."""
    root = Path(CONVOY_DATA) / "pose2sim_single"
    frames = MultiCamera(root)
    assert (len(frames), len(frames.instants)) == (400, 100)
    entries = json.loads((root / "cameras.json").read_text())["cameras"]
    points_world = np.random.default_rng(0).uniform([-1.5, -1, 0], [0.5, 1, 1.8], (40, 3))
    for index, name in enumerate(sorted(entries)):
        entry, camera = entries[name], frames[index].camera
        matrix, distortion = np.array(entry["K"]), np.array(entry["dist_k1k2p1p2"])
        points_cam = (points_world - entry["center_m"]) @ np.array(entry["R_w2c"]).T
        photo_px, _ = cv2.projectPoints(points_cam, np.zeros(3), np.zeros(3), matrix, distortion)
        straight = cv2.undistortPoints(photo_px, matrix, distortion, criteria=(3, 100, 1e-12))[:, 0]
        # Our principal point is OpenCV's plus half a pixel; the focal lengths may be zoomed by one common factor.
        zoom = camera.fx_px / matrix[0, 0]
        assert 1 <= zoom < 1.05
        expected_px = straight * (zoom * np.diag(matrix)[:2]) + matrix[:2, 2] + 0.5
        np.testing.assert_allclose(camera.project(points_world)[0], expected_px, atol=1e-3)


@needs_walk
def test_a_real_cap_is_where_four_cameras_see_it() -> None:
    """The walker's teal cap, seen from all sides, triangulates to within its own width and at head height."""
    frames = MultiCamera(Path(CONVOY_DATA) / "pose2sim_single", scale=0.5)
    seen = [(frames[index].camera, cap_centre_px(frames[index])) for index in frames.instants[0]]
    rows = []
    for camera, (u, v) in seen:
        projection = camera.intrinsics @ camera.world_from_cam.inverse().matrix[:3]
        rows += [u * projection[2] - projection[0], v * projection[2] - projection[1]]
    point = np.linalg.svd(np.array(rows))[2][-1]
    cap_world = point[:3] / point[3]
    assert 1.4 < cap_world[2] < 1.9
    errors_px = [np.linalg.norm(camera.project(cap_world[None])[0][0] - at_px) for camera, at_px in seen]
    assert max(errors_px) < 12  # the cap is 24 to 53 px wide


def cap_centre_px(frame: Frame) -> np.ndarray:
    """Centre of the largest teal patch."""
    assert frame.image is not None
    hue, saturation, value = np.moveaxis(cv2.cvtColor(frame.image, cv2.COLOR_RGB2HSV), 2, 0)
    teal = ((hue >= 88) & (hue <= 102) & (saturation > 130) & (value > 60)).astype(np.uint8)
    teal = cv2.morphologyEx(teal, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, patches, centres = cv2.connectedComponentsWithStats(teal)
    return centres[1 + np.argmax(patches[1:, cv2.CC_STAT_AREA])] + 0.5
