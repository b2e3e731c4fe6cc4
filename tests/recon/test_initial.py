"""Initial points: arithmetic by hand, every pixel's colour its own address, and real drives."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recon.initial
from geometry import SE3, Camera, Frame
from recon.initial import SOURCES, InitialPoints, initial_points
from recon.sfm import SfmPoints

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
NORTH = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # world from a camera that looks north
HEIGHT, WIDTH, FOCAL = 48, 64, 50.0


def make_frame(
    east_m: float = 0.0, number: int = 0, size_px: tuple[int, int] = (HEIGHT, WIDTH), north_m: float = 0, **fields: Any
) -> Frame:
    """A camera that looks north from (east, north, 0). The colour of a pixel is its row, its column and the number."""
    height, width = size_px
    camera = Camera(SE3(NORTH, np.array([east_m, north_m, 0])), FOCAL, FOCAL, width / 2, height / 2, width, height)
    row, column = np.indices(size_px)
    image = np.stack([row, column, np.full(size_px, number)], axis=-1).astype(np.uint8)
    return replace(Frame(float(number), camera, image=image, source=f"frame {number}"), **fields)


def depth_map(value_m: float, size_px: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full(size_px, value_m, np.float32)


def with_lidar(frame: Frame, xyz_cam: list[list[float]] | np.ndarray) -> Frame:
    """LiDAR points given in the camera's axes; the sensor stands 1 m above the camera."""
    lidar_from_cam = SE3(NORTH, np.array([0, 0, -1.0]))
    points = lidar_from_cam.apply(np.asarray(xyz_cam, np.float64))
    cloud = np.concatenate([points, np.ones((len(points), 1))], axis=1).astype(np.float32)
    return replace(frame, points_lidar=cloud, lidar_from_cam=lidar_from_cam)


def cloud(xyz: np.ndarray | list) -> tuple[np.ndarray, np.ndarray]:
    xyz = np.array(xyz, np.float64)
    return xyz, np.full(xyz.shape, 7, np.uint8)


