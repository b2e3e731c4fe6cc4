"""Surfaces and landmarks of LiDAR sweeps over planes that are known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy import ndarray

from geometry import SE3, Camera, Frame, Sim3
from recon.landmarks import CELL_M, FARTHEST_M, SurfaceMap, landmarks, surface_map

NORTH = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # world from a camera that looks north
RISE_M = 1.5  # of camera and LiDAR over the ground


def floor(rng: np.random.Generator, count: int = 6000, half_m: float = 12.0) -> ndarray:
    """Points of the plane z = 0."""
    return np.column_stack([rng.uniform(-half_m, half_m, (count, 2)), np.zeros(count)])


def wall(rng: np.random.Generator, count: int = 6000) -> ndarray:
    """Points of the plane y = 8, in front of a camera that looks north."""
    return np.column_stack([rng.uniform(-8, 8, count), np.full(count, 8.0), rng.uniform(0, 4, count)])


def sweep(xyz_world: ndarray, number: int = 0) -> Frame:
    """What a LiDAR at the camera's place senses; the camera looks north."""
    pose = SE3(NORTH, np.array([0, 0, RISE_M]))
    camera = Camera(pose, 60.0, 60.0, 32.0, 24.0, 64, 48)
    cloud = np.column_stack([pose.inverse().apply(xyz_world), np.ones(len(xyz_world))]).astype(np.float32)
    image = np.full((48, 64, 3), 90, np.uint8)
    return Frame(float(number), camera, image=image, points_lidar=cloud, lidar_from_cam=SE3.identity(), source="sweep")


def found(*frames: Frame) -> SurfaceMap:
    surface = surface_map(frames)
    assert surface is not None
    return surface


def test_a_floor_and_a_wall_face_up_and_south() -> None:
    rng = np.random.default_rng(0)
    surface = found(sweep(np.concatenate([floor(rng), wall(rng)])))
    across = np.abs(surface.normals)
    away_from_edge = (surface.xyz_m[:, 2] > 1.6) | (np.abs(surface.xyz_m[:, 1] - 8) > 1.6)
    on_wall = surface.xyz_m[:, 2] > 1.6
    assert np.allclose(across[away_from_edge & ~on_wall], [0, 0, 1], atol=1e-3)
    assert np.allclose(across[on_wall], [0, 1, 0], atol=1e-3)
    assert np.allclose(np.linalg.norm(surface.normals, axis=1), 1)


def test_a_cell_holds_one_point_however_many_returns_it_had() -> None:
    rng = np.random.default_rng(1)
    surface = found(sweep(floor(rng, 20_000)), sweep(floor(rng, 20_000)))
    cells = np.unique(np.floor((surface.xyz_m - [-12, -12, 0]) / CELL_M), axis=0)
    assert len(cells) > 0.95 * len(surface)  # means of neighbouring cells seldom share one of another grid
    assert len(surface) < (24 / CELL_M) ** 2


def test_what_is_no_surface_is_left_out() -> None:
    """A cloud in the air, as dense as the floor, has no side that is flat."""
    rng = np.random.default_rng(2)
    air = rng.uniform([-3, 4, 3], [3, 8, 6], (20_000, 3))
    surface = found(sweep(np.concatenate([floor(rng), air])))
    assert (surface.xyz_m[:, 2] > 2.0).mean() < 0.05


def test_points_on_a_line_face_nowhere() -> None:
    """A wire without noise: twelve neighbours lie in any plane through it, and rounding would choose one."""
    along_m = np.linspace(0, 8, 4000)[:, None]
    wire = np.array([-4.0, 6.0, 1.0]) + along_m * np.array([0.8, 0.36, 0.48])  # a unit vector
    assert surface_map([sweep(wire)]) is None


def test_single_returns_and_those_too_near_or_too_far_do_not_count() -> None:
    rng = np.random.default_rng(3)
    lone, far = np.array([[2.0, 5.0, 3.0]]), floor(rng, 4000, 1.0) + np.array([0, FARTHEST_M + 5, 0])
    surface = found(sweep(np.concatenate([floor(rng), lone, far])))
    assert surface.xyz_m[:, 1].max() < 20
    assert surface.xyz_m[:, 2].max() < 0.5
    under = np.linalg.norm(surface.xyz_m - [0, 0, RISE_M], axis=1)
    assert under.min() > 1.7  # the floor within 2 m of the sensor is the vehicle itself; cells are 0.25 m wide


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_lost_returns_are_ignored(lost: float) -> None:
    rng = np.random.default_rng(4)
    frame = sweep(floor(rng))
    assert frame.points_lidar is not None
    cloud = np.concatenate([frame.points_lidar, np.full((50, 4), lost, np.float32)])
    surface = found(replace(frame, points_lidar=cloud))
    assert np.isfinite(surface.xyz_m).all()


def test_without_lidar_there_is_no_map_and_no_landmark() -> None:
    frame = sweep(np.zeros((0, 3)))
    blind = Frame(0.0, frame.camera, image=frame.image)
    for frames in ([], [blind], [frame]):
        assert surface_map(frames) is None
        assert landmarks(frames).shape == (0, 3)


def test_landmarks_show_in_the_image_and_lie_on_surfaces() -> None:
    rng = np.random.default_rng(5)
    behind = floor(rng) * [1, 1, 0]
    points_m = landmarks([sweep(np.concatenate([behind, wall(rng)]))], count=10_000)
    assert points_m.dtype == np.float32
    assert points_m[:, 1].min() > 0  # nothing of the floor behind the camera
    on_floor, on_wall = np.abs(points_m[:, 2]) < 0.05, np.abs(points_m[:, 1] - 8) < 0.05
    assert (on_floor | on_wall).mean() > 0.95
    assert on_wall.any()
    assert on_floor.any()


def test_ignored_pixels_give_no_landmark() -> None:
    """Rows 0 to 23 look above the horizon: without them nothing of the wall higher than the camera is left."""
    frame = sweep(wall(np.random.default_rng(6)))

    def upper(_: Frame) -> ndarray:
        return np.arange(48)[:, None].repeat(64, axis=1) < 24

    every, lower = landmarks([frame], count=10_000), landmarks([frame], count=10_000, ignore=upper)
    assert every[:, 2].max() > 2.5
    assert 0 < len(lower) < len(every)
    assert lower[:, 2].max() < RISE_M + CELL_M


def test_the_number_is_kept_to_and_the_seed_decides_which() -> None:
    frame = sweep(wall(np.random.default_rng(7)))
    few, again, other = (landmarks([frame], count=50, seed=seed) for seed in (0, 0, 1))
    assert few.shape == (50, 3)
    assert np.array_equal(few, again)
    assert not np.array_equal(few, other)


def test_a_map_moves_with_its_world() -> None:
    surface = found(sweep(wall(np.random.default_rng(8))))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = surface.transformed(Sim3(turn, np.array([1.0, 2, 3]), 2.0))
    assert np.allclose(moved.xyz_m, 2 * surface.xyz_m @ turn.T + [1, 2, 3])
    assert np.allclose(np.abs(moved.normals), np.abs(surface.normals @ turn.T))
