"""Cityscapes: street scenes of 50 cities with a class and an object for every pixel (Cordts et al., CVPR 2016)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from numpy import ndarray

from geometry import Boxes, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest, FrameSubset
from perception.datasets.cityscapes_io import objects_of, read_camera, read_instance_ids
from perception.datasets.cityscapes_labels import segments_of_label_ids
from perception.datasets.files import data_path, read_indices, read_rgb
from perception.datasets.lens import nominal_camera
from perception.datasets.recordings import Recordings, Source
from perception.datasets.sharing import divide_fleet

SPLITS = ("train", "val")
LAYOUT = "leftImg8bit/{train, val}/CITY/*_leftImg8bit.png, gtFine/ alike"
STEM = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<number>\d{6})")
IMAGE_ENDING = "_leftImg8bit.png"
LICENCE = "Cityscapes terms: non-commercial research (Cordts et al., cityscapes-dataset.com)"
FRAMES_PER_S = 17.0
SEQUENCE_GAP_S = 1e6  # recordings share no clock: this keeps them in order and apart
LAST_LABEL = 33
# Where a frame has no camera file: the field of view and height of the files that there are, rounded.
NOMINAL_FIELD_OF_VIEW_RAD = np.radians(49.0)
NOMINAL_HEIGHT_M = 1.2


class Cityscapes(Sequence[Frame]):
    """Images of the left camera with masks, instances and boxes of the instances.

    A frame's world is its vehicle's own: x ahead, y left, z up, the origin on the road below the rear axle. Pose and
    intrinsics come from `camera/`, whose principal points are taken to put the first pixel's centre at 0; without the
    file they are nominal. Boxes enclose the visible pixels of an object; their `track_ids` are the values of
    `Frame.instances` and hold within one frame only. Groups of objects that nobody separated have no box. A frame's
    time is its number at 17 frames a second, within its sequence. What a frame has no file for is None.

    Args:
        root: folder with `leftImg8bit/` and, beside it, `gtFine/` and `camera/`.
        splits: those to read, of "train", "val" and "test" (which has no labels).

    Raises:
        DataError: no images, a name of another form; on access, an unreadable or unfitting image, mask or camera.
    """

    name = "Cityscapes"
    licence = LICENCE
    posed = False

    def __init__(self, root: Path | str, splits: Sequence[str] = SPLITS) -> None:
        self.root = Path(root)
        found = [
            path for split in splits for path in sorted((self.root / "leftImg8bit" / split).glob(f"*/*{IMAGE_ENDING}"))
        ]
        if not found:
            raise DataError(f"{self.root}: no leftImg8bit/{{{','.join(splits)}}}/CITY/*{IMAGE_ENDING}; want {LAYOUT}")
        self._paths = tuple(found)
        self._names = tuple(_parse(path) for path in found)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def cities(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each city, in order of sequence and number."""
        names = [city for city, _, _ in self._names]
        return {city: tuple(i for i, other in enumerate(names) if other == city) for city in dict.fromkeys(names)}

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the frames that have an instance file."""
        return tuple(i for i in range(len(self)) if self._beside(i, "gtFine", "gtFine_instanceIds.png").exists())

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Seconds within each frame's sequence."""
        return tuple(number / FRAMES_PER_S for _, _, number in self._names)

    @property
    def split_times_s(self) -> tuple[float, ...]:
        """Times that keep a city's sequences in order and apart, for dividing frames; not seconds of any clock."""
        return tuple(sequence * SEQUENCE_GAP_S + number / FRAMES_PER_S for _, sequence, number in self._names)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""
        wanted = {"gtFine": "no masks, instances and boxes", "camera": "poses and intrinsics are nominal"}
        return tuple(f"{name}/: {effect}" for name, effect in wanted.items() if not (self.root / name).is_dir())

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        path = self._paths[index]
        image = read_rgb(path)
        height_px, width_px = image.shape[:2]
        camera_path = self._beside(index, "camera", "camera.json")
        instances, boxes = self._objects(index, (height_px, width_px))
        return Frame(
            timestamp_s=self._names[index][2] / FRAMES_PER_S,
            camera=read_camera(camera_path, width_px, height_px)
            if camera_path.exists()
            else nominal_camera(width_px, height_px, NOMINAL_FIELD_OF_VIEW_RAD, NOMINAL_HEIGHT_M),
            image=image,
            boxes=boxes,
            masks=self._masks(index, (height_px, width_px)),
            instances=instances,
            source=str(path),
        )

    def _beside(self, index: int, folder: str, ending: str) -> Path:
        path = self._paths[index]
        stem = path.name.removesuffix(IMAGE_ENDING)
        return self.root / folder / path.parent.parent.name / path.parent.name / f"{stem}_{ending}"

    def _masks(self, index: int, size_px: tuple[int, int]) -> UInt8[ndarray, "h w"] | None:
        path = self._beside(index, "gtFine", "gtFine_labelIds.png")
        if not path.exists():
            return None
        labels = read_indices(path)
        _check_size(labels, size_px, path)
        strange = labels[(labels > LAST_LABEL) & (labels != np.uint8(255))]  # 255 is the licence plates' -1
        if strange.size:
            raise DataError(f"{path}: label {strange[0]}, want 0..{LAST_LABEL}; use labelIds, not trainIds or colours")
        return segments_of_label_ids()[labels]

    def _objects(self, index: int, size_px: tuple[int, int]) -> tuple[Int32[ndarray, "h w"] | None, Boxes | None]:
        path = self._beside(index, "gtFine", "gtFine_instanceIds.png")
        if not path.exists():
            return None, None
        ids = read_instance_ids(path)
        _check_size(ids, size_px, path)
        return objects_of(ids)