def seen_in(frame: Frame, points: InitialPoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and depth of the points in a frame."""
    pixel, depth_m = frame.camera.project(points.xyz_world.astype(np.float64))
    return pixel[:, 1], pixel[:, 0], depth_m


# What is taken.


def test_auto_takes_what_there_is_and_says_what_there_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    no_sfm = "structure from motion needs pycolmap: pip install pycolmap"
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    whole = with_lidar(make_frame(depth_m=depth_map(5)), [[0, 0, 5]])
    no_lidar = replace(whole, points_lidar=None)
    bare = [make_frame(number=k) for k in range(2)]
    known = cloud([[0, 5, 0]])
    sources = [
        initial_points([whole, bare[0]], 1, known=known).source,
        initial_points([no_lidar, bare[0]], 1, known=known).source,
        initial_points(bare, 1, known=known).source,
        initial_points(bare, 1).source,
    ]
    assert sources == [
        "LiDAR of 1 frames",
        "depth of 1 frames (passed over: no frame has LiDAR points)",
        "known points (passed over: no frame has LiDAR points, no frame has depth)",
        "random in the frusta of 2 frames (passed over: no frame has LiDAR points, no frame has depth, "
        f"no known points were given, {no_sfm})",
    ]


@pytest.mark.parametrize(("points", "images", "taken"), [(100, 3, True), (99, 3, False), (100, 2, False)])
def test_structure_from_motion_has_to_yield_enough(
    monkeypatch: pytest.MonkeyPatch, points: int, images: int, taken: bool
) -> None:
    xyz = np.tile(np.array([0, 5, 0], np.float32), (points, 1))
    found = SfmPoints(xyz, np.zeros((points, 3), np.uint8), images)
    monkeypatch.setattr(recon.initial, "triangulate", lambda *_, **__: found)
    frames = [make_frame(number=k) for k in range(4)]
    label = f"SfM by pycolmap: {images} of 4 images"
    chosen = initial_points(frames, 5)
    assert chosen.source.startswith(label if taken else "random")
    assert taken or f"{label} give {points} points, too few" in chosen.source
    assert initial_points(frames, 5, source="sfm").source.startswith(label)  # whoever asks for it gets it


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("lidar", "no frame has LiDAR"),
        ("depth", "no frame has depth"),
        ("known", "no known points were given"),
        ("sfm", "pip install pycolmap"),
    ],
)
def test_sources_that_are_not_there(monkeypatch: pytest.MonkeyPatch, source: str, text: str) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ValueError, match=f"source is '{source}', but .*{text}.*; use another source"):
        initial_points([make_frame(), make_frame()], 10, source=source)


def broken_depth(value: float) -> Frame:
    depth_m = depth_map(5)
    depth_m[3, 4] = value
    return make_frame(number=8, depth_m=depth_m)


@pytest.mark.parametrize(
    ("frames", "options", "text"),
    [
        ([], {}, "no frames"),
        ([make_frame()], {"count": 0}, "count is 0"),
        ([make_frame()], {"source": "laser"}, "source is 'laser', want one of auto, lidar, depth"),
        ([make_frame(), make_frame(number=3, image=None)], {}, "frame 3: no image"),
        ([make_frame(number=3, image=None, source="")], {}, r"frame at 3.0 s: no image"),
        ([make_frame(), broken_depth(np.nan)], {}, "frame 8: depth_m holds NaN or negative"),
        ([make_frame(), broken_depth(-1)], {}, "frame 8: depth_m holds NaN or negative"),
        ([make_frame(depth_m=depth_map(np.inf))], {"source": "depth"}, "no pixel has a finite depth"),
        ([make_frame()], {"ignore": lambda frame: np.ones((HEIGHT, WIDTH), bool)}, "ignore covers every pixel"),
        ([make_frame()], {"ignore": lambda frame: np.ones((3, 2), bool)}, r"frame 0: ignore gave bool \(3, 2\), want"),
        ([make_frame()], {"known": cloud([[0, np.nan, 0]])}, "known must be finite"),
        ([make_frame()], {"known": cloud([[0, -5, 0], [50, 5, 0]])}, "none of the 2 initial points lies in view .*z"),
        ([with_lidar(make_frame(), [[0, 0, -5]])], {}, "none of the 1 initial points lies in view"),
        ([with_lidar(make_frame(), [[0, -1, 0.9]])], {"source": "lidar"}, "no LiDAR point is left that is 1 m away"),
    ],
)
def test_refusals(frames: list[Frame], options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        initial_points(frames, **{"count": 5, **options})


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "sfm"])
def test_the_seed_decides(source: str) -> None:
    rng = np.random.default_rng(1)
    depth_m = rng.uniform(3, 9, (HEIGHT, WIDTH)).astype(np.float32)
    depth_m[:10] = np.inf
    frame = with_lidar(make_frame(depth_m=depth_m), rng.uniform([-1, -1, 4], [1, 1, 6], (500, 3)))
    known = cloud(rng.uniform([-1, 4, -1], [1, 6, 1], (500, 3)))
    first, again, other = (initial_points([frame], 50, source=source, known=known, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.xyz_world, again.xyz_world)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert len(first) == 50
    assert not np.array_equal(first.xyz_world, other.xyz_world)


def test_the_world_of_frames_is_left_alone() -> None:
    frame = make_frame(depth_m=depth_map(4))
    before = [np.array(frame.image), np.array(frame.depth_m)]
    initial_points([frame], 10)
    np.testing.assert_array_equal(np.array(frame.image), before[0])
    np.testing.assert_array_equal(np.array(frame.depth_m), before[1])


# Depth.


def test_depth_lifts_pixel_centres_of_images_of_any_size() -> None:
    frames = [
        make_frame(0.0, 0, depth_m=depth_map(4)),
        make_frame(9.0, 1, (30, 40), depth_m=depth_map(6, (30, 40))),
        make_frame(5.0, 2),
    ]
    points = initial_points(frames, 300)
    assert points.source.startswith("depth of 2 frames")
    assert len(points) == 300
    assert points.xyz_world.dtype == np.float32
    for number, depth_m in ((0, 4), (1, 6)):
        of_frame = points.rgb[:, 2] == number
        assert of_frame.sum() > 50
        row, column, found_m = (values[of_frame] for values in seen_in(frames[number], points))
        np.testing.assert_allclose(found_m, depth_m, rtol=1e-6)
        np.testing.assert_allclose(row, points.rgb[of_frame, 0] + 0.5, atol=1e-4)
        np.testing.assert_allclose(column, points.rgb[of_frame, 1] + 0.5, atol=1e-4)


def test_half_of_the_draws_go_where_the_image_changes() -> None:
    image = np.full((100, 100, 3), 90, np.uint8)
    image[:50] = np.random.default_rng(0).integers(0, 256, (50, 100, 3))
    frame = make_frame(0.0, 0, (100, 100), depth_m=depth_map(4, (100, 100)))
    row, _, _ = seen_in(frame, initial_points([replace(frame, image=image)], 1000))
    assert (row < 50.5).mean() == pytest.approx(0.75, abs=0.06)  # half of one half, all of the other


def test_fewer_points_where_there_are_fewer() -> None:
    depth_m = depth_map(0)  # 0 is not measured
    depth_m[5, 6:9] = 3
    points = initial_points([make_frame(depth_m=depth_m)], 100)
    assert sorted(points.rgb[:, :2].tolist()) == [[5, 6], [5, 7], [5, 8]]
    assert points.source == "depth of 1 frames (passed over: no frame has LiDAR points)"


@pytest.mark.parametrize("source", ["depth", "random", "lidar"])
def test_ignored_pixels_are_not_used(source: str) -> None:
    depth_m = depth_map(5)
    depth_m[:, 60:] = np.inf
    xyz_cam = np.random.default_rng(0).uniform([-2, -2, 4], [2, 2, 5], (300, 3))
    frames = [with_lidar(make_frame(depth_m=depth_m), xyz_cam), make_frame(1.0, 1, depth_m=depth_m)]

    def ignore(frame: Frame) -> np.ndarray | None:
        return None if frame.source == "frame 1" else np.indices((HEIGHT, WIDTH))[1] >= 30

    points = initial_points(frames, 200, source=source, ignore=ignore)
    of_first = points.rgb[:, 2] == 0
    assert of_first.sum() > 20
    assert points.rgb[of_first, 1].max() < 30
    assert source == "lidar" or points.rgb[~of_first, 1].max() > 30


# LiDAR.


def test_lidar_points_have_the_colour_of_their_own_image_or_the_nearest_one() -> None:
    ahead, beside, nearby, nowhere = [0.55, 0.25, 5.0], [7.05, 0.05, 5.0], [0.0, -1.5, 0.1], [0, 0, -9.0]
    first = with_lidar(make_frame(0.0, 0), [ahead, beside, nearby, nowhere])
    points = initial_points([make_frame(6.0, 1, north_m=-3), first, make_frame(6.0, 2)], 10, source="lidar")
    order = np.flatnonzero(points.xyz_world[:, 1] < 6)  # the others are where none of these is seen
    order = order[np.argsort(points.xyz_world[order, 0])]
    np.testing.assert_allclose(points.xyz_world[order], [[0.55, 5, -0.25], [7.05, 5, -0.05]], atol=1e-6)
    # u = 50 * 0.55 / 5 + 32 = 37.5, v = 50 * 0.25 / 5 + 24 = 26.5; the second is 1.05 m right of frame 2: u = 42.5
    assert points.rgb[order].tolist() == [[26, 37, 0], [24, 42, 2]]


# Far shell.


def sphere_depth(radius_m: float) -> np.ndarray:
    """Depth of a sphere about the camera."""
    row, column = np.indices((HEIGHT, WIDTH)) + 0.5
    x, y = (column - WIDTH / 2) / FOCAL, (row - HEIGHT / 2) / FOCAL
    return (radius_m / np.sqrt(x * x + y * y + 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("radius_m", "far_m"),
    [(0.0, 50.0), (5.0, 100.0)],  # 5 x 10 m where the cameras coincide; 20 x 5 m > 5 x (10 m + 5 m)
)
def test_far_shell_lies_at_the_stated_distance(radius_m: float, far_m: float) -> None:
    depth_m = sphere_depth(10)
    depth_m[:12] = np.inf  # a quarter of the rows
    frames = [make_frame(east_m, k, depth_m=depth_m) for k, east_m in enumerate((-radius_m, radius_m))]
    points = initial_points(frames, 400)
    far = points.rgb[:, 0] < 12
    assert far.sum() == 100
    assert "; 100 on the far shell" in points.source
    for frame, of_frame in zip(frames, (points.rgb[:, 2] == 0, points.rgb[:, 2] == 1), strict=True):
        offset_m = np.linalg.norm(points.xyz_world - frame.camera.world_from_cam.translation_m, axis=1)
        np.testing.assert_allclose(offset_m[of_frame], np.where(far, far_m, 10)[of_frame], rtol=1e-5)
        row, column, _ = seen_in(frame, points)
        np.testing.assert_allclose(row[of_frame], points.rgb[of_frame, 0] + 0.5, atol=1e-3)
        np.testing.assert_allclose(column[of_frame], points.rgb[of_frame, 1] + 0.5, atol=1e-3)


def test_far_shell_is_at_most_three_tenths() -> None:
    depth_m = depth_map(4)
    depth_m[: HEIGHT // 2] = np.inf
    points = initial_points([make_frame(depth_m=depth_m)], 100)
    assert (points.rgb[:, 0] < HEIGHT // 2).sum() == 30
    few = depth_map(np.inf)
    few[40, :7] = 4
    assert len(initial_points([make_frame(depth_m=few)], 100)) == 10  # 3 to 7 points that there are


def test_what_no_point_covers_lies_anywhere_behind_the_nearest_points() -> None:
    size_px = (128, 160)  # 8 x 10 cells of 16 px
    frame = make_frame(0.0, 0, size_px)
    row, column = (axis.ravel() + 0.5 for axis in np.indices(size_px))
    left = column < 64  # cells 0 to 3; their neighbours reach to column 80, half of the image
    rays = np.stack([(column - 80) / FOCAL, np.ones(row.shape), -(row - 64) / FOCAL], axis=1)
    sphere = 5 * rays / np.linalg.norm(rays, axis=1, keepdims=True)  # all 5 m away, so the shell is at 25 m
    points = initial_points([frame], 1000, known=cloud(sphere[left]))
    far = points.rgb[:, 1] >= 80
    assert far.sum() == 300
    assert (points.rgb[~far] == 7).all()
    inverse = 1 / np.linalg.norm(points.xyz_world[far], axis=1)
    assert 1 / 25 < inverse.min() < 1 / 24
    assert 1 / 5.2 < inverse.max() < 1 / 5
    assert inverse.mean() == pytest.approx((1 / 25 + 1 / 5) / 2, rel=0.05)
    assert "; 300 where none of these is seen" in points.source


@pytest.mark.parametrize(("asked_m", "shell_m"), [(1000.0, 1000.0), (1.0, 25.0)])
def test_half_of_what_no_point_covers_may_start_on_the_shell(asked_m: float, shell_m: float) -> None:
    """The left half of the image shows points 5 m away, but for one of 8 m; the shell is no nearer than 25 m."""
    size_px = (128, 160)
    frame = make_frame(0.0, 0, size_px)
    row, column = (axis.ravel() + 0.5 for axis in np.indices(size_px))
    rays = np.stack([(column - 80) / FOCAL, np.ones(row.shape), -(row - 64) / FOCAL], axis=1)
    sphere = 5 * rays / np.linalg.norm(rays, axis=1, keepdims=True)
    sphere[0] *= 8 / 5
    points = initial_points([frame], 1000, known=cloud(sphere[column < 64]), far_m=asked_m)
    far = points.rgb[:, 1] >= 80
    away_m = np.linalg.norm(points.xyz_world[far], axis=1)
    on_shell = np.isclose(away_m, shell_m, rtol=1e-4)
    assert (len(away_m), on_shell.sum()) == (300, 150)
    assert 8 - 1e-3 < away_m.min() < 8.2
    inverse = 1 / away_m[~on_shell]
    assert inverse.mean() == pytest.approx((1 / shell_m + 1 / 8) / 2, rel=0.1)
    assert "; 300 where none of these is seen" in points.source


@pytest.mark.parametrize("far_m", [-0.1, 0.0, np.nan, np.inf])
def test_the_distance_of_the_shell_is_checked(far_m: float) -> None:
    with pytest.raises(ValueError, match="far_m is"):
        initial_points([make_frame()], 10, source="random", far_m=far_m)


def test_nothing_far_where_points_cover_the_image() -> None:
    frame = make_frame(number=1)
    across, up = (np.arange(12.0, side, 24) for side in (WIDTH, HEIGHT))  # in every third cell of 8 px
    places = [[(u - WIDTH / 2) / FOCAL * 5, 5, (HEIGHT / 2 - v) / FOCAL * 5] for u in across for v in up]
    points = initial_points([frame], 1000, known=cloud(places))
    assert points.source.startswith("known points (")
    assert (points.rgb == 7).all()
    assert len(points) == len(places) == 6


def test_unseen_known_points_are_dropped() -> None:
    points = initial_points([make_frame(0.0), make_frame(50.0)], 10, known=cloud([[0, 5, 0], [25, 5, 0], [50, 5, 0]]))
    near = points.xyz_world[points.xyz_world[:, 1] < 6]
    assert near.tolist() == [[0, 5, 0], [50, 5, 0]]


# Random.


@pytest.mark.parametrize("centres_m", [(0.0,), (-5.0, 5.0)])  # a radius of 5 m is what stands for none
def test_random_depths_are_even_in_their_inverse(centres_m: tuple[float, ...]) -> None:
    frames = [make_frame(east_m, k) for k, east_m in enumerate(centres_m)]
    points = initial_points(frames, 2000, source="random")
    depth_m = points.xyz_world[:, 1]
    assert len(points) == 2000
    assert depth_m.min() >= 1
    assert depth_m.max() <= 100.001
    # mean (1 + 0.01) / 2; a standard error is 0.99 / sqrt(12 * 2000) = 0.0064
    assert (1 / depth_m).mean() == pytest.approx(0.505, abs=4 * 0.0064)
    row, column, _ = seen_in(frames[0], points)
    of_frame = points.rgb[:, 2] == 0
    np.testing.assert_allclose(row[of_frame], points.rgb[of_frame, 0] + 0.5, atol=1e-3)
    np.testing.assert_allclose(column[of_frame], points.rgb[of_frame, 1] + 0.5, atol=1e-3)


# Real data.


def real(name: str) -> Callable:
    missing = not (CONVOY_DATA and (Path(CONVOY_DATA) / name).is_dir())
    return pytest.mark.skipif(missing, reason=f"set CONVOY_DATA to a folder with {name}/ to test on real data")


@real("kitti_raw_0005")
def test_a_real_drive_starts_from_lidar() -> None:
    from perception.datasets.kitti_raw import KittiRaw

    drive = KittiRaw(Path(CONVOY_DATA) / "kitti_raw_0005")
    frames = [frame for frame in (drive[index] for index in range(4)) if frame.points_lidar is not None]
    points = initial_points(frames, 5000)
    assert points.source.startswith(f"LiDAR of {len(frames)} frames; ")
    assert len(points) == 5000
    height_m = points.xyz_world[: 5000 * 7 // 10, 2]
    assert -1 < np.quantile(height_m, 0.02) < 0.3  # the world's zero is on the road
    assert np.quantile(height_m, 0.98) < 6  # a LiDAR on the roof of a car looks little above the horizon


@real("lund_door")
def test_a_real_model_hands_its_points_over() -> None:
    from perception.datasets.colmap import Colmap

    model = Colmap(Path(CONVOY_DATA) / "lund_door", scale=0.1)
    points = initial_points(list(model), 20000, known=(model.points_world, model.point_rgb))
    assert points.source.startswith("known points")
    near = {tuple(row) for row in points.xyz_world.tolist()} & {tuple(row) for row in model.points_world.tolist()}
    assert len(near) > 0.95 * len(model.points_world)
