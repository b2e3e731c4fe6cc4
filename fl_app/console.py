"""What a run shows on the terminal: a line per round while it goes, a table and where to look when it ends."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.gaussian_messages import LIDAR
from fl_app.history import History
from strategies.gaussian_report import FusionReport
from strategies.report import EvaluateReport, RoundReport

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def printable(text: str) -> str:
    """Returns text from outside without what would move the cursor, colour the terminal or not encode: escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_text(text: str) -> Text:
    """Returns text from outside as a cell of a table: no markup, no control characters."""
    return Text(printable(text))


def say(text: str) -> None:
    """One line as it is: no markup, and never broken, so that paths can be copied."""
    console.print("\n".join(map(printable, text.split("\n"))), markup=False, emoji=False, soft_wrap=True)


def megabytes(count: float) -> str:
    """Bytes as MB with one decimal."""
    return f"{count / 1e6:.1f} MB"


def round_line(report: RoundReport, rounds: int) -> str:
    """One round in one line."""
    wanted = sum(rsu.wanted for rsu in report.rsus)
    loss = [rsu.metrics["loss-total"] for rsu in report.rsus if "loss-total" in rsu.metrics]
    parts = [
        f"round {report.round}/{rounds}",
        "cloud" if report.cloud_moved else "rsu  ",
        f"{report.accepted}/{wanted} updates",
        f"loss {sum(loss) / len(loss):.3f}" if loss else "",
        f"{report.wall_s:.1f} s",
        f"cloud {megabytes(report.traffic.cloud)}",
        f"lost {len(report.losses)}" if report.losses else "",
    ]
    return " · ".join(part for part in parts if part)


def fusion_line(report: FusionReport, rounds: int, error_m: float | None) -> str:
    """One round of a reconstruction in one line."""
    t = report.traffic
    parts = [
        f"round {report.round}/{rounds}",
        report.job,
        f"{report.accepted}/{report.wanted} vehicles" if report.wanted else "nobody has to be asked",
        f"{sum(report.gaussians.values())} Gaussians",
        _links(report, error_m) if error_m is not None else "",
        f"{report.wall_s:.1f} s",
        f"up {megabytes(t.vehicle_up)}, down {megabytes(t.vehicle_down)}",
        f"lost {len(report.losses)}" if report.losses else "",
    ]
    return " · ".join(part for part in parts if part)


def _links(report: FusionReport, error_m: float) -> str:
    felt = sum(link.by == LIDAR for link in report.links)
    return f"{felt} links by LiDAR, {len(report.links) - felt} by images, {error_m:.3f} m off"


def judged_line(report: EvaluateReport) -> str:
    """What vehicles measured of a scene, in one line."""
    m = report.metrics
    border = f", {m['border-psnr-db']:.2f} dB near borders ({m['border-views']:.0f})" if "border-psnr-db" in m else ""
    lost = f", lost {len(report.losses)}" if report.losses else ""
    return f"  held-out images: {m.get('psnr-db', float('nan')):.2f} dB{border}{lost}"


def cloud_table(history: History) -> Table:
    """The cloud rounds: accuracy on held-out frames, or else on the vehicles' test frames; traffic and time."""
    tier = history.evaluated_by
    where = "held-out frames" if tier == "cloud" else "the vehicles' test frames"
    table = Table(title=f"Global model on {where}", title_justify="left")
    columns = {
        "AP50": f"{tier}/ap50",
        "mIoU": f"{tier}/miou",
        "vehicle link": "bytes/vehicle",
        "cloud link": "bytes/cloud",
        "simulated": "time/simulated-s",
    }
    table.add_column("cloud round", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
    for _, row in sorted(history.rows.items()):
        if f"{tier}/frames" in row:
            row = row | {"bytes/vehicle": _sum(row, "vehicle"), "bytes/cloud": _sum(row, "cloud")}
            table.add_row(f"{row.get('cloud/round', 0):.0f}", *(_cell(key, row.get(key)) for key in columns.values()))
    return table


def vehicle_table(history: History, rsu_of: Mapping[str, str]) -> Table:
    """The last evaluation of each vehicle on its own test frames."""
    table = Table(title="Each vehicle on its own test frames, last evaluation", title_justify="left")
    for name in ("RSU", "vehicle", "AP50", "mIoU"):
        table.add_column(name, justify="left" if name in ("RSU", "vehicle") else "right")
    for vehicle, rsu in sorted(rsu_of.items(), key=lambda pair: (pair[1], pair[0])):
        cells = []
        for metric in ("ap50", "miou"):
            series = history.series(f"vehicle/{vehicle}/{metric}")
            cells.append(f"{series[-1][1]:.3f}" if series else "–")
        table.add_row(as_text(rsu), as_text(vehicle), *cells)
    return table


def losses_table(losses: Mapping[str, Mapping[str, int]]) -> Table:
    """Updates that did not count, by vehicle and cause."""
    table = Table(title="Updates that did not count", title_justify="left")
    for name in ("vehicle", "cause", "times"):
        table.add_column(name)
    for vehicle, causes in losses.items():
        for cause, times in causes.items():
            table.add_row(as_text(vehicle), as_text(cause), str(times))
    return table


def _sum(row: Mapping[str, float], link: str) -> float:
    return row.get(f"bytes/{link}-up", 0.0) + row.get(f"bytes/{link}-down", 0.0)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key.startswith("bytes"):
        return megabytes(value)
    return f"{value:.0f} s" if key.startswith("time") else f"{value:.3f}"
