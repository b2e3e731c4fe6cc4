"""A KITTI raw drive written here to the published schema."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geometry import Boxes
from perception.datasets.base import DataError
from perception.datasets.kitti import KittiRaw
from perception.datasets.kitti_oxts import EARTH_RADIUS_M, IMU_HEIGHT_M, MercatorWorld, read_times
from perception.datasets.placement import level_world_from_cam

WIDTH, HEIGHT = 120, 80
# Focal length 100, principal point (60, 40) with pixel centres at integers, camera 2 at 6 cm from camera 0.
P2 = "100 0 60 6.0 0 100 40 0.2 0 0 1 0.003"
IDENTITY = "1 0 0 0 1 0 0 0 1"


def write_raw_root(root: Path) -> Path:
    day = root / "2011_09_26"
    drive = day / "2011_09_26_drive_0001_sync"
    for folder in ("image_02/data", "oxts/data", "velodyne_points/data"):
        (drive / folder).mkdir(parents=True)
    cam = f"calib_time: 09-Jan-2012 13:57:47\nS_rect_02: {WIDTH} {HEIGHT}\nR_rect_00: {IDENTITY}\nP_rect_02: {P2}\n"
    (day / "calib_cam_to_cam.txt").write_text(cam)
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n")
    (day / "calib_imu_to_velo.txt").write_text(f"R: {IDENTITY}\nT: -0.8 0.3 -0.8\n")
    for number in range(3):
        name = f"{number:010d}"
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(drive / f"image_02/data/{name}.png")
        record = [49.0, 8.0 + number * 1e-5, 112.0, 0.0, 0.0, 0.0] + [0.0] * 24
        (drive / f"oxts/data/{name}.txt").write_text(" ".join(map(str, record)))
    np.ones((4, 4), "<f4").tofile(drive / "velodyne_points/data/0000000001.bin")
    times = "2011-09-26 13:04:59.900000000\n2011-09-26 13:05:00.000000000\n2011-09-26 13:05:00.150000000\n"
    (drive / "image_02/timestamps.txt").write_text(times)
    pose = "<item><tx>{}</tx><ty>0</ty><tz>-1.7</tz><rx>0</rx><ry>0</ry><rz>0</rz><occlusion>0</occlusion></item>"
    track = (
        "<item><objectType>{}</objectType><h>2</h><w>1.8</w><l>4</l><first_frame>1</first_frame>"
        f"<poses><count>2</count>{pose.format(10)}{pose.format(12)}</poses></item>"
    )
    tracks = "".join(track.format(kind) for kind in ("Tram", "Van"))
    (drive / "tracklet_labels.xml").write_text(f"<boost><tracklets><count>2</count>{tracks}</tracklets></boost>")
    return drive


def test_mercator_world_is_east_north_up_on_the_road() -> None:
    record = np.zeros(30)
    record[:3] = 49.0, 8.4, 112.0
    world = MercatorWorld.at(record)
    np.testing.assert_allclose(world.world_from_imu(record).translation_m, [0, 0, IMU_HEIGHT_M], atol=1e-9)
    moved = record.copy()
    moved[:6] = 49.0 + 1e-4, 8.4 + 2e-4, 115.0, 0, 0, np.pi / 2
    pose = world.world_from_imu(moved)
    north = EARTH_RADIUS_M * np.radians(1e-4)  # 11.13 m; the map is true to scale at the first latitude
    east = EARTH_RADIUS_M * np.cos(np.radians(49)) * np.radians(2e-4)  # 14.61 m
    np.testing.assert_allclose(pose.translation_m, [east, north, 3 + IMU_HEIGHT_M], atol=1e-4)
    np.testing.assert_allclose(pose.rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)  # yaw 90 degrees: ahead is north


@pytest.mark.parametrize(("field", "axis", "image"), [(3, [0, 1, 0], [0, 0, 1]), (4, [1, 0, 0], [0, 0, -1])])
def test_roll_is_left_side_up_and_pitch_is_nose_down(field: int, axis: list[int], image: list[int]) -> None:
    record = np.zeros(30)
    world = MercatorWorld.at(record)
    record[field] = np.pi / 2
    np.testing.assert_allclose(world.world_from_imu(record).rotation @ axis, image, atol=1e-12)


def test_raw_drive_gives_poses_times_tracks_and_what_each_frame_has(tmp_path: Path) -> None:
    frames = KittiRaw(write_raw_root(tmp_path).parent.parent)
    assert frames.missing == ()
    assert frames.posed
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], [0, 0.1, 0.25])
    assert [frame.points_lidar is not None for frame in frames] == [False, True, False]
    assert [len(frame.boxes or Boxes.empty()) for frame in frames] == [0, 1, 1]  # the tram is left out
    boxes = frames[1].boxes
    assert boxes is not None
    assert boxes.track_ids is not None
    assert boxes.cuboids_world is not None
    assert boxes.track_ids.tolist() == [1]
    # IMU at x = R cos(49°) 1e-5°, z = 0.93; the LiDAR is 0.8 ahead of, 0.3 right of and 0.8 above it; the van 10 ahead.
    east = EARTH_RADIUS_M * np.cos(np.radians(49)) * np.radians(1e-5)
    middle = [east + 0.8 + 10, -0.3, 0.93 + 0.8 - 1.7 + 1]
    np.testing.assert_allclose(boxes.cuboids_world, [[*middle, 4, 1.8, 2, 0]], atol=1e-5)
    steps = np.diff([frame.camera.world_from_cam.translation_m for frame in frames], axis=0)
    np.testing.assert_allclose(steps, [[east, 0, 0]] * 2, atol=1e-6)


def test_raw_drive_without_oxts_or_tracklets_says_so_and_still_reads(tmp_path: Path) -> None:
    drive = write_raw_root(tmp_path)
    for path in (drive / "oxts/data").iterdir():
        path.unlink()
    (drive / "oxts/data").rmdir()
    (drive / "tracklet_labels.xml").unlink()
    (drive / "image_02/timestamps.txt").unlink()
    frames = KittiRaw(drive)
    assert [line.split(":")[0].rpartition("/")[2] for line in frames.missing] == [
        "data",
        "tracklet_labels.xml",
        "timestamps.txt",
    ]
    assert not frames.posed
    assert frames[2].boxes is None
    assert frames[2].timestamp_s == pytest.approx(0.2)
    np.testing.assert_allclose(frames[2].camera.world_from_cam.rotation, level_world_from_cam(1.0).rotation, atol=1e-12)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tracklet_labels.xml", "<boost><tracklets>", "not whole XML"),
        ("oxts/data/0000000001.txt", "49.0 8.4", "2 numbers, want 30"),
        ("oxts/data/0000000000.txt", " ".join(["90"] * 30), "latitude 90.0"),
        ("oxts/data/0000000001.txt", None, "not found"),
        ("image_02/timestamps.txt", "2011-09-26 13:05:00.0\n", "1 lines, no time for frame 1"),
        ("image_02/timestamps.txt", "yesterday\n", "YYYY-MM-DD"),
        ("../calib_cam_to_cam.txt", "S_rect_02: 1 1\n", "no entry P_rect_02, R_rect_00"),
        ("../calib_velo_to_cam.txt", "R: 1 2 3\nT: 0 0 0\n", "R: 3 numbers, want 9"),
    ],
)
def test_a_broken_drive_file_is_named(tmp_path: Path, file: str, content: str | None, says: str) -> None:
    drive = write_raw_root(tmp_path)
    path = drive / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        KittiRaw(drive)[1]
    assert path.name in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("<h>2</h>", ""), ("<h>2</h>", "<h>inf</h>"), ("Tram", "Boat")])
def test_a_broken_track_is_named(tmp_path: Path, old: str, new: str) -> None:
    drive = write_raw_root(tmp_path)
    path = drive / "tracklet_labels.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"tracklet_labels\.xml: track 0.*(<h>|Boat)"):
        KittiRaw(drive)[1]


def test_an_image_of_another_size_than_the_calibration_is_refused(tmp_path: Path) -> None:
    drive = write_raw_root(tmp_path)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(drive / "image_02/data/0000000001.png")
    with pytest.raises(DataError, match=f"10x10, S_rect_02 .* {WIDTH}x{HEIGHT}"):
        KittiRaw(drive)[1]


def test_several_drives_ask_for_one(tmp_path: Path) -> None:
    day = write_raw_root(tmp_path).parent
    (day / "2011_09_26_drive_0002_sync").mkdir()
    with pytest.raises(DataError, match=r"2 drives .*0001_sync.*0002_sync"):
        KittiRaw(tmp_path)


def test_times_start_at_zero_and_pass_midnight(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("2011-09-26 23:59:59.900000000\n2011-09-27 00:00:00.005000001\n\n")
    np.testing.assert_allclose(read_times(tmp_path / "t.txt"), [0, 0.105000001], atol=1e-12)
    assert read_times(tmp_path / "none.txt") is None
