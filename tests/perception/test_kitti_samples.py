"""KITTI loaders on the real samples below CONVOY_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest

from geometry import SE3
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.kitti import KittiObject, KittiRaw, load_kitti
from perception.datasets.kitti_io import read_labels
from perception.datasets.placement import inside_cuboid

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
needs_object = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "kitti_object").is_dir()),
    reason="set CONVOY_DATA to a folder with kitti_object/ to test on real frames",
)
needs_raw = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "kitti_raw_0005").is_dir()),
    reason="set CONVOY_DATA to a folder with kitti_raw_0005/ to test on a real drive",
)


def check_points_of_cuboids_lie_in_their_boxes(frame, grow_px: float) -> int:
    """LiDAR points in a cuboid project into its 2D box; those outside the image do not count. Returns the points."""
    points_world = frame.points_world()
    points_px, depth_m = frame.camera.project(points_world)
    in_image = (
        (depth_m > 0) & (points_px >= 0).all(1) & (points_px < [frame.camera.width_px, frame.camera.height_px]).all(1)
    )
    total = 0
    for box, cuboid in zip(frame.boxes.xyxy_px, frame.boxes.cuboids_world, strict=True):
        chosen = points_px[inside_cuboid(points_world, cuboid) & in_image]
        if len(chosen) < 20:
            continue
        inside = ((chosen >= box[:2] - grow_px) & (chosen <= box[2:] + grow_px)).all(axis=1)
        assert inside.mean() > 0.95, (frame.source, box, inside.mean())
        total += len(chosen)
    return total


@needs_object
def test_real_object_points_lie_in_boxes_drawn_by_hand() -> None:
    frames = KittiObject(Path(CONVOY_DATA) / "kitti_object")
    totals = [check_points_of_cuboids_lie_in_their_boxes(frame, 3) for frame in frames]
    assert len(totals) == 8
    assert sum(totals) > 5000


@needs_object
def test_real_object_road_is_at_zero_and_points_without_reflectance_have_none() -> None:
    frames = KittiObject(Path(CONVOY_DATA) / "kitti_object")
    for stem, frame in zip(frames.ids, frames, strict=True):
        points = frame.points_world()
        ahead = points[(points[:, 0] > 5) & (points[:, 0] < 12) & (np.abs(points[:, 1]) < 2)]
        assert abs(np.median(ahead[:, 2])) < 0.2, stem
        assert (frame.points_lidar[:, 3].max() > 0) == (int(stem) in (0, 1, 2, 134))


@needs_raw
def test_real_drive_moves_as_the_reference_poses_do() -> None:
    root = Path(CONVOY_DATA) / "kitti_raw_0005"
    frames = KittiRaw(root)
    reference = np.loadtxt(root / "derived/poses_cam2_to_world.txt").reshape(-1, 3, 4)
    chosen = [0, 5, 9, 20, 49]
    ours = [frames[i].camera.world_from_cam for i in chosen]
    theirs = [SE3.from_matrix(reference[frames.numbers[i]]) for i in chosen]
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        ours_relative, theirs_relative = (ours[0].inverse() @ a).matrix, (theirs[0].inverse() @ b).matrix
        np.testing.assert_allclose(ours_relative[:3, :3], theirs_relative[:3, :3], atol=1e-6)
        # The reference takes camera 2's offset from camera 0 along x alone, P2[0, 3] / fx: 3.6 mm off, seen in turns.
        np.testing.assert_allclose(ours_relative[:3, 3], theirs_relative[:3, 3], atol=4e-3)
    assert np.linalg.norm(ours[-1].translation_m - ours[0].translation_m) > 50


@needs_raw
def test_real_drive_boxes_agree_with_lidar_and_with_derived_labels() -> None:
    root = Path(CONVOY_DATA) / "kitti_raw_0005"
    frames = KittiRaw(root)
    with_cloud = [i for i, number in enumerate(frames.numbers) if number % 12 == 0]
    assert len(with_cloud) == 13
    assert sum(check_points_of_cuboids_lie_in_their_boxes(frames[i], 0.5) for i in with_cloud[::3]) > 3000
    for i in with_cloud:
        boxes = frames[i].boxes
        _, rows = read_labels(root / "derived/label_2" / f"{frames.numbers[i]:010d}.txt")
        # Away from the border, where the two differ in how they clip.
        whole = (rows[:, 3:5] > 1).all(1) & (rows[:, 5] < 1240) & (rows[:, 6] < 373)
        apart_px = np.abs(boxes.xyxy_px[None] - (rows[whole, None, 3:7] + 0.5)).max(axis=-1).min(axis=1)
        assert (apart_px < 0.05).all(), frames.numbers[i]


@needs_raw
def test_real_road_stays_at_zero_where_the_drive_starts() -> None:
    frame = KittiRaw(Path(CONVOY_DATA) / "kitti_raw_0005")[0]
    points = frame.points_world()
    near = np.linalg.norm(points[:, :2] - frame.camera.world_from_cam.translation_m[:2], axis=1) < 10
    low = points[near & (points[:, 2] < 0.5), 2]
    assert abs(np.median(low)) < 0.15


@needs_object
@needs_raw
def test_real_fleet_is_two_halves_of_the_drive_and_single_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = load_kitti(FleetRequest(vehicles=3))
    assert [(share.vehicle, share.region) for share in fleet.shares] == [
        ("2011_09_26_drive_0005-1", "raw"),
        ("2011_09_26_drive_0005-2", "raw"),
        ("object", "object"),
    ]
    assert len(fleet.holdout) == sum(len(share.test) for share in fleet.shares)
    assert all(len(share.train) > len(share.test) > 0 for share in fleet.shares)
    assert {frame.source for frame in fleet.shares[2].test} <= {frame.source for frame in fleet.holdout}
    monkeypatch.delenv("CONVOY_DATA")
    with pytest.raises(DataError, match="set CONVOY_DATA"):
        load_kitti(FleetRequest())
