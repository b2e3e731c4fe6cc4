"""BDD100K: street scenes by weather, scene and time of day (Yu et al., CVPR 2020)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from geometry import Boxes, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest, FrameSubset
from perception.datasets.bdd100k_io import ATTRIBUTES, Entry, read_entries
from perception.datasets.cityscapes_labels import segments_of_train_ids
from perception.datasets.files import data_path, read_indices, read_rgb
from perception.datasets.lens import nominal_camera
from perception.datasets.placement import clip_boxes
from perception.datasets.recordings import Recordings, Source
from perception.datasets.scene import gaps
from perception.datasets.sharing import divide_fleet
from perception.labels import IGNORE

SPLITS = ("train", "val")
SUBSETS = ("100k", "10k")
DETECTIONS = ("labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")
LAYOUT = "images/100k/{train, val}/*.jpg, labels/det_20/det_{train, val}.json"
LICENCE = "BDD100K terms: free for research and education (Yu et al., bdd-data.berkeley.edu)"
TIMES_OF_DAY = ("daytime", "night", "dawn/dusk")
LAST_TRAIN_ID = 18
# The data set gives no calibration: good for drawing and for networks that want some camera, not for measuring.
NOMINAL_FIELD_OF_VIEW_RAD = np.radians(60.0)
NOMINAL_HEIGHT_M = 1.3


def holds_bdd100k(root: Path) -> bool:
    """Whether the folder looks like BDD100K."""
    return any((root / "images" / subset).is_dir() for subset in SUBSETS)


class BDD100K(Sequence[Frame]):
    """Single images with boxes and, where there are any, masks; see `read_entries` for what has a box.

    `attributes` tells weather ("clear", "rainy", "snowy", "overcast", "partly cloudy", "foggy"), time of day
    ("daytime", "night", "dawn/dusk") and scene ("city street", "highway", ...). Each image is from another video, so
    there is no common clock: `timestamps_s` are places among the names. Intrinsics and pose are nominal (see the
    module). Images that no label file lists have `boxes` None and no attributes; listed images without a file are
    skipped and counted in `missing`.

    Args:
        root: folder with `images/100k/SPLIT/` (else `images/10k/SPLIT/`) and `labels/`.
        weather, timeofday, scene: keep images with this attribute only; None keeps all.
        splits: those to read, of "train", "val" and "test" (which has no labels).

    Raises:
        DataError: no images, a malformed label file, nothing with these attributes; on access, an unreadable image or
            mask, a malformed label of this frame.
    """

    name = "BDD100K"
    licence = LICENCE
    posed = False

    def __init__(
        self,
        root: Path | str,
        weather: str | None = None,
        timeofday: str | None = None,
        scene: str | None = None,
        splits: Sequence[str] = SPLITS,
    ) -> None:
        self.root = Path(root)
        images = [path for split in splits for path in sorted(_split_folder(self.root, split).glob("*.jpg"))]
        if not images:
            raise DataError(f"{self.root}: no images/100k/{{{','.join(splits)}}}/*.jpg; want {LAYOUT}")
        self._entries = {key: entry for split in splits for key, entry in _entries(self.root, split).items()}
        wanted = dict(zip(ATTRIBUTES, (weather, timeofday, scene), strict=True))
        wanted = {name: value for name, value in wanted.items() if value is not None}
        self._paths = tuple(path for path in images if wanted.items() <= self._entry(path).attributes.items())
        if not self._paths:
            known = {name: sorted({e.attributes.get(name, "") for e in self._entries.values()}) for name in wanted}
            raise DataError(f"{self.root}: no image with {wanted}; the labels know {known}")
        present = {_key(path) for path in images}
        self._absent = tuple(name for _, name in sorted(self._entries.keys() - present))
        self._total = len(present) + len(self._absent)

    def __len__(self) -> int:
        return len(self._paths)

    def attributes(self, index: int) -> dict[str, str]:
        """Weather, timeofday and scene of an image, as labelled; empty where no label file lists it."""
        return dict(self._entry(self._paths[index]).attributes)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the frames that have boxes."""
        return tuple(i for i, path in enumerate(self._paths) if self._entry(path).boxes is not None)

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Places in the order of names, for want of a clock."""
        return tuple(float(place) for place in range(len(self)))

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks."""
        lines = () if self._entries else ("labels/det_20/: no boxes and no attributes",)
        return (*lines, *gaps("listed but not in images/", self._absent, self._total))

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        path = self._paths[index]
        entry = self._entry(path)
        if entry.fault:
            raise DataError(entry.fault)
        image = read_rgb(path)
        height_px, width_px = image.shape[:2]
        return Frame(
            timestamp_s=float(range(len(self))[index]),
            camera=nominal_camera(width_px, height_px, NOMINAL_FIELD_OF_VIEW_RAD, NOMINAL_HEIGHT_M),
            image=image,
            boxes=None if entry.boxes is None else _clipped(entry.boxes, width_px, height_px),
            masks=self._masks(path, (height_px, width_px)),
            source=str(path),
        )

    def _entry(self, image: Path) -> Entry:
        return self._entries.get(_key(image), Entry())

    def _masks(self, image: Path, size_px: tuple[int, int]) -> UInt8[ndarray, "h w"] | None:
        path = self.root / "labels" / "sem_seg" / "masks" / image.parent.name / f"{image.stem}.png"
        if not path.exists():
            return None
        ids = read_indices(path)
        if ids.shape != size_px:
            raise DataError(f"{path}: mask is {ids.shape}, the image {size_px}; take both from the same release")
        strange = ids[(ids > LAST_TRAIN_ID) & (ids != IGNORE)]
        if strange.size:
            raise DataError(f"{path}: class {strange[0]}, want 0..{LAST_TRAIN_ID} or {IGNORE}; use sem_seg/masks")
        return segments_of_train_ids()[ids]


