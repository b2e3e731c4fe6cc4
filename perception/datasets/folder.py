"""Which data set a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perception.datasets.argoverse2 import LAYOUT as ARGOVERSE2_LAYOUT
from perception.datasets.argoverse2 import Argoverse2, find_logs
from perception.datasets.base import DataError, Dataset, FleetRequest
from perception.datasets.bdd100k import BDD100K, holds_bdd100k
from perception.datasets.bdd100k import LAYOUT as BDD100K_LAYOUT
from perception.datasets.camvid import CamVid
from perception.datasets.cityscapes import LAYOUT as CITYSCAPES_LAYOUT
from perception.datasets.cityscapes import Cityscapes
from perception.datasets.colmap import LAYOUT as COLMAP_LAYOUT
from perception.datasets.colmap import Colmap, model_folder
from perception.datasets.kitti_object import KittiObject, object_folder
from perception.datasets.kitti_raw import LAYOUT as RAW_LAYOUT
from perception.datasets.kitti_raw import KittiRaw, find_drives
from perception.datasets.multicamera import CALIBRATION, MultiCamera
from perception.datasets.multicamera import LAYOUT as MULTICAMERA_LAYOUT
from perception.datasets.nuscenes import INFO_FILE, NuScenes, NuScenesInfo, version_folders
from perception.datasets.sevenscenes import LAYOUT as SEVENSCENES_LAYOUT
from perception.datasets.sevenscenes import SevenScenes, find_sequences
from perception.datasets.sharing import Concatenated
from perception.datasets.transforms import LAYOUT as TRANSFORMS_LAYOUT
from perception.datasets.transforms import Transforms, transforms_file
from perception.datasets.waymo import Waymo

TOWN = "town"
# The layouts that have labels, with the names that federated runs know them by.
FLEET_NAMES = {
    "KITTI object": "kitti",
    "KITTI raw": "kitti",
    "Cityscapes": "cityscapes",
    "BDD100K": "bdd100k",
    "CamVid": "camvid",
    "nuScenes": "nuscenes",
    "Argoverse 2": "argoverse2",
    "Waymo Open Dataset v2": "waymo",
}


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
    Layout("Cityscapes", CITYSCAPES_LAYOUT, lambda path: (path / "leftImg8bit").is_dir(), Cityscapes),
    Layout("BDD100K", BDD100K_LAYOUT, holds_bdd100k, BDD100K),
    Layout("COLMAP", COLMAP_LAYOUT, lambda path: model_folder(path) is not None, Colmap),
    Layout("transforms.json", TRANSFORMS_LAYOUT, lambda path: transforms_file(path) is not None, Transforms),
    Layout("cameras.json", MULTICAMERA_LAYOUT, lambda path: (path / CALIBRATION).is_file(), MultiCamera),
    Layout(
        "CamVid",
        "{images, labels}/SEQUENCE_NUMBER.png",
        lambda path: (path / "images").is_dir() and (path / "labels").is_dir(),
        CamVid,
    ),
    Layout("nuScenes", "{v1.0-*/*.json, samples/}", lambda path: bool(version_folders(path)), NuScenes),
    Layout("nuScenes sample", f"{INFO_FILE} with its files", lambda path: (path / INFO_FILE).is_file(), NuScenesInfo),
    Layout("Argoverse 2", ARGOVERSE2_LAYOUT, lambda path: bool(find_logs(path)), Argoverse2),
    Layout(
        "Waymo Open Dataset v2",
        "{camera_image, camera_calibration, ...}/SEGMENT.parquet",
        lambda path: next((path / "camera_image").glob("*.parquet"), None) is not None,
        Waymo,
    ),
    Layout("7-Scenes", SEVENSCENES_LAYOUT, lambda path: bool(find_sequences(path)), SevenScenes),
)


def format_of(path: Path | str) -> str:
    """The name of the format, "town" for generated data.

    Raises:
        DataError: no such folder, or no recognised layout.
    """
    return TOWN if _town_preset(path) is not None else _layout_of(Path(path)).format


def fleet_name(path: Path) -> str:
    """The name in `FLEETS` of what a folder holds.

    Raises:
        DataError: no recognised layout, or one without labels.
    """
    found = format_of(path.resolve())
    if found not in FLEET_NAMES:
        raise DataError(f"{path}: {found} has no labels to learn from; export as kitti-object, kitti-raw or nuscenes")
    return FLEET_NAMES[found]


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
