"""Frames in other projects' formats, so that their tools run on them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perception.datasets.base import DataError, Dataset
from perception.datasets.export.colmap import ColmapWriter
from perception.datasets.export.kitti_object import KittiObjectWriter
from perception.datasets.export.kitti_raw import KittiRawWriter
from perception.datasets.export.nuscenes import NuScenesWriter
from perception.datasets.export.transforms import TransformsWriter
from perception.datasets.export.video import VideoWriter
from perception.datasets.export.writing import ExportOptions, FrameWriter, save_marker, staged_folder

__all__ = ["EXPORTS", "ExportOptions", "ExportReport", "Exporter", "FrameWriter", "export_frames"]


@dataclass(frozen=True)
class Exporter:
    """A format that frames can be written in.

    Args:
        format: its name for people.
        open: begins a data set in an empty folder.
        one_world: the frames' poses must share one world.
    """

    format: str
    open: Callable[[Path, ExportOptions], FrameWriter]
    one_world: bool


EXPORTS: Final[dict[str, Exporter]] = {
    "kitti-object": Exporter("KITTI object", KittiObjectWriter, one_world=False),
    "kitti-raw": Exporter("KITTI raw", KittiRawWriter, one_world=True),
    "colmap": Exporter("COLMAP", ColmapWriter, one_world=True),
    "transforms": Exporter("transforms.json", TransformsWriter, one_world=True),
    "nuscenes": Exporter("nuScenes", NuScenesWriter, one_world=True),
    "mp4": Exporter("MP4", VideoWriter, one_world=False),
}


@dataclass(frozen=True)
class ExportReport:
    """What became of the frames.

    Args:
        written: frames in the export.
        problems: a sentence for each frame that was left out.
        notes: what the frames lacked.
    """

    written: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def _as_they_come(indices: Sequence[int]) -> Iterable[int]:
    return indices


def export_frames(
    dataset: Dataset,
    to: str,
    out: Path,
    options: ExportOptions | None = None,
    indices: Sequence[int] | None = None,
    overwrite: bool = False,
    track: Callable[[Sequence[int]], Iterable[int]] = _as_they_come,
) -> ExportReport:
    """Write chosen frames of a data set, one in memory at a time. `out` appears whole at the end or not at all.

    A frame that cannot be read or lacks what the format needs is left out and reported.

    Args:
        dataset: frames in order of time; where time goes back, formats with drives begin a new one.
        to: a key of `EXPORTS`.
        out: folder to make, which may exist if it is empty.
        options: what the formats leave open; the defaults where None.
        indices: frames to write, all by default.
        overwrite: replace `out` if an earlier export wrote it.
        track: wraps the indices while they are gone through, for a progress bar.

    Raises:
        DataError: unknown format, no frame that it can hold, no common world, or `out` cannot be written.
    """
    exporter = find_exporter(to)
    chosen = range(len(dataset)) if indices is None else indices
    if exporter.one_world and len(chosen) > 1 and not getattr(dataset, "posed", True):
        raise DataError(
            f"{dataset.name}: its frames have no poses in one world, which {exporter.format} needs; "
            "choose data with poses, or a single frame"
        )
    with staged_folder(out, overwrite) as folder:
        writer = exporter.open(folder, options or ExportOptions())
        found = (_add(writer, dataset, index) for index in track(chosen))
        problems = tuple(problem for problem in found if problem)
        written = len(chosen) - len(problems)
        if not written:
            first = f"; the first: {problems[0]}" if problems else ""
            raise DataError(f"{dataset.name}: none of {len(chosen)} frames fits {exporter.format}{first}")
        writer.close()
        report = ExportReport(written, problems, writer.notes)
        save_marker(folder, _provenance(dataset, exporter, report))
    return report


def find_exporter(to: str) -> Exporter:
    """The format of a name.

    Raises:
        DataError: there is none.
    """
    if to not in EXPORTS:
        raise DataError(f"no export to {to!r}; choose one of {', '.join(EXPORTS)}")
    return EXPORTS[to]


def _add(writer: FrameWriter, dataset: Dataset, index: int) -> str:
    """The problem that keeps a frame out, or nothing."""
    try:
        writer.add(dataset[index])
    except DataError as error:
        return str(error)
    return ""


def _provenance(dataset: Dataset, exporter: Exporter, report: ExportReport) -> dict[str, object]:
    return {
        "format": exporter.format,
        "data set": dataset.name,
        "licence": dataset.licence,
        "frames": report.written,
        "left out": list(report.problems),
        "notes": list(report.notes),
    }
