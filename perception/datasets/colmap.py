"""Reconstructions by COLMAP (Schönberger and Frahm, CVPR 2016): photographs with poses and sparse points."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.colmap_io import REMEDY, model_file, read_cameras, read_images, read_points
from perception.datasets.scene import View, check_scale, folder_licence, gaps, photo_frame

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap_ground_truth", ".")
LAYOUT = "images/ and {sparse/0, sparse, colmap_ground_truth, .}/{cameras, images, points3D}.{bin, txt}"


def model_folder(root: Path) -> Path | None:
    """The first folder that holds a model, of those that COLMAP and its users write to; None where there is none."""
    folders = (root / name for name in MODEL_FOLDERS)
    return next((folder for folder in folders if model_file(folder, "cameras") and model_file(folder, "images")), None)


class Colmap(Sequence[Frame]):
    """The registered images of a model as pinhole frames, in order of their names.

    The world is the model's own: a reconstruction from images alone fixes neither its scale nor where up is, so
    distances are metres only if the model was aligned. There is no clock: `timestamp_s` is the frame's place in
    the order. Distortion is taken out on access (`Lens.straighten`). Images whose file is absent are skipped and
    counted in `missing`.

    Args:
        root: folder with `images/` and a model (`LAYOUT`).
        scale: factor in (0, 1] for the sides of the images.

    Raises:
        DataError: no model or no image file, a malformed file, an unknown camera model; on access, an image that cannot
            be read or a pose that is NaN.
    """

    posed = True

    def __init__(self, root: Path | str, scale: float = 1.0) -> None:
        self.root, self.scale = Path(root), check_scale(scale)
        folder = model_folder(self.root)
        if folder is None:
            raise DataError(f"{self.root}: no COLMAP model; want {LAYOUT}")
        self.model = folder
        self.name, self.licence = f"COLMAP {self.root.resolve().name}", folder_licence(self.root)
        self._lenses = read_cameras(model_file(folder, "cameras") or folder)
        registered = read_images(model_file(folder, "images") or folder)
        self._images = tuple(image for image in registered if self._path(image.name).is_file())
        present = {image.name for image in self._images}
        self._absent = tuple(image.name for image in registered if image.name not in present)
        if not self._images:
            raise DataError(
                f"{self.root / 'images'}: none of the {len(registered)} images of the model is there; fetch the images"
            )

    def __len__(self) -> int:
        return len(self._images)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks."""
        return gaps("no file in images/", self._absent, len(self._images) + len(self._absent))

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Places in the order of names, for want of a clock."""
        return tuple(float(place) for place in range(len(self)))

    @property
    def points_world(self) -> Float32[ndarray, "n 3"]:
        """The sparse points in the model's world; none where the model has no points file.

        Raises:
            DataError: the points file is malformed.
        """
        return self._points[0]

    @property
    def point_rgb(self) -> UInt8[ndarray, "n 3"]:
        """The colours of `points_world`."""
        return self._points[1]

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        image = self._images[index]
        where = str(model_file(self.model, "images"))
        if image.camera_id not in self._lenses:
            raise DataError(f"{where}: {image.name} has camera {image.camera_id}, which is not in cameras; {REMEDY}")
        view = View(self._lenses[image.camera_id], image.world_from_cam(where))
        return photo_frame(self._path(image.name), view, float(range(len(self))[index]), self.scale)

    def _path(self, name: str) -> Path:
        return self.root / "images" / name

    @cached_property
    def _points(self) -> tuple[Float32[ndarray, "n 3"], UInt8[ndarray, "n 3"]]:
        path = model_file(self.model, "points3D")
        return read_points(path) if path is not None else (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
