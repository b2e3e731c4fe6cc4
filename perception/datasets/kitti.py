"""KITTI as a fleet: drives of the raw data and the single frames of the object data set."""

from collections.abc import Iterator
from pathlib import Path

from perception.datasets.base import Fleet, FleetRequest, FrameSubset
from perception.datasets.files import data_path
from perception.datasets.kitti_io import LICENCE
from perception.datasets.kitti_object import KittiObject, object_folder
from perception.datasets.kitti_raw import KittiRaw, find_drives
from perception.datasets.recordings import Recordings, Source
from perception.datasets.sharing import divide_fleet

__all__ = ["KittiObject", "KittiRaw", "load_kitti", "read_kitti"]
REMEDY = (
    "give a folder with training/image_2 and training/label_2, a raw root with tracklet_labels.xml, or one that holds "
    "kitti_object/ or kitti_raw*/"
)


def load_kitti(request: FleetRequest) -> Fleet:
    """Labelled frames of drives (region "raw") and of the object data set (region "object").

    `request.path` is an official object root (with `training/`), a raw root, or a folder that holds `kitti_object/` and
    `kitti_raw*/`; None means `$CONVOY_DATA`. Drives come first; three vehicles over one drive and the object frames
    are two halves of the drive and one share of single frames.

    Raises:
        DataError: no KITTI data, nothing labelled, or too few frames for so many vehicles.
    """
    return divide_fleet(read_kitti(data_path(request.path, ".")), request)


def read_kitti(path: Path) -> Recordings:
    """The labelled frames of every drive and of every object data set in a folder.

    Raises:
        DataError: a drive or a label file cannot be read.
    """
    roots = [path, *sorted(path.glob("kitti_raw*")), path / "kitti_object"]
    found = [*_drives(roots), *_singles(roots)]
    notes = tuple(remark for _, remarks in found for remark in remarks)
    return Recordings("KITTI", LICENCE, str(path), tuple(source for source, _ in found), REMEDY, notes=notes)


def _drives(roots: list[Path]) -> Iterator[tuple[Source, list[str]]]:
    for drive in dict.fromkeys(drive for root in roots for drive in find_drives(root)):
        frames = KittiRaw(drive)
        indices = frames.labelled
        times = frames.timestamps_s
        name = drive.name.removesuffix("_sync")
        source = Source(name, "raw", FrameSubset(frames, indices), tuple(times[i] for i in indices))
        yield source, [f"{drive.name}: {line}" for line in frames.missing]


def _singles(roots: list[Path]) -> Iterator[tuple[Source, list[str]]]:
    for root in roots:
        if object_folder(root) is not None:
            frames = KittiObject(root)
            indices = frames.labelled
            times = tuple(frames.timestamps_s[i] for i in indices)
            note = "Object frames have no time: they are split by number, and may come from the same drives."
            yield Source("object", "object", FrameSubset(frames, indices), times), [note]
