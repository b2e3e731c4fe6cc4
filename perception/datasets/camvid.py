"""CamVid: street scenes with a class for every pixel (Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009).

The layout and the eleven classes are those of the SegNet tutorial (Badrinarayanan, Kendall and Cipolla, PAMI 2017).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from geometry import Camera, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest, FrameSubset
from perception.datasets.files import data_path, read_indices, read_rgb
from perception.datasets.placement import level_world_from_cam
from perception.datasets.recordings import Recordings, Source
from perception.datasets.sharing import divide_fleet
from perception.labels import IGNORE, SEGMENTS

STEM = re.compile(r"(?P<sequence>[^_]+)_f?(?P<number>\d+)")
FRAMES_PER_S = 30.0
UNLABELLED = len(SEGMENTS)
DUSK = frozenset({"0001TP"})
# The data set gives no calibration. A horizontal field of view of 60 degrees and a level camera 1.3 m up are nominal:
# good for drawing and for networks that want some camera, not for measuring.
NOMINAL_FIELD_OF_VIEW_RAD = np.radians(60.0)
NOMINAL_HEIGHT_M = 1.3


class CamVid(Sequence[Frame]):
    """Images with masks. Boxes, LiDAR and depth are None, intrinsics and pose nominal (see the module).

    Our classes are CamVid's own in its order; its class 11 (unlabelled) becomes 255. An image without a label file has
    `masks` None. A frame's time is its number at 30 frames a second; sequences do not share a clock.

    Args:
        root: folder with `images/SEQUENCE_NUMBER.png` and `labels/` under the same names.

    Raises:
        DataError: no such folder, no frames, a name of another form; on access, an unreadable image or mask.
    """

    name = "CamVid"
    licence = "CC BY-NC 4.0 (CamVid, Brostow et al.; as stated by the SegNet tutorial)"
    posed = False

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        stems = {path.stem for folder in ("images", "labels") for path in (self.root / folder).glob("*.png")}
        if not stems:
            raise DataError(f"{self.root}: no images/*.png; give the folder that holds images/ and labels/")
        self._stems = tuple(sorted(stems, key=self._order))

    def __len__(self) -> int:
        return len(self._stems)

    @property
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each sequence, in order of time."""
        names = [self._order(stem)[0] for stem in self._stems]
        return {name: tuple(i for i, other in enumerate(names) if other == name) for name in dict.fromkeys(names)}

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the frames that have an image and a label file."""
        there = [{path.stem for path in (self.root / folder).glob("*.png")} for folder in ("images", "labels")]
        return tuple(index for index, stem in enumerate(self._stems) if all(stem in stems for stems in there))

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Seconds within each frame's sequence."""
        return tuple(self._order(stem)[1] / FRAMES_PER_S for stem in self._stems)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        stem = self._stems[index]
        path = self.root / "images" / f"{stem}.png"
        image = read_rgb(path)
        height_px, width_px = image.shape[:2]
        focal_px = width_px / 2 / np.tan(NOMINAL_FIELD_OF_VIEW_RAD / 2)
        pose = level_world_from_cam(NOMINAL_HEIGHT_M)
        camera = Camera(pose, focal_px, focal_px, width_px / 2, height_px / 2, width_px, height_px)
        masks = self._masks(stem, (height_px, width_px))
        return Frame(self._order(stem)[1] / FRAMES_PER_S, camera, image=image, masks=masks, source=str(path))

    def _masks(self, stem: str, size_px: tuple[int, int]) -> UInt8[ndarray, "h w"] | None:
        path = self.root / "labels" / f"{stem}.png"
        if not path.exists():
            return None
        masks = read_indices(path)
        if masks.shape != size_px:
            raise DataError(f"{path}: mask is {masks.shape}, the image {size_px}; take both from the same release")
        if masks.max() > UNLABELLED:
            raise DataError(f"{path}: class {masks.max()}, want 0..{UNLABELLED}; use the masks of the SegNet tutorial")
        return np.where(masks == UNLABELLED, np.uint8(IGNORE), masks)

    def _order(self, stem: str) -> tuple[str, int]:
        match = STEM.fullmatch(stem)
        if match is None:
            raise DataError(f"{self.root}: frame {stem!r} is not named SEQUENCE_NUMBER; rename or remove it")
        return match["sequence"], int(match["number"])


def load_camvid(request: FleetRequest) -> Fleet:
    """One vehicle a sequence; the dusk sequence drives under one RSU, the day ones under another.

    With more vehicles than sequences, sequences are split in contiguous parts as evenly as can be; with fewer, the
    first ones are taken. A quarter of each part, a block in time, is its test set. `request.path` None means
    `$CONVOY_DATA/camvid`.

    Raises:
        DataError: the data are missing, or too few for so many vehicles.
    """
    return divide_fleet(read_camvid(data_path(request.path, "camvid")), request)


def read_camvid(path: Path) -> Recordings:
    """The sequences of a folder, without images that have no label file.

    Raises:
        DataError: no such folder, no frames, or a name of another form.
    """
    frames = CamVid(path)
    times, labelled = frames.timestamps_s, set(frames.labelled)
    chosen = {name: [i for i in indices if i in labelled] for name, indices in frames.sequences.items()}
    sources = tuple(
        Source(name, "dusk" if name in DUSK else "day", FrameSubset(frames, indices), [times[i] for i in indices])
        for name, indices in chosen.items()
    )
    notes = ("Camera intrinsics are nominal: the data set gives none.",)
    return Recordings(frames.name, frames.licence, str(path), sources, "fetch labels/ too", notes=notes)
