"""`convoy data export`: a data set in another project's format."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from fl_app.flags import command_with, number_option
from perception.datasets.base import DataError
from perception.datasets.export import EXPORTS, ExportOptions, ExportReport, export_frames, find_exporter
from perception.datasets.folder import open_dataset

PROBLEMS_SHOWN = 3
ExportCommand = command_with({"--rate": "--rate-fps"})
PathArgument = Annotated[str, typer.Argument(help="Data folder, or town, or town:PRESET.")]


def spread(length: int, limit: int) -> list[int]:
    """At most `limit` indices spread evenly over `length`; all of them where `limit` is 0."""
    count = length if limit == 0 else min(limit, length)
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


@contextmanager
def errors_as_exit() -> Iterator[None]:
    """A user's mistake ends the command with one line on stderr and code 2, Ctrl-C with code 130."""
    try:
        yield
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


def bar(description: str) -> Callable[[Sequence[int]], Iterable[int]]:
    """Wraps what is gone through in a progress bar on stderr, which a file or a pipe does not get."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return lambda indices: track(indices, description, console=console, transient=True, disable=hidden)


def export(
    path: PathArgument,
    to: Annotated[str, typer.Option("--to", help=f"Format: {', '.join(EXPORTS)}.")],
    out: Annotated[Path, typer.Option(help="Folder to make; may exist if it is empty.")],
    frames: Annotated[int, typer.Option(min=0, help="Frames to write, spread evenly; 0 writes all.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote.")] = False,
    boxes: Annotated[bool, typer.Option("--boxes", help="Draw the boxes into a video.")] = False,
    rate: Annotated[
        float, number_option("--rate-fps", "Pictures a second of a video; 0: the frames' own.", most=1000)
    ] = 0,
) -> None:
    """Write a data set in another project's format, so that its tools run on it."""
    with errors_as_exit():
        find_exporter(to)  # before a town is rendered in vain
        dataset = open_dataset(path)
        chosen = spread(len(dataset), frames)
        options = ExportOptions(draw_boxes=boxes, rate_hz=rate or None)
        progress = bar(f"writing {to}")
        report = export_frames(dataset, to, out, options, chosen, overwrite, progress)
        typer.echo(f"{out}: {report.written} of {len(dataset)} frames of {dataset.name} as {EXPORTS[to].format}")
        say_left_out(report)


def say_left_out(report: ExportReport) -> None:
    """What the frames lacked, and the first few that are not in the export."""
    for note in report.notes:
        typer.echo(f"note: {note}")
    for problem in report.problems[:PROBLEMS_SHOWN]:
        typer.echo(f"left out: {problem}")
    more = len(report.problems) - PROBLEMS_SHOWN
    if more > 0:
        typer.echo(f"left out: {more} more; all are in export.json")
