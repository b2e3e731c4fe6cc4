"""A slot as a picture and a run as an animation: vehicles, what they see and want to see, who fuses where."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from edge.offload.controller import Tick
from geometry.sumo import RoadNetwork

SIZE_IN: Final = 7.0
MARGIN_M: Final = 12.0
ROAD, GROUND, ALONE, OTHERS = "#d9d9d9", "#f7f7f5", "#777777", "#b0b0b0"
NAMED_RSUS: Final = 12
CAR_M: Final = (4.5, 2.0)


def save_picture(path: Path, tick: Tick, roads: RoadNetwork | None = None) -> None:
    """Write one slot as a picture, north up: a colour for each RSU that fuses, grey for who keeps its own view.

    Args:
        path: to write; the suffix names the format, such as .png or .svg.
        tick: what was decided.
        roads: drawn below.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: matplotlib does not know the suffix.
    """
    figure = _figure()
    axis = _axis(figure, roads, extent_of([tick], roads))
    _draw(axis, tick)
    figure.savefig(path)


def save_animation(
    path: Path,
    ticks: Sequence[Tick],
    roads: RoadNetwork | None = None,
    frames_per_s: int = 4,
    progress: Callable[[Sequence[Tick]], Iterable[Tick]] = iter,
) -> None:
    """Write ticks as a GIF that starts again at its end, all of them on one map.

    Args:
        path: to write, .gif.
        ticks: in order.
        roads: drawn below.
        frames_per_s: of the animation; ticks are a second apart, so 4 plays four times as fast.
        progress: wraps the ticks that are gone through, for a bar.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: there are no ticks, or the name does not end in .gif.
    """
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: animations are written as GIF, so want a name that ends in .gif")
    if not ticks:
        raise ValueError(f"{path}: there are no ticks to show")
    figure = _figure()
    from matplotlib.animation import PillowWriter

    writer, axis = PillowWriter(fps=frames_per_s), _axis(figure, roads, extent_of(ticks, roads))
    shown: list[Any] = []
    with writer.saving(figure, str(path), dpi=80):
        for tick in progress(ticks):
            for artist in shown:
                artist.remove()
            shown = _draw(axis, tick)
            writer.grab_frame()


def extent_of(ticks: Sequence[Tick], roads: RoadNetwork | None) -> tuple[float, float, float, float]:
    """West, south, east, north of the roads, or else of all vehicles and RSUs of at least one tick, with a margin."""
    if roads is not None:
        points = [lane.shape_m for edge in roads.edges.values() for lane in edge.lanes]
    else:
        points = [tick.situation.everybody.position_m for tick in ticks]
        points += [np.array([worker.position_m for worker in tick.situation.slot.workers]) for tick in ticks]
    corners = np.concatenate(points)
    west, south = (corners.min(axis=0) - MARGIN_M).tolist()
    east, north = (corners.max(axis=0) + MARGIN_M).tolist()
    return west, south, east, north


def _figure() -> Any:
    """A canvas that needs no screen."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pictures need matplotlib: pip install matplotlib") from None
    figure = Figure((SIZE_IN, SIZE_IN), dpi=120)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.07, top=0.95)
    FigureCanvasAgg(figure)
    return figure


def _axis(figure: Any, roads: RoadNetwork | None, extent_m: tuple[float, float, float, float]) -> Any:
    """What stays the same from tick to tick."""
    west, south, east, north = extent_m
    axis = figure.add_subplot(xlim=(west, east), ylim=(south, north), aspect="equal", facecolor=GROUND)
    axis.set(xlabel="east (m)", ylabel="north (m)")
    if roads is not None:
        _draw_roads(axis, roads, max(east - west, north - south))
    return axis


def _draw(axis: Any, tick: Tick) -> list[Any]:
    """One tick; returns what is to be removed before the next."""
    axis.set_title(_title(tick))
    colours = _colours(tick)
    collections = [*_views(tick, colours), _links(tick, colours), *_vehicles(axis, tick, colours)]
    for collection in collections:
        axis.add_collection(collection)
    return [*collections, *_draw_rsus(axis, tick)]


def _title(tick: Tick) -> str:
    figures = tick.metrics()
    served = f"{figures['served']:.0f} of {figures['users']:.0f} served"
    aware = f"awareness {figures['awareness']:.0%} (alone {figures['awareness-alone']:.0%})"
    return f"{tick.situation.slot.time_s:.0f} s: {served}, {aware}" if figures["users"] else "nobody takes part"


