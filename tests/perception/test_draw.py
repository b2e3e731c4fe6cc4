"""Pictures: which pixels take which colour."""

import numpy as np
import pytest

from geometry import SE3, Boxes, Camera, Frame
from perception.draw import (
    BOX_RGB,
    contact_sheet,
    depth_colours,
    draw_boxes,
    draw_lidar,
    draw_points,
    frame_sheet,
    overlay_masks,
    panels,
)
from perception.labels import PALETTE_RGB

GREY = np.full((60, 80, 3), 100, np.uint8)


def test_boxes_are_outlined_in_the_colour_of_their_class() -> None:
    boxes = Boxes(np.array([[20, 30, 50, 50]], np.float32), np.array([1]), track_ids=np.array([7]))
    picture = draw_boxes(GREY, boxes)
    assert tuple(picture[40, 20]) == tuple(picture[50, 35]) == BOX_RGB[1]
    assert (picture[35:45, 25:45] == 100).all()
    assert (GREY == 100).all(), "the input is left as it was"
    assert (draw_boxes(GREY, Boxes.empty()) == GREY).all()


def test_masks_mix_with_the_image_and_leave_unlabelled_pixels() -> None:
    masks = np.full((60, 80), 255, np.uint8)
    masks[:30] = 3
    picture = overlay_masks(GREY, masks, opacity=0.5)
    assert picture[0, 0].tolist() == [round((100 + c) / 2) for c in PALETTE_RGB[3]]
    assert (picture[30:] == 100).all()
    with pytest.raises(ValueError, match="class 11"):
        overlay_masks(GREY, np.full((60, 80), 11, np.uint8))


def test_depth_runs_from_red_to_blue_and_nothing_is_black() -> None:
    near, far, beyond, *nothing = depth_colours(np.array([1.0, 60.0, 500.0, np.inf, np.nan, 0.0, -3.0]), far_m=60.0)
    assert near[0] > 2 * near[2], "red"
    assert far[2] > far[0], "blue"
    assert (far == beyond).all()
    assert not np.any(nothing)
    assert depth_colours(np.ones((4, 5), np.float32)).shape == (4, 5, 3)
    assert depth_colours(np.zeros(0)).shape == (0, 3)


def test_the_nearest_point_covers_the_others_and_strays_are_left_out() -> None:
    points_px = np.array([[10.5, 20.5], [10.5, 20.5], [-3.0, 5.0], [90.0, 5.0], [40.5, 40.5], [1e20, np.nan]])
    depth_m = np.array([5.0, 50.0, 5.0, 5.0, -1.0, 5.0])
    picture = draw_points(GREY, points_px[:5], depth_m[:5], radius_px=1)
    changed = (picture != GREY).any(axis=-1)
    assert np.argwhere(changed).min(axis=0).tolist() == [19, 9]
    assert np.argwhere(changed).max(axis=0).tolist() == [21, 11]
    assert changed.sum() == 9
    assert (picture[20, 10] == depth_colours(np.array([5.0]))[0]).all()


def lidar_frame() -> Frame:
    camera = Camera(SE3.identity(), 50.0, 50.0, 40.0, 30.0, 80, 60)
    points = np.array([[0, 0, 10, 0], [1, 0, -10, 0], [2, 1, 10, 0]], np.float32)  # the LiDAR's frame is the camera's
    return Frame(1.5, camera, image=GREY, points_lidar=points, lidar_from_cam=SE3.identity(), source="a/b.png")


def test_lidar_lands_where_the_camera_projects_it() -> None:
    picture = draw_lidar(GREY, lidar_frame())
    colour = depth_colours(np.array([10.0]))[0]
    assert (picture[30, 40] == colour).all()
    assert (picture[35, 50] == colour).all()  # (2, 1, 10) -> (50 * 0.2 + 40, 50 * 0.1 + 30)
    assert (picture == 50).all(axis=-1).sum() == 60 * 80 - 2 * 9


def test_dense_lidar_is_drawn_with_single_pixels() -> None:
    camera = Camera(SE3.identity(), 50.0, 50.0, 40.0, 30.0, 80, 60)
    x, y = np.meshgrid(np.arange(-3, 3, 0.1), np.arange(-3, 3, 0.4))
    points = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, 10), np.zeros(x.size)]).astype(np.float32)
    frame = Frame(0.0, camera, image=GREY, points_lidar=points, lidar_from_cam=SE3.identity())
    touched = (draw_lidar(GREY, frame) != 50).any(axis=-1)
    assert 0 < touched.sum() <= len(points)  # at 3 px a point it would be more


def test_panels_follow_what_the_frame_has() -> None:
    assert list(panels(lidar_frame())) == ["image", "LiDAR"]
    camera = lidar_frame().camera
    bare = Frame(0.0, camera, depth_m=np.full((60, 80), 5, np.float32), masks=np.zeros((60, 80), np.uint8))
    found = panels(bare)
    assert list(found) == ["image", "masks", "depth"]
    assert not found["image"].any()


def test_contact_sheet_scales_pads_and_fills_its_last_row() -> None:
    tall, wide = np.full((200, 100, 3), 255, np.uint8), np.full((50, 100, 3), 255, np.uint8)
    sheet = contact_sheet([("a", tall), ("b", wide), ("c", wide)], columns=2, tile_width_px=50)
    assert sheet.shape == (2 * (20 + 100), 2 * 50, 3)
    assert (sheet[20:120, :50] == 255).all()
    assert (sheet[20:45, 50:] == 255).all()
    assert not sheet[45:120, 50:].any()
    assert not sheet[120:, 50:].any()
    with pytest.raises(ValueError, match="at least 1 picture"):
        contact_sheet([], 2)


def test_frame_sheet_draws_at_the_size_shown() -> None:
    boxes = Boxes(np.array([[20, 30, 60, 50]], np.float32), np.array([2]))
    frame = Frame(0.0, lidar_frame().camera, image=GREY, boxes=boxes, depth_m=np.full((60, 80), 5, np.float32))
    sheet = frame_sheet([frame], tile_width_px=160)
    image, depth = sheet[20:, :160], sheet[20:, 160:]
    assert image.shape == depth.shape == (120, 160, 3)
    assert tuple(image[80, 40]) == tuple(image[100, 80]) == BOX_RGB[2]  # twice (20, 40) and (40, 50)
    assert (depth == depth_colours(np.array([5.0]))[0]).all()


def test_frame_sheet_gives_each_kind_a_column() -> None:
    camera = lidar_frame().camera
    sheet = frame_sheet([lidar_frame(), Frame(2.0, camera, image=GREY)], tile_width_px=80)
    assert sheet.shape == (2 * (20 + 60), 2 * 80, 3)
    assert not sheet[100:, 80:].any(), "the second frame has no LiDAR"
