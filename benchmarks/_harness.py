"""What every benchmark script shares: its arguments, a table, a CSV file and the line of claims at the end."""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

Value = int | float | str | None
Row = Mapping[str, Value]
console = Console(width=140)


@dataclass(frozen=True)
class Claim:
    """One measured claim.

    Args:
        claim: identifier, the same in quick and full mode.
        ours, reference: the two figures that were compared, in `unit`.
        ratio: the figure that a bound is set on.
        unit: of `ours` and `reference`.
        n: repeats or seeds behind the figures.
    """

    claim: str
    ours: float
    reference: float
    ratio: float
    unit: str
    n: int


def parse_arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of a benchmark: `quick` (bool) and `out` (an existing folder)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 60 s on two cores, same identifiers")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for CSV and PNG")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Rows as a table; the first row names the columns."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in rows[0]))
    console.print(table)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows as a CSV file; the columns are all names that any row has, in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def print_claims(claims: Iterable[Claim]) -> None:
    """The line that `make bench` reads; it must be the script's last."""
    print("BENCH " + json.dumps([asdict(claim) for claim in claims]), flush=True)


def save_figure(path: Path, panels: int, draw: Callable[[Sequence], None]) -> None:
    """Draw `panels` axes side by side with `draw(axes)` and save them as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(4.6 * panels, 3.6), squeeze=False, layout="constrained")
    draw(axes[0])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _text(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