def load_cityscapes(request: FleetRequest) -> Fleet:
    """One vehicle a city, each city a region; the validation cities, where present, are the cloud's holdout.

    Of the training cities the first `request.vehicles` in the alphabet take part; with more vehicles than cities,
    cities are divided. `request.path` None means `$CONVOY_DATA/cityscapes`.

    Raises:
        DataError: the data are missing or unlabelled, or too few for so many vehicles.
    """
    return divide_fleet(read_cityscapes(data_path(request.path, "cityscapes")), request)


def read_cityscapes(path: Path) -> Recordings:
    """The labelled frames of each city in a folder; those of the second split that is there are validation.

    Raises:
        DataError: no images, or a name of another form.
    """
    splits = [split for split in SPLITS if (path / "leftImg8bit" / split).is_dir()]
    frames = Cityscapes(path, splits[:1] or SPLITS)
    validation = _sources(Cityscapes(path, splits[1:])) if len(splits) > 1 else ()
    note = "The holdout is the validation split: cities that no vehicle drives in."
    return Recordings(
        frames.name, LICENCE, str(path), _sources(frames), "fetch gtFine", validation, frames.missing, note
    )


def _sources(frames: Cityscapes) -> tuple[Source, ...]:
    labelled, times = set(frames.labelled), frames.split_times_s
    chosen = {city: [i for i in indices if i in labelled] for city, indices in frames.cities.items()}
    return tuple(
        Source(city, city, FrameSubset(frames, indices), [times[i] for i in indices])
        for city, indices in chosen.items()
        if indices
    )


def _parse(path: Path) -> tuple[str, int, int]:
    match = STEM.fullmatch(path.name.removesuffix(IMAGE_ENDING))
    if match is None:
        raise DataError(f"{path}: not named CITY_SEQUENCE_NUMBER{IMAGE_ENDING}; rename or remove it")
    return match["city"], int(match["sequence"]), int(match["number"])


def _check_size(array: ndarray, size_px: tuple[int, int], path: Path) -> None:
    if array.shape != size_px:
        raise DataError(f"{path}: is {array.shape}, the image {size_px}; take both from the same release")
