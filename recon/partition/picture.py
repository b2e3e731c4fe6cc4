"""A map of cameras by owner, before and after, with the workers' completion times."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from recon.partition.model import Partition, Problem


def save_picture(path: Path, problem: Problem, partitions: Mapping[str, Partition]) -> None:
    """A PNG: one map for each partition, and bars of completion times beside each other.

    Args:
        path: to write.
        problem: what was divided.
        partitions: by title, such as "Voronoi" and "HWP".

    Raises:
        ValueError: there are no partitions.
        ImportError: matplotlib is not installed.
    """
    if not partitions:
        raise ValueError("partitions must not be empty: give at least one with its title")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    panels = len(partitions) + 1
    figure = Figure(figsize=(4.6 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, (title, partition) in zip(axes, partitions.items(), strict=False):
        draw_map(axis, problem, partition, title)
    draw_bars(axes[-1], problem, partitions)
    figure.savefig(path, dpi=120)


def draw_map(axis: Any, problem: Problem, partition: Partition, title: str) -> None:
    """Cameras coloured by owner, workers as triangles, on a matplotlib axis."""
    colours = _colours(len(problem.workers))
    axis.scatter(*problem.cameras_m.T, s=4, c=colours[partition.owner], linewidths=0)
    positions_m = np.array([worker.position_m for worker in problem.workers])
    axis.scatter(*positions_m.T, s=60, c=colours, marker="^", edgecolors="black", linewidths=1)
    axis.set(title=f"{title}: {partition.makespan_s:.0f} s", xlabel="east (m)", ylabel="north (m)", aspect="equal")


def draw_bars(axis: Any, problem: Problem, partitions: Mapping[str, Partition]) -> None:
    """Completion time of each worker, one bar per partition, on a matplotlib axis."""
    width = 0.8 / len(partitions)
    places = np.arange(len(problem.workers))
    for number, (title, partition) in enumerate(partitions.items()):
        axis.bar(places + width * number, partition.times_s, width, label=title)
    names = [worker.name for worker in problem.workers]
    axis.set_xticks(places + width * (len(partitions) - 1) / 2, names, rotation=90, fontsize="small")
    axis.set(ylabel="completion time (s)", title="who waits for whom")
    axis.legend()


def _colours(count: int) -> Float[ndarray, "m 4"]:
    from matplotlib import colormaps

    order = (np.arange(count) * 7) % max(count, 1) if count % 7 else np.arange(count)  # neighbours in the list differ
    return colormaps["hsv"](order / max(count, 1))
