"""Pixels of what moves: by masks, by boxes, by nothing."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Boxes, Camera, Frame
from perception.labels import IGNORE, SEGMENT_ID
from perception.transients import MARGIN_PX, transient_pixels

HEIGHT, WIDTH = 12, 16
CAMERA = Camera(SE3.identity(), 10.0, 10.0, 8.0, 6.0, WIDTH, HEIGHT)


def frame(**fields: Any) -> Frame:
    return Frame(0.0, CAMERA, np.zeros((HEIGHT, WIDTH, 3), np.uint8), **fields)


def boxed(*xyxy_px: tuple[float, float, float, float]) -> Frame:
    rows = np.array(xyxy_px, np.float32).reshape(-1, 4)
    return frame(boxes=Boxes(rows, np.zeros(len(rows), np.int64)))


def masked(name: str, row: int = 5, column: int = 7) -> Frame:
    """One pixel of a class on a road."""
    masks = np.full((HEIGHT, WIDTH), SEGMENT_ID["road"], np.uint8)
    masks[row, column] = IGNORE if name == "unlabelled" else SEGMENT_ID[name]
    return frame(masks=masks)


def found(frame: Frame, margin_px: int = MARGIN_PX) -> np.ndarray:
    """The pixels of a frame that has labels."""
    pixels = transient_pixels(frame, margin_px)
    assert pixels is not None
    return pixels


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """True in the rows top..bottom-1 and columns left..right-1."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[top:bottom, left:right] = True
    return inside


def test_without_labels_nothing_is_known() -> None:
    assert transient_pixels(frame()) is None


@pytest.mark.parametrize("margin_px", [0, 1, 2, 4])
@pytest.mark.parametrize("name", ["vehicle", "pedestrian", "cyclist"])
def test_a_mask_is_widened_by_a_square(name: str, margin_px: int) -> None:
    expected = rectangle(5 - margin_px, 6 + margin_px, 7 - margin_px, 8 + margin_px)
    assert np.array_equal(found(masked(name), margin_px), expected)


def test_the_margin_ends_at_the_edge_of_the_image() -> None:
    assert np.array_equal(found(masked("vehicle", 0, WIDTH - 1), 3), rectangle(0, 4, WIDTH - 4, WIDTH))


def test_the_usual_margin_is_two_pixels() -> None:
    assert MARGIN_PX == 2
    assert np.array_equal(found(masked("vehicle")), rectangle(3, 8, 5, 10))


@pytest.mark.parametrize("name", ["sky", "road", "building", "sign", "unlabelled"])
def test_what_stays_counts(name: str) -> None:
    assert not found(masked(name)).any()


def test_masks_go_before_boxes() -> None:
    labelled = masked("road")
    both = frame(masks=labelled.masks, boxes=boxed((0, 0, 9, 9)).boxes)
    assert not found(both).any()


def test_boxes_take_the_pixels_that_they_touch() -> None:
    assert np.array_equal(found(boxed((2, 3, 5, 7))), rectangle(3, 7, 2, 5))
    assert np.array_equal(found(boxed((2.6, 3.1, 5.2, 6.9))), rectangle(3, 7, 2, 6))
    both = found(boxed((2, 3, 5, 7), (4, 6, 9, 9)))
    assert np.array_equal(both, rectangle(3, 7, 2, 5) | rectangle(6, 9, 4, 9))


def test_boxes_are_not_widened() -> None:
    assert np.array_equal(found(boxed((2, 3, 5, 7)), 5), rectangle(3, 7, 2, 5))


@pytest.mark.parametrize(
    ("xyxy_px", "expected"),
    [
        ((-3.5, -2.0, 4.0, 5.0), (0, 5, 0, 4)),
        ((12.0, 8.0, 30.0, 99.5), (8, HEIGHT, 12, WIDTH)),
        ((-5.0, -5.0, 99.0, 99.0), (0, HEIGHT, 0, WIDTH)),
        ((-9.0, 2.0, -3.0, 6.0), (0, 0, 0, 0)),
        ((2.0, -9.0, 6.0, -3.0), (0, 0, 0, 0)),
        ((20.0, 2.0, 30.0, 6.0), (0, 0, 0, 0)),
        ((2.0, 20.0, 6.0, 30.0), (0, 0, 0, 0)),
    ],
)
def test_boxes_beyond_the_image(xyxy_px: tuple[float, float, float, float], expected: tuple[int, ...]) -> None:
    assert np.array_equal(found(boxed(xyxy_px)), rectangle(*expected))


def test_looked_and_found_nothing_is_not_unknown() -> None:
    pixels = found(frame(boxes=Boxes.empty()))
    assert (pixels.shape, pixels.dtype, pixels.any()) == ((HEIGHT, WIDTH), np.bool_, False)


corner = st.floats(-30, 30, width=32)


@given(corner, corner, st.floats(0, 40, width=32), st.floats(0, 40, width=32))
@settings(max_examples=100, deadline=None)
def test_every_pixel_whose_centre_a_box_holds_is_in(left: float, top: float, width: float, height: float) -> None:
    pixels = found(boxed((left, top, left + width, top + height)))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = (x > left) & (x < left + width) & (y > top) & (y < top + height)
    assert pixels[inside].all()
    near = (x > left - 1) & (x < left + width + 1) & (y > top - 1) & (y < top + height + 1)
    assert not pixels[~near].any()