def load_bdd100k(request: FleetRequest) -> Fleet:
    """Vehicles that drive by day, by night and at dawn or dusk: each time of day is a region.

    The validation split, where present, is the cloud's holdout. Images without boxes or of undefined time of day are
    left out. With more vehicles than times of day these are divided, the largest first; with fewer, the first ones are
    taken. `request.path` None means `$CONVOY_DATA/bdd100k`.

    Raises:
        DataError: the data are missing or unlabelled, or too few for so many vehicles.
    """
    return divide_fleet(read_bdd100k(data_path(request.path, "bdd100k")), request)


def read_bdd100k(path: Path) -> Recordings:
    """The labelled images of each time of day; those of the second split that is there are validation.

    Raises:
        DataError: no images, or a label file cannot be read.
    """
    splits = [split for split in SPLITS if _split_folder(path, split).is_dir()]
    frames = BDD100K(path, splits=splits[:1] or SPLITS)
    validation = _validation(BDD100K(path, splits=splits[1:])) if len(splits) > 1 else ()
    notes = ("Camera intrinsics are nominal: the data set gives none.", *frames.missing)
    note = "The holdout is the validation split: nobody trains on it."
    return Recordings(frames.name, LICENCE, str(path), _sources(frames), "fetch labels/det_20", validation, notes, note)


def _validation(frames: BDD100K) -> tuple[Source, ...]:
    """All that is labelled, whatever the time of day; images are of different drives and have no time."""
    labelled = frames.labelled
    source = Source("validation", "validation", FrameSubset(frames, labelled), [float(index) for index in labelled])
    return (source,) if labelled else ()


def _sources(frames: BDD100K) -> tuple[Source, ...]:
    labelled = frames.labelled
    times = [frames.attributes(index).get("timeofday") for index in labelled]
    chosen = {name: [i for i, time in zip(labelled, times, strict=True) if time == name] for name in TIMES_OF_DAY}
    return tuple(
        # "dawn/dusk" becomes "dawn-dusk": a slash would split the names of metrics
        Source(
            time.replace("/", "-"), time.replace("/", "-"), FrameSubset(frames, indices), [float(i) for i in indices]
        )
        for time, indices in chosen.items()
        if indices
    )


def _split_folder(root: Path, split: str) -> Path:
    folders = [root / "images" / subset / split for subset in SUBSETS]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _entries(root: Path, split: str) -> dict[tuple[str, str], Entry]:
    """The label file's entries by (split, image name); none where there is no file."""
    paths = (root / pattern.format(split) for pattern in DETECTIONS)
    path = next((path for path in paths if path.exists()), None)
    return {} if path is None else {(split, name): entry for name, entry in read_entries(path).items()}


def _key(image: Path) -> tuple[str, str]:
    return image.parent.name, image.name


def _clipped(boxes: Boxes, width_px: int, height_px: int) -> Boxes:
    """Boxes cut at the image's border; those of which less than a pixel is left are dropped."""
    xyxy_px, keep = clip_boxes(boxes.xyxy_px, width_px, height_px)
    return Boxes(xyxy_px, boxes.labels, occlusion=boxes.occlusion).select(keep)
