"""Logs of the Argoverse 2 sensor data set, with cameras or LiDAR alone (Wilson et al., NeurIPS Datasets 2021)."""

from functools import cached_property
from pathlib import Path

import numpy as np

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.argoverse2_io import NANOSECONDS, POSES, Intrinsics, Log, nearest
from perception.datasets.base import DataError, Fleet, FleetRequest
from perception.datasets.driving_io import Drives, boxes_in_camera, check_size, naming, read_drives
from perception.datasets.files import data_path, read_rgb
from perception.datasets.placement import level_world_from_cam
from perception.datasets.recordings import Recordings
from perception.datasets.sharing import divide_fleet

__all__ = ["LAYOUT", "Argoverse2", "find_logs", "load_argoverse2"]

LAYOUT = "LOG/{city_SE3_egovehicle.feather, sensors/{lidar/*.feather, cameras/CAMERA/*.jpg}, calibration, ...}"
# Cameras run at 20 Hz and the LiDAR at 10 Hz: the image nearest to a sweep is at most half a camera period away.
CAMERA_PERIOD_NS = 50_000_000
# Stands in where a log has no calibration: a level camera with a horizontal field of view of 60 degrees.
PLACEHOLDER = Intrinsics(640 / 2 / np.tan(np.pi / 6), 640 / 2 / np.tan(np.pi / 6), 320.0, 192.0, 640, 384)
PLACEHOLDER_HEIGHT_M = 1.4  # above the ego frame, which is that of the rear axle


def find_logs(root: Path) -> tuple[Path, ...]:
    """Log folders: the root itself, or those in it."""
    if (root / POSES).exists():
        return (root,)
    return tuple(sorted(path.parent for path in root.glob(f"*/{POSES}")))


