"""Exports to KITTI's formats, read back by our loaders and by torchvision."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import Kitti

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.export import export_frames
from perception.datasets.export.kitti_object import label_text, poses_rect, tilt_deg, truncation_of
from perception.datasets.export.kitti_raw import ORIGIN_DEG, Anchor, oxts_record, timestamp_text
from perception.datasets.kitti_object import KittiObject
from perception.datasets.kitti_oxts import EARTH_RADIUS_M, IMU_HEIGHT_M, MercatorWorld
from perception.datasets.kitti_raw import KittiRaw
from tests.perception.export_frames import (
    HEIGHT,
    WIDTH,
    Frames,
    cuboids_cam,
    drive,
    points_cam,
    without,
)

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
LEVEL = SE3(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3))  # looks along world x
LEVEL_CAMERA = Camera(LEVEL, 100.0, 100.0, 60.0, 40.0, WIDTH, HEIGHT)


def exported(frames: list[Frame], to: str, out: Path) -> Path:
    report = export_frames(Frames(frames), to, out)
    assert report.written == len(frames)
    return out


def present(boxes: Boxes | None) -> Boxes:
    assert boxes is not None
    return boxes


def test_object_export_reads_back_in_the_cameras_frame(tmp_path: Path) -> None:
    frames = drive()
    back = KittiObject(exported(frames, "kitti-object", tmp_path / "out"))
    assert back.ids == ("000000", "000001", "000002")
    for frame, again in zip(frames, back, strict=True):
        np.testing.assert_array_equal(again.image, frame.image)
        np.testing.assert_allclose(again.camera.intrinsics, frame.camera.intrinsics, atol=1e-9)
        np.testing.assert_array_equal(again.points_lidar, frame.points_lidar)
        np.testing.assert_allclose(points_cam(again), points_cam(frame), atol=1e-5)
        # Labels have two decimals for boxes, four for metres, six for angles.
        np.testing.assert_allclose(present(again.boxes).xyxy_px, present(frame.boxes).xyxy_px, atol=0.006)
        np.testing.assert_allclose(cuboids_cam(again), cuboids_cam(frame), atol=2e-4)
        assert present(again.boxes).labels.tolist() == [0, 1]


def test_torchvision_reads_the_export(tmp_path: Path) -> None:
    frames = drive()
    exported(frames, "kitti-object", tmp_path / "Kitti" / "raw")
    images = Kitti(str(tmp_path), train=True)
    assert len(images) == 3
    order = [int(Path(path).stem) for path in images.images]
    for place, number in enumerate(order):
        image, objects = images[place]
        np.testing.assert_array_equal(np.asarray(image), frames[number].image)
        assert [item["type"] for item in objects] == ["Car", "Pedestrian"]
        boxes = present(frames[number].boxes)
        np.testing.assert_allclose([item["bbox"] for item in objects], boxes.xyxy_px - 0.5, atol=0.006)
        np.testing.assert_allclose(objects[0]["dimensions"], [1.6, 1.8, 4.0], atol=1e-6)
        assert [item["occluded"] for item in objects] == [3, 3], "unknown"
        assert [item["truncated"] for item in objects] == [0, 0], "inside the image"


def test_a_label_line_is_what_arithmetic_says() -> None:
    """The camera looks along world x from the origin, so x_cam = -y, y_cam = -z, z_cam = x."""
    cuboids = np.array([[10, 10, 1, 4, 1.8, 1.5, 0]], np.float32)  # ahead and left, looks ahead
    boxes = Boxes(
        np.array([[0, 10.5, 30.25, HEIGHT]], np.float32),
        np.array([0]),
        cuboids,
        truncation=np.array([0.25], np.float32),
        occlusion=np.array([1]),
    )
    # Bottom middle (-10, -1 + 0.75, 10); ahead is rotation_y = -90 deg, the line of sight is at -45 deg from z.
    wanted = np.array([-np.pi / 4, 1.5, 1.8, 4, -10, -0.25, 10, -np.pi / 2])
    np.testing.assert_allclose(poses_rect(cuboids, LEVEL_CAMERA)[0], wanted, atol=1e-6)
    # The box goes from the first column's centre, 0 in KITTI's pixels, to the last row's, 79.
    assert label_text(boxes, LEVEL_CAMERA) == (
        "Car 0.25 1 -0.785398 0.00 10.00 29.75 79.00 1.5000 1.8000 4.0000 -10.0000 -0.2500 10.0000 -1.570796\n"
    )


def test_truncation_is_the_share_of_the_cuboid_outside_the_image() -> None:
    """A flat plate 10 m ahead from y = -3 to 9 m spans u = 60 + [-90, 30]: 60 of its 120 columns are in the image."""
    plate = np.array([[10, 3, 0, 1e-4, 12, 2, 0]], np.float32)
    boxes = Boxes(np.array([[0, 30, 90, 50]], np.float32), np.array([0]), plate)
    np.testing.assert_allclose(truncation_of(boxes, LEVEL_CAMERA), [30 / 120], atol=1e-3)
    assert truncation_of(replace(boxes, cuboids_world=None), LEVEL_CAMERA).tolist() == [-1]


def test_boxes_without_cuboids_and_frames_without_lidar_or_labels(tmp_path: Path) -> None:
    full = drive(1)[0]
    flat = replace(full, boxes=replace(present(full.boxes), cuboids_world=None))
    frames = [without(full, "points_lidar", "lidar_from_cam"), without(full, "boxes"), flat]
    report = export_frames(Frames(frames), "kitti-object", tmp_path / "out")
    assert [note.split(" (")[0] for note in report.notes] == [
        "1 frames without LiDAR",
        "1 frames without labels",
        "1 frames without cuboids",
    ]
    training = tmp_path / "out" / "training"
    assert sorted(path.stem for path in (training / "velodyne").iterdir()) == ["000001", "000002"]
    assert sorted(path.stem for path in (training / "label_2").iterdir()) == ["000000", "000002"]
    assert " -1000.0000 -1000.0000 -1000.0000 -10.000000\n" in (training / "label_2/000002.txt").read_text()
    back = KittiObject(tmp_path / "out")
    assert back[0].points_lidar is None
    assert back[1].boxes is None


def test_a_camera_that_is_not_level_is_noted(tmp_path: Path) -> None:
    """Five degrees of roll about the line of sight; the middle of the bottom face is then not below the centre."""
    frame = drive(1)[0]
    roll = SE3.from_quat(np.array([np.cos(np.radians(2.5)), 0, 0, np.sin(np.radians(2.5))]), np.zeros(3))
    camera = replace(frame.camera, world_from_cam=frame.camera.world_from_cam @ roll)
    assert tilt_deg(frame.camera) == pytest.approx(0, abs=1e-5)
    assert tilt_deg(camera) == pytest.approx(5)
    report = export_frames(Frames([replace(frame, camera=camera)]), "kitti-object", tmp_path / "out")
    assert report.notes == ("1 frames with a camera over 2 degrees off level (cuboids lean with it)",)
    again = KittiObject(tmp_path / "out")[0]
    middles = cuboids_cam(again).mean(axis=1), cuboids_cam(replace(frame, camera=camera)).mean(axis=1)
    np.testing.assert_allclose(*middles, atol=2e-4)


def test_raw_export_reads_back_with_poses_times_and_tracks(tmp_path: Path) -> None:
    frames = drive()
    back = KittiRaw(exported(frames, "kitti-raw", tmp_path / "out"))
    assert back.missing == ()
    assert back.posed
    np.testing.assert_allclose(back.timestamps_s, [0, 0.1, 0.2], atol=1e-9)
    # The loader's origin is the road below the first IMU, here the LiDAR; axes are the same, so one shift aligns all.
    shift = frames[0].camera.world_from_cam.translation_m - back[0].camera.world_from_cam.translation_m
    lidar_m = frames[0].points_world().mean(axis=0) - back[0].points_world().mean(axis=0)
    np.testing.assert_allclose(shift, lidar_m, atol=1e-6)
    for frame, again in zip(frames, back, strict=True):
        pose, found = frame.camera.world_from_cam, again.camera.world_from_cam
        np.testing.assert_allclose(found.translation_m + shift, pose.translation_m, atol=1e-6)
        np.testing.assert_allclose(found.rotation, pose.rotation, atol=1e-9)
        np.testing.assert_array_equal(again.image, frame.image)
        np.testing.assert_array_equal(again.points_lidar, frame.points_lidar)
        np.testing.assert_allclose(present(again.boxes).xyxy_px, present(frame.boxes).xyxy_px, atol=0.01)
        np.testing.assert_allclose(cuboids_cam(again), cuboids_cam(frame), atol=1e-4)
        np.testing.assert_array_equal(present(again.boxes).track_ids, [0, 1], "numbered in order of appearance")


def test_raw_export_keeps_tilted_poses(tmp_path: Path) -> None:
    tilt = SE3.from_quat(np.array([0.9, 0.2, -0.1, 0.3]), np.array([1.0, -2.0, 0.5]))
    frames = [
        replace(frame, camera=replace(frame.camera, world_from_cam=tilt @ frame.camera.world_from_cam), boxes=None)
        for frame in drive(2)
    ]
    back = KittiRaw(exported(frames, "kitti-raw", tmp_path / "out"))
    found, wanted = (
        poses[0].camera.world_from_cam.inverse() @ poses[1].camera.world_from_cam for poses in (back, frames)
    )
    np.testing.assert_allclose(found.matrix, wanted.matrix, atol=1e-6)


def test_a_new_drive_begins_where_time_goes_back_and_a_new_tracklet_where_an_object_was_missed(tmp_path: Path) -> None:
    first = drive(3)
    first[1] = replace(first[1], boxes=present(first[1].boxes).select(np.array([0])))
    report = export_frames(Frames([*first, *drive(2)]), "kitti-raw", tmp_path / "out")
    assert report.notes == ("2 drives, for time goes back between them",)
    drives = sorted((tmp_path / "out" / "2000_01_01").glob("*_drive_*"))
    assert [len(KittiRaw(folder)) for folder in drives] == [3, 2]
    ids = [present(frame.boxes).track_ids for frame in KittiRaw(drives[0])]
    assert [found.tolist() for found in ids if found is not None] == [[0, 1], [0], [0, 2]]


def test_raw_export_leaves_out_frames_of_another_calibration_and_without_sensors(tmp_path: Path) -> None:
    frames = drive(3)
    frames[1] = replace(frames[1], camera=replace(frames[1].camera, fx_px=90.0))
    frames[2] = without(frames[2], "image", "points_lidar")
    report = export_frames(Frames(frames), "kitti-raw", tmp_path / "out")
    assert report.written == 1
    assert "frame 5.1: its size, intrinsics or LiDAR mounting differ" in report.problems[0]
    assert "frame 5.2: neither image nor LiDAR" in report.problems[1]


def test_raw_export_with_images_or_clouds_alone_and_unlabelled(tmp_path: Path) -> None:
    image, cloud = drive(2)
    report = export_frames(
        Frames([without(image, "points_lidar", "boxes"), without(cloud, "image", "boxes")]),
        "kitti-raw",
        tmp_path / "out",
    )
    assert report.written == 2
    back = KittiRaw(tmp_path / "out")
    assert back.missing == ("2000_01_01_drive_0001_sync/tracklet_labels.xml: no boxes",)
    assert [(f.image is None, f.points_lidar is None, f.boxes is None) for f in back] == [
        (False, True, True),
        (True, False, True),
    ]


def test_records_are_the_inverse_of_the_loaders_world() -> None:
    anchor = Anchor(*ORIGIN_DEG, np.array([10.0, 20.0, 3.0]))
    first = SE3.from_yaw(0.5, np.array([10.0, 20.0, 3.0]))
    later = SE3.from_yaw(-2.0, np.array([510.0, -980.0, 8.0]))
    world = MercatorWorld.at(oxts_record(first, anchor))
    moved = world.world_from_imu(oxts_record(later, anchor))
    np.testing.assert_allclose(moved.translation_m, [500, -1000, 5 + IMU_HEIGHT_M], atol=1e-6)
    np.testing.assert_allclose(moved.rotation, later.rotation, atol=1e-12)
    # To first order a kilometre south is 1000 / R rad of latitude.
    latitude = oxts_record(later, anchor)[0]
    assert latitude - ORIGIN_DEG[0] == pytest.approx(-np.degrees(1000 / EARTH_RADIUS_M), rel=2e-4)


def test_times_are_counted_from_a_date_and_may_be_large() -> None:
    assert timestamp_text(1.25) == "2000-01-01 00:00:01.250000000"
    assert timestamp_text(-0.5) == "1999-12-31 23:59:59.500000000"
    assert timestamp_text(1.3e9) == "2041-03-12 07:06:40.000000000"


@pytest.mark.skipif(not CONVOY_DATA, reason="set CONVOY_DATA to a folder with kitti_object/ and kitti_raw_0005/")
def test_real_frames_survive_both_ways(tmp_path: Path) -> None:
    objects = KittiObject(Path(CONVOY_DATA) / "kitti_object")
    export_frames(objects, "kitti-object", tmp_path / "object", indices=[0, 1])
    for place, again in enumerate(KittiObject(tmp_path / "object")):
        frame = objects[place]
        np.testing.assert_allclose(points_cam(again), points_cam(frame), atol=1e-4)
        np.testing.assert_allclose(cuboids_cam(again), cuboids_cam(frame), atol=3e-4)
        # KITTI's own boxes end at the outermost pixels' centres, so clipping changes nothing.
        np.testing.assert_allclose(present(again.boxes).xyxy_px, present(frame.boxes).xyxy_px, atol=0.006)
    raw = KittiRaw(Path(CONVOY_DATA) / "kitti_raw_0005")
    export_frames(raw, "kitti-raw", tmp_path / "raw", indices=[0, 8])
    raw_again = KittiRaw(tmp_path / "raw")
    moved, found = (
        frames[a].camera.world_from_cam.inverse() @ frames[b].camera.world_from_cam
        for frames, a, b in ((raw, 0, 8), (raw_again, 0, 1))
    )
    assert np.linalg.norm(moved.translation_m) > 10
    np.testing.assert_allclose(found.matrix, moved.matrix, atol=1e-6)
