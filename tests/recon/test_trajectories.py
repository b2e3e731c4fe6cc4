"""Paths of a camera: by hand, through what is given, and round scenes with a sky."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from geometry import SE3, Camera
from recon.gaussians import Gaussians
from recon.trajectories import fit_camera, fly_through, look_at, orbit_of, turntable, wobble

CAMERA = Camera(SE3.identity(), 100.0, 110.0, 30.0, 20.0, 64, 48)
CENTRE, UP = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0])


def positions(cameras: list[Camera]) -> np.ndarray:
    return np.stack([camera.world_from_cam.translation_m for camera in cameras])


def at(*position: float, yaw_rad: float = 0.0) -> Camera:
    return Camera(SE3.from_yaw(yaw_rad, np.array(position, np.float64)), 100.0, 100.0, 32.0, 24.0, 64, 48)


def test_a_turntable_of_four_by_hand() -> None:
    cameras = turntable(CENTRE, 3.0, 4.0, CAMERA, 4)
    np.testing.assert_allclose(positions(cameras), [[4, 2, 7], [1, 5, 7], [-2, 2, 7], [1, -1, 7]], atol=1e-12)
    for camera in cameras:
        pixels, depth_m = camera.project(np.stack([CENTRE, CENTRE + 0.5 * UP]))
        np.testing.assert_allclose(pixels[0], [30, 20], atol=1e-9)  # in the principal point
        np.testing.assert_allclose(depth_m[0], 5)  # 3² + 4²
        assert pixels[1, 0] == pytest.approx(30)
        assert pixels[1, 1] < 20, "up is up"
        assert (camera.fx_px, camera.fy_px, camera.width_px, camera.height_px) == (100, 110, 64, 48)


def test_another_axis() -> None:
    cameras = turntable(CENTRE, 3.0, 4.0, CAMERA, 4, up=(0.0, -2.0, 0.0))
    np.testing.assert_allclose(positions(cameras)[:, 1], 2 - 4)
    np.testing.assert_allclose(np.linalg.norm(positions(cameras) - CENTRE, axis=1), 5)
    np.testing.assert_allclose(positions(turntable(CENTRE, 1.0, 2.0, CAMERA, 1, up=(1, 0, 0)))[0, 0], 1 + 2)


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=6), st.floats(0.1, 50), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_the_centre_is_always_in_the_middle(numbers: list[float], radius_m: float, height_m: float) -> None:
    centre, up = np.array(numbers[:3]), np.array(numbers[3:])
    if np.linalg.norm(up) < 1e-3:
        up = np.array([0.0, 0.0, 1.0])
    for camera in turntable(centre, radius_m, height_m, CAMERA, 5, up.tolist()):
        pixels, depth_m = camera.project(centre[None])
        np.testing.assert_allclose(pixels, [[30, 20]], atol=1e-6)
        np.testing.assert_allclose(depth_m, np.hypot(radius_m, height_m))


def test_looking_north() -> None:
    pose = look_at(np.zeros(3), np.array([0.0, 5, 0]))
    np.testing.assert_allclose(pose.rotation.T, [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)  # east, down, north


def test_a_wobble_by_hand() -> None:
    cameras = wobble(at(1, 2, 3), 0.5, 4)
    np.testing.assert_allclose(positions(cameras), [[1.5, 2, 3], [1, 2.5, 3], [0.5, 2, 3], [1, 1.5, 3]], atol=1e-12)
    assert all(np.array_equal(camera.world_from_cam.rotation, np.eye(3)) for camera in cameras)


def test_a_straight_flight_has_equal_steps_whatever_lies_between() -> None:
    cameras = fly_through([at(0, 0, 0), at(1, 0, 0), at(4, 0, 0), at(10, 0, 0)], 11)
    np.testing.assert_allclose(positions(cameras), np.stack([np.arange(11), np.zeros(11), np.zeros(11)], 1), atol=1e-3)


def test_two_cameras_are_joined_by_the_shortest_turn() -> None:
    ends = [at(0, 0, 0, yaw_rad=0.2), at(0, 0, 8, yaw_rad=1.4)]
    turns = Rotation.from_matrix(np.stack([camera.world_from_cam.rotation for camera in ends]))
    expected = Slerp([0, 1], turns)(np.linspace(0, 1, 5)).as_matrix()
    found = np.stack([camera.world_from_cam.rotation for camera in fly_through(ends, 5)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_flight_passes_through_every_camera_at_one_speed() -> None:
    given_cameras = turntable(CENTRE, 5.0, 1.0, CAMERA, 9)[:7]
    cameras = fly_through(given_cameras, 301)
    steps_m = np.linalg.norm(np.diff(positions(cameras), axis=0), axis=1)
    assert steps_m.max() / steps_m.min() < 1.01
    for camera in given_cameras:
        gaps_m = np.linalg.norm(positions(cameras) - camera.world_from_cam.translation_m, axis=1)
        nearest = cameras[int(gaps_m.argmin())]
        assert gaps_m.min() < steps_m[0]
        np.testing.assert_allclose(nearest.world_from_cam.rotation, camera.world_from_cam.rotation, atol=0.02)
    assert {(camera.cx_px, camera.width_px) for camera in cameras} == {(30.0, 64)}


def test_a_stop_with_noise_is_no_detour() -> None:
    rng = np.random.default_rng(0)
    stop = [at(5 + dx, dy, 0) for dx, dy in rng.normal(0, 0.002, (20, 2))]
    found = positions(fly_through([at(0, 0, 0), *stop, at(10, 0, 0)], 50))
    assert np.abs(found[:, 1]).max() < 0.01
    assert (np.diff(found[:, 0]) > 0).all()
    np.testing.assert_allclose(found[[0, -1]], [[0, 0, 0], [10, 0, 0]], atol=1e-9)


def test_the_last_camera_is_reached_even_if_it_is_near() -> None:
    found = positions(fly_through([at(0, 0, 0), at(10, 0, 0), at(10.2, 0.1, 0)], 20))
    np.testing.assert_allclose(found[-1], [10.2, 0.1, 0], atol=1e-9)
    np.testing.assert_allclose(found[:, 1], found[:, 0] * 0.1 / 10.2, atol=1e-9)


def test_cameras_fit_another_size_and_angle() -> None:
    camera = Camera(SE3.from_yaw(1.0, CENTRE), 50.0, 55.0, 31.0, 25.0, 64, 48)
    twice = fit_camera(camera, (128, 96))
    assert (twice.fx_px, twice.fy_px, twice.cx_px, twice.cy_px) == (100, 110, 62, 50)
    wide = fit_camera(camera, (100, 48))  # 18 px more on either side
    assert (wide.fx_px, wide.cx_px, wide.cy_px, wide.width_px, wide.height_px) == (50, 49, 25, 100, 48)
    angled = fit_camera(camera, fov_rad=np.pi / 2)
    assert (angled.fx_px, angled.fy_px, angled.cx_px, angled.width_px) == (pytest.approx(32), angled.fx_px, 32, 64)
    assert all(each.world_from_cam is camera.world_from_cam for each in (twice, wide, angled))


def cube(count: int = 2000, seed: int = 0) -> Gaussians:
    xyz = np.random.default_rng(seed).uniform(-1, 1, (count, 3)) + CENTRE
    return Gaussians.from_points(xyz, np.full((count, 3), 0.5), opacity=0.8)


def sky(count: int, opacity: float) -> Gaussians:
    xyz = np.random.default_rng(1).normal(0, 1, (count, 3)) * 500 + [0, 0, 800]
    return Gaussians.from_points(xyz, np.full((count, 3), 0.9), opacity=opacity)


def test_the_scene_is_in_view_all_the_way_round() -> None:
    fov_rad = 2 * np.arctan(24 / 100)
    camera = Camera(SE3.identity(), 100.0, 100.0, 24.0, 24.0, 48, 48)
    orbit = orbit_of(cube(), fov_rad)
    np.testing.assert_allclose(orbit.centre_world, CENTRE, atol=0.1)
    for view in turntable(orbit.centre_world, orbit.radius_m, orbit.height_m, camera, 8):
        pixels, depth_m = view.project(cube().means.numpy())
        assert (depth_m > 0).all()
        inside = ((pixels > 0) & (pixels < 48)).all(axis=1)
        assert inside.mean() > 0.99
        assert np.ptp(pixels[:, 0]) > 24, "it fills half of the picture"


@pytest.mark.parametrize(("count", "opacity"), [(900, 0.8), (20_000, 0.02)])
def test_a_far_sky_does_not_decide(count: int, opacity: float) -> None:
    alone, both = orbit_of(cube()), orbit_of(Gaussians.concat([cube(), sky(count, opacity)]))
    np.testing.assert_allclose(both.centre_world, alone.centre_world, atol=1)
    assert both.radius_m < 2 * alone.radius_m


def test_one_gaussian_has_an_orbit() -> None:
    orbit = orbit_of(Gaussians.from_points(CENTRE[None], np.ones((1, 3)), lone_scale_m=0.25), np.pi / 3)
    np.testing.assert_allclose(orbit.centre_world, CENTRE)
    assert orbit.reach_m == pytest.approx(0.5)  # two sigma
    assert np.hypot(orbit.radius_m, orbit.height_m) == pytest.approx(0.5 / 0.5)  # sin 30°


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: turntable(np.array([np.nan, 0, 0]), 1.0, 0.0, CAMERA, 3), "finite"),
        (lambda: turntable(CENTRE, 0.0, 1.0, CAMERA, 3), "radius_m must be finite and above 0"),
        (lambda: turntable(CENTRE, np.inf, 1.0, CAMERA, 3), "radius_m must be finite and above 0"),
        (lambda: turntable(CENTRE, 1.0, np.nan, CAMERA, 3), "finite"),
        (lambda: turntable(CENTRE, 1.0, 0.0, CAMERA, 0), "at least one camera"),
        (lambda: turntable(CENTRE, 1.0, 0.0, CAMERA, 3, up=(0, 0, 0)), "up is"),
        (lambda: look_at(CENTRE, CENTRE), "the way from the camera"),
        (lambda: look_at(CENTRE, CENTRE + UP), "up, seen along the view"),
        (lambda: wobble(CAMERA, -1.0, 3), "radius_m must be"),
        (lambda: wobble(CAMERA, 1.0, 0), "at least one camera"),
        (lambda: fly_through([CAMERA], 3), "two cameras or more, got 1"),
        (lambda: fly_through([CAMERA] * 5, 3), "at one place"),
        (lambda: fly_through([at(0, 0, 0), at(1, 0, 0)], 0), "at least one camera"),
        (lambda: fit_camera(CAMERA, (0, 5)), "must be positive"),
        (lambda: fit_camera(CAMERA, None, 4.0), "fov_rad must lie between 0 and pi"),
        (lambda: orbit_of(Gaussians.empty()), "no Gaussians"),
        (lambda: orbit_of(cube(2), 0.0), "fov_rad"),
    ],
)
def test_what_makes_no_path_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
