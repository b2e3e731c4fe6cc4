"""`convoy data`: what a data folder holds, in numbers and in pictures."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from geometry import Frame
from perception.datasets.base import DataError, Dataset
from perception.datasets.folder import format_of, open_dataset
from perception.draw import frame_sheet
from perception.labels import IGNORE, OBJECTS, SEGMENTS

data_app = typer.Typer(help="Look at a data set: a folder, or town:PRESET for generated data.", no_args_is_help=True)

PROBLEMS_SHOWN = 3
PathArgument = Annotated[str, typer.Argument(help="Data folder, or town, or town:PRESET.")]


@dataclass
class Survey:
    """Counts over the frames that could be read, and the messages of those that could not."""

    read: int = 0
    has: Counter[str] = field(default_factory=Counter)
    sizes_px: Counter[tuple[int, int]] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    points: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, frame: Frame) -> None:
        """Count one frame."""
        self.read += 1
        self.sizes_px[(frame.camera.width_px, frame.camera.height_px)] += 1
        parts = {"image": frame.image, "LiDAR": frame.points_lidar, "boxes": frame.boxes}
        parts |= {"masks": frame.masks, "depth": frame.depth_m}
        self.has.update(name for name, part in parts.items() if part is not None)
        if frame.boxes is not None:
            self.objects.update(OBJECTS[label] for label in frame.boxes.labels.tolist())
        if frame.masks is not None:
            self.pixels += np.bincount(frame.masks.ravel(), minlength=256)
        if frame.points_lidar is not None:
            self.points += len(frame.points_lidar)


def survey(dataset: Dataset, indices: list[int]) -> Survey:
    """Read the chosen frames and count; a frame that cannot be read is a problem, not an end."""
    result = Survey()
    for index in indices:
        try:
            result.add(dataset[index])
        except DataError as error:
            result.problems.append(str(error))
    return result


def spread(length: int, limit: int) -> list[int]:
    """At most `limit` indices spread evenly over `length`; all of them where `limit` is 0."""
    count = length if limit == 0 else min(limit, length)
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


@data_app.command()
def info(
    path: PathArgument,
    frames: Annotated[int, typer.Option(min=0, help="Frames to read, spread evenly; 0 reads all.")] = 200,
) -> None:
    """Print what a data set holds: sizes, sensors, labels, and files that cannot be read."""
    with _errors_as_exit():
        dataset = open_dataset(path)
        indices = spread(len(dataset), frames)
        found = survey(dataset, indices)
        console = Console()
        console.print(_table(format_of(path), dataset, found, len(indices)))
        for problem in found.problems[:PROBLEMS_SHOWN]:
            console.print(problem, soft_wrap=True, highlight=False)


@data_app.command()
def show(
    path: PathArgument,
    out: Annotated[Path, typer.Option(help="Picture to write (PNG or JPEG).")],
    frames: Annotated[int, typer.Option(min=1, help="Frames to show, spread evenly.")] = 4,
) -> None:
    """Write a contact sheet: image with boxes, masks, LiDAR coloured by depth, depth."""
    with _errors_as_exit():
        dataset = open_dataset(path)
        chosen = [dataset[index] for index in spread(len(dataset), frames)]
        try:
            Image.fromarray(frame_sheet(chosen)).save(out)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{out}: cannot be written ({error}); give a .png or .jpg in a folder that exists"
            ) from error
        typer.echo(f"{out}: {len(chosen)} of {len(dataset)} frames of {dataset.name}")


@contextmanager
def _errors_as_exit() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _table(format_name: str, dataset: Dataset, found: Survey, tried: int) -> Table:
    table = Table(show_header=False, title=dataset.name, title_justify="left")
    for name, value in _rows(format_name, dataset, found, tried):
        table.add_row(name, value)
    return table


def _rows(format_name: str, dataset: Dataset, found: Survey, tried: int) -> Iterator[tuple[str, str]]:
    yield "format", format_name
    yield "licence", dataset.licence
    yield "frames", f"{len(dataset)}" + (f" ({tried} read)" if tried < len(dataset) else "")
    yield "image size", ", ".join(f"{w}x{h} ({n})" for (w, h), n in found.sizes_px.most_common())
    for part in ("image", "LiDAR", "boxes", "masks", "depth"):
        extra = f", {found.points / found.has[part]:,.0f} points each" if part == "LiDAR" and found.has[part] else ""
        yield part, f"{found.has[part]} of {found.read} frames{extra}" if found.has[part] else "none"
    yield (
        "poses",
        "in one world" if getattr(dataset, "posed", True) else "none: each frame has a level world of its own",
    )
    for name, count in found.objects.most_common():
        yield f"boxes: {name}", str(count)
    yield from _mask_rows(found.pixels)
    for line in getattr(dataset, "missing", ()):
        yield "missing", line
    yield "problems", f"{len(found.problems)} frames could not be read" if found.problems else "none"


def _mask_rows(pixels: np.ndarray) -> Iterator[tuple[str, str]]:
    total = int(pixels.sum())
    if total:
        for class_id in np.argsort(-pixels[: len(SEGMENTS)]):
            yield f"mask: {SEGMENTS[class_id]}", f"{pixels[class_id] / total:.1%}"
        yield "mask: unlabelled", f"{pixels[IGNORE] / total:.1%}"
