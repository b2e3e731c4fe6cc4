"""Fields of view (FOV) and regions of interest (ROI) as polygons on the ground."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from numpy import ndarray

ARC_STEPS: Final = 16


@dataclass(frozen=True)
class FovConfig:
    """What a vehicle's sensors see.

    Args:
        range_m: how far ahead; the paper's fused detection range.
        angle_rad: opening, about the heading; below a half turn for triangles, up to a full turn for sectors.
        shape: "triangle" with the vehicle at its tip (the paper's), or "sector" of a circle.

    Raises:
        ValueError: a value is out of range, or the shape is unknown.
    """

    range_m: float = 20.0
    angle_rad: float = math.pi / 3
    shape: str = "triangle"

    def __post_init__(self) -> None:
        if not 0 < self.range_m < math.inf:
            raise ValueError(f"FovConfig: range_m must be finite and positive, got {self.range_m}")
        if self.shape not in ("triangle", "sector"):
            raise ValueError(f"FovConfig: shape is {self.shape!r}, want 'triangle' or 'sector'")
        widest = math.pi if self.shape == "triangle" else 2 * math.pi
        if not (0 < self.angle_rad < widest or self.angle_rad == widest == 2 * math.pi):
            limit = "less than a half" if self.shape == "triangle" else "at most a full"
            raise ValueError(f"FovConfig: angle_rad of a {self.shape} is {self.angle_rad}, want 0 to {limit} turn")

    @property
    def reach_m(self) -> float:
        """Distance from the vehicle to the farthest corner."""
        return self.range_m / math.cos(self.angle_rad / 2) if self.shape == "triangle" else self.range_m


@dataclass(frozen=True)
class RoiConfig:
    """Where a vehicle wants to see: a triangle with the vehicle at its tip, towards where it will go.

    Args:
        height_m: from the tip to the opposite side.
        angle_rad: opening at the tip; a third of a half turn makes it equilateral.
        turn_rad: how far it is swung out to the side of a turn.

    Raises:
        ValueError: a value is out of range.
    """

    height_m: float = 10.0
    angle_rad: float = math.pi / 3
    turn_rad: float = math.pi / 4

    def __post_init__(self) -> None:
        if not 0 < self.height_m < math.inf:
            raise ValueError(f"RoiConfig: height_m must be finite and positive, got {self.height_m}")
        if not 0 < self.angle_rad < math.pi:
            raise ValueError(f"RoiConfig: angle_rad is {self.angle_rad}, want more than 0 and less than a half turn")
        if not 0 <= self.turn_rad <= math.pi:
            raise ValueError(f"RoiConfig: turn_rad is {self.turn_rad}, want 0 to a half turn")


def fields_of_view(
    position_m: Float[ndarray, "n 2"], heading_rad: Float[ndarray, "n"], config: FovConfig
) -> Float[ndarray, "n k 2"]:
    """Corners of what each vehicle sees, counter-clockwise.

    Raises:
        ValueError: a position or heading is NaN or infinite.
    """
    if config.shape == "triangle":
        return _triangles(position_m, heading_rad, config.range_m, config.angle_rad)
    _check_finite(position_m, heading_rad)
    half_rad, whole = config.angle_rad / 2, config.angle_rad == 2 * math.pi
    steps = math.ceil(ARC_STEPS * max(1.0, config.angle_rad / math.pi))
    offsets_rad = np.linspace(-half_rad, half_rad, steps + 1)[: steps if whole else None]
    bearings_rad = heading_rad[:, None] + offsets_rad
    rim_m = position_m[:, None] + config.range_m * np.stack([np.cos(bearings_rad), np.sin(bearings_rad)], axis=-1)
    return rim_m if whole else np.concatenate([position_m[:, None], rim_m], axis=1)


def regions_of_interest(
    position_m: Float[ndarray, "n 2"], heading_rad: Float[ndarray, "n"], turn: Int8[ndarray, "n"], config: RoiConfig
) -> Float[ndarray, "n 3 2"]:
    """Corners of what each vehicle wants to see, counter-clockwise, the vehicle first.

    Args:
        position_m, heading_rad: of the vehicles.
        turn: -1 right, 0 straight on, 1 left.
        config: size and direction.

    Raises:
        ValueError: a position or heading is NaN or infinite.
    """
    bearing_rad = heading_rad + config.turn_rad * turn
    return _triangles(position_m, bearing_rad, config.height_m, config.angle_rad)


def inside(
    points_m: Float[ndarray, "p c 2"], corners_m: Float[ndarray, "p k 2"], half_cell_m: float = 0.0
) -> Bool[ndarray, "p c"]:
    """Which points lie in convex polygons with corners counter-clockwise: row p of points in polygon p.

    With `half_cell_m`, which square cells of twice that side about the points touch the polygons.

    Raises:
        ValueError: a polygon is not convex.
    """
    edges_m = np.roll(corners_m, -1, axis=1) - corners_m
    turns = edges_m[..., 0] * np.roll(edges_m[..., 1], -1, 1) - edges_m[..., 1] * np.roll(edges_m[..., 0], -1, 1)
    if (turns < -1e-9).any():
        raise ValueError("a polygon is not convex: have fields of view of at most a half turn, or use exact areas")
    low_m, high_m = corners_m.min(axis=1)[:, None] - half_cell_m, corners_m.max(axis=1)[:, None] + half_cell_m
    found = ((points_m >= low_m) & (points_m <= high_m)).all(axis=-1)
    for edge in range(corners_m.shape[1]):
        out = np.stack([edges_m[:, edge, 1], -edges_m[:, edge, 0]], axis=-1)  # to the right of the edge
        limit = (out * corners_m[:, edge]).sum(axis=-1) + half_cell_m * np.abs(out).sum(axis=-1)
        found &= points_m[..., 0] * out[:, None, 0] + points_m[..., 1] * out[:, None, 1] <= limit[:, None] + 1e-9
    return found


def near_pairs(
    a_m: Float[ndarray, "n k 2"], b_m: Float[ndarray, "m l 2"], margin_m: float = 0.0
) -> tuple[Int[ndarray, "p"], Int[ndarray, "p"]]:
    """Indices of polygons of two groups whose bounding boxes, the first's grown by a margin, overlap."""
    overlap = np.ones((len(a_m), len(b_m)), bool)
    for axis in range(2):
        overlap &= a_m[:, :, axis].min(axis=1)[:, None] - margin_m < b_m[:, :, axis].max(axis=1)
        overlap &= a_m[:, :, axis].max(axis=1)[:, None] + margin_m > b_m[:, :, axis].min(axis=1)
    first, second = np.nonzero(overlap)
    return first, second


def shapely_library() -> Any:
    """The library of exact areas.

    Raises:
        ModuleNotFoundError: shapely is not installed.
    """
    try:
        import shapely
    except ModuleNotFoundError:
        raise ModuleNotFoundError("areas of views need shapely: pip install shapely") from None
    return shapely


def _triangles(
    tip_m: Float[ndarray, "n 2"], bearing_rad: Float[ndarray, "n"], height_m: float, angle_rad: float
) -> Float[ndarray, "n 3 2"]:
    _check_finite(tip_m, bearing_rad)
    side_m = height_m / math.cos(angle_rad / 2)
    right, left = bearing_rad - angle_rad / 2, bearing_rad + angle_rad / 2
    corners = [tip_m + side_m * np.stack([np.cos(side), np.sin(side)], axis=1) for side in (right, left)]
    return np.stack([tip_m, *corners], axis=1)


def _check_finite(position_m: Float[ndarray, "n 2"], heading_rad: Float[ndarray, "n"]) -> None:
    for field, values in (("position_m", position_m), ("heading_rad", heading_rad)):
        bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if bad.any():
            raise ValueError(f"{field} of vehicle {int(bad.argmax())} is NaN or infinite: leave it out or correct it")
