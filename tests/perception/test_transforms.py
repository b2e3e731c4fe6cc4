"""transforms.json: files written here to what nerfstudio and instant-ngp write, and the real sample."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.transforms import Transforms

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
needs_fox = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "fox").is_dir()),
    reason="set CONVOY_DATA to a folder with fox/ to test on real photographs",
)
WIDTH, HEIGHT = 40, 30
# Two metres up, looking along the world's y, in OpenGL axes: x right, y up, z backward.
POSE = [[1, 0, 0, 0.5], [0, 0, -1, -4], [0, 1, 0, 2], [0, 0, 0, 1]]
INTRINSICS = {"fl_x": 50, "fl_y": 60, "cx": 21, "cy": 14, "w": WIDTH, "h": HEIGHT}


def write_scene(root: Path, frames: list[dict[str, Any]] | None = None, **shared: Any) -> Path:
    """Three frames, 0.png to 2.png, unless others are given; images for those that are named."""
    frames = [{} for _ in range(3)] if frames is None else frames
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": POSE, **frame} for i, frame in enumerate(frames)]
    (root / "images").mkdir()
    for number in range(len(frames)):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 80 + number, np.uint8)).save(root / f"images/{number}.png")
    (root / "transforms.json").write_text(json.dumps({**(shared or INTRINSICS), "frames": frames}))
    return root


def test_axes_are_turned_from_opengl(tmp_path: Path) -> None:
    frame = Transforms(write_scene(tmp_path))[0]
    # A point 10 m ahead of (0.5, -4, 2), 1 m to the right and 0.5 m down.
    at_px, depth_m = frame.camera.project(np.array([[1.5, 6.0, 1.5]]))
    np.testing.assert_allclose(depth_m, [10])
    np.testing.assert_allclose(at_px, [[21 + 50 * 1 / 10, 14 + 60 * 0.5 / 10]])
    np.testing.assert_allclose(frame.camera.world_from_cam.translation_m, [0.5, -4, 2])


def test_field_of_view_gives_the_intrinsics_of_a_centred_camera(tmp_path: Path) -> None:
    root = write_scene(tmp_path, camera_angle_x=np.pi / 2)
    camera = Transforms(root)[0].camera
    # Half the width over tan(45 degrees); square pixels.
    assert (camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px) == pytest.approx((20, 20, 20, 15))


def test_a_frame_overrides_what_is_shared_and_may_have_a_time(tmp_path: Path) -> None:
    frames = Transforms(write_scene(tmp_path, [{}, {"fl_x": 70, "time": 0.25}], **INTRINSICS))
    assert [frame.camera.fx_px for frame in frames] == [50, 70]
    assert frames.timestamps_s == (0, 0.25)
    assert [frame.timestamp_s for frame in frames] == [0, 0.25]


def test_synthetic_sets_leave_the_ending_out(tmp_path: Path) -> None:
    root = write_scene(tmp_path, [{"file_path": "./images/0"}], camera_angle_x=0.7)
    (root / "transforms.json").rename(root / "transforms_train.json")
    assert format_of(root) == "transforms.json"
    frames = open_dataset(root)
    assert frames[0].image is not None
    assert int(frames[0].image[0, 0, 0]) == 80


def test_scale_and_distortion(tmp_path: Path) -> None:
    frame = Transforms(write_scene(tmp_path, **INTRINSICS, k1=-0.1, k2=0.01, p1=0.001, p2=0.002), scale=0.5)[0]
    assert (frame.camera.width_px, frame.camera.height_px) == (20, 15)
    np.testing.assert_allclose([frame.camera.cx_px, frame.camera.cy_px], [10.5, 7])
    assert frame.image is not None
    assert frame.image.shape == (15, 20, 3)


def test_frames_without_an_image_are_skipped_and_counted(tmp_path: Path) -> None:
    root = write_scene(tmp_path, [{} for _ in range(6)])
    for number in (1, 2, 3, 4):
        (root / f"images/{number}.png").unlink()
    frames = Transforms(root)
    assert [Path(frame.source).name for frame in frames] == ["0.png", "5.png"]
    assert [frame.timestamp_s for frame in frames] == [0, 5]
    assert frames.missing == ("4 of 6 frames skipped, image not there: images/1.png, images/2.png, images/3.png, ...",)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"transform_matrix": [[float("nan")] * 4] * 4}, "transform_matrix holds NaN"),
        ({"transform_matrix": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}, "not rigid"),
        ({"transform_matrix": [1, 2, 3]}, "want 3x4 numbers"),
        ({"transform_matrix": None}, "no field transform_matrix"),
        ({"fl_x": "wide"}, "fl_x is 'wide', want a number"),
        ({"fl_x": -50}, "at least 1 pixel"),
        ({"cx": float("inf")}, "cx holds NaN or infinity"),
        ({"camera_model": "OPENCV_FISHEYE"}, "camera_model OPENCV_FISHEYE"),
        ({"w": 400}, "40x30, its camera says 400x30"),
    ],
)
def test_a_broken_frame_is_named_and_costs_no_other(tmp_path: Path, frame: dict[str, Any], says: str) -> None:
    frames = Transforms(write_scene(tmp_path, [{}, frame, {}], **INTRINSICS))
    with pytest.raises(DataError) as caught:
        frames[1]
    message = str(caught.value)
    assert says in message
    assert "1.png" in message
    assert ";" in message
    assert frames[0].image is not None
    assert frames[2].image is not None


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    root = write_scene(tmp_path)
    path = root / "images/1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"images/1\.png: not a readable image"):
        Transforms(root)[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"frames": [', r"not a whole JSON file"),
        ("[]", r"holds a list, want an object"),
        ("{}", r"no list of frames"),
        ('{"frames": []}', r"none of its 0 frames has an image"),
        ('{"frames": [{}]}', r"frame 0 has no file_path"),
        ('{"frames": [{"file_path": "images/0.png"}]}', r"neither fl_x nor camera_angle_x"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    root = write_scene(tmp_path)
    (root / "transforms.json").write_text(text)
    with pytest.raises(DataError, match=rf"transforms\.json: .*{says}.*; "):
        Transforms(root)[0]


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no transforms\.json or transforms_train\.json; write"):
        Transforms(tmp_path)


def epipolar_errors_px(a: Frame, b: Frame) -> np.ndarray:
    """First-order (Sampson) distance of SIFT matches from the epipolar geometry of the two cameras."""
    assert a.image is not None
    assert b.image is not None
    sift = cv2.SIFT_create(1500)
    (keys_a, found_a), (keys_b, found_b) = (sift.detectAndCompute(frame.image, None) for frame in (a, b))
    pairs = [
        best for best, next_ in cv2.BFMatcher().knnMatch(found_a, found_b, 2) if best.distance < 0.7 * next_.distance
    ]
    at_a = np.array([(*keys_a[pair.queryIdx].pt, 0.5) for pair in pairs]) + 0.5  # SIFT: first pixel at 0, ours at 0.5
    at_b = np.array([(*keys_b[pair.trainIdx].pt, 0.5) for pair in pairs]) + 0.5
    b_from_a = b.camera.world_from_cam.inverse() @ a.camera.world_from_cam
    cross = np.cross(np.eye(3), b_from_a.translation_m).T
    inverse_a, inverse_b = np.linalg.inv(a.camera.intrinsics), np.linalg.inv(b.camera.intrinsics)
    fundamental = inverse_b.T @ cross @ b_from_a.rotation @ inverse_a
    lines_b, lines_a = at_a @ fundamental.T, at_b @ fundamental
    slope = np.hypot(np.hypot(*lines_b.T[:2]), np.hypot(*lines_a.T[:2]))
    return np.abs((at_b * lines_b).sum(axis=1)) / slope


@needs_fox
def test_real_photographs_match_their_poses() -> None:
    frames = Transforms(Path(CONVOY_DATA) / "fox", scale=0.5)
    assert len(frames) == 17
    assert frames.missing[0].startswith("50 of 67 frames skipped")
    assert "LICENSE" in frames.licence
    for first, second in ((0, 1), (5, 6)):
        errors_px = epipolar_errors_px(frames[first], frames[second])
        assert len(errors_px) > 100
        assert np.median(errors_px) < 0.4  # of an image of 540x960


@needs_fox
def test_real_world_has_z_up() -> None:
    ups = np.array(
        [-frame.camera.world_from_cam.rotation[:, 1] for frame in Transforms(Path(CONVOY_DATA) / "fox", 0.1)]
    )
    assert ups.mean(axis=0)[2] > 0.8
