"""Exports for reconstruction: COLMAP, read back by pycolmap, and transforms.json with its points, read by OpenCV."""

import json
from dataclasses import replace
from pathlib import Path

import cv2  # before pycolmap: the other order does not load
import numpy as np
import pytest

from geometry import Frame
from perception.datasets.colmap import Colmap
from perception.datasets.export import export_frames
from perception.datasets.export.points import Thinning, seen_points
from perception.datasets.nuscenes import NuScenes
from perception.datasets.transforms import Transforms
from tests.perception.export_frames import HEIGHT, WIDTH, Frames, camera_at, drive, frame_at, without


@pytest.fixture
def frames() -> list[Frame]:
    return drive()


def test_pycolmap_projects_the_points_where_we_do(tmp_path: Path, frames: list[Frame]) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install pycolmap")
    report = export_frames(Frames(frames), "colmap", tmp_path / "out")
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert (report.written, report.notes) == (3, ())
    assert len(model.cameras) == 1, "the same intrinsics"
    assert model.cameras[1].model_name == "PINHOLE"
    assert sorted(image.name for image in model.images.values()) == ["000000.png", "000001.png", "000002.png"]
    assert len(model.points3D) == sum(len(image.points2D) for image in model.images.values()) > 60
    for image in model.images.values():
        frame = frames[int(Path(image.name).stem)]
        assert frame.image is not None
        for point in model.points3D.values():
            ours_px, depth_m = frame.camera.project(point.xyz[None])
            if depth_m[0] > 0.1:
                np.testing.assert_allclose(image.project_point(point.xyz), ours_px[0], atol=1e-6)
        for observation in image.points2D:
            point = model.points3D[observation.point3D_id]
            np.testing.assert_allclose(image.project_point(point.xyz), observation.xy, atol=1e-6)
            column, row = np.floor(observation.xy).astype(int)
            assert point.color.tolist() == frame.image[row, column].tolist()
            assert [element.image_id for element in point.track.elements] == [image.image_id]


def test_colmap_cameras_differ_where_intrinsics_do_and_points_may_be_missing(
    tmp_path: Path, frames: list[Frame]
) -> None:
    frames[1] = without(replace(frames[1], camera=replace(frames[1].camera, fx_px=90.0)), "points_lidar")
    report = export_frames(Frames(frames[:2]), "colmap", tmp_path / "out")
    assert report.notes == ("1 frames without LiDAR and depth, so without points",)
    model = tmp_path / "out" / "sparse" / "0"
    lines = [line.split() for line in (model / "cameras.txt").read_text().splitlines() if line[0] != "#"]
    assert [(line[0], line[1], float(line[4])) for line in lines] == [("1", "PINHOLE", 100.0), ("2", "PINHOLE", 90.0)]
    images = [line for line in (model / "images.txt").read_text().split("\n") if not line.startswith("#")]
    assert images[3] == "", "no observations"


def test_transform_matrices_are_opengls(tmp_path: Path, frames: list[Frame]) -> None:
    export_frames(Frames(frames), "transforms", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert content["applied_transform"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert content["camera_model"] == "OPENCV"
    point_world = np.array([110.0, 54.0, 1.0])
    for frame, entry in zip(frames, content["frames"], strict=True):
        assert (tmp_path / "out" / entry["file_path"]).is_file()
        x, y, z, _ = np.linalg.inv(entry["transform_matrix"]) @ [*point_world, 1]
        assert z < 0, "an OpenGL camera looks along -z"
        projected_px = entry["cx"] + entry["fl_x"] * x / -z, entry["cy"] - entry["fl_y"] * y / -z
        np.testing.assert_allclose(projected_px, frame.camera.project(point_world[None])[0][0], atol=1e-9)
        assert (entry["w"], entry["h"], entry["time"]) == (WIDTH, HEIGHT, frame.timestamp_s)
    up_world = np.array(content["frames"][0]["transform_matrix"])[:3, 1]
    np.testing.assert_allclose(up_world, [0, 0, 1], atol=1e-12)


def test_opencv_reads_the_points_with_their_colours(tmp_path: Path, frames: list[Frame]) -> None:
    export_frames(Frames(frames[:1]), "transforms", tmp_path / "out")
    points, _, colours = cv2.loadPointCloud(str(tmp_path / "out" / "points.ply"))
    assert frames[0].image is not None
    seen = seen_points(frames[0], frames[0].image)
    assert seen is not None
    np.testing.assert_allclose(points[:, 0], seen.world_m, atol=1e-5)
    np.testing.assert_allclose(255 * colours[:, 0], seen.rgb, atol=1e-3)


def test_depth_stands_in_for_lidar_and_hides_what_lies_behind_it() -> None:
    """A wall 10 m before a level camera that looks along world x: depth gives points there, LiDAR ones behind go."""
    frame = frame_at(camera_at(0, 0, 0), 0.0)
    assert frame.image is not None
    wall = np.full((HEIGHT, WIDTH), 10, np.float32)
    wall[:, :60] = np.inf
    from_depth = seen_points(without(replace(frame, depth_m=wall, boxes=None), "points_lidar"), frame.image)
    assert from_depth is not None
    assert len(from_depth) == (HEIGHT // 4) * (60 // 4)
    np.testing.assert_allclose(from_depth.world_m[:, 0], 10, atol=1e-9)
    everywhere = seen_points(frame, frame.image)
    shown = seen_points(replace(frame, depth_m=wall), frame.image)
    assert shown is not None
    assert everywhere is not None
    right = everywhere.image_px[:, 0] >= 60
    # The limit is 10 m + 2 % + 0.2 m = 10.4 m on the right; on the left nothing hides anything.
    assert len(shown) == (~right).sum() + (everywhere.world_m[right, 0] <= 10.4).sum() < len(everywhere)
    assert seen_points(without(frame, "points_lidar"), frame.image) is None


def test_our_loaders_read_the_poses_back(tmp_path: Path, frames: list[Frame]) -> None:
    for to, loader in (("colmap", Colmap), ("transforms", Transforms), ("nuscenes", NuScenes)):
        export_frames(Frames(frames), to, tmp_path / to)
        back = loader(tmp_path / to)
        assert len(back) == 3
        for frame, again in zip(frames, back, strict=True):
            wanted, found = frame.camera, again.camera
            np.testing.assert_allclose(found.world_from_cam.matrix, wanted.world_from_cam.matrix, atol=1e-9)
            np.testing.assert_allclose(found.intrinsics, wanted.intrinsics, atol=1e-9)
            if to == "nuscenes":
                np.testing.assert_allclose(again.points_world(), frame.points_world(), atol=1e-5)


def test_thinning_keeps_one_point_a_cube_over_calls() -> None:
    thinning = Thinning(side_m=1.0)
    points = np.array([[0.2, 0, 0], [0.8, 0.5, 0.5], [-0.2, 0, 0], [3, 3, 3.0]])
    assert thinning.keep(points).tolist() == [True, False, True, True]
    assert thinning.keep(points + 0.1).tolist() == [False, False, False, False]
    assert thinning.keep(np.zeros((0, 3))).tolist() == []


def test_no_points_no_ply(tmp_path: Path, frames: list[Frame]) -> None:
    report = export_frames(Frames([without(frames[0], "points_lidar")]), "transforms", tmp_path / "out")
    assert report.notes == ("no LiDAR and no depth, so no points.ply",)
    assert not (tmp_path / "out" / "points.ply").exists()
    assert "ply_file_path" not in json.loads((tmp_path / "out" / "transforms.json").read_text())
