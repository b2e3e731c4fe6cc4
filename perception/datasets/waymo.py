"""The Waymo Open Dataset, perception part, version 2 (Sun et al., CVPR 2020), read from its parquet tables."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest
from perception.datasets.driving_io import Drives, boxes_in_camera, decode_rgb, naming, pose_of_matrix, read_drives
from perception.datasets.files import check_cloud, data_path
from perception.datasets.lens import Lens
from perception.datasets.placement import clip_boxes
from perception.datasets.recordings import Recordings
from perception.datasets.sharing import divide_fleet
from perception.datasets.waymo_io import (
    CAMERA,
    CAMERAS,
    OBJECT_OF_TYPE,
    REMEDY,
    TIME,
    Segment,
    read_lens,
    read_range_images,
    straighten_boxes,
)

__all__ = ["Waymo", "load_waymo"]

MICROSECONDS = 1e-6


class Waymo(Drives):
    """The frames (10 a second) of one camera, segment after segment.

    The world is the segment's own: x east, y north, z up. Images are straightened (`Lens`), and 2D boxes with them;
    the rolling shutter is not undone. The camera has the vehicle's pose that goes with the image. Points are the first
    returns of all LiDARs in the vehicle's frame at the time of the frame, which is where `lidar_from_cam` leads.
    Segments have worlds of their own. A segment whose table of images is damaged is one frame, which says so when read.

    Args:
        root: a split's folder with `camera_image/`, `camera_calibration/` and what else there is of `camera_box/`,
            `lidar/`, `lidar_calibration/`, `lidar_pose/`, `lidar_box/`, `vehicle_pose/`, `stats/`.
        camera: a key of `CAMERAS`.
        boxes: "camera" for the labels drawn in images (no cuboids), "lidar" for the cuboids and their projections.

    Raises:
        DataError: no segment, or no such camera; on access, a table of the frame is missing or malformed.
    """

    name = "Waymo Open Dataset"
    licence = "Waymo Dataset License Agreement for Non-Commercial Use"
    posed = True

    def __init__(self, root: Path | str, camera: str = "FRONT", boxes: Literal["camera", "lidar"] = "camera") -> None:
        self.root, self.boxes = Path(root), boxes
        if camera not in CAMERAS:
            raise DataError(f"{root}: no camera {camera!r}; want one of {', '.join(CAMERAS)}")
        self._camera = CAMERAS[camera]
        paths = sorted((self.root / "camera_image").glob("*.parquet"))
        if not paths:
            raise DataError(f"{root}: no camera_image/*.parquet; give a split's folder of version 2 (v2.0.1)")
        self._segments = tuple(Segment(self.root, path.stem) for path in paths)
        self._places = tuple(
            (segment, time_us) for segment in self._segments for time_us in _times_us(segment, self._camera)
        )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each segment that can be read, in order of time."""
        found: dict[str, list[int]] = {}
        for index, (segment, time_us) in enumerate(self._places):
            if time_us >= 0:
                found.setdefault(segment.name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Unix times."""
        return tuple(time_us * MICROSECONDS for _, time_us in self._places)

    @property
    def regions(self) -> dict[str, str]:
        """Where each segment was recorded."""
        return {segment.name: segment.location for segment in self._segments}

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""
        effects = {
            f"{self.boxes}_box": "no boxes",
            "lidar": "no LiDAR points",
            "lidar_pose": "the vehicle's motion during a LiDAR turn is not undone",
        }
        lines = []
        for component, effect in effects.items():
            count = sum(not segment.has(component) for segment in self._segments)
            if count:
                lines.append(f"{component} of {count} of {len(self._segments)} segments: {effect}")
        return tuple(lines)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of frames that can be read, of segments with boxes."""
        component = f"{self.boxes}_box"
        known = {segment for segment in self._segments if segment.has(component)}
        return tuple(i for i, (segment, time_us) in enumerate(self._places) if time_us >= 0 and segment in known)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        segment, time_us = self._places[index]
        key = ((TIME, "==", time_us), (CAMERA, "==", self._camera))
        row = segment.row("camera_image", "CameraImageComponent", ("image", "pose.transform"), key)
        source = f"{segment.path('camera_image')}: frame {time_us}"
        lens, vehicle_from_cam = _lens(segment, self._camera)
        image = decode_rgb(row["image"], source)
        if image.shape[:2] != (lens.height_px, lens.width_px):
            raise DataError(
                f"{source}: {image.shape[:2]}, the calibration says {lens.height_px, lens.width_px}; {REMEDY}"
            )
        pose = pose_of_matrix(row["pose.transform"], f"{source}: pose") @ vehicle_from_cam
        camera = lens.straightened().camera(pose)
        points, lidar_from_cam = self._sweep(segment, time_us, camera) if segment.has("lidar") else (None, None)
        return Frame(
            timestamp_s=time_us * MICROSECONDS,
            camera=camera,
            image=lens.straighten(image),
            points_lidar=points,
            boxes=self._boxes(segment, time_us, lens, camera),
            lidar_from_cam=lidar_from_cam,
            source=source,
        )

    def _sweep(self, segment: Segment, time_us: int, camera: Camera) -> tuple[Float32[ndarray, "n 4"], SE3]:
        world_from_vehicle = _world_from_vehicle(segment, time_us)
        clouds = [image.points_vehicle(world_from_vehicle) for image in read_range_images(segment, time_us)]
        points = np.concatenate([np.zeros((0, 4), np.float32), *clouds])
        return check_cloud(points, segment.path("lidar")), world_from_vehicle.inverse() @ camera.world_from_cam

    def _boxes(self, segment: Segment, time_us: int, lens: Lens, camera: Camera) -> Boxes | None:
        if not segment.has(f"{self.boxes}_box"):
            return None
        with naming(f"{segment.path(f'{self.boxes}_box')}: frame {time_us}", REMEDY):
            if self.boxes == "lidar":
                return _lidar_boxes(segment, time_us, camera)
            return _camera_boxes(segment, time_us, self._camera, lens)


def load_waymo(request: FleetRequest) -> Fleet:
    """One vehicle a segment, in the region that its statistics name; front camera, boxes drawn in images.

    `request.path` None means `$CONVOY_DATA/waymo`.

    Raises:
        DataError: the data are missing or without labels, or too few for so many vehicles.
    """
    return divide_fleet(read_waymo(data_path(request.path, "waymo")), request)


def read_waymo(path: Path) -> Recordings:
    """The labelled frames of each drive in a folder, by its front camera.

    Raises:
        DataError: the data are missing or unreadable.
    """
    return read_drives(Waymo(path), path)


def _times_us(segment: Segment, camera: int) -> tuple[int, ...]:
    """Times of a segment's frames; (-1,) where the table cannot be read, so that access tells why."""
    try:
        return segment.times_us(camera)
    except DataError:
        return (-1,)


@lru_cache(maxsize=64)
def _lens(segment: Segment, camera: int) -> tuple[Lens, SE3]:
    return read_lens(segment, camera)


def _world_from_vehicle(segment: Segment, time_us: int) -> SE3:
    field = "world_from_vehicle.transform"
    row = segment.row("vehicle_pose", "VehiclePoseComponent", (field,), ((TIME, "==", time_us),))
    return pose_of_matrix(row[field], f"{segment.path('vehicle_pose')}: frame {time_us}")


def _camera_boxes(segment: Segment, time_us: int, camera: int, lens: Lens) -> Boxes:
    where = ((TIME, "==", time_us), (CAMERA, "==", camera))
    fields = ("box.center.x", "box.center.y", "box.size.x", "box.size.y", "type")
    table, labels, track_ids = _objects(segment, "camera_box", "CameraBoxComponent", fields, where, "camera_object_id")
    centre, size = (np.column_stack([table[f"box.{part}.{axis}"] for axis in "xy"]) for part in ("center", "size"))
    drawn = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float64)
    if not np.isfinite(drawn).all():
        raise ValueError("a box holds NaN or infinity")
    xyxy_px, keep = clip_boxes(straighten_boxes(drawn, lens), lens.width_px, lens.height_px)
    return Boxes(xyxy_px, labels, track_ids=track_ids).select(keep)


