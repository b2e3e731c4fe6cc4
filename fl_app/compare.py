"""Runs side by side: a table, and accuracy against what it cost."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from rich.table import Table

from fl_app.console import console, megabytes
from fl_app.tracked_runs import TrackedRun, tracked_runs

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ACCURACY = (("cloud/ap50", "AP50"), ("cloud/miou", "mIoU"))
SETTINGS = ("data", "strategy", "vehicles", "rsus", "rsu-rounds", "local-epochs")


@dataclass(frozen=True)
class Cost:
    """An axis that accuracy is drawn against: metric names that are added up, and a scale."""

    label: str
    metrics: tuple[str, ...]
    scale: float = 1.0


COSTS = (
    Cost("RSU round", ()),
    Cost("RSU–cloud traffic, MB", ("bytes/cloud-up", "bytes/cloud-down"), 1e-6),
    Cost("vehicle–RSU traffic, MB", ("bytes/vehicle-up", "bytes/vehicle-down"), 1e-6),
    Cost("simulated time, s", ("time/simulated-s",)),
)


def compare_runs(uri: str, experiment: str, wanted: list[str], out: Path) -> None:
    """Table on the terminal and a picture at `out`.

    Args:
        uri: tracking URI.
        experiment: name of the MLflow experiment.
        wanted: names or ids of runs; empty for all.
        out: path of the PNG.

    Raises:
        TrackingError: no such store, experiment or run.
    """
    runs = tracked_runs(uri, experiment, wanted, [name for name, _ in ACCURACY] + _cost_metrics())
    console.print(runs_table(runs))
    draw(runs, out)
    console.print(f"picture: {out}")


def runs_table(runs: list[TrackedRun]) -> Table:
    """One line a run: the settings in which the runs differ, last accuracy, traffic and time."""
    settings = [name for name in SETTINGS if len({run.params.get(name) for run in runs}) > 1]
    table = Table(title="Runs, newest first", title_justify="left")
    table.add_column("run", no_wrap=True)
    for name in ("status", *settings, "AP50", "mIoU", "cloud link", "vehicle link", "simulated", "lost"):
        table.add_column(name)
    for run in runs:
        table.add_row(
            run.name,
            run.status.lower(),
            *(run.params.get(name, "–") for name in settings),
            *(_last(run, name) for name, _ in ACCURACY),
            megabytes(_total(run, "bytes/cloud-up", "bytes/cloud-down")),
            megabytes(_total(run, "bytes/vehicle-up", "bytes/vehicle-down")),
            f"{_total(run, 'time/simulated-s'):.0f} s",
            f"{sum(value for _, value in run.metrics.get('replies/lost', [])):.0f}",
        )
    return table


def draw(runs: list[TrackedRun], out: Path) -> None:
    """Accuracy (rows) against every cost (columns), one line a run; writes a PNG."""
    figure, axes = plt.subplots(len(ACCURACY), len(COSTS), figsize=(14, 6), sharey="row", layout="constrained")
    for row, (metric, label) in zip(axes, ACCURACY, strict=True):
        for axis, cost in zip(row, COSTS, strict=True):
            for run in runs:
                axis.plot(*_curve(run, metric, cost), marker=".", label=run.name)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(label)
    for axis, cost in zip(axes[-1], COSTS, strict=True):
        axis.set_xlabel(cost.label)
    axes[0][0].legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _curve(run: TrackedRun, metric: str, cost: Cost) -> tuple[list[float], list[float]]:
    at = [dict(run.metrics.get(name, [])) for name in cost.metrics]
    points = [
        (cost.scale * sum(series.get(step, 0.0) for series in at) if at else float(step), value)
        for step, value in run.metrics.get(metric, [])
    ]
    return [x for x, _ in points], [y for _, y in points]


def _cost_metrics() -> list[str]:
    return [name for cost in COSTS for name in cost.metrics] + ["replies/lost"]


def _last(run: TrackedRun, metric: str) -> str:
    series = run.metrics.get(metric, [])
    return f"{series[-1][1]:.3f}" if series else "–"


def _total(run: TrackedRun, *names: str) -> float:
    return sum(run.metrics[name][-1][1] for name in names if run.metrics.get(name))
