"""KITTI as a fleet: drives of the raw data and the single frames of the object data set."""

from collections.abc import Iterator
from pathlib import Path

from perception.datasets.base import DataError, Fleet, FleetRequest, FrameSubset
from perception.datasets.files import data_path
from perception.datasets.kitti_io import LICENCE
from perception.datasets.kitti_object import KittiObject, object_folder
from perception.datasets.kitti_raw import KittiRaw, find_drives
from perception.datasets.sharing import MIN_FRAMES, SPLIT_NOTES, Concatenated, Source, share_out

__all__ = ["KittiObject", "KittiRaw", "load_kitti"]


def load_kitti(request: FleetRequest) -> Fleet:
    """Labelled frames of drives (region "raw") and of the object data set (region "object").

    `request.path` is an official object root (with `training/`), a raw root, or a folder that holds `kitti_object/` and
    `kitti_raw*/`; None means `$CONVOY_DATA`. Drives come first; three vehicles over one drive and the object frames
    are two halves of the drive and one share of single frames.

    Raises:
        DataError: no KITTI data, nothing labelled, or too few frames for so many vehicles.
    """
    path = data_path(request.path, ".")
    roots = [path, *sorted(path.glob("kitti_raw*")), path / "kitti_object"]
    sources, notes = [], []
    for source, remarks in [*_drives(roots), *_singles(roots)]:
        notes += remarks
        if len(source.frames) < MIN_FRAMES:
            notes.append(
                f"{source.name} is left out: {len(source.frames)} labelled frames, want at least {MIN_FRAMES}."
            )
        else:
            sources.append(source)
    if not sources:
        raise DataError(
            f"{path}: no labelled KITTI frames; give a folder with training/image_2 and training/label_2, a raw root "
            "with tracklet_labels.xml, or one that holds kitti_object/ or kitti_raw*/"
        )
    shares = share_out(sources, request)
    holdout = Concatenated("KITTI holdout", LICENCE, [share.test for share in shares])
    return Fleet("KITTI", LICENCE, shares, holdout, (*notes, *SPLIT_NOTES))


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
