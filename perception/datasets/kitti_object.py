"""The KITTI object detection data set (Geiger, Lenz and Urtasun, CVPR 2012)."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float32
from numpy import ndarray

from geometry import Boxes, Frame
from perception.datasets.base import DataError
from perception.datasets.files import read_rgb
from perception.datasets.kitti_io import (
    LICENCE,
    KittiCalibration,
    boxes_from_labels,
    read_labels,
    read_object_calibration,
    read_velodyne,
)
from perception.datasets.pcd import read_pcd

CLOUD_READERS = {
    "velodyne/{}.bin": read_velodyne,
    "velodyne_reduced/{}.bin": read_velodyne,
    "velodyne_pcd/{}.pcd": read_pcd,
    "velodyne/{}.pcd": read_pcd,
}


def object_folder(root: Path) -> Path | None:
    """The folder with `image_2`: the root itself or its `training`; None where there is neither."""
    return next((folder for folder in (root / "training", root) if (folder / "image_2").is_dir()), None)


class KittiObject(Sequence[Frame]):
    """Single frames of camera 2 with LiDAR and 2D/3D boxes.

    The data set gives no pose: every frame has a world of its own, x ahead, y left, z up, with z = 0 on the road and
    the origin below rectified camera 0 (taken as level, 1.65 m up), which is the frame that KITTI labels headings in.
    Frames have no time either: `timestamp_s` is the frame's number. Cloud: `velodyne/*.bin`, else
    `velodyne_reduced/*.bin`, else `velodyne_pcd/*.pcd` (intensity 0 where the file has none), else None.
    Car, Van, Truck are vehicles; Pedestrian, Person_sitting pedestrians; Tram, Misc, DontCare are left out.

    Args:
        root: folder with `training/`, or the folder with `image_2/` itself.

    Raises:
        DataError: no such folder or no frames; on access, a file that is missing or malformed.
    """

    name = "KITTI object"
    licence = LICENCE
    posed = False

    def __init__(self, root: Path | str) -> None:
        folder = object_folder(Path(root))
        if folder is None:
            raise DataError(f"{root}: neither training/image_2 nor image_2; give the folder that holds training/")
        self.root = folder
        names = {path.stem for pattern in ("image_2/*.png", "label_2/*.txt") for path in folder.glob(pattern)}
        self._ids = tuple(sorted(names))
        if not self._ids:
            raise DataError(f"{folder}: no image_2/*.png and no label_2/*.txt; fetch the left colour images")

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """File name stems in order."""
        return self._ids

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the frames that have a label file."""
        return tuple(i for i, stem in enumerate(self._ids) if (self.root / "label_2" / f"{stem}.txt").exists())

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Frame numbers, for want of a clock."""
        return tuple(_number(stem, place) for place, stem in enumerate(self._ids))

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        stem = self._ids[index]
        path = self.root / "image_2" / f"{stem}.png"
        image = read_rgb(path)
        calibration = read_object_calibration(self.root / "calib" / f"{stem}.txt")
        height_px, width_px = image.shape[:2]
        cam_from_velo = calibration.cam_from_velo
        return Frame(
            timestamp_s=_number(stem, index),
            camera=calibration.camera(calibration.level_world_from_cam(), width_px, height_px),
            image=image,
            points_lidar=self._cloud(stem),
            boxes=self._boxes(stem, calibration, width_px, height_px),
            lidar_from_cam=None if cam_from_velo is None else cam_from_velo.inverse(),
            source=str(path),
        )

    def _cloud(self, stem: str) -> Float32[ndarray, "n 4"] | None:
        candidates = ((self.root / pattern.format(stem), read) for pattern, read in CLOUD_READERS.items())
        return next((read(path) for path, read in candidates if path.exists()), None)

    def _boxes(self, stem: str, calibration: KittiCalibration, width_px: int, height_px: int) -> Boxes | None:
        path = self.root / "label_2" / f"{stem}.txt"
        if not path.exists():
            return None
        world_from_rect = calibration.level_world_from_cam() @ calibration.cam_from_rect
        return boxes_from_labels(*read_labels(path), world_from_rect, width_px, height_px)


def _number(stem: str, place: int) -> float:
    return float(stem) if stem.isdecimal() else float(place)
