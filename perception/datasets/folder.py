"""Which data set a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perception.datasets.base import DataError, Dataset, FleetRequest
from perception.datasets.camvid import CamVid
from perception.datasets.kitti_object import KittiObject, object_folder
from perception.datasets.kitti_raw import LAYOUT as RAW_LAYOUT
from perception.datasets.kitti_raw import KittiRaw, find_drives
from perception.datasets.sharing import Concatenated

TOWN = "town"


@dataclass(frozen=True)
class Layout:
    """A recognised folder layout: its format, what it looks like, and how to test for and open it."""

    format: str
    looks_like: str
    fits: Callable[[Path], bool]
    open: Callable[[Path], Dataset]


LAYOUTS = (
    Layout(
        "KITTI object",
        "training/{image_2, calib, label_2, velodyne}/NNNNNN.*",
        lambda path: object_folder(path) is not None,
        KittiObject,
    ),
    Layout("KITTI raw", RAW_LAYOUT, lambda path: bool(find_drives(path)), KittiRaw),
    Layout(
        "CamVid",
        "{images, labels}/SEQUENCE_NUMBER.png",
        lambda path: (path / "images").is_dir() and (path / "labels").is_dir(),
        CamVid,
    ),
)


def format_of(path: Path | str) -> str:
    """The name of the format, "town" for generated data.

    Raises:
        DataError: no such folder, or no recognised layout.
    """
    return TOWN if _town_preset(path) is not None else _layout_of(Path(path)).format


def open_dataset(path: Path | str) -> Dataset:
    """The data set in a folder, or a generated one for `town` and `town:PRESET`.

    Raises:
        DataError: no such folder, no recognised layout, or the data set's own complaint.
    """
    preset = _town_preset(path)
    return _open_town(preset) if preset is not None else _layout_of(Path(path)).open(Path(path))


def _town_preset(path: Path | str) -> str | None:
    name, _, preset = str(path).partition(":")
    return (preset or FleetRequest.preset) if name == TOWN else None


def _layout_of(path: Path) -> Layout:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give a data folder, or town:PRESET for generated data")
    found = _fitting(path)
    if found is not None:
        return found
    inside = [(child, _fitting(child)) for child in sorted(path.iterdir()) if child.is_dir()]
    hints = [f"  {child} is {layout.format}" for child, layout in inside if layout is not None]
    known = [f"  {layout.format}: {layout.looks_like}" for layout in LAYOUTS]
    lines = [f"{path}: not a data folder. Recognised layouts:", *known, f"  {TOWN} or {TOWN}:PRESET: generated"]
    raise DataError("\n".join(lines + (["Give one of its folders:", *hints] if hints else [])))


def _fitting(path: Path) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.fits(path)), None)


def _open_town(preset: str) -> Dataset:
    from perception.datasets.town import load_town  # open3d takes a second to import: only when asked for

    fleet = load_town(FleetRequest(preset=preset, vehicles=0, size_px=(0, 0)))
    parts = [part for share in fleet.shares for part in (share.train, share.test)]
    return Concatenated(fleet.name, fleet.licence, parts)
