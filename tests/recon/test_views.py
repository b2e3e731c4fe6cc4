"""Views of frames: what they hold, what is kept in memory, depth of LiDAR points, and frames that are refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from geometry import SE3, Camera, Frame
from recon.views import FARTHEST_M, Views, camera_tensors, lidar_depth, view_of

HEIGHT, WIDTH = 6, 8
CAMERA = Camera(SE3.identity(), 10.0, 20.0, 4.0, 3.0, WIDTH, HEIGHT)
IMAGE_BYTES = HEIGHT * WIDTH * 3


def frame(number: int = 0, **fields: Any) -> Frame:
    image = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
    return Frame(**{"timestamp_s": 0.5, "camera": CAMERA, "image": image, "source": f"photo {number}", **fields})


class Reads(Sequence[Frame]):
    """Frames that note which of them were read."""

    def __init__(self, count: int) -> None:
        self.frames, self.read = [frame(number) for number in range(count)], list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        self.read.append(index)
        return self.frames[index]


def test_a_view_holds_what_the_frame_does() -> None:
    pose = SE3.from_yaw(np.pi / 2, np.array([1.0, 2.0, 3.0]))
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    view = view_of(frame(camera=replace(CAMERA, world_from_cam=pose), image=image))
    assert view.image.numpy().tolist() == image.tolist()
    assert view.intrinsics.tolist() == [[10, 0, 4], [0, 20, 3], [0, 0, 1]]
    at = view.viewmat @ torch.tensor([1.0, 3.0, 3.0, 1.0])  # one metre along the world's y, which is the camera's x
    torch.testing.assert_close(at, torch.tensor([1.0, 0, 0, 1]))
    assert (view.size_px, view.source, view.counted, view.depth_m) == ((HEIGHT, WIDTH), "photo 0", None, None)
    assert (view.nbytes, view.timestamp_s) == (IMAGE_BYTES, 0.5)


def test_a_view_does_not_share_memory_with_its_frame() -> None:
    read_only = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    read_only.flags.writeable = False
    first = frame(image=read_only, depth_m=np.ones((HEIGHT, WIDTH), np.float32))
    view = view_of(first, with_depth=True)
    view.image.add_(1)
    assert view.depth_m is not None
    view.depth_m.add_(1)
    assert first.image is not None
    assert first.depth_m is not None
    assert (first.image.max(), first.depth_m.max()) == (0, 1)


def test_a_frame_without_a_source_is_named_by_its_time() -> None:
    assert view_of(frame(source="")).source == "frame at 0.5 s"


def test_ignored_pixels_do_not_count() -> None:
    ignored = np.zeros((HEIGHT, WIDTH), bool)
    assert view_of(frame(), ignored=ignored).counted is None
    ignored[2, 3] = True
    counted = view_of(frame(), ignored=ignored).counted
    assert counted is not None
    assert (~counted).nonzero().tolist() == [[2, 3]]


def test_ignore_is_asked_of_each_frame() -> None:
    def ignore(frame: Frame) -> np.ndarray | None:
        return None if frame.source == "photo 0" else np.ones((HEIGHT, WIDTH), bool)

    views = Views(Reads(2), ignore=ignore)
    assert views[0].counted is None
    assert not torch.as_tensor(views[1].counted).any()


@pytest.mark.parametrize(("fitting", "kept"), [(0, 1), (1, 1), (2, 2), (3, 3), (5, 5)])
def test_as_many_views_are_kept_as_fit_and_at_least_one(fitting: int, kept: int) -> None:
    frames = Reads(5)
    views = Views(frames, cache_bytes=fitting * IMAGE_BYTES)
    for index in range(5):
        views[index]
        assert sum(view.nbytes for view in views._kept.values()) == views._kept_bytes <= max(fitting, 1) * IMAGE_BYTES
    frames.read.clear()
    for index in reversed(range(5)):  # the last ones are still there, and only they
        views[index]
    assert frames.read == list(reversed(range(5 - kept)))


def test_the_view_that_was_not_used_for_longest_goes_first() -> None:
    frames = Reads(3)
    views = Views(frames, cache_bytes=2 * IMAGE_BYTES)
    frames.read.clear()  # the check of types looks at some
    first = views[0]
    views[1]
    assert views[0] is first
    views[2]  # pushes 1 out, since 0 was used after it
    assert views[0] is first
    views[1]
    assert frames.read == [0, 1, 2, 1]


def test_places_beyond_the_end_and_from_the_end() -> None:
    views = Views(Reads(3))
    assert views[-1] is views[2]
    assert [view.source for view in views] == ["photo 0", "photo 1", "photo 2"]
    with pytest.raises(IndexError):
        views[3]


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^a fit needs at least one frame with an image; got none$"):
        Views([])


def depth(value: float) -> np.ndarray:
    depth_m = np.ones((HEIGHT, WIDTH), np.float32)
    depth_m[4, 5] = value
    return depth_m


FAR = replace(CAMERA, world_from_cam=SE3(np.eye(3), np.array([0.0, -1.1 * FARTHEST_M, 0.0])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": None}, "has no image, and a fit needs one; leave the frame out"),
        ({"depth_m": depth(np.nan)}, "depth_m holds NaN or negative values; write 0 for unknown"),
        ({"depth_m": depth(-1)}, "depth_m holds NaN or negative values; write 0 for unknown"),
        ({"camera": FAR}, "the camera lies 110000 m from the origin, .*; subtract a common offset from all poses"),
    ],
)
def test_a_frame_that_does_not_do_is_named(fields: dict[str, Any], message: str) -> None:
    views = Views([frame(0), frame(7, **fields)], with_depth=True)
    views[0]
    with pytest.raises(ValueError, match=rf"^photo 7: {message}") as caught:
        views[1]
    assert "\n" not in str(caught.value)


def test_depth_that_nobody_asked_for_is_not_looked_at() -> None:
    assert view_of(frame(depth_m=depth(np.nan))).depth_m is None


def test_zero_and_infinite_depth_are_kept() -> None:
    for value in (0.0, np.inf):
        found = view_of(frame(depth_m=depth(value)), with_depth=True).depth_m
        assert found is not None
        assert (found[4, 5], found[0, 0]) == (value, 1)


def test_a_camera_at_the_limit_is_taken() -> None:
    viewmat, _ = camera_tensors(replace(CAMERA, world_from_cam=SE3(np.eye(3), np.array([FARTHEST_M, 0, 0]))))
    assert viewmat[0, 3] == -FARTHEST_M


def swept(*points: tuple[float, float, float], **fields: Any) -> Frame:
    """A frame with LiDAR points, given in the camera's axes; the LiDAR sits one metre above the camera."""
    lidar_from_cam = SE3(np.eye(3), np.array([0.0, 1.0, 0.0]))  # y down: what is 0 to the camera is 1 m below the LiDAR
    xyz = np.array(points, np.float32).reshape(-1, 3) + np.array([0, 1, 0], np.float32)
    cloud = np.concatenate([xyz, np.zeros((len(xyz), 1), np.float32)], axis=1)
    return frame(points_lidar=cloud, lidar_from_cam=lidar_from_cam, **fields)


