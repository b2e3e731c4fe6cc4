"""Single samples of nuScenes: MMDetection3D's info file (version 1.1) as JSON, beside the sensor files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError
from perception.datasets.driving_io import PIXEL_CENTRE, boxes_in_camera, naming, pose_of_matrix, upright_cuboids
from perception.datasets.files import read_rgb
from perception.datasets.json_files import read_object
from perception.datasets.nuscenes_io import LICENCE, Record, read_lidar
from perception.labels import OBJECT_ID

INFO_FILE = "sample_info.json"
REMEDY = "write the info file again (version 1.1)"
# Trailers, cones and barriers are left out; two-wheelers count with a rider only.
OBJECT_OF_CLASS = {
    "car": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "construction_vehicle": "vehicle",
    "pedestrian": "pedestrian",
}
CYCLES = ("bicycle", "motorcycle")
WITH_RIDER = 0  # the first of the info file's attributes
SAME_PLACE_M = 0.5


class NuScenesInfo(Sequence[Frame]):
    """Every camera of every sample in the file, with the sample's LiDAR and boxes; the world is the map's (ENU).

    An ego pose is given at the time of the LiDAR only. Each camera's pose is that of the LiDAR moved by `lidar2cam`,
    which already holds the motion in between. Boxes are given in the LiDAR's frame; 2D boxes are their projections.
    Objects that neither LiDAR nor radar hit are left out.

    Args:
        root: folder with `sample_info.json` and the files that it names.

    Raises:
        DataError: the info file is missing or lacks a field; on access, a file or value of the frame is bad.
    """

    name = "nuScenes sample"
    licence = LICENCE
    posed = True

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.path = self.root / INFO_FILE
        info = read_object(self.path, REMEDY)
        with naming(str(self.path), REMEDY):
            categories = self._field(self._field(info, "metainfo", "file"), "categories", "metainfo")
            self._classes: dict[int, str] = {index: name for name, index in categories.items()}
            self._places = tuple(
                (sample, camera)
                for place, sample in enumerate(self._field(info, "data_list", "file"))
                for camera in self._field(sample, "images", f"sample {place}")
            )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The camera of each frame."""
        return tuple(camera for _, camera in self._places)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        sample, channel = self._places[index]
        with naming(f"{self.path}: {channel}", REMEDY):
            return self._frame(sample, channel, sample["images"][channel])

    def _frame(self, sample: Record, channel: str, record: Record) -> Frame:
        path = self.root / self._field(record, "img_path", channel)
        image = read_rgb(path)
        lidar = self._field(sample, "lidar_points", "sample")
        cam_from_lidar = self._pose(record, "lidar2cam", channel)
        world_from_lidar = self._pose(sample, "ego2global", "sample") @ self._pose(lidar, "lidar2ego", "lidar_points")
        k = np.array(self._field(record, "cam2img", channel), dtype=np.float64).reshape(3, 3)
        cx, cy = float(k[0, 2] + PIXEL_CENTRE), float(k[1, 2] + PIXEL_CENTRE)
        pose, (height_px, width_px) = world_from_lidar @ cam_from_lidar.inverse(), image.shape[:2]
        camera = Camera(pose, float(k[0, 0]), float(k[1, 1]), cx, cy, width_px, height_px)
        return Frame(
            timestamp_s=float(self._field(record, "timestamp", channel)),
            camera=camera,
            image=image,
            points_lidar=read_lidar(self.root / self._field(lidar, "lidar_path", "lidar_points")),
            boxes=self._boxes(sample, channel, world_from_lidar, camera),
            lidar_from_cam=cam_from_lidar.inverse(),
            source=str(path),
        )

    def _boxes(self, sample: Record, channel: str, world_from_lidar: SE3, camera: Camera) -> Boxes | None:
        if "instances" not in sample:
            return None
        riders_world = self._riders_world(sample, channel, camera)
        cuboids, labels = [], []
        with naming(f"{self.path}: instances", REMEDY):
            for instance in sample["instances"]:
                cuboid = np.array(self._field(instance, "bbox_3d", "instance"), dtype=np.float64).reshape(7)
                name = self._classes.get(self._field(instance, "bbox_label_3d", "instance"), "")
                hits = instance.get("num_lidar_pts", 1) + instance.get("num_radar_pts", 0)
                centre_world = world_from_lidar.apply(cuboid[None, :3])
                ridden = (np.linalg.norm(riders_world - centre_world, axis=1) < SAME_PLACE_M).any()
                ours = OBJECT_OF_CLASS.get(name) or ("cyclist" if name in CYCLES and ridden else None)
                if ours and hits > 0:
                    cuboids.append(cuboid)
                    labels.append(OBJECT_ID[ours])
            found = np.array(labels, dtype=np.int64)
            # Labels are upright in the world, and the LiDAR leans by more than a degree: stand them up first.
            cuboids_world = upright_cuboids(np.array(cuboids).reshape(-1, 7), world_from_lidar)
            return boxes_in_camera(cuboids_world, SE3.identity(), found, camera)

    def _riders_world(self, sample: Record, channel: str, camera: Camera) -> np.ndarray:
        """Centres [n, 3] of two-wheelers with a rider, which only the camera's own list of objects tells."""
        with naming(f"{self.path}: cam_instances of {channel}", REMEDY):
            listed = sample.get("cam_instances", {}).get(channel, [])
            ridden = [item for item in listed if item.get("attr_label") == WITH_RIDER]
            centres_cam = np.array([item["bbox_3d"][:3] for item in ridden], dtype=np.float64).reshape(-1, 3)
            return camera.world_from_cam.apply(centres_cam)

    def _field(self, record: Any, key: str, where: str) -> Any:
        if not isinstance(record, dict) or key not in record:
            raise DataError(f"{self.path}: {where} has no field {key}; {REMEDY}")
        return record[key]

    def _pose(self, record: Record, key: str, where: str) -> SE3:
        return pose_of_matrix(self._field(record, key, where), f"{self.path}: {where}: {key}")
