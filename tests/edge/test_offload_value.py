"""Values of views: squares whose shares can be counted, raster against exact areas, unions against sums."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.offload.roi import FovConfig, RoiConfig, fields_of_view, regions_of_interest
from edge.offload.value import UnionCoverage, awareness, exact_value, raster_value

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]], float)


FAR = box(100, 100, 101, 101)


def crowd(seed: int, count: int = 25, side_m: float = 25.0) -> tuple[np.ndarray, np.ndarray]:
    """Regions and fields of view of vehicles at random."""
    rng = np.random.default_rng(seed)
    position_m, heading_rad = rng.uniform(-side_m, side_m, (count, 2)), rng.uniform(-4, 4, count)
    turn = rng.choice(np.array([-1, 0, 1], np.int8), count)
    roi_m = regions_of_interest(position_m, heading_rad, turn, RoiConfig())
    return roi_m, fields_of_view(position_m, heading_rad, FovConfig())


def test_half_of_a_square_that_the_other_sees() -> None:
    roi_m = np.stack([box(0, 0, 2, 2), box(10, 0, 12, 2)])
    fov_m = np.stack([FAR, box(1, 0, 9, 2)])
    assert exact_value(roi_m, fov_m).tolist() == [[0, 0.5], [0, 0]]


def test_what_a_vehicle_sees_itself_is_no_gain() -> None:
    roi_m = np.stack([box(0, 0, 2, 2)] * 4)
    left_half, all_of_it, right_quarter = box(0, 0, 1, 2), box(0, 0, 2, 2), box(1.5, 0, 2, 2)
    value = exact_value(roi_m, np.stack([left_half, all_of_it, right_quarter, left_half]))
    assert value[0] == pytest.approx([0, 0.5, 0.25, 0])
    assert value[1] == pytest.approx([0, 0, 0, 0])
    assert value[2] == pytest.approx([0.5, 0.75, 0, 0.5]), "the other way round it is another share"


def test_a_turning_vehicle_alone_sees_this_share_of_its_region() -> None:
    """Of the 60° at the tip 15° lie in view: (tan 30° - tan 15°) / (2 tan 30°), which is 2 - √3."""
    heading_rad, turn = np.array([0.3, 2.0]), np.array([1, -1], np.int8)
    position_m = np.array([[0.0, 0.0], [50.0, 0.0]])
    roi_m = regions_of_interest(position_m, heading_rad, turn, RoiConfig())
    fov_m = fields_of_view(position_m, heading_rad, FovConfig())
    assert awareness(roi_m, fov_m, np.array([-1, -1])) == pytest.approx([2 - math.sqrt(3)] * 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_fine_raster_approaches_the_exact_areas(seed: int) -> None:
    roi_m, fov_m = crowd(seed)
    exact = exact_value(roi_m, fov_m)
    coarse, fine = (np.abs(raster_value(roi_m, fov_m, cell_m, touched=False) - exact).max() for cell_m in (1.0, 0.1))
    assert fine < 0.005
    assert fine < coarse < 0.1
    assert not raster_value(roi_m, fov_m).diagonal().any()


def test_the_papers_raster_counts_every_cell_that_is_touched() -> None:
    """A region of 2 m x 2 m in cells of 1 m, off the grid by half a cell, touches 3 x 3; the other view 3 of them."""
    roi_m = np.stack([box(0.5, 0.5, 2.5, 2.5), FAR])
    fov_m = np.stack([FAR, box(2.2, 0.0, 9.0, 9.0)])
    assert raster_value(roi_m, fov_m, 1.0)[0, 1] == pytest.approx(3 / 9)
    assert exact_value(roi_m, fov_m)[0, 1] == pytest.approx(0.3 * 2 / 4)


def test_two_equal_views_count_once_in_the_union_and_twice_in_the_sum() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    roi_m = np.stack([triangle, triangle + 50, triangle + 90])
    fov_m = np.stack([FAR, box(0, 0, 5, 5), box(0, 0, 5, 5)])
    union = UnionCoverage.of(roi_m, fov_m)
    pair, trio, single, empty = union([np.array([0, 1]), np.array([0, 1, 2]), np.array([0]), np.array([], int)])
    assert (pair, trio, single, empty) == (1, 1, 0, 0)
    assert exact_value(roi_m, fov_m)[0].sum() == pytest.approx(2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_unions_are_monotone_at_most_the_sum_and_what_awareness_says(seed: int, sizes: list[int]) -> None:
    roi_m, fov_m = crowd(seed)
    order = np.random.default_rng(seed).permutation(len(roi_m))
    ends = np.cumsum(sizes)
    clusters = [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    union, value = UnionCoverage.of(roi_m, fov_m), exact_value(roi_m, fov_m)
    worker = np.full(len(roi_m), -1)
    for number, members in enumerate(clusters):
        worker[members] = number
        assert union([members])[0] <= value[np.ix_(members, members)].sum() + 0.02 * len(members)
        assert union([members])[0] >= union([members[:-1]])[0] - 1e-12, "one more never takes anything away"
    gained = awareness(roi_m, fov_m, worker) - awareness(roi_m, fov_m, np.full(len(roi_m), -1))
    for members in clusters:
        assert union.gains(members) == pytest.approx(gained[members], abs=0.02), "256 points of a region"


def test_relabelled_vehicles_have_relabelled_values() -> None:
    roi_m, fov_m = crowd(0)
    order = np.random.default_rng(1).permutation(len(roi_m))
    assert exact_value(roi_m[order], fov_m[order]) == pytest.approx(exact_value(roi_m, fov_m)[np.ix_(order, order)])


def test_nobody_is_no_error() -> None:
    roi_m, fov_m = np.zeros((0, 3, 2)), np.zeros((0, 3, 2))
    assert exact_value(roi_m, fov_m).shape == raster_value(roi_m, fov_m).shape == (0, 0)
    assert awareness(roi_m, fov_m, np.zeros(0, int)).shape == (0,)


def test_bad_input_is_one_error() -> None:
    roi_m, fov_m = crowd(0)
    with pytest.raises(ValueError, match="25 regions of interest and 24 fields of view"):
        exact_value(roi_m, fov_m[1:])
    with pytest.raises(ValueError, match="cell_m is 0"):
        raster_value(roi_m, fov_m, 0.0)
    with pytest.raises(ValueError, match="holds no cell"):
        raster_value(roi_m, fov_m, 100.0, touched=False)
    wide = fields_of_view(np.zeros((25, 2)), np.zeros(25), FovConfig(20.0, 1.5 * math.pi, "sector"))
    with pytest.raises(ValueError, match="not convex"):
        UnionCoverage.of(roi_m, wide)


def test_without_shapely_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(ModuleNotFoundError, match="pip install shapely"):
        exact_value(*crowd(0))
