"""A drive of KITTI raw, synchronised and rectified (Geiger et al., IJRR 2013)."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from geometry import SE3, Frame
from perception.datasets.base import DataError
from perception.datasets.files import read_rgb
from perception.datasets.kitti_io import LICENCE, KittiCalibration, read_calibration_keys, read_velodyne, rigid
from perception.datasets.kitti_oxts import FRAME_PERIOD_S, MercatorWorld, read_oxts, read_times
from perception.datasets.kitti_tracklets import TrackPose, boxes_from_tracks, read_tracklets

DRIVE_PATTERN = "*_drive_*_sync"
LAYOUT = "2011_09_26/2011_09_26_drive_0005_sync/{image_02/data, velodyne_points/data, oxts/data}"


def find_drives(root: Path) -> tuple[Path, ...]:
    """Drive folders: the root itself, or those in it or in its date folders."""
    if root.match(DRIVE_PATTERN) and root.is_dir():
        return (root,)
    found = {*root.glob(DRIVE_PATTERN), *root.glob(f"*/{DRIVE_PATTERN}")}
    return tuple(sorted(path for path in found if path.is_dir()))


class KittiRaw(Sequence[Frame]):
    """One drive: camera 2, LiDAR, poses from GNSS/IMU, tracked objects; a frame has what its number has a file for.

    Every number with an image or a cloud is a frame. Where a drive folder has few PNG images,
    `<root>/derived/image_02_jpg/*.jpg` fills in. The world is east, north, up, about the first record, z = 0 on the
    road below it. Without `oxts/` or `calib_imu_to_velo.txt` each frame has a level world of its own instead;
    `missing` says so. `boxes` is None without `tracklet_labels.xml`; see `boxes_from_tracks` for what it leaves out.

    Args:
        root: a drive folder `*_drive_*_sync`, or a folder above it that holds one drive. Its date folder holds
            `calib_cam_to_cam.txt` and should hold `calib_velo_to_cam.txt` and `calib_imu_to_velo.txt`.

    Raises:
        DataError: no drive, several drives, no frame; on access, a file that is missing or malformed.
    """

    licence = LICENCE

    def __init__(self, root: Path | str) -> None:
        drives = find_drives(Path(root))
        if len(drives) != 1:
            what = f"{len(drives)} drives ({', '.join(d.name for d in drives)})" if drives else "no drive folder"
            raise DataError(f"{root}: {what}; give one drive of the layout {LAYOUT}")
        self.drive = drives[0]
        self.name = f"KITTI raw {self.drive.name}"
        self._images = {**self._derived_images(), **_numbered(self.drive / "image_02" / "data", "png")}
        self._clouds = _numbered(self.drive / "velodyne_points" / "data", "bin")
        self._numbers = tuple(sorted({*self._images, *self._clouds}))
        if not self._numbers:
            raise DataError(f"{self.drive}: no image_02/data/*.png and no velodyne_points/data/*.bin; fetch the drive")

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The drive's own frame numbers, in order."""
        return self._numbers

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Seconds since frame 0; from the camera's clock, or at 10 Hz where `timestamps.txt` is missing."""
        return tuple(self._time(number) for number in self._numbers)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of frames that have an image and labels."""
        return tuple(i for i, n in enumerate(self._numbers) if self._tracks is not None and n in self._images)

    @property
    def posed(self) -> bool:
        """Whether the frames lie in one world."""
        return self._world is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy of the drive lacks, and what follows from that."""
        day = self.drive.parent
        wanted = {
            day / "calib_velo_to_cam.txt": "no LiDAR points, boxes or poses",
            day / "calib_imu_to_velo.txt": "no poses: each frame has a level world of its own",
            self.drive / "oxts" / "data": "no poses: each frame has a level world of its own",
            self.drive / "velodyne_points" / "data": "no LiDAR points",
            self.drive / "image_02" / "data": "no PNG images",
            self.drive / "tracklet_labels.xml": "no boxes",
            self.drive / "image_02" / "timestamps.txt": "times are taken to be 0.1 s apart",
        }
        return tuple(f"{path.relative_to(day)}: {effect}" for path, effect in wanted.items() if not path.exists())

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        number = self._numbers[index]
        calibration, (width_px, height_px) = self._calibration
        cam_from_velo = calibration.cam_from_velo
        camera = calibration.camera(self._world_from_cam(number), width_px, height_px)
        path = self._images.get(number)
        image = None if path is None else read_rgb(path)
        if image is not None and image.shape[:2] != (height_px, width_px):
            raise DataError(
                f"{path}: {image.shape[1]}x{image.shape[0]}, S_rect_02 of calib_cam_to_cam.txt says "
                f"{width_px}x{height_px}; use the rectified images at their own size"
            )
        boxes = points = None
        if cam_from_velo is not None:
            world_from_velo = camera.world_from_cam @ cam_from_velo
            points = read_velodyne(self._clouds[number]) if number in self._clouds else None
            if self._tracks is not None:
                boxes = boxes_from_tracks(self._tracks.get(number, []), camera, world_from_velo)
        return Frame(
            timestamp_s=self._time(number),
            camera=camera,
            image=image,
            points_lidar=points,
            boxes=boxes,
            lidar_from_cam=None if cam_from_velo is None else cam_from_velo.inverse(),
            source=str(path or self._clouds[number]),
        )

    def _derived_images(self) -> dict[int, Path]:
        root = self.drive.parent.parent
        return _numbered(root / "derived" / "image_02_jpg", "jpg") if find_drives(root) == (self.drive,) else {}

    @cached_property
    def _calibration(self) -> tuple[KittiCalibration, tuple[int, int]]:
        path = self.drive.parent / "calib_cam_to_cam.txt"
        entries = read_calibration_keys(path, {"P_rect_02": 12, "R_rect_00": 9, "S_rect_02": 2})
        width_px, height_px = (int(side) for side in entries["S_rect_02"])
        rect_from_cam0 = rigid(entries["R_rect_00"], np.zeros(3), f"{path}: R_rect_00")
        cam0_from_velo = _read_rigid(self.drive.parent / "calib_velo_to_cam.txt")
        rect_from_velo = None if cam0_from_velo is None else rect_from_cam0 @ cam0_from_velo
        calibration = KittiCalibration.from_projection(entries["P_rect_02"].reshape(3, 4), rect_from_velo)
        return calibration, (width_px, height_px)

    @cached_property
    def _tracks(self) -> dict[int, list[TrackPose]] | None:
        path = self.drive / "tracklet_labels.xml"
        return read_tracklets(path) if path.exists() else None

    @cached_property
    def _times_s(self) -> np.ndarray | None:
        return read_times(self.drive / "image_02" / "timestamps.txt")

    @cached_property
    def _world(self) -> tuple[MercatorWorld, SE3] | None:
        """The drive's world and `imu_from_cam`, where the files for both exist."""
        velo_from_imu = _read_rigid(self.drive.parent / "calib_imu_to_velo.txt")
        records = sorted((self.drive / "oxts" / "data").glob("*.txt"))
        cam_from_velo = self._calibration[0].cam_from_velo
        if velo_from_imu is None or cam_from_velo is None or not records:
            return None
        return MercatorWorld.at(read_oxts(records[0])), (cam_from_velo @ velo_from_imu).inverse()

    def _world_from_cam(self, number: int) -> SE3:
        if self._world is None:
            return self._calibration[0].level_world_from_cam()
        world, imu_from_cam = self._world
        record = read_oxts(self.drive / "oxts" / "data" / f"{number:010d}.txt")
        return world.world_from_imu(record) @ imu_from_cam

    def _time(self, number: int) -> float:
        if self._times_s is None:
            return number * FRAME_PERIOD_S
        if number >= len(self._times_s):
            path = self.drive / "image_02" / "timestamps.txt"
            raise DataError(f"{path}: {len(self._times_s)} lines, no time for frame {number}; fetch the file again")
        return float(self._times_s[number])


def _numbered(folder: Path, ending: str) -> dict[int, Path]:
    return {int(path.stem): path for path in folder.glob(f"*.{ending}") if path.stem.isdecimal()}


def _read_rigid(path: Path) -> SE3 | None:
    if not path.exists():
        return None
    entries = read_calibration_keys(path, {"R": 9, "T": 3})
    return rigid(entries["R"], entries["T"], str(path))
