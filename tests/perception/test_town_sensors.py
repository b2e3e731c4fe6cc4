"""Rigs of the town: stereo, surround, and the cameras and LiDAR on a roadside unit's pole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geometry import SE3, Frame
from perception.datasets.base import DataError
from perception.datasets.town import HOLDOUT, LIGHTS, PRESETS, RIGS, CameraMount, rsu_number, sensors, town_drive
from perception.datasets.town.camera import View
from perception.datasets.town.layout import plan_town
from perception.datasets.town.mounts import RSU_LIDAR_MOUNT_M, RSU_POLE_M, rsu_mounts
from perception.datasets.town.rendering import Shot, render
from perception.labels import SEGMENT_ID

HAMLET = replace(PRESETS["hamlet"], seed=3)
SIZE_PX = HAMLET.size_px
STREETS = {"east": (1, 0), "north": (0, 1), "west": (-1, 0), "south": (0, -1)}


def _pose() -> SE3:
    """A vehicle somewhere, turned to the left."""
    return SE3.from_yaw(0.7, np.array([12.0, -5.0, 0.0]))


@pytest.fixture(scope="module")
def rsu_frames() -> list[Frame]:
    return [render(HAMLET, Shot(rsu_number(0), 1, camera)) for camera in range(4)]


# Mounts


def test_the_front_camera_looks_ahead_from_where_it_sits() -> None:
    """Half the width at half the field of view: the focal length is 96 / tan 34 degrees."""
    camera = CameraMount().camera(SE3.from_yaw(0.0, np.zeros(3)), SIZE_PX, 68.0)
    assert camera.fx_px == camera.fy_px == pytest.approx(96 / np.tan(np.radians(34)))
    uv, depth_m = camera.project(np.array([[10.9, 0, 1.5], [10.9, 1, 1.5], [10.9, 0, 2.5]]))
    np.testing.assert_allclose(depth_m, 10)
    step = camera.fx_px / 10
    np.testing.assert_allclose(uv - uv[0], [[0, 0], [-step, 0], [0, -step]], atol=1e-9)  # left and up


def test_yaw_turns_to_the_left_and_pitch_down() -> None:
    """A camera at the origin that is turned by 90 and nods by 30 degrees looks along (0, cos 30, -sin 30)."""
    mount = CameraMount("any", (0.0, 0.0, 0.0), yaw_deg=90.0, pitch_deg=30.0, fov_deg=90.0)
    camera = mount.camera(SE3.from_yaw(0.0, np.zeros(3)), SIZE_PX, 68.0)
    rotation = camera.world_from_cam.rotation
    np.testing.assert_allclose(rotation[:, 2], [0, np.sqrt(3) / 2, -0.5], atol=1e-12)
    np.testing.assert_allclose(rotation[:, 0], [1, 0, 0], atol=1e-12)  # its right is ahead of the body
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    assert camera.fx_px == pytest.approx(96)


def test_the_stereo_baseline_is_kittis_and_disparity_follows_from_depth() -> None:
    left, right = (mount.camera(_pose(), SIZE_PX, 68.0) for mount in RIGS["stereo"])
    baseline = right.world_from_cam.translation_m - left.world_from_cam.translation_m
    assert np.linalg.norm(baseline) == pytest.approx(0.54)
    np.testing.assert_allclose(baseline @ left.world_from_cam.rotation, [0.54, 0, 0], atol=1e-12)
    points = left.world_from_cam.apply(np.random.default_rng(0).uniform([-9, -3, 2], [9, 3, 60], (50, 3)))
    (uv_left, depth_left), (uv_right, depth_right) = left.project(points), right.project(points)
    np.testing.assert_allclose(depth_left, depth_right)
    np.testing.assert_allclose(uv_left[:, 0] - uv_right[:, 0], left.fx_px * 0.54 / depth_left)
    np.testing.assert_allclose(uv_left[:, 1], uv_right[:, 1])


def test_stereo_pictures_have_the_disparity_of_their_depth() -> None:
    """Flat pixels of the left image, moved by fx b / z, meet the same depth and the same class in the right one."""
    config = replace(HAMLET, cameras=RIGS["stereo"])
    left, right = (render(config, Shot(0, 2, camera)) for camera in (0, 1))
    assert left.timestamp_s == right.timestamp_s
    row, column = np.nonzero(np.isfinite(left.depth_m) & (left.depth_m < 40))
    depth_m = left.depth_m[row, column]
    there = np.floor(column + 0.5 - left.camera.fx_px * 0.54 / depth_m).astype(int)
    inside = there >= 0
    same = np.abs(right.depth_m[row, there] - depth_m)[inside] < 0.02 * depth_m[inside]
    assert same.mean() > 0.85
    alike = right.masks[row, there][inside] == left.masks[row, column][inside]
    assert alike[same].mean() > 0.98


def test_surround_cameras_leave_no_bearing_out() -> None:
    """Every degree around, far away and at the height of the cameras, falls inside some image."""
    bearing = np.radians(np.arange(360))
    ring = np.stack([500 * np.cos(bearing), 500 * np.sin(bearing), np.full(360, 1.5)], axis=1)
    seen = np.zeros(360, int)
    for mount in RIGS["surround"]:
        uv, depth_m = mount.camera(_pose(), SIZE_PX, HAMLET.fov_deg).project(_pose().apply(ring))
        seen += (depth_m > 0) & (uv[:, 0] >= 0) & (uv[:, 0] < SIZE_PX[1])
    assert np.flatnonzero(seen == 0).tolist() == []


@pytest.mark.parametrize("rig", RIGS)
def test_cameras_of_a_rig_have_names_of_their_own(rig: str) -> None:
    names = [mount.name for mount in RIGS[rig]]
    assert len(set(names)) == len(names)
    assert names[0] == "front"


def test_only_the_first_camera_brings_lidar() -> None:
    config = replace(HAMLET, cameras=RIGS["surround"], size_px=(32, 64))
    frames = [render(config, Shot(0, 0, camera)) for camera in range(6)]
    assert [frame.points_lidar is not None for frame in frames] == [True] + [False] * 5
    assert [frame.lidar_from_cam is not None for frame in frames] == [True] + [False] * 5
    assert len({frame.timestamp_s for frame in frames}) == 1
    poses = [frame.camera.world_from_cam.translation_m for frame in frames]
    assert max(np.linalg.norm(a - poses[0]) for a in poses) < 2.1


# Headlights


def _headlights(monkeypatch: pytest.MonkeyPatch, shots: list[Shot], rig: str) -> list[View]:
    views: list[View] = []
    real = sensors.photograph
    monkeypatch.setattr(sensors, "photograph", lambda view, *rest: views.append(view) or real(view, *rest))
    config = replace(HAMLET, cameras=RIGS[rig], light=LIGHTS["night"], size_px=(32, 64))
    for shot in shots:
        render(config, shot)
    return views


def test_headlights_shine_ahead_of_the_vehicle_wherever_its_cameras_look(monkeypatch: pytest.MonkeyPatch) -> None:
    front, side, back = _headlights(monkeypatch, [Shot(0, 0, camera) for camera in (0, 1, 3)], "surround")
    ahead = front.camera.world_from_cam.rotation[:, 2]
    for view in (front, side, back):
        np.testing.assert_allclose(view.headlight.forward, ahead, atol=1e-6)
        np.testing.assert_allclose(view.headlight.origin_m, front.headlight.origin_m, atol=1e-4)
        assert view.headlight.power > 0
    behind = front.camera.world_from_cam.translation_m - 10 * ahead
    assert not back.headlight.on(behind[None].astype(np.float32), np.float32([[0, 0, 1]])).any()


def test_both_eyes_of_a_stereo_pair_see_the_same_light(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = _headlights(monkeypatch, [Shot(0, 0, 0), Shot(0, 0, 1)], "stereo")
    np.testing.assert_array_equal(left.headlight.origin_m, right.headlight.origin_m)


def test_roadside_units_have_no_headlights(monkeypatch: pytest.MonkeyPatch) -> None:
    (view,) = _headlights(monkeypatch, [Shot(rsu_number(1), 0)], "front")
    assert view.headlight.power == 0


# Roadside units


def test_each_camera_of_an_rsu_aims_at_the_middle_of_its_street(rsu_frames: list[Frame]) -> None:
    """Its optical axis meets the ground on the street's axis, and the spot 24 m down the street is in the image."""
    junction = plan_town(HAMLET).rsus_m[0]
    assert [mount.name for mount in HAMLET.rsu_cameras] == list(STREETS)
    for frame, street in zip(rsu_frames, STREETS.values(), strict=True):
        pose = frame.camera.world_from_cam
        np.testing.assert_allclose(pose.translation_m, [*(junction + RSU_POLE_M), 5.6], atol=1e-9)
        ahead = pose.rotation[:, 2]
        met = (pose.translation_m - ahead * 5.6 / ahead[2])[:2] - junction
        assert 15 < met @ street < 50
        assert met @ [street[1], street[0]] == pytest.approx(0, abs=1e-6)
        uv, depth_m = frame.camera.project(np.array([[*(junction + 24.0 * np.array(street)), 0.0]]))
        assert depth_m[0] > 15
        assert (uv > 0).all()
        assert (uv[0] < [frame.camera.width_px, frame.camera.height_px]).all()


