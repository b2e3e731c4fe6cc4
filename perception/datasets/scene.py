"""What reconstructions and calibrated camera rigs share: photographs with a lens and a pose, licences, gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from geometry import SE3, Frame
from perception.datasets.base import DataError
from perception.datasets.files import read_rgb
from perception.datasets.lens import Lens

LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*")
NAMED = 3


@dataclass(frozen=True, eq=False)
class View:
    """Where a photograph was taken, through which lens."""

    lens: Lens
    world_from_cam: SE3


def folder_licence(root: Path) -> str:
    """What is known of the licence of a folder whose format has no field for it."""
    found = sorted(path.name for pattern in LICENCE_FILES for path in root.glob(pattern))
    return f"see {found[0]} in the folder" if found else "not stated in the folder; ask whoever gave you the data"


def check_scale(scale: float) -> float:
    """The scale itself.

    Raises:
        DataError: it is not in (0, 1].
    """
    if not 0 < scale <= 1:
        raise DataError(f"scale is {scale}, want more than 0 and at most 1; 0.5 halves both sides of the images")
    return scale


def gaps(what: str, absent: Sequence[str], total: int) -> tuple[str, ...]:
    """A line about frames that were skipped because `what` is absent, with the first names; none if nothing is."""
    if not absent:
        return ()
    names = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
    return (f"{len(absent)} of {total} frames skipped, {what}: {names}",)


def photo_frame(path: Path, view: View, timestamp_s: float, scale: float) -> Frame:
    """A frame from an image file, see `pinhole_frame`.

    Raises:
        DataError: the image is missing, unreadable, or of other proportions than the lens.
    """
    return pinhole_frame(read_rgb(path), view, timestamp_s, scale, str(path))


def pinhole_frame(image: UInt8[ndarray, "h w 3"], view: View, timestamp_s: float, scale: float, source: str) -> Frame:
    """The frame of a pinhole camera: distortion taken out, then both sides multiplied by `scale`.

    An image smaller or larger than the lens says is taken for a scaled copy, if its proportions agree to a pixel.

    Raises:
        DataError: they do not.
    """
    height, width = image.shape[:2]
    lens = view.lens
    if (width, height) != (lens.width_px, lens.height_px):
        if abs(width * lens.height_px - height * lens.width_px) > max(lens.width_px, lens.height_px):
            raise DataError(
                f"{source}: {width}x{height}, its camera says {lens.width_px}x{lens.height_px}; "
                "use the images that were calibrated, or a scaled copy of them"
            )
        lens = lens.resized(width, height)
    image, camera = lens.straighten(image), lens.straightened().camera(view.world_from_cam)
    if scale != 1:
        camera = camera.resized(max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA)
    return Frame(timestamp_s, camera, image=np.ascontiguousarray(image), source=source)