class Argoverse2(Drives):
    """A frame for each LiDAR sweep (10 a second), with the nearest image of one camera; log after log.

    A log without sweeps has a frame for each image instead. The world is the city's: x east, y north, z up. Points
    are in the ego frame at the time of the sweep, as the files give them: that is the frame that `lidar_from_cam` leads
    to. The camera has the ego pose of its own time. A frame whose sweep has no image within half a period keeps its
    camera at the time of the sweep, with image None. Boxes belong to the sweep; without a label of that time they are
    None. 2D boxes are projections of the cuboids; see `argoverse2_io` for what is left out.

    Args:
        root: a log folder, or the folder of a split that holds logs.
        camera: one of the cameras, as "ring_front_left".

    Raises:
        DataError: no log, no sweep and no image; on access, a file of the frame is missing or malformed.
    """

    name = "Argoverse 2"
    licence = "CC BY-NC-SA 4.0 (Argoverse 2, Wilson et al.)"
    posed = True

    def __init__(self, root: Path | str, camera: str = "ring_front_center") -> None:
        self.root, self.camera = Path(root), camera
        self._logs = tuple(Log(path) for path in find_logs(self.root))
        if not self._logs:
            raise DataError(f"{root}: no {POSES}; give a log of the layout {LAYOUT}")
        self._images = [log.images_ns(camera) for log in self._logs]
        self._places = tuple(
            (place, int(time))
            for place, log in enumerate(self._logs)
            for time in (log.sweeps_ns if len(log.sweeps_ns) else self._images[place])
        )
        if not self._places:
            raise DataError(f"{root}: no sensors/lidar/*.feather and no sensors/cameras/{camera}/*.jpg; fetch either")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each log, in order of time."""
        owners = [place for place, _ in self._places]
        return {
            log.root.name: tuple(i for i, owner in enumerate(owners) if owner == place)
            for place, log in enumerate(self._logs)
        }

    @property
    def regions(self) -> dict[str, str]:
        """Each log's city, as "PIT"."""
        return {log.root.name: log.city for log in self._logs}

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """The vehicles' clocks."""
        return tuple(time * NANOSECONDS for _, time in self._places)

    @cached_property
    def labelled(self) -> tuple[int, ...]:
        """Indices of frames with an image and labels. Reads the annotations of all logs."""
        return tuple(
            index
            for index, (place, time) in enumerate(self._places)
            if self._rows(place, time) is not None
            and nearest(self._images[place], time, CAMERA_PERIOD_NS // 2) is not None
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""
        bare = sum(not len(images) for images in self._images)
        uncalibrated = sum(not log.calibrated for log in self._logs)
        lines = {
            f"sensors/cameras/{self.camera} in {bare} of {len(self._logs)} logs: no images; the camera stands where "
            "its calibration puts it": bare,
            f"calibration in {uncalibrated} of {len(self._logs)} logs: the camera is a level placeholder": uncalibrated,
        }
        return tuple(line for line, count in lines.items() if count)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        place, time = self._places[index]
        log = self._logs[place]
        shot = nearest(self._images[place], time, CAMERA_PERIOD_NS // 2)
        camera = self._camera(log, time if shot is None else shot)
        path = log.root / "sensors" / "cameras" / self.camera / f"{shot}.jpg"
        image = None if shot is None else read_rgb(path)
        if image is not None:
            check_size(image, (camera.height_px, camera.width_px), path, "intrinsics.feather")
        has_sweep = bool(len(log.sweeps_ns))
        return Frame(
            timestamp_s=time * NANOSECONDS,
            camera=camera,
            image=image,
            points_lidar=log.sweep(time) if has_sweep else None,
            boxes=self._boxes(place, time, camera),
            lidar_from_cam=log.city_from_ego(time).inverse() @ camera.world_from_cam if has_sweep else None,
            source=str(path if shot is not None else log.root / "sensors" / "lidar" / f"{time}.feather"),
        )

    def _camera(self, log: Log, time_ns: int) -> Camera:
        k = log.intrinsics(self.camera) if log.calibrated else PLACEHOLDER
        ego_from_cam = (
            log.ego_from_sensor(self.camera) if log.calibrated else level_world_from_cam(PLACEHOLDER_HEIGHT_M)
        )
        pose: SE3 = log.city_from_ego(time_ns) @ ego_from_cam
        with naming(f"{log.root / 'calibration' / 'intrinsics.feather'}: {self.camera}", "fetch the log again"):
            return Camera(pose, k.fx_px, k.fy_px, k.cx_px, k.cy_px, k.width_px, k.height_px)

    def _rows(self, place: int, time_ns: int) -> np.ndarray | None:
        """Which annotations belong to a frame; to one of an image alone, those nearest in time."""
        log = self._logs[place]
        if log.annotations is None:
            return None
        within = 0 if len(log.sweeps_ns) else CAMERA_PERIOD_NS // 2
        found = nearest(log.annotations.times_ns, time_ns, within)
        return None if found is None else np.flatnonzero(log.annotations.times_ns == found)

    def _boxes(self, place: int, time_ns: int, camera: Camera) -> Boxes | None:
        rows, log = self._rows(place, time_ns), self._logs[place]
        if rows is None or log.annotations is None:
            return None
        objects = log.annotations
        city_from_ego = log.city_from_ego(int(objects.times_ns[rows[0]]))
        return boxes_in_camera(
            objects.cuboids_ego[rows], city_from_ego, objects.labels[rows], camera, objects.track_ids[rows]
        )


def load_argoverse2(request: FleetRequest) -> Fleet:
    """One vehicle a log, in the region of its city; front camera.

    `request.path` None means `$CONVOY_DATA/argoverse2`. Only sweeps with an image and labels are used.

    Raises:
        DataError: the data are missing or without labels or images, or too few for so many vehicles.
    """
    return divide_fleet(read_argoverse2(data_path(request.path, "argoverse2")), request)


def read_argoverse2(path: Path) -> Recordings:
    """The labelled frames of each drive in a folder, by its front camera.

    Raises:
        DataError: the data are missing or unreadable.
    """
    return read_drives(Argoverse2(path), path)
