"""Runs side by side: tables of figures and of settings, and quality against what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from fl_app.console import as_text, console, megabytes, say
from fl_app.plain_figures import add_legend, pyplot, save_figure
from fl_app.tracked_runs import TrackedRun, tracked_runs

NONE = "–"
NAMES_OF_RUNS = frozenset({"run-name", "resume"})
MOST_NAMED = 4  # runs that share the usual value of a setting are counted beyond that
QUALITY = {"cloud/ap50": ("AP50", 3), "cloud/miou": ("mIoU", 3), "vehicles/psnr-db": ("PSNR, dB", 2)}
"""Metric: its name in tables and pictures, and its digits. The last is of reconstructions, the others of perception."""


@dataclass(frozen=True)
class Cost:
    """An axis that quality is drawn against: metric names that are added up, and a scale."""

    label: str
    metrics: tuple[str, ...]
    scale: float = 1.0


COSTS = (
    Cost("round", ()),
    Cost("RSU–cloud traffic, MB", ("bytes/cloud-up", "bytes/cloud-down"), 1e-6),
    Cost("vehicle–RSU traffic, MB", ("bytes/vehicle-up", "bytes/vehicle-down"), 1e-6),
    Cost("simulated time, s", ("time/simulated-s",)),
)


def compare_runs(uri: str, experiment: str, wanted: list[str], out: Path) -> None:
    """Prints tables on the terminal and draws a picture at `out`.

    Args:
        uri: tracking URI.
        experiment: name of the MLflow experiment.
        wanted: names or ids of runs; empty for all.
        out: path of the PNG.

    Raises:
        TrackingError: no such store, experiment or run.
    """
    names = [*QUALITY, *(name for cost in COSTS for name in cost.metrics), "replies/lost"]
    runs = label_runs(tracked_runs(uri, experiment, wanted, names))
    console.print(figures_table(runs))
    if differing_settings(list(runs.values())):
        console.print(settings_table(runs))
    draw(runs, out)
    say(f"picture: {out}")


def label_runs(runs: Sequence[TrackedRun]) -> dict[str, TrackedRun]:
    """Returns runs by name; those that share one by name and the start of their id, or all of it."""
    often = Counter(run.name for run in runs)
    short = {run.run_id: f"{run.name} ({run.run_id[:8]})" if often[run.name] > 1 else run.name for run in runs}
    again = Counter(short.values())
    return {short[run.run_id] if again[short[run.run_id]] == 1 else f"{run.name} ({run.run_id})": run for run in runs}


def differing_settings(runs: Sequence[TrackedRun]) -> list[str]:
    """Returns the names of all settings that are not the same in all runs, but for what only names the run."""
    names = sorted({name for run in runs for name in run.params} - NAMES_OF_RUNS)
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1]


def figures_table(runs: Mapping[str, TrackedRun]) -> Table:
    """One line a run: last quality, traffic, time and lost updates; columns that no run has are left out."""
    shown = [name for name in QUALITY if any(name in run.metrics for run in runs.values())]
    table = Table(title="Runs, newest first", title_justify="left")
    for name in ("run", "status", *(QUALITY[metric][0] for metric in shown)):
        table.add_column(name, overflow="fold")
    for name in ("cloud link", "vehicle link", "simulated", "lost"):
        table.add_column(name, justify="right")
    for label, run in runs.items():
        table.add_row(
            as_text(label),
            as_text(run.status.lower()),
            *(_last(run, name) for name in shown),
            megabytes(_total(run, "bytes/cloud-up", "bytes/cloud-down")),
            megabytes(_total(run, "bytes/vehicle-up", "bytes/vehicle-down")),
            f"{_total(run, 'time/simulated-s'):.0f} s" if run.metrics.get("time/simulated-s") else NONE,
            f"{sum(value for _, value in run.metrics.get('replies/lost', [])):.0f}",
        )
    return table


def settings_table(runs: Mapping[str, TrackedRun]) -> Table:
    """One line for each setting and value, of all settings in which the runs differ, with their whole values."""
    names = differing_settings(list(runs.values()))
    table = Table(title="Settings that differ", title_justify="left")
    for name in ("setting", "runs", "value"):
        table.add_column(name, overflow="fold")
    for name in names:
        for place, (value, labels) in enumerate(_runs_by_value(runs, name)):
            crowd = f"all {len(labels)} others" if place == 0 and len(labels) > MOST_NAMED else ", ".join(labels)
            table.add_row(as_text(name if place == 0 else ""), as_text(crowd), _shown(value))
        table.add_section()
    return table


def _runs_by_value(runs: Mapping[str, TrackedRun], setting: str) -> list[tuple[str | None, list[str]]]:
    """Values of a setting with the runs that have each, the most frequent one first, else in the order of the runs."""
    labels: dict[str | None, list[str]] = {}
    for label, run in runs.items():
        labels.setdefault(run.params.get(setting), []).append(label)
    return sorted(labels.items(), key=lambda pair: -len(pair[1]))


def draw(runs: Mapping[str, TrackedRun], out: Path) -> None:
    """Quality (rows) against every cost (columns), one line a run; writes a PNG."""
    metrics = [name for name in QUALITY if any(name in run.metrics for run in runs.values())] or list(QUALITY)[:1]
    size = (14, 1 + 2.6 * len(metrics))
    figure, axes = pyplot.subplots(
        len(metrics), len(COSTS), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    lines = {}
    for row, metric in zip(axes, metrics, strict=True):
        for axis, cost in zip(row, COSTS, strict=True):
            for label, run in runs.items():
                (lines[label],) = axis.plot(*_curve(run, metric, cost), marker=".")
            axis.grid(alpha=0.3)
        row[0].set_ylabel(QUALITY[metric][0])
    for axis, cost in zip(axes[-1], COSTS, strict=True):
        axis.set_xlabel(cost.label)
    if lines:
        add_legend(axes[0][0], lines, fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, out, dpi=110)
    pyplot.close(figure)


def _curve(run: TrackedRun, metric: str, cost: Cost) -> tuple[list[float], list[float]]:
    if cost.metrics and not any(run.metrics.get(name) for name in cost.metrics):
        return [], []
    at = [dict(run.metrics.get(name, [])) for name in cost.metrics]
    points = [
        (cost.scale * sum(series.get(step, 0.0) for series in at) if at else float(step), value)
        for step, value in run.metrics.get(metric, [])
    ]
    return [x for x, _ in points], [y for _, y in points]


def _shown(value: str | None) -> Text:
    return as_text(NONE if value is None else value or '""')


def _last(run: TrackedRun, metric: str) -> str:
    series = run.metrics.get(metric, [])
    return f"{series[-1][1]:.{QUALITY[metric][1]}f}" if series else NONE


def _total(run: TrackedRun, *names: str) -> float:
    return sum(run.metrics[name][-1][1] for name in names if run.metrics.get(name))