def test_lidar_depth_by_hand() -> None:
    # u = 10 x / z + 4, v = 20 y / z + 3: the first lies at (6.5, 1.5), column 6 and row 1.
    found = lidar_depth(swept((1.25, -0.375, 5.0), (0.0, 0.0, 8.0)))
    expected = np.zeros((HEIGHT, WIDTH))
    expected[1, 6], expected[3, 4] = 5, 8
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_of_two_points_in_a_pixel_the_nearest_counts() -> None:
    for points in ([(0.1, 0.0, 8.0), (0.0, 0.0, 3.0)], [(0.0, 0.0, 3.0), (0.1, 0.0, 8.0)]):
        found = lidar_depth(swept(*points))
        assert found[3, 4] == pytest.approx(3)
        assert (found > 0).sum() == 1


def test_points_beside_and_behind_the_image_are_left_out() -> None:
    beside = [(-2.1, 0.0, 5.0), (2.1, 0.0, 5.0), (0.0, -0.8, 5.0), (0.0, 0.8, 5.0)]  # u -0.2, 8.2; v -0.2, 6.2
    behind = [(0.0, 0.0, -5.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.05)]
    assert not lidar_depth(swept(*beside, *behind)).any()
    assert not lidar_depth(swept()).any()


def test_depth_of_a_view_is_the_frames_own_else_that_of_lidar() -> None:
    both = view_of(swept((0.0, 0.0, 8.0), depth_m=depth(2.0)), with_depth=True).depth_m
    lidar = view_of(swept((0.0, 0.0, 8.0)), with_depth=True).depth_m
    assert both is not None
    assert lidar is not None
    assert (both[3, 4], both[4, 5]) == (1, 2)
    assert (float(lidar[3, 4]), float(lidar[4, 5])) == (pytest.approx(8), 0)
    assert view_of(frame(), with_depth=True).depth_m is None


def test_lidar_first_turns_the_order_round() -> None:
    both, alone = swept((0.0, 0.0, 8.0), depth_m=depth(2.0)), frame(depth_m=depth(2.0))
    first, second = Views([both, alone], with_depth=True, lidar_first=True)
    assert first.depth_m is not None
    assert second.depth_m is not None
    assert (float(first.depth_m[3, 4]), float(first.depth_m[4, 5])) == (pytest.approx(8), 0)
    assert (float(second.depth_m[3, 4]), float(second.depth_m[4, 5])) == (1, 2)
