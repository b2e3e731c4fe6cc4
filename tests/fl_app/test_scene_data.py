"""Which frames of a data set are fitted and which judged, on a folder of photos in a row."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_app.scene_data import SceneData, Selection, open_scene, split_frames
from geometry import SE3, Frame
from perception.datasets.base import DataError

INTRINSICS = {"fl_x": 40, "fl_y": 40, "cx": 16, "cy": 12, "w": 32, "h": 24}


def row_of_photos(root: Path, along_m: list[float]) -> Path:
    """Photos from places along the world's x, OpenGL's axes; each has a grey of its own."""
    root.mkdir()
    rows = []
    for number, x in enumerate(along_m):
        Image.fromarray(np.full((24, 32, 3), 10 * number, np.uint8)).save(root / f"{number}.png")
        pose = [[1, 0, 0, x], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
        rows.append({"file_path": f"{number}.png", "transform_matrix": pose})
    (root / "transforms.json").write_text(json.dumps({**INTRINSICS, "frames": rows}))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return row_of_photos(tmp_path / "photos", [0.0, 0.4, 0.9, 1.0, 1.0, 1.0, 2.1, 5.0, 5.5, 6.2])


def numbers(scene: SceneData) -> tuple[list[int], list[int]]:
    """Those that are learned from, and those that are judged."""
    return [int(frame.timestamp_s) for frame in scene.train], [int(frame.timestamp_s) for frame in scene.test]


@pytest.mark.parametrize(
    ("selection", "train", "test"),
    [
        (Selection(holdout=0), list(range(10)), []),
        (Selection(holdout=8), [0, 1, 2, 3, 5, 6, 7, 8, 9], [4]),
        (Selection(holdout=4), [0, 1, 3, 4, 5, 7, 8, 9], [2, 6]),
        (Selection(holdout=2), [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]),
        (Selection(holdout=100), list(range(10)), []),
        (Selection(first=7, holdout=0), [7, 8, 9], []),
        (Selection(first=2, frames=3, holdout=0), [2, 3, 4], []),
        (Selection(frames=99, holdout=0), list(range(10)), []),
        (Selection(apart_m=0.5, holdout=0), [0, 2, 6, 7, 8, 9], []),
        (Selection(apart_m=1.0, holdout=0), [0, 3, 6, 7, 9], []),
        (Selection(apart_m=1.0, frames=3, holdout=0), [0, 3, 6], []),
        (Selection(first=1, apart_m=1.0, frames=3, holdout=2), [1, 7], [6]),
        (Selection(apart_m=1e6, holdout=8), [0], []),
    ],
)
def test_frames_by_hand(photos: Path, selection: Selection, train: list[int], test: list[int]) -> None:
    scene = open_scene(str(photos), selection)
    assert numbers(scene) == (train, test)
    assert scene.selection == selection


def test_images_are_made_smaller_with_their_cameras(photos: Path) -> None:
    frame = open_scene(str(photos), Selection(longest_side_px=16)).train[0]
    assert frame.image is not None
    assert frame.image.shape == (12, 16, 3)
    assert frame.camera.fx_px == 20


def test_a_frame_that_is_judged_is_not_learned_from(photos: Path) -> None:
    for holdout in range(2, 12):
        train, test = numbers(open_scene(str(photos), Selection(holdout=holdout)))
        assert sorted(train + test) == list(range(10))


def test_views_are_those_of_the_frames(photos: Path) -> None:
    scene = open_scene(str(photos), Selection(holdout=4))
    assert [int(view.image[0, 0, 0]) for view in scene.judged()] == [20, 60]
    assert [int(view.image[0, 0, 0]) for view in scene.learned()] == [0, 10, 30, 40, 50, 70, 80, 90]
    assert [int(view.image[0, 0, 0]) for view in scene.judged(scene.train)] == [0, 10, 30, 40, 50, 70, 80, 90]


def test_a_fit_sees_what_a_lidar_does_and_is_judged_by_all_that_is_known(photos: Path) -> None:
    given = open_scene(str(photos), Selection()).train[0]
    ahead = np.array([[0, 0, 8, 0]], np.float32)  # one point, at the principal point
    depth_m = np.full((24, 32), 3, np.float32)
    both = Frame(0.0, given.camera, given.image, ahead, depth_m=depth_m, lidar_from_cam=SE3.identity())
    scene = split_frames([both] * 4, "four", None, Selection(holdout=4))
    learned, judged = scene.learned()[0].depth_m, scene.judged()[0].depth_m
    assert learned is not None
    assert judged is not None
    assert (learned[12, 16], learned.count_nonzero()) == (8, 1)
    assert (judged == 3).all()
    assert scene.learned(with_depth=False)[0].depth_m is None


def test_moving_things_are_left_out_unless_they_are_wanted(photos: Path) -> None:
    ignore = open_scene(str(photos), Selection()).ignore
    assert ignore is not None
    frame = open_scene(str(photos), Selection()).train[0]
    masks = np.full((24, 32), 8, np.uint8)
    assert ignore(frame) is None
    assert ignore(Frame(0.0, frame.camera, frame.image, masks=masks)).all()  # type: ignore[union-attr]
    assert open_scene(str(photos), Selection(keep_moving=True)).ignore is None


def test_a_description_tells_selections_apart(photos: Path) -> None:
    choices = [
        Selection(),
        Selection(first=1),
        Selection(holdout=3),
        Selection(apart_m=0.5),
        Selection(keep_moving=True),
    ]
    words = [open_scene(str(photos), selection).describe() for selection in choices]
    assert len(set(words)) == len(choices)
    assert words[0] == open_scene(str(photos), Selection()).describe()
    assert not any("\n" in line for line in words)


def refused(path: Path | str, selection: Selection) -> str:
    with pytest.raises(DataError) as caught:
        open_scene(str(path), selection)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_held_out_is_refused(photos: Path) -> None:
    message = refused(photos, Selection(holdout=1))
    assert "all 10 frames are held out; choose a larger holdout, or 0 for none" in message
    assert "all 1 frames are held out" in refused(photos, Selection(holdout=1, frames=1))


def test_a_start_behind_the_end_is_refused(photos: Path) -> None:
    message = refused(photos, Selection(first=10))
    assert "photos" in message
    assert "from number 10 on; it has 10" in message


def test_data_without_poses_are_refused(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        mode = "RGB" if folder == "images" else "L"
        Image.fromarray(np.zeros((30, 40), np.uint8)).convert(mode).save(tmp_path / "camvid" / folder / "0001TP_0.png")
    assert "camvid: its frames have no poses in one world; a scene needs them" in refused(
        tmp_path / "camvid", Selection()
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "nowhere: no such folder" in refused(tmp_path / "nowhere", Selection())


def test_points_that_come_with_the_data_are_handed_on(tmp_path: Path, photos: Path) -> None:
    assert open_scene(str(photos), Selection()).known is None
    root = tmp_path / "colmap" / "sparse" / "0"
    root.mkdir(parents=True)
    (tmp_path / "colmap" / "images").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "colmap" / "images" / "a.png")
    (root / "cameras.txt").write_text("1 PINHOLE 32 24 40 40 16 12\n")
    (root / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    (root / "points3D.txt").write_text("1 0.5 1.5 4 255 128 0 0.1\n2 -0.5 0 6 1 2 3 0.1\n")
    known = open_scene(str(tmp_path / "colmap"), Selection(holdout=0)).known
    assert known is not None
    rows = sorted((*xyz, *map(int, rgb)) for xyz, rgb in zip(known[0].tolist(), known[1].tolist(), strict=True))
    assert math.dist(rows[0], (-0.5, 0, 6, 1, 2, 3)) + math.dist(rows[1], (0.5, 1.5, 4, 255, 128, 0)) < 1e-6
