"""Fields of view and regions of interest: corners, areas, what lies inside."""

import math

import numpy as np
import pytest

from edge.offload.roi import FovConfig, RoiConfig, fields_of_view, inside, near_pairs, regions_of_interest

ORIGIN, EAST = np.zeros((1, 2)), np.zeros(1)
SQUARE = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])


def area_m2(corners_m: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = corners_m.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_a_triangular_field_of_view() -> None:
    (corners_m,) = fields_of_view(ORIGIN, EAST, FovConfig())
    half_m = 20 * math.tan(math.pi / 6)
    assert corners_m == pytest.approx(np.array([[0, 0], [20, -half_m], [20, half_m]]))
    assert area_m2(corners_m) == pytest.approx(20 * half_m), "counter-clockwise: positive"
    assert FovConfig().reach_m == pytest.approx(math.hypot(20, half_m))


@pytest.mark.parametrize("angle_rad", [math.pi / 2, 1.5 * math.pi, 2 * math.pi])
def test_a_sector_has_nearly_the_area_of_the_circles_part(angle_rad: float) -> None:
    (corners_m,) = fields_of_view(np.array([[3.0, 4.0]]), np.array([1.0]), FovConfig(10.0, angle_rad, "sector"))
    assert area_m2(corners_m) == pytest.approx(50 * angle_rad, rel=0.01)
    assert np.linalg.norm(corners_m - [3, 4], axis=1).max() == pytest.approx(10)


@pytest.mark.parametrize(("turn", "bearing_rad"), [(1, math.pi / 4), (0, 0.0), (-1, -math.pi / 4)])
def test_the_region_is_swung_to_the_side_of_the_turn(turn: int, bearing_rad: float) -> None:
    (corners_m,) = regions_of_interest(ORIGIN, EAST, np.array([turn], np.int8), RoiConfig())
    middle = corners_m[1:].mean(axis=0)
    assert np.linalg.norm(middle) == pytest.approx(10)
    assert math.atan2(middle[1], middle[0]) == pytest.approx(bearing_rad)
    sides_m = np.linalg.norm(corners_m - np.roll(corners_m, 1, axis=0), axis=1)
    assert sides_m == pytest.approx(np.full(3, 20 / math.sqrt(3))), "equilateral"


def test_points_in_a_square_and_cells_that_touch_it() -> None:
    points_m = np.array([[[1.0, 1.0], [3.0, 1.0], [2.2, 1.0], [2.2, 2.2], [2.0, 0.0]]])
    assert inside(points_m, SQUARE[None]).tolist() == [[True, False, False, False, True]]
    assert inside(points_m, SQUARE[None], half_cell_m=0.25).tolist() == [[True, False, True, True, True]]


def test_a_cell_at_a_tip_touches_only_if_it_does() -> None:
    tip = np.array([[[0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]]])  # opens downwards from the origin
    cells_m = np.array([[[0.5, 0.5], [0.4, 0.4], [0.8, 0.1]]])
    assert inside(cells_m, tip, half_cell_m=0.45).tolist() == [[False, True, True]]


def test_a_dented_polygon_is_refused() -> None:
    with pytest.raises(ValueError, match="not convex"):
        inside(np.zeros((1, 1, 2)), np.array([[[0, 0], [2, 0], [0.5, 0.5], [0, 2.0]]]))


def test_pairs_whose_boxes_overlap() -> None:
    a_m, b_m = np.stack([SQUARE, SQUARE + 10]), np.stack([SQUARE + 1, SQUARE + 2.5])
    assert [rows.tolist() for rows in near_pairs(a_m, b_m)] == [[0], [0]]
    assert [rows.tolist() for rows in near_pairs(a_m, b_m, 1.0)] == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"range_m": 0.0}, "range_m must be finite and positive, got 0"),
        ({"angle_rad": math.pi}, "angle_rad of a triangle is 3.14.*less than a half turn"),
        ({"angle_rad": 7.0, "shape": "sector"}, "at most a full turn"),
        ({"shape": "blob"}, "shape is 'blob', want 'triangle' or 'sector'"),
    ],
)
def test_bad_fields_of_view_are_one_error(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FovConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"height_m": math.inf}, "height_m"),
        ({"angle_rad": math.pi}, "angle_rad"),
        ({"turn_rad": -1.0}, "turn_rad"),
    ],
)
def test_bad_regions_are_one_error(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RoiConfig(**settings)


def test_a_heading_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="heading_rad of vehicle 0 is NaN"):
        fields_of_view(ORIGIN, np.array([np.nan]), FovConfig())
    with pytest.raises(ValueError, match="position_m of vehicle 0 is NaN"):
        fields_of_view(ORIGIN * np.nan, EAST, FovConfig(shape="sector"))
