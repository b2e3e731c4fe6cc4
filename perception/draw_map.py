"""A plan of a town: streets, blocks, roadside units and where vehicles drove."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUND, STREET, OUTLINE = "#f4f4f0", "#b9bcc0", "#8a8f96"
# One tint a region, in turn: blocks that share a colour are nearest to the same RSU.
REGIONS: Final = ("#dcebd3", "#f3e3c3", "#d6e4f2", "#f0d9e6", "#e4def3")
WIDTH_IN, DPI, MARGIN_M = 9.0, 120, 12.0
NAMED_DRIVES, LEGEND_COLUMNS = 12, 6


@runtime_checkable
class Plan(Protocol):
    """What there is to draw: axes of streets, roadside units, blocks with `rect_m` (west, south, east, north)."""

    @property
    def xs_m(self) -> Float[ndarray, "i"]: ...

    @property
    def ys_m(self) -> Float[ndarray, "j"]: ...

    @property
    def rsus_m(self) -> Float[ndarray, "r 2"]: ...

    def blocks(self) -> Sequence[Any]: ...

    def region_at(self, x_m: float, y_m: float) -> int: ...


def draw_map(
    plan: Plan,
    drives_m: Mapping[str, Float[ndarray, "_ 2"]],
    outlines_m: Sequence[Float[ndarray, "_ 2"]] = (),
    title: str = "",
) -> UInt8[ndarray, "h w 3"]:
    """The plan, north up, axes in metres east and north.

    Args:
        plan: the town.
        drives_m: east and north of each vehicle's camera in order of time; the last place carries a dot.
        outlines_m: corners of buildings.
        title: above the plan.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second, so only when asked for
    from matplotlib.figure import Figure

    west, south, east, north = _extent(plan)
    figure = Figure((WIDTH_IN, WIDTH_IN * (north - south) / (east - west) + 1), DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    axes.set(xlim=(west, east), ylim=(south, north), aspect="equal", title=title, facecolor=GROUND)
    axes.set(xlabel="east (m)", ylabel="north (m)")
    _draw_streets(axes, plan)
    for corners in outlines_m:
        axes.fill(*corners.T, facecolor="none", edgecolor=OUTLINE, linewidth=0.7, zorder=3)
    _draw_drives(axes, drives_m)
    _draw_rsus(axes, plan.rsus_m)
    if 0 < len(drives_m) <= NAMED_DRIVES:
        figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _extent(plan: Plan) -> tuple[float, float, float, float]:
    """West, south, east, north of the streets, with a margin."""
    xs, ys = plan.xs_m, plan.ys_m
    return xs[0] - MARGIN_M, ys[0] - MARGIN_M, xs[-1] + MARGIN_M, ys[-1] + MARGIN_M


def _draw_streets(axes: "Axes", plan: Plan) -> None:
    """Blocks over one surface of street: what they leave free is the street grid."""
    from matplotlib.patches import Rectangle

    west, south, east, north = _extent(plan)
    axes.add_patch(Rectangle((west, south), east - west, north - south, facecolor=STREET, zorder=1))
    for block in plan.blocks():
        left, low, right, top = block.rect_m
        x, y = (left + right) / 2, (low + top) / 2
        inside = plan.xs_m[0] < x < plan.xs_m[-1] and plan.ys_m[0] < y < plan.ys_m[-1]
        colour = REGIONS[plan.region_at(x, y) % len(REGIONS)] if inside else GROUND
        axes.add_patch(Rectangle((left, low), right - left, top - low, facecolor=colour, edgecolor=OUTLINE, zorder=2))


def _draw_drives(axes: "Axes", drives_m: Mapping[str, Float[ndarray, "_ 2"]]) -> None:
    from matplotlib import colormaps

    colours = colormaps["tab20" if len(drives_m) > 10 else "tab10"]
    for place, (name, drive) in enumerate(drives_m.items()):
        colour = colours(place % colours.N)
        axes.plot(*drive.T, color=colour, linewidth=2, label=name, zorder=4)
        axes.plot(*drive[-1:].T, color=colour, marker="o", markeredgecolor="black", zorder=5)


def _draw_rsus(axes: "Axes", rsus_m: Float[ndarray, "r 2"]) -> None:
    axes.plot(*rsus_m.T, "^", color="black", markersize=11, markeredgecolor="white", zorder=6)
    for number, (x, y) in enumerate(rsus_m):
        axes.annotate(
            f"rsu-{number}", (x, y), (0, 9), textcoords="offset points", ha="center", fontweight="bold", zorder=6
        )
