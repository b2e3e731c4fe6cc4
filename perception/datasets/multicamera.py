"""Several calibrated cameras that record one scene at the same time, as videos or as folders of images.

The calibration is a file `cameras.json`:

    {"pixel_centre": 0,
     "cameras": {"NAME": {"K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]],
                          "R_w2c": [[...], [...], [...]], "center_m": [x, y, z],
                          "dist_k1k2p1p2": [0, 0, 0, 0], "fps": 60, "start_s": 0, "size_px": [1920, 1080]}}}

`K` in pixels; x_cam = R_w2c (x_world - center_m), OpenCV axes. The last four fields may be absent: no distortion; the
video's own rate, or 1 for images; all cameras start together; the size (height, width) is that of the images.
`pixel_centre` is where `K` puts the centre of the first pixel: 0 as OpenCV's calibration does (and where the field is
absent), or 0.5. A camera's frames are in `videos/NAME.mp4` or `NAME.mp4` (or .avi, .mkv, .mov), or are the images in
`images/NAME/` or `NAME/`; an image's frame number is the last number in its name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geometry import SE3, Frame
from perception.datasets.base import DataError, FrameSubset
from perception.datasets.json_files import json_float, json_floats, read_object
from perception.datasets.lens import PIXEL_CENTRE, Lens
from perception.datasets.recording import find_recording
from perception.datasets.scene import View, check_scale, folder_licence, pinhole_frame

CALIBRATION = "cameras.json"
LAYOUT = f"{CALIBRATION} and videos/NAME.mp4 or images/NAME/*.jpg for each of its cameras"
REMEDY = f"see the layout of {CALIBRATION} in docs/data.md"


@dataclass(frozen=True, eq=False)
class Calibration:
    """One entry of `cameras.json`.

    Args:
        matrix: fx, fy, cx, cy with the first pixel's centre at (0.5, 0.5).
        distortion: k1, k2, p1, p2.
        world_from_cam: pose.
        rate_hz: frames a second, None where the file does not say.
        start_s: time of frame 0.
        size_px: (height, width), None where the file does not say.
    """

    matrix: tuple[float, float, float, float]
    distortion: tuple[float, ...]
    world_from_cam: SE3
    rate_hz: float | None
    start_s: float
    size_px: tuple[int, int] | None

    def view(self, height_px: int, width_px: int) -> View:
        """Lens and pose for images of a size, which counts only where the calibration names none."""
        height_px, width_px = self.size_px or (height_px, width_px)
        return View(Lens(*self.matrix, width_px, height_px, self.distortion), self.world_from_cam)


def read_calibration(path: Path) -> dict[str, Calibration]:
    """The cameras of a `cameras.json` by name, in order of their names.

    Raises:
        DataError: missing, not JSON, a field of another form, NaN, or a matrix that is not a rotation.
    """
    content = read_object(path, REMEDY)
    entries = content.get("cameras")
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{path}: no object named cameras; {REMEDY}")
    shift_px = PIXEL_CENTRE - json_float(content, "pixel_centre", str(path), 0.0)
    return {name: _calibration(entries[name], shift_px, f"{path}: camera {name}") for name in sorted(entries)}


def _calibration(entry: Any, shift_px: float, where: str) -> Calibration:
    matrix = json_floats(entry, "K", (3, 3), where)
    pose = np.column_stack([json_floats(entry, "R_w2c", (3, 3), where).T, json_floats(entry, "center_m", (3,), where)])
    lens = (float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2] + shift_px), float(matrix[1, 2] + shift_px))
    distorted = entry.get("dist_k1k2p1p2") is not None
    distortion = tuple(json_floats(entry, "dist_k1k2p1p2", (4,), where).tolist()) if distorted else ()
    rate_hz = json_float(entry, "fps", where, 0.0)
    size = json_floats(entry, "size_px", (2,), where) if entry.get("size_px") is not None else None
    size_px = None if size is None else (int(size[0]), int(size[1]))
    if rate_hz < 0:
        raise DataError(f"{where}: fps is {rate_hz}, want more than 0; mend or remove the field")
    try:
        Lens(*lens, *(size_px or (1, 1)), distortion)
        world_from_cam = SE3.from_matrix(pose)
    except ValueError as error:
        raise DataError(f"{where}: {error}; {REMEDY}") from error
    return Calibration(
        lens, distortion, world_from_cam, rate_hz or None, json_float(entry, "start_s", where, 0.0), size_px
    )


class MultiCamera(Sequence[Frame]):
    """Pinhole frames of all cameras, in order of time and, at one time, of camera names.

    Distortion is taken out on access (`Lens.straighten`). A frame that a camera lacks while another has it, and a
    camera without video or images, is skipped and counted in `missing`. Times are frame numbers divided by the rate.

    Args:
        root: folder with `cameras.json` and what the module describes.
        scale: factor in (0, 1] for the sides of the images.

    Raises:
        DataError: no or a malformed calibration, no frames; on access, a frame that cannot be decoded.
    """

    posed = True

    def __init__(self, root: Path | str, scale: float = 1.0) -> None:
        self.root, self.scale = Path(root), check_scale(scale)
        self.name, self.licence = f"cameras of {self.root.resolve().name}", folder_licence(self.root)
        self._calibrations = read_calibration(self.root / CALIBRATION)
        found = {name: find_recording(self.root, name) for name in self._calibrations}
        self._recordings = {name: recording for name, recording in found.items() if recording is not None}
        self._unrecorded = tuple(name for name, recording in found.items() if recording is None)
        self._order = sorted(self._stamps())
        if not self._order:
            raise DataError(f"{self.root}: no frames of {', '.join(found)}; want {LAYOUT}")

    def __len__(self) -> int:
        return len(self._order)

    @property
    def cameras(self) -> dict[str, Sequence[Frame]]:
        """The frames of each camera by its name, in order of time."""
        names = [name for _, name, _ in self._order]
        return {name: FrameSubset(self, [i for i, n in enumerate(names) if n == name]) for name in self._recordings}

    @property
    def instants(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the frames of each time, in order: what the cameras saw together."""
        together: dict[int, list[int]] = {}
        for index, (time_us, _, _) in enumerate(self._order):
            together.setdefault(time_us, []).append(index)
        return tuple(tuple(indices) for indices in together.values())

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Seconds since frame 0."""
        return tuple(time_us / 1e6 for time_us, _, _ in self._order)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks."""
        times = len(self.instants)
        counts = {name: len(frames) for name, frames in self.cameras.items()}
        lines = [f"{name}: no video and no images" for name in self._unrecorded]
        lines += [f"{name}: {times - n} of {times} times have no frame" for name, n in counts.items() if n < times]
        return tuple(lines)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        time_us, name, number = self._order[index]
        image, source = self._recordings[name].read(number)
        view = self._calibrations[name].view(*image.shape[:2])
        return pinhole_frame(image, view, time_us / 1e6, self.scale, source)

    def _stamps(self) -> Iterator[tuple[int, str, int]]:
        for name, recording in self._recordings.items():
            calibration = self._calibrations[name]
            rate_hz = calibration.rate_hz or recording.rate_hz
            for number in recording.numbers:
                yield round((calibration.start_s + number / rate_hz) * 1e6), name, number