def _lidar_boxes(segment: Segment, time_us: int, camera: Camera) -> Boxes:
    parts = [f"box.{part}.{axis}" for part in ("center", "size") for axis in "xyz"] + ["box.heading"]
    where = ((TIME, "==", time_us),)
    table, labels, track_ids = _objects(
        segment, "lidar_box", "LiDARBoxComponent", (*parts, "type", "num_lidar_points_in_box"), where, "laser_object_id"
    )
    hit = table["num_lidar_points_in_box"] > 0
    cuboids = np.column_stack([table[part] for part in parts]).astype(np.float64)[hit]
    return boxes_in_camera(cuboids, _world_from_vehicle(segment, time_us), labels[hit], camera, track_ids[hit])


def _objects(
    segment: Segment, component: str, prefix: str, fields: tuple[str, ...], where: tuple, name: str
) -> tuple[dict[str, ndarray], ndarray, ndarray]:
    """Rows of objects of our classes, their class ids and their tracks' numbers."""
    key = f"key.{name}"
    table = segment.rows(component, prefix, fields, where, (key,))
    known = np.isin(table["type"], list(OBJECT_OF_TYPE))
    table = {column: values[known] for column, values in table.items()}
    labels = np.array([OBJECT_OF_TYPE[int(kind)] for kind in table["type"]], dtype=np.int64)
    numbers = _track_ids(segment, component, key)
    return table, labels, np.array([numbers[track] for track in table[key]], dtype=np.int64)


@lru_cache(maxsize=16)
def _track_ids(segment: Segment, component: str, key: str) -> dict[str, int]:
    """A number for each of a segment's tracks, in the order of their names."""
    names = segment.rows(component, "", (), (), (key,))[key]
    return {name: place for place, name in enumerate(sorted(set(names.tolist())))}
