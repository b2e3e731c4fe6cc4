"""Frames at another size: projection, boxes and masks scale together; frames that are kept are read once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Boxes, Camera, Frame
from perception.resize import KeptFrames, nbytes, resized

WIDTH, HEIGHT = 80, 60
POSE = SE3.from_yaw(0.3, np.array([1.0, -2.0, 0.5]))
CAMERA = Camera(POSE, 70.0, 75.0, 41.0, 28.0, WIDTH, HEIGHT)


def frame(number: int = 0, **fields: Any) -> Frame:
    image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Frame(**{"timestamp_s": 1.5, "camera": CAMERA, "image": image, "source": f"photo {number}", **fields})


def labelled() -> Frame:
    """The left half is vehicle 7, 5 m away; the right half is sky."""
    left = np.arange(WIDTH)[None].repeat(HEIGHT, 0) < WIDTH // 2
    boxes = Boxes(np.array([[0, 0, 40, 60], [-8, 6, 12, 90]], np.float32), np.array([0, 1]), track_ids=np.array([7, 8]))
    cloud = np.ones((5, 4), np.float32)
    return frame(
        masks=np.where(left, 8, 0).astype(np.uint8),
        instances=np.where(left, 7, -1).astype(np.int32),
        depth_m=np.where(left, 5, np.inf).astype(np.float32),
        boxes=boxes,
        points_lidar=cloud,
        lidar_from_cam=SE3.identity(),
    )


@given(side=st.integers(1, WIDTH), x=st.floats(-5, 5), y=st.floats(-5, 5), z=st.floats(1, 50))
@settings(max_examples=60, deadline=None)
def test_a_point_of_the_world_moves_with_the_image(side: int, x: float, y: float, z: float) -> None:
    small = resized(frame(), side)
    point = POSE.apply(np.array([[x, y, z]]))
    before, depth_before = CAMERA.project(point)
    after, depth_after = small.camera.project(point)
    assert small.image is not None
    height, width = small.image.shape[:2]
    np.testing.assert_allclose(after, before * [width / WIDTH, height / HEIGHT], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(depth_after, depth_before)
    assert (small.camera.height_px, small.camera.width_px) == (height, width)
    assert width == side
    assert height == max(round(side * HEIGHT / WIDTH), 1)


def test_sizes_by_hand() -> None:
    camera = resized(frame(), 40).camera
    assert (camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px) == (35, 37.5, 20.5, 14)
    assert (camera.width_px, camera.height_px) == (40, 30)
    upright = replace(CAMERA, width_px=HEIGHT, height_px=WIDTH)
    tall = Frame(0.0, upright, np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    assert resized(tall, 40).image.shape == (40, 30, 3)  # type: ignore[union-attr]


def test_a_line_does_not_vanish() -> None:
    thin = replace(CAMERA, height_px=2)
    small = resized(Frame(0.0, thin, np.zeros((2, WIDTH, 3), np.uint8)), 10)
    assert small.image is not None
    assert small.image.shape == (1, 10, 3)


@pytest.mark.parametrize("side", [WIDTH, WIDTH + 1, 10_000])
def test_small_images_stay_as_they_are(side: int) -> None:
    given = labelled()
    assert resized(given, side) is given


@pytest.mark.parametrize("side", [0, -1])
def test_a_side_below_one_pixel_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=rf"^longest_side_px must be at least 1, got {side}$"):
        resized(frame(), side)


@pytest.mark.parametrize("factor", [2, 4])
def test_pixels_of_the_image_are_averaged(factor: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    small = resized(frame(image=image), WIDTH // factor).image
    assert small is not None
    blocks = image.reshape(HEIGHT // factor, factor, WIDTH // factor, factor, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5
    assert small.dtype == np.uint8


@pytest.mark.parametrize("side", [40, 30, 8])
def test_labels_and_depth_keep_their_place(side: int) -> None:
    small = resized(labelled(), side)
    assert small.masks is not None
    left = np.arange(side)[None].repeat(len(small.masks), 0) < side / 2
    assert np.array_equal(small.masks == 8, left)


@pytest.mark.parametrize("side", [79, 61, 40, 7])
def test_labels_and_depth_are_picked_not_mixed(side: int) -> None:
    chosen = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    noise = frame(
        masks=np.where(chosen, 8, 0).astype(np.uint8),
        instances=np.where(chosen, 700_000, -1).astype(np.int32),
        depth_m=np.where(chosen, 5, np.inf).astype(np.float32),
    )
    small = resized(noise, side)
    assert small.masks is not None
    assert small.instances is not None
    assert small.depth_m is not None
    assert (small.masks.dtype, small.instances.dtype, small.depth_m.dtype) == (np.uint8, np.int32, np.float32)
    left = small.masks == 8
    assert 0.2 < left.mean() < 0.8
    assert np.array_equal(small.masks, np.where(left, 8, 0))
    assert np.array_equal(small.instances, np.where(left, 700_000, -1))
    assert np.array_equal(small.depth_m, np.where(left, 5, np.inf).astype(np.float32))


def test_boxes_scale_and_keep_their_other_columns() -> None:
    small = resized(labelled(), 40).boxes
    assert small is not None
    assert small.xyxy_px.tolist() == [[0, 0, 20, 30], [-4, 3, 6, 45]]
    assert small.xyxy_px.dtype == np.float32
    assert small.labels.tolist() == [0, 1]
    assert small.track_ids is not None
    assert small.track_ids.tolist() == [7, 8]


def test_boxes_scale_by_each_side() -> None:
    small = resized(labelled(), 33)  # 33 x 25: the height is rounded up from 24.75
    assert small.boxes is not None
    np.testing.assert_allclose(small.boxes.xyxy_px[0], [0, 0, 33 / 2, 25], rtol=1e-6)


def test_the_rest_stays() -> None:
    given = labelled()
    small = resized(given, 40)
    assert small.points_lidar is given.points_lidar
    assert small.lidar_from_cam is given.lidar_from_cam
    assert (small.timestamp_s, small.source) == (1.5, "photo 0")
    assert small.camera.world_from_cam is POSE


def test_what_is_not_there_stays_away() -> None:
    small = resized(Frame(0.0, CAMERA), 40)
    assert (small.image, small.masks, small.instances, small.depth_m, small.boxes) == (None,) * 5
    assert small.camera.width_px == 40


class Reads(Sequence[Frame]):
    """Frames that note which of them were read."""

    def __init__(self, count: int) -> None:
        self.frames, self.read = [frame(number) for number in range(count)], list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        self.read.append(index)
        return self.frames[index]


def kept(count: int, *rest: int) -> tuple[KeptFrames, Reads]:
    frames = Reads(count)
    found = KeptFrames(frames, *rest)
    frames.read.clear()  # the check of types looks at some
    return found, frames


def test_a_frame_is_read_and_resized_once() -> None:
    frames, reads = kept(3, 40)
    assert frames[1] is frames[1]
    assert frames[-2] is frames[1]
    assert frames[1].camera.width_px == 40
    assert len(frames) == 3
    assert reads.read == [1]
    with pytest.raises(IndexError):
        frames[3]


def test_size_zero_keeps_the_frames() -> None:
    frames, reads = kept(2)
    assert frames[0] is reads.frames[0]


def test_frames_that_were_not_used_for_longest_go_first() -> None:
    one = nbytes(resized(frame(), 40))
    assert one == 40 * 30 * 3
    frames, reads = kept(3, 40, 2 * one)
    for index in (0, 1, 0, 2, 0, 1):  # 2 pushes 1 out
        frames[index]
        assert frames._bytes == sum(nbytes(part) for part in frames._kept.values()) <= 2 * one
    assert reads.read == [0, 1, 2, 1]


def test_one_frame_is_kept_however_little_memory_there_is() -> None:
    frames, reads = kept(2, 0, 1)
    for index in (0, 0, 1, 1, 0):
        frames[index]
    assert reads.read == [0, 1, 0]


def test_bytes_are_those_of_all_arrays() -> None:
    # Per pixel: RGB, a class, an instance of four bytes and a depth of four; five LiDAR points of four floats.
    assert nbytes(labelled()) == WIDTH * HEIGHT * (3 + 1 + 4 + 4) + 5 * 4 * 4
