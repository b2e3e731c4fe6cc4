"""Frames and boxes: what fits together, and what is refused."""

import numpy as np
import pytest
from numpy import ndarray

from geometry import SE3, Boxes, Camera, Frame

CAMERA = Camera(SE3.from_yaw(np.pi / 2, np.array([10.0, 0, 0])), 100.0, 100.0, 8.0, 6.0, 16, 12)
POINTS = np.array([[1, 2, 3, 0.5]], np.float32)


def boxes(count: int = 2) -> Boxes:
    return Boxes(
        np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        np.arange(count),
        np.arange(7 * count, dtype=np.float32).reshape(count, 7),
        10 + np.arange(count),
    )


def test_boxes_are_picked_by_mask_and_by_index() -> None:
    for keep in (np.array([False, True, True]), np.array([1, 2])):
        picked = boxes(3).select(keep)
        assert len(picked) == 2
        assert picked.labels.tolist() == [1, 2]
        assert picked.xyxy_px[0].tolist() == [4, 5, 6, 7]
        assert picked.cuboids_world is not None
        assert picked.cuboids_world[0, 0] == 7
        assert picked.track_ids is not None
        assert picked.track_ids.tolist() == [11, 12]


def test_what_boxes_do_not_have_stays_none() -> None:
    plain = Boxes(np.zeros((2, 4), np.float32), np.zeros(2, np.int64)).select(np.array([0]))
    assert (len(plain), plain.cuboids_world, plain.track_ids) == (1, None, None)
    assert len(Boxes.empty()) == 0


@pytest.mark.parametrize(("labels", "tracks"), [(3, 2), (2, 3)])
def test_boxes_of_unlike_lengths_are_refused(labels: int, tracks: int) -> None:
    # The fields are set one by one: at the call itself the tests' type checks would see it before the class does.
    unlike = Boxes.__new__(Boxes)
    fields = {"xyxy_px": np.zeros((2, 4), np.float32), "labels": np.zeros(labels, np.int64)}
    for name, values in {**fields, "cuboids_world": None, "track_ids": np.zeros(tracks, np.int64)}.items():
        object.__setattr__(unlike, name, values)
    with pytest.raises(ValueError, match=r"differ in length: \[2, 3\]"):
        unlike.__post_init__()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="xyxy_px holds NaN or infinity"):
        Boxes(np.array([[0, 0, bad, 1]], np.float32), np.zeros(1, np.int64))


def test_cuboids_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Boxes(np.zeros((1, 4), np.float32), np.zeros(1, np.int64), np.full((1, 7), np.nan, np.float32))


def test_a_frame_needs_no_more_than_time_and_camera() -> None:
    frame = Frame(1.5, CAMERA)
    assert (frame.image, frame.points_lidar, frame.boxes, frame.masks, frame.depth_m) == (None,) * 5


def test_a_full_frame() -> None:
    frame = Frame(
        timestamp_s=0.0,
        camera=CAMERA,
        image=np.zeros((12, 16, 3), np.uint8),
        points_lidar=POINTS,
        boxes=boxes(),
        masks=np.zeros((12, 16), np.uint8),
        depth_m=np.full((12, 16), np.inf, np.float32),
        lidar_from_cam=SE3.identity(),
    )
    assert frame.boxes is not None
    assert len(frame.boxes) == 2


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("image", np.zeros((16, 12, 3), np.uint8)),
        ("masks", np.zeros((12, 15), np.uint8)),
        ("depth_m", np.zeros((11, 16), np.float32)),
    ],
)
def test_arrays_must_have_the_cameras_size(name: str, array: ndarray) -> None:
    with pytest.raises(ValueError, match=rf"000007.png: {name} is \({array.shape[0]}.*camera says \(12, 16\)"):
        Frame(0.0, CAMERA, **{name: array}, source="000007.png")


def test_lidar_points_need_their_pose() -> None:
    with pytest.raises(ValueError, match="frame: LiDAR points without lidar_from_cam"):
        Frame(0.0, CAMERA, points_lidar=POINTS)


def test_lidar_points_in_the_world() -> None:
    # The LiDAR sits 1 m along the camera's x, so a point at LiDAR x = 1 is at camera x = 2; then the camera's pose:
    # a quarter turn to the left and 10 m along x.
    frame = Frame(0.0, CAMERA, points_lidar=POINTS, lidar_from_cam=SE3(np.eye(3), np.array([-1.0, 0, 0])))
    np.testing.assert_allclose(frame.points_world(), [[10 - 2, 2, 3]], atol=1e-6)


def test_a_frame_without_lidar_has_no_points() -> None:
    with pytest.raises(ValueError, match="drive-3 has no LiDAR points"):
        Frame(0.0, CAMERA, source="drive-3").points_world()


def test_a_frame_without_points_but_with_a_pose_has_none_either() -> None:
    with pytest.raises(ValueError, match="no LiDAR points"):
        Frame(0.0, CAMERA, lidar_from_cam=SE3.identity()).points_world()
