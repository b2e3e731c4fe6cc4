"""7-Scenes: rooms filmed by a hand-held depth camera, for relocalisation (Shotton et al., CVPR 2013)."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from PIL import Image

from geometry import SE3, Camera, Frame
from perception.datasets.base import DataError
from perception.datasets.driving_io import pose_of_matrix
from perception.datasets.files import parse_floats, read_lines, read_rgb, require

__all__ = ["LAYOUT", "SevenScenes", "find_sequences"]

LAYOUT = "seq-NN/frame-NNNNNN.{color.png, depth.png, pose.txt}"
STEM = re.compile(r"frame-(?P<number>\d+)\.(color\.(png|jpg)|depth\.png|pose\.txt)")
FRAMES_PER_S = 30.0
MILLIMETRE_M = 1e-3
NO_DEPTH = (0, 65535)
# Nominal, as the data set gives no calibration of its own: the depth camera's focal length is what its authors used,
# the colour camera's the sensor's usual one; both have the principal point in the middle of the image.
DEPTH_FOCAL_PX = 585.0
COLOUR_FOCAL_PX = 525.0
NOMINAL_WIDTH_PX = 640
CAMERA_INTRINSICS = "camera-intrinsics.txt"
SPLITS = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
# The reconstruction that poses refer to has y down, x right and z away from the first view.
WORLD_FROM_FILE = SE3(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]), np.zeros(3))


def find_sequences(root: Path) -> tuple[Path, ...]:
    """Sequence folders: the `seq*` in the root, or the root itself where the frames lie in it."""
    folders = (root, *sorted(path for path in root.glob("seq*") if path.is_dir()))
    return tuple(folder for folder in folders if next(folder.glob("frame-*.pose.txt"), None) is not None)


class SevenScenes(Sequence[Frame]):
    """Colour images with poses of one scene, and depth where there is a file for it; sequence after sequence.

    The camera is the colour camera with nominal intrinsics. Poses are the depth camera's: the two sit about 2.5 cm
    apart, which the data set does not calibrate and this loader leaves out. Depth is brought to the colour camera's
    field of view by the ratio of the focal lengths, taking the nearest depth pixel; no blending, so no false depths.
    The world is the scene's reconstruction turned so that its y (down, to within a few degrees) points along -z; there
    is no north. A frame's time is its number at 30 a second; sequences do not share a clock.

    Args:
        root: a scene's folder with `seq-*`, or one sequence. `camera-intrinsics.txt` (3x3, the depth camera's) is used
            where it is there.

    Raises:
        DataError: no sequence; on access, a file of the frame is missing or malformed.
    """

    licence = "MSR-LA, non-commercial (7-Scenes, Microsoft Research)"
    posed = True

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.name = f"7-Scenes {self.root.resolve().name}"
        folders = find_sequences(self.root)
        if not folders:
            raise DataError(f"{root}: no frame-*.pose.txt; give a scene of the layout {LAYOUT}")
        self._places = tuple((folder, number) for folder in folders for number in _numbers(folder))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each sequence, in order of time."""
        owners = [folder.name for folder, _ in self._places]
        return {name: tuple(i for i, owner in enumerate(owners) if owner == name) for name in dict.fromkeys(owners)}

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Seconds within each frame's sequence."""
        return tuple(number / FRAMES_PER_S for _, number in self._places)

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Sequences of the published "train" and "test" split, of those that are here; empty without the files.

        Raises:
            DataError: a line of a split file names no sequence.
        """
        here = set(self.sequences)
        found = {split: _read_split(self.root / file) for split, file in SPLITS.items() if (self.root / file).exists()}
        return {split: tuple(name for name in names if name in here) for split, names in found.items()}

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""
        count = sum(not _file(folder, number, "depth.png").exists() for folder, number in self._places)
        lines = (f"depth.png of {count} of {len(self)} frames: no depth there",) if count else ()
        return lines if self.splits else (*lines, "TrainSplit.txt, TestSplit.txt: no published split")

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        folder, number = self._places[index]
        colour = _file(folder, number, "color.png")
        path = colour if colour.exists() else colour.with_suffix(".jpg")
        image = read_rgb(path if path.exists() else colour)
        height_px, width_px = image.shape[:2]
        pose = WORLD_FROM_FILE @ read_pose(_file(folder, number, "pose.txt"))
        focal_px = COLOUR_FOCAL_PX * width_px / NOMINAL_WIDTH_PX
        camera = Camera(pose, focal_px, focal_px, width_px / 2, height_px / 2, width_px, height_px)
        return Frame(
            timestamp_s=number / FRAMES_PER_S,
            camera=camera,
            image=image,
            depth_m=self._depth(_file(folder, number, "depth.png"), camera),
            source=str(path),
        )

    @cached_property
    def _depth_intrinsics(self) -> Float[ndarray, "3 3"] | None:
        path = self.root / CAMERA_INTRINSICS
        if not path.exists():
            return None
        text = " ".join(read_lines(path, "fetch the scene again"))
        return parse_floats(text, 9, f"{path}: 3x3 matrix").reshape(3, 3)

    def _depth(self, path: Path, camera: Camera) -> Float32[ndarray, "h w"] | None:
        if not path.exists():
            return None
        depth_m = read_depth(path)
        if depth_m.shape != (camera.height_px, camera.width_px):
            raise DataError(
                f"{path}: {depth_m.shape}, the image is {camera.height_px, camera.width_px}; fetch both again"
            )
        k = self._depth_intrinsics
        if k is None:
            focal_px = DEPTH_FOCAL_PX * camera.width_px / NOMINAL_WIDTH_PX
            k = np.array([[focal_px, 0, camera.cx_px], [0, focal_px, camera.cy_px], [0, 0, 1.0]])
        return _into_colour(depth_m, k, camera)


def read_pose(path: Path) -> SE3:
    """A camera's pose in the file's world: a 4x4 matrix as text.

    Raises:
        DataError: missing, not 16 finite numbers, or not rigid.
    """
    text = " ".join(read_lines(path, "fetch the sequence again or take the frame's other files away"))
    return pose_of_matrix(parse_floats(text, 16, f"{path}: 4x4 matrix"), str(path))


def read_depth(path: Path) -> Float32[ndarray, "h w"]:
    """Depth along z in metres from a 16-bit image of millimetres; infinity where the file has 0 or 65535.

    Raises:
        DataError: missing, unreadable, or not one channel of 16 bits.
    """
    require(path, "fetch the sequence again")
    try:
        with Image.open(path) as image:
            mode, raw = image.mode, np.array(image)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({error}); fetch it again") from error
    if raw.ndim != 2 or mode not in ("I", "I;16", "I;16B"):
        raise DataError(f"{path}: mode {mode}, want one channel of 16 bits in millimetres; fetch it again")
    return np.where(np.isin(raw, NO_DEPTH), np.inf, raw * MILLIMETRE_M).astype(np.float32)


def _into_colour(depth_m: Float32[ndarray, "h w"], k: Float[ndarray, "3 3"], camera: Camera) -> Float32[ndarray, "h w"]:
    """Depth at the colour camera's pixels, both cameras being in one place; infinity outside the depth image."""
    height, width = depth_m.shape
    u = k[0, 2] + (np.arange(width) + 0.5 - camera.cx_px) * k[0, 0] / camera.fx_px
    v = k[1, 2] + (np.arange(height) + 0.5 - camera.cy_px) * k[1, 1] / camera.fy_px
    columns, rows = np.floor(u).astype(int), np.floor(v).astype(int)
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    picked = depth_m[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    return np.where(seen, picked, np.float32(np.inf))


def _file(folder: Path, number: int, part: str) -> Path:
    return folder / f"frame-{number:06d}.{part}"


def _numbers(folder: Path) -> list[int]:
    matches = (STEM.fullmatch(path.name) for path in folder.glob("frame-*"))
    return sorted({int(match["number"]) for match in matches if match})


def _read_split(path: Path) -> tuple[str, ...]:
    """Names as "seq-01" of lines such as "sequence1"."""
    names = []
    for number, line in enumerate(read_lines(path, "fetch the scene again"), start=1):
        digits = re.fullmatch(r"\s*(?:sequence|seq-)(\d+)\s*", line)
        if digits:
            names.append(f"seq-{int(digits[1]):02d}")
        elif line.strip():
            raise DataError(f"{path}:{number}: {line.strip()!r} names no sequence; a line is sequenceN")
    return tuple(names)