def test_rsu_cameras_look_down_and_are_level() -> None:
    for mount in rsu_mounts():
        assert 5 < mount.pitch_deg < 45
        rotation = mount.camera(_pose(), SIZE_PX, 68.0).world_from_cam.rotation
        assert rotation[2, 0] == pytest.approx(0, abs=1e-12)  # the rows of pixels are level
        assert rotation[2, 2] == pytest.approx(-np.sin(np.radians(mount.pitch_deg)))


def test_rsu_cameras_see_their_street(rsu_frames: list[Frame]) -> None:
    for frame in rsu_frames:
        assert (frame.masks == SEGMENT_ID["road"]).mean() > 0.1
        assert frame.depth_m[np.isfinite(frame.depth_m)].min() > 2


def test_an_rsus_lidar_sees_the_road(rsu_frames: list[Frame]) -> None:
    first = rsu_frames[0]
    assert [frame.points_lidar is not None for frame in rsu_frames] == [True, False, False, False]
    world_from_lidar = first.camera.world_from_cam @ first.lidar_from_cam.inverse()
    junction = plan_town(HAMLET).rsus_m[0]
    expected = np.array([*(junction + RSU_POLE_M), 0.0]) + RSU_LIDAR_MOUNT_M
    np.testing.assert_allclose(world_from_lidar.translation_m, expected, atol=1e-9)
    points = first.points_world()
    on_ground = np.abs(points[:, 2]) < 5 * HAMLET.rsu_lidar.noise_m
    assert on_ground.mean() > 0.2
    away = points[on_ground, :2] - junction
    for street in STREETS.values():
        along, across = away @ street, away @ [street[1], street[0]]
        assert ((along > 8) & (along < 30) & (np.abs(across) < 5.7)).sum() > 5
    assert points[:, 2].min() > -5 * HAMLET.rsu_lidar.noise_m


# What is not there


@pytest.mark.parametrize(
    ("vehicle", "camera", "says"),
    [
        (0, 1, "camera 1 of vehicle-0"),
        (0, -1, "camera -1 of vehicle-0"),
        (2, 0, "camera 0 of vehicle-2"),
        (HOLDOUT, 1, "camera 1 of holdout"),
        (rsu_number(2), 0, "camera 0 of rsu-2"),
        (rsu_number(0), 4, "camera 4 of rsu-0"),
    ],
)
def test_unknown_cameras_vehicles_and_rsus_are_named(tmp_path: Path, vehicle: int, camera: int, says: str) -> None:
    with pytest.raises(DataError, match=rf"no {says}; there are 2 vehicles, 2 RSUs"):
        town_drive(HAMLET, vehicle, camera, workers=1, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_drives_are_named_by_who_and_which_camera(tmp_path: Path) -> None:
    config = replace(HAMLET, cameras=RIGS["stereo"], frames_per_vehicle=1, size_px=(16, 32))
    assert town_drive(config, 1, 1, workers=1, root=tmp_path).name == "town/vehicle-1/right"
    assert town_drive(config, rsu_number(1), 2, workers=1, root=tmp_path).name == "town/rsu-1/west"
