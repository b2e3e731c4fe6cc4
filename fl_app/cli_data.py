"""`convoy data`: what a data folder holds, in numbers and in pictures; generated towns; other formats."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from fl_app.cli_export import PROBLEMS_SHOWN, ExportCommand, PathArgument, bar, errors_as_exit, export, spread
from fl_app.console import as_text, say
from geometry import Frame
from perception.datasets.base import DataError, Dataset, Fleet, FleetRequest
from perception.datasets.export import ExportOptions
from perception.datasets.export.video import VideoWriter
from perception.datasets.export.writing import save_image, save_marker, staged_folder
from perception.datasets.folder import TOWN, format_of, open_dataset
from perception.datasets.sharing import Concatenated
from perception.draw import frame_sheet
from perception.draw_map import draw_map
from perception.labels import IGNORE, OBJECTS, SEGMENTS

data_app = typer.Typer(
    help="Look at and convert data sets: a folder, or town:PRESET for generated data.", no_args_is_help=True
)
data_app.command(cls=ExportCommand)(export)

SHEET_FRAMES, VIDEO_FRAMES = 4, 60


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


@data_app.command()
def info(
    path: PathArgument,
    frames: Annotated[int, typer.Option(min=0, help="Frames to read, spread evenly; 0 reads all.")] = 200,
) -> None:
    """Print what a data set holds: sizes, sensors, labels, and files that cannot be read."""
    with errors_as_exit():
        dataset = open_dataset(path)
        indices = spread(len(dataset), frames)
        found = survey(dataset, indices)
        Console().print(_table(format_of(path), dataset, found, len(indices)))
        for problem in found.problems[:PROBLEMS_SHOWN]:
            say(problem)


@data_app.command()
def show(
    path: PathArgument,
    out: Annotated[Path, typer.Option(help="Picture to write (PNG or JPEG).")],
    frames: Annotated[int, typer.Option(min=1, help="Frames to show, spread evenly.")] = 4,
) -> None:
    """Write a contact sheet: image with boxes, masks, LiDAR coloured by depth, depth."""
    with errors_as_exit():
        dataset = open_dataset(path)
        chosen = [dataset[index] for index in spread(len(dataset), frames)]
        try:
            Image.fromarray(frame_sheet(chosen)).save(out)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{out}: cannot be written ({error}); give a .png or .jpg in a folder that exists"
            ) from error
        typer.echo(f"{out}: {len(chosen)} of {len(dataset)} frames of {dataset.name}")


@data_app.command()
def town(
    preset: Annotated[str, typer.Option(help="Name of the world.")] = FleetRequest.preset,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.")] = 0,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a map, a contact sheet and a video.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the preview, by default PRESET-preview.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier preview.")] = False,
) -> None:
    """Render a generated town into the cache and print what it holds."""
    with errors_as_exit():
        from perception.datasets.town import load_town  # open3d takes a second to import: only when asked for

        request = FleetRequest(preset=preset, vehicles=0, seed=seed, size_px=(0, 0))
        fleet = load_town(request)
        drives = _drives_of(fleet)
        dataset = Concatenated(fleet.name, fleet.licence, list(drives.values()))
        found = survey(dataset, list(range(len(dataset))))
        Console().print(_table(TOWN, dataset, found, len(dataset)))
        if preview:
            folder = out or Path(f"{preset}-preview")
            _write_preview(request, drives, dataset, folder, overwrite)
            typer.echo(f"{folder}: map.png, sheet.png, video.mp4")


def _drives_of(fleet: Fleet) -> dict[str, Concatenated]:
    """Each vehicle's frames, those for training before those for testing, as it drove."""
    return {
        share.vehicle: Concatenated(share.vehicle, fleet.licence, [share.train, share.test]) for share in fleet.shares
    }


def _write_preview(
    request: FleetRequest, drives: dict[str, Concatenated], dataset: Concatenated, out: Path, overwrite: bool
) -> None:
    from perception.datasets.town import town_config
    from perception.datasets.town.layout import plan_town

    title = f"{dataset.name}, seed {request.seed}"
    with staged_folder(out, overwrite) as folder:
        positions = {name: _positions_m(drive) for name, drive in drives.items()}
        save_image(folder / "map.png", draw_map(plan_town(town_config(request)), positions, title=title))
        sheet = frame_sheet([dataset[index] for index in spread(len(dataset), SHEET_FRAMES)])
        save_image(folder / "sheet.png", sheet)
        _write_video(folder, next(iter(drives.values())))
        save_marker(folder, {"format": "preview", "data set": title, "licence": dataset.licence})


def _positions_m(drive: Sequence[Frame]) -> np.ndarray:
    """East and north of the camera, [t, 2]."""
    return np.array([frame.camera.world_from_cam.translation_m[:2] for frame in drive])


def _write_video(folder: Path, drive: Sequence[Frame]) -> None:
    writer = VideoWriter(folder, ExportOptions(draw_boxes=True))
    for index in bar("drawing the video")(range(min(len(drive), VIDEO_FRAMES))):
        writer.add(drive[index])
    writer.close()


def _table(format_name: str, dataset: Dataset, found: Survey, tried: int) -> Table:
    table = Table(show_header=False, title=as_text(dataset.name), title_justify="left")
    for name, value in _rows(format_name, dataset, found, tried):
        table.add_row(as_text(name), as_text(value))
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
