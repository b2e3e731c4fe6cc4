"""Cuboids, and their boxes in an image."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geometry import Camera
from perception.datasets.placement import clip_boxes, cuboid_corners, hull_boxes, inside_cuboid, level_world_from_cam

WIDTH, HEIGHT = 120, 80


coordinates = st.floats(-30, 30)
sides = st.floats(0.3, 8)
cuboids = st.tuples(coordinates, coordinates, st.floats(-2, 2), sides, sides, sides, st.floats(-3.1, 3.1)).map(np.array)


@given(cuboids, st.lists(st.floats(0, 1), min_size=8, max_size=8).filter(lambda w: sum(w) > 0.1))
def test_mixtures_of_corners_lie_inside_and_grown_corners_outside(cuboid: np.ndarray, weights: list[float]) -> None:
    corners = cuboid_corners(cuboid[None])[0]
    mixture = np.array(weights) @ corners / sum(weights)
    shrunk = cuboid[:3] + 0.999 * (mixture - cuboid[:3])
    assert inside_cuboid(shrunk[None], cuboid).all()
    assert not inside_cuboid(cuboid[:3] + 1.001 * (corners - cuboid[:3]), cuboid).any()


@given(cuboids)
def test_hull_box_holds_every_visible_point_of_the_cuboid(cuboid: np.ndarray) -> None:
    camera = Camera(level_world_from_cam(1.65), 100.0, 100.0, 60.0, 40.0, WIDTH, HEIGHT)
    corners = cuboid_corners(cuboid[None])
    left, top, right, bottom = hull_boxes(corners, camera)[0]
    mix = np.random.default_rng(0).dirichlet(np.ones(8) * 0.3, 400)
    points_px, depth_m = camera.project(mix @ corners[0])
    u, v = points_px[depth_m > 0.11].T
    slack = 1e-6 * (1 + max(abs(left), abs(right), abs(top), abs(bottom)))
    assert ((u >= left - slack) & (u <= right + slack) & (v >= top - slack) & (v <= bottom + slack)).all()


def test_hull_box_of_a_cuboid_behind_the_camera_is_dropped_and_of_one_around_it_fills_the_image() -> None:
    camera = Camera(level_world_from_cam(1.0), 100.0, 100.0, 60.0, 40.0, WIDTH, HEIGHT)
    boxes = np.array([[-10.0, 0, 1, 4, 2, 2, 0], [0, 0, 1, 4, 4, 4, 0], [10, 0, 1, 2, 2, 2, 0]])
    clipped, keep = clip_boxes(hull_boxes(cuboid_corners(boxes), camera), WIDTH, HEIGHT)
    assert keep.tolist() == [False, True, True]
    np.testing.assert_allclose(clipped[1], [0, 0, WIDTH, HEIGHT])
    # The near face is 9 m away, 2 m wide: 100 / 9 px to either side of the middle.
    np.testing.assert_allclose(clipped[2], [60 - 100 / 9, 40 - 100 / 9, 60 + 100 / 9, 40 + 100 / 9], rtol=1e-6)
