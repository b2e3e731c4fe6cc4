"""The plan of a town, drawn from a plan made by hand."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import to_rgb

from perception.draw_map import REGIONS, STREET, draw_map


@dataclass
class Rectangle:
    rect_m: tuple[float, float, float, float]


@dataclass
class Crossing:
    """Two streets each way, 100 m apart, and one block between them."""

    xs_m: np.ndarray = field(default_factory=lambda: np.array([0.0, 100.0]))
    ys_m: np.ndarray = field(default_factory=lambda: np.array([0.0, 100.0]))
    rsus_m: np.ndarray = field(default_factory=lambda: np.array([[0.0, 0.0]]))

    def blocks(self) -> list[Rectangle]:
        return [Rectangle((5, 5, 95, 95)), Rectangle((-40, -5, -5, 105))]

    def region_at(self, x_m: float, y_m: float) -> int:
        return 1


def share(picture: np.ndarray, colour: str) -> float:
    """Share of the pixels that have a colour."""
    return float((np.abs(picture - np.round(255 * np.array(to_rgb(colour)))).max(axis=-1) <= 1).mean())


def test_blocks_are_tinted_by_region_and_streets_show_between() -> None:
    picture = draw_map(Crossing(), {})
    inside, street = share(picture, REGIONS[1]), share(picture, STREET)
    # The block is 90 m wide, the town with its margins of 12 m 124 m; of the strip in the west, 7 m x 110 m show.
    np.testing.assert_allclose(inside / (inside + street), 90**2 / (124 * 124 - 7 * 110), atol=0.05)


def test_drives_have_their_own_colours_and_north_is_up() -> None:
    north, south = np.array([[0, 98.0], [100, 98]]), np.array([[0, 2.0], [100, 2]])
    picture = draw_map(Crossing(), {"a": north, "b": south})
    half = len(picture) // 2
    for colour, mine, other in (
        ("#1f77b4", picture[:half], picture[half:]),
        ("#ff7f0e", picture[half:], picture[:half]),
    ):
        assert share(mine, colour) > 5 * share(other, colour)


def test_outlines_titles_and_many_drives_can_be_drawn() -> None:
    square = np.array([[20.0, 20], [40, 20], [40, 40], [20, 40]])
    drives = {f"vehicle-{k}": np.array([[k, 0.0], [k, 50.0]]) for k in range(25)}
    plain, full = draw_map(Crossing(), drives), draw_map(Crossing(), drives, [square], "a town")
    assert plain.shape[1] == full.shape[1] == 1080
    assert full.dtype == np.uint8
    assert draw_map(Crossing(), {"parked": np.array([[0.0, 0.0]])}).ndim == 3
