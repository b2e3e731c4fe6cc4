"""Reports as flat rows: what goes into MLflow, into metrics.csv and onto the screen."""

import csv
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from clients.gaussian_messages import LIDAR
from fl_app.atomic_files import write_text_file
from strategies.gaussian_report import FusionReport
from strategies.report import EvaluateReport, RoundReport

logger = logging.getLogger("convoy")
ROUND, BEYOND = "round", "beyond the header"
MOST_COLUMNS = 512


def round_row(report: RoundReport) -> dict[str, float]:
    """A training round as named numbers, by tier: cloud/, rsu/NAME/, vehicle/NAME/."""
    row: dict[str, float] = {
        "cloud/round": report.cloud_round,
        "time/wall-s": report.wall_s,
        "replies/accepted": report.accepted,
        "replies/lost": len(report.losses),
    }
    row |= {f"bytes/{name.replace('_', '-')}": value for name, value in vars(report.traffic).items()}
    if report.simulated_s is not None:
        row["time/simulated-s"] = report.simulated_s
    for cause in {loss.cause for loss in report.losses}:
        row[f"lost/{cause}"] = sum(loss.cause == cause for loss in report.losses)
    if not report.cloud_protected:
        row["cloud/protected"] = 0.0
    for rsu in report.rsus:
        row |= {f"rsu/{rsu.rsu}/{name}": value for name, value in rsu.metrics.items()}
        row[f"rsu/{rsu.rsu}/accepted"], row[f"rsu/{rsu.rsu}/examples"] = rsu.accepted, rsu.examples
        if not rsu.protected:
            row[f"rsu/{rsu.rsu}/protected"] = 0.0
    return row | _nested("vehicle", report.vehicle_metrics)


def evaluate_row(report: EvaluateReport) -> dict[str, float]:
    """What the vehicles measured, as named numbers."""
    row = {f"vehicles/{name}": value for name, value in report.metrics.items()}
    if report.losses:
        row["vehicles/lost"] = len(report.losses)
    return row | _nested("rsu", report.rsu_metrics) | _nested("vehicle", report.vehicle_metrics)


def fusion_row(report: FusionReport) -> dict[str, float]:
    """A round of a reconstruction as named numbers."""
    row: dict[str, float] = {
        "time/wall-s": report.wall_s,
        "replies/accepted": report.accepted,
        "replies/lost": len(report.losses),
        "scene/gaussians": sum(report.gaussians.values()),
        "align/links": len(report.links),
        "align/links-lidar": sum(link.by == LIDAR for link in report.links),
    }
    row |= {f"bytes/{name.replace('_', '-')}": value for name, value in vars(report.traffic).items()}
    row |= {f"vehicle/{name}/unplaced": 1.0 for name in report.unplaced}
    row |= {f"dropped/{cause}": count for cause, count in report.dropped.items()}
    for cause in {loss.cause for loss in report.losses}:
        row[f"lost/{cause}"] = sum(loss.cause == cause for loss in report.losses)
    return row | _nested("vehicle", report.vehicle_metrics)


class History:
    """All rows of a run, by RSU round; written as a CSV that a resumed run goes on with.

    Of each vehicle and RSU it takes `MOST_COLUMNS` names in all rounds together: vehicles name their own metrics.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self._names: dict[str, set[str]] = {}

    def add(self, round_number: int, values: Mapping[str, float]) -> None:
        """Merge values into a round's row, but for names beyond the limit."""
        row = self.rows.setdefault(round_number, {})
        row.update({name: value for name, value in values.items() if self._takes(name)})

    def _takes(self, name: str) -> bool:
        tier, _, rest = name.partition("/")
        if tier not in ("vehicle", "rsu"):
            return True
        known = self._names.setdefault(f"{tier}/{rest.partition('/')[0]}", set())
        if name not in known and len(known) >= MOST_COLUMNS:
            return False
        known.add(name)
        return True

    def series(self, name: str) -> list[tuple[int, float]]:
        """(round, value) of one column, where it was measured."""
        return [(number, row[name]) for number, row in sorted(self.rows.items()) if name in row]

    @property
    def evaluated_by(self) -> str:
        """Who measured the global model: the "cloud" on held-out frames, or the "vehicles" where the cloud has none."""
        return "cloud" if self.series("cloud/frames") else "vehicles"

    def write(self, path: Path) -> None:
        """One line per round, one column per name; all of it or, on OSError, what was there before."""
        names = sorted({name for row in self.rows.values() for name in row})

        def write_rows(file: TextIO) -> None:
            writer = csv.DictWriter(file, [ROUND, *names])
            writer.writeheader()
            writer.writerows({ROUND: number, **row} for number, row in sorted(self.rows.items()))

        write_text_file(path, write_rows)

    @classmethod
    def read(cls, path: Path, up_to: int) -> "History":
        """Rows up to a round, of a file that may not exist; what is damaged is left out, kept aside and warned of."""
        history, damaged = cls(), 0
        if not path.exists():
            return history
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = csv.DictReader(file, restkey=BEYOND)
                damaged += ROUND not in (lines.fieldnames or ())
                for line in lines:
                    damaged += not history._take(line, up_to)
        except (OSError, ValueError, csv.Error):
            damaged += 1
        if damaged:
            aside = path.with_name(f"{path.name}.damaged")
            with suppress(OSError):
                path.replace(aside)
            logger.warning("%s: damaged; going on with what could be read, the file is now %s", path, aside.name)
        return history

    def _take(self, line: dict, up_to: int) -> bool:
        """Adds a line of a file up to a round; False if some of it cannot be read."""
        whole = None not in line.values()
        try:
            number = int(line.pop(ROUND))
            values = {name: float(value) for name, value in line.items() if value}
        except (KeyError, TypeError, ValueError):
            return False
        if number <= up_to:
            self.add(number, values)
        return whole


def _nested(tier: str, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{tier}/{who}/{name}": value for who, values in metrics.items() for name, value in values.items()}
