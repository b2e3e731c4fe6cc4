"""What loaders of driving data sets share: poses from records and boxes from cuboids, with errors that name files."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from PIL import Image

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError, FrameSubset
from perception.datasets.placement import clip_boxes, cuboid_corners, hull_boxes, yaw_of
from perception.datasets.recordings import Recordings, Source

PIXEL_CENTRE = 0.5


@contextmanager
def naming(where: str, remedy: str) -> Iterator[None]:
    """Turns what a geometry class or numpy says of bad values into a `DataError` that names the file.

    Raises:
        DataError: the block raised what values of another type, number or form raise; a `DataError` passes as it is.
    """
    try:
        yield
    except DataError:
        raise
    except (AttributeError, LookupError, TypeError) as error:
        raise DataError(f"{where}: not of the published form ({error}); {remedy}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: {error}; {remedy}") from error


def pose_of(quat_wxyz: Sequence[float] | ndarray, translation_m: Sequence[float] | ndarray, where: str) -> SE3:
    """A transform from a quaternion (w, x, y, z) and a translation as a file gives them.

    Raises:
        DataError: another number of values, NaN, infinity or a zero quaternion.
    """
    with naming(where, "remove the record or fetch the file again"):
        return SE3.from_quat(np.array(quat_wxyz, dtype=np.float64), np.array(translation_m, dtype=np.float64))


def pose_of_matrix(matrix: Sequence[Sequence[float]] | ndarray, where: str) -> SE3:
    """A transform from a 4x4 matrix, given as rows or as 16 values row by row; rounding noise is projected away.

    Raises:
        DataError: another number of values, NaN, infinity, or not rigid.
    """
    with naming(where, "remove the record or fetch the file again"):
        return SE3.from_matrix(np.array(matrix, dtype=np.float64).reshape(4, 4))


def check_size(image: UInt8[ndarray, "h w 3"], size_px: tuple[int, int], path: Path, calibration: str) -> None:
    """Holds an image against the (height, width) that its calibration is for.

    Raises:
        DataError: they differ.
    """
    if image.shape[:2] != size_px:
        raise DataError(
            f"{path}: {image.shape[1]}x{image.shape[0]}, {calibration} says {size_px[1]}x{size_px[0]}; "
            "use the images at their own size"
        )


def decode_rgb(data: bytes, where: str) -> UInt8[ndarray, "h w 3"]:
    """An image from the bytes of its file.

    Raises:
        DataError: not a readable image.
    """
    with naming(where, "fetch the file again"), Image.open(BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def boxes_in_camera(
    cuboids: Float[ndarray, "n 7"],
    world_from_frame: SE3,
    labels: Int64[ndarray, "n"],
    camera: Camera,
    track_ids: Int64[ndarray, "n"] | None = None,
    occlusion: Int64[ndarray, "n"] | None = None,
) -> Boxes:
    """What a camera can see of cuboids (x y z of the centre, length, width, height, yaw) given in some frame.

    The 2D box surrounds the projected cuboid, clipped to the image; cuboids outside of it are dropped. Hidden ones
    stay. In the world a cuboid keeps its heading and loses its tilt.

    Raises:
        ValueError: a cuboid is not finite.
    """
    corners = world_from_frame.apply(cuboid_corners(cuboids).reshape(-1, 3)).reshape(-1, 8, 3)
    xyxy_px, keep = clip_boxes(hull_boxes(corners, camera), camera.width_px, camera.height_px)
    cuboids_world = upright_cuboids(cuboids, world_from_frame).astype(np.float32)
    return Boxes(xyxy_px, labels, cuboids_world, track_ids, occlusion=occlusion).select(keep)


def upright_cuboids(cuboids: Float[ndarray, "n 7"], world_from_frame: SE3) -> Float[ndarray, "n 7"]:
    """Cuboids in the world: centres moved, headings turned and stripped of their tilt."""
    yaw = cuboids[:, 6]
    headings = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1) @ world_from_frame.rotation.T
    return np.column_stack([world_from_frame.apply(cuboids[:, :3]), cuboids[:, 3:6], yaw_of(headings)])


class Drives(Sequence[Frame]):
    """A data set of several drives, each by one vehicle."""

    name: str
    licence: str

    @property
    @abstractmethod
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of each drive's frames, in order of time."""

    @property
    @abstractmethod
    def regions(self) -> dict[str, str]:
        """The region that each drive lies in."""

    @property
    @abstractmethod
    def timestamps_s(self) -> tuple[float, ...]:
        """Of every frame."""

    @property
    @abstractmethod
    def labelled(self) -> tuple[int, ...]:
        """Indices of frames that have an image and labels."""

    @property
    @abstractmethod
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""


def read_drives(frames: Drives, path: Path) -> Recordings:
    """The labelled frames of each drive.

    Args:
        frames: the data set.
        path: its folder, for messages.
    """
    labelled, times, regions = set(frames.labelled), frames.timestamps_s, frames.regions
    chosen = {name: [i for i in indices if i in labelled] for name, indices in frames.sequences.items()}
    sources = tuple(
        Source(name, regions[name], FrameSubset(frames, kept), [times[i] for i in kept])
        for name, kept in chosen.items()
    )
    return Recordings(
        frames.name, frames.licence, str(path), sources, "fetch whole drives with their labels", notes=frames.missing
    )
