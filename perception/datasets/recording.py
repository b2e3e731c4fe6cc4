"""What one camera recorded: a video, or a folder of numbered images."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.files import read_rgb
from perception.datasets.video import Video

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
LAST_NUMBER = re.compile(r"(\d+)\D*$")


class VideoRecording:
    """The frames of a video file: `numbers` rise; `read` gives one, RGB, and where it is from.

    Raises:
        DataError: not a readable video.
    """

    def __init__(self, path: Path) -> None:
        self._video = Video(path)
        self.rate_hz = self._video.rate_hz or 1.0

    @property
    def numbers(self) -> Sequence[int]:
        return range(len(self._video))

    def read(self, number: int) -> tuple[UInt8[ndarray, "h w 3"], str]:
        return self._video[number], f"{self._video.path}#{number}"


class ImageRecording:
    """The images of a folder, read alike: numbered by the last number in their names, one a second by default.

    Raises:
        DataError: a name without a number, or a number that two names share.
    """

    rate_hz = 1.0

    def __init__(self, folder: Path) -> None:
        self._paths: dict[int, Path] = {}
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS):
            match = LAST_NUMBER.search(path.stem)
            if match is None or int(match[1]) in self._paths:
                what = "no number in its name" if match is None else f"number {int(match[1])} is taken"
                raise DataError(f"{path}: {what}; name images by their frame numbers, such as 000012.jpg")
            self._paths[int(match[1])] = path

    @property
    def numbers(self) -> Sequence[int]:
        return sorted(self._paths)

    def read(self, number: int) -> tuple[UInt8[ndarray, "h w 3"], str]:
        return read_rgb(self._paths[number]), str(self._paths[number])


Recording = VideoRecording | ImageRecording


def find_recording(root: Path, name: str) -> Recording | None:
    """What the camera `name` recorded: a video in `videos/` or here, else images in `images/NAME/` or `NAME/`."""
    videos = (root / folder / f"{name}{ending}" for folder in ("videos", ".") for ending in VIDEO_ENDINGS)
    video = next((path for path in videos if path.is_file()), None)
    if video is not None:
        return VideoRecording(video)
    folder = next((path for path in (root / "images" / name, root / name) if path.is_dir()), None)
    return None if folder is None else ImageRecording(folder)