def _colours(tick: Tick) -> Float[ndarray, "n 4"]:
    from matplotlib.colors import to_rgba

    palette, grey = _palette(len(tick.situation.slot.workers)), np.array(to_rgba(ALONE))
    return np.where(tick.served[:, None], palette[tick.assignment.worker], grey)


def _palette(count: int) -> Float[ndarray, "m 4"]:
    from matplotlib import colormaps

    colours = colormaps["tab10" if count <= 10 else "tab20"]
    return np.array([colours(place % colours.N) for place in range(count)])


def _draw_roads(axis: Any, roads: RoadNetwork, across_m: float) -> None:
    from matplotlib.collections import LineCollection

    lanes = [lane for edge in roads.edges.values() for lane in edge.lanes]
    points_a_m = 72 * 0.85 * SIZE_IN / across_m
    widths = [max(1.0, lane.width_m * points_a_m) for lane in lanes]
    shapes = [lane.shape_m for lane in lanes]
    axis.add_collection(LineCollection(shapes, linewidths=widths, colors=ROAD, zorder=1, capstyle="round"))


def _views(tick: Tick, colours: Float[ndarray, "n 4"]) -> list[Any]:
    """Fields of view filled, regions of interest outlined, what each RSU fused bordered."""
    from matplotlib.collections import LineCollection, PolyCollection

    seen, palette = tick.situation, _palette(len(tick.situation.slot.workers))
    pale = colours * [1, 1, 1, 0.15]
    places = {worker.name: place for place, worker in enumerate(seen.slot.workers)}
    rims = [(rim, palette[places[view.worker]]) for view in tick.views for rim in view.outlines_m]
    return [
        PolyCollection(list(seen.fov_m), facecolors=pale, edgecolors="none", zorder=2),
        LineCollection([rim for rim, _ in rims], colors=[colour for _, colour in rims], linewidths=0.8, zorder=3),
        PolyCollection(list(seen.roi_m), facecolors="none", edgecolors=colours, linestyles=":", zorder=4),
    ]


def _links(tick: Tick, colours: Float[ndarray, "n 4"]) -> Any:
    """A line from every user to its RSU."""
    from matplotlib.collections import LineCollection

    slot, served = tick.situation.slot, np.flatnonzero(tick.served)
    workers_m = np.array([worker.position_m for worker in slot.workers])
    ends = np.stack([tick.situation.states.position_m[served], workers_m[tick.assignment.worker[served]]], axis=1)
    return LineCollection(list(ends), colors=colours[served], linewidths=0.6, alpha=0.6, zorder=5)


def _vehicles(axis: Any, tick: Tick, colours: Float[ndarray, "n 4"]) -> list[Any]:
    """Users in their cluster's colour above everybody in grey, larger than life where much is shown."""
    from matplotlib.collections import PolyCollection

    scale = max(1.0, float(np.ptp(axis.get_xlim())) / 400)
    found = []
    for states, colour, order in ((tick.situation.everybody, OTHERS, 6), (tick.situation.states, colours, 7)):
        cars = _cars(states.position_m, states.heading_rad, scale)
        found.append(PolyCollection(list(cars), facecolors=colour, edgecolors="none", zorder=order))
    return found


def _cars(position_m: Float[ndarray, "n 2"], heading_rad: Float[ndarray, "n"], scale: float) -> Float[ndarray, "n 4 2"]:
    """Arrow heads that point where the vehicles head."""
    length, width = CAR_M[0] * scale / 2, CAR_M[1] * scale / 2
    shape = np.array([[length, 0.0], [-length, width], [-0.6 * length, 0.0], [-length, -width]])
    ahead = np.stack([np.cos(heading_rad), np.sin(heading_rad)], axis=1)
    left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    return position_m[:, None] + shape[:, :1] * ahead[:, None] + shape[:, 1:] * left[:, None]


def _draw_rsus(axis: Any, tick: Tick) -> list[Any]:
    workers = tick.situation.slot.workers
    positions_m = np.array([worker.position_m for worker in workers])
    marks = [axis.scatter(*positions_m.T, s=70, c=_palette(len(workers)), marker="s", edgecolors="black", zorder=8)]
    if len(workers) <= NAMED_RSUS:
        for worker in workers:
            words = f"{worker.name} {worker.cycles_per_s / 1e9:g} GHz"
            offset = {"textcoords": "offset points", "ha": "center", "size": 6, "zorder": 9}
            marks.append(axis.annotate(words, worker.position_m, (0, 7), **offset))
    return marks
