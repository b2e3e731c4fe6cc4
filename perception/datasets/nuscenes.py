"""nuScenes (Caesar et al., CVPR 2020): scenes of a driving camera with LiDAR, poses and tracked objects."""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from geometry import SE3, Boxes, Camera, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest
from perception.datasets.driving_io import (
    PIXEL_CENTRE,
    Drives,
    boxes_in_camera,
    check_size,
    naming,
    pose_of,
    read_drives,
)
from perception.datasets.files import data_path, read_rgb
from perception.datasets.nuscenes_info import INFO_FILE, NuScenesInfo
from perception.datasets.nuscenes_io import (
    LICENCE,
    LIDAR,
    OCCLUSION_OF_LEVEL,
    REMEDY,
    UNKNOWN_OCCLUSION,
    Record,
    object_of,
    read_lidar,
    read_tables,
)
from perception.datasets.placement import yaw_of
from perception.datasets.recordings import Recordings
from perception.datasets.sharing import divide_fleet
from perception.labels import OBJECT_ID

__all__ = ["INFO_FILE", "NuScenes", "NuScenesInfo", "load_nuscenes", "version_folders"]

MICROSECONDS = 1e-6


def version_folders(root: Path) -> tuple[Path, ...]:
    """Folders of tables: the root itself if it is one, or the `v1.0-*` in it."""
    if (root / "sample_data.json").exists():
        return (root,)
    return tuple(sorted(path.parent for path in root.glob("v1.0-*/sample_data.json")))


class NuScenes(Drives):
    """The key frames (2 a second) of one camera, scene after scene.

    The world is that of the scene's map: x east, y north, z up, z = 0 on the road. Images are undistorted in the
    release; its principal points are taken to count from the first pixel's centre, so 0.5 is added. The camera has the
    ego pose of its own time, the LiDAR that of its own, and `lidar_from_cam` goes through both. Cuboids stand where
    they were labelled, at the time of the sample, and 2D boxes are their projections. Objects that neither LiDAR nor
    radar hit are left out, and so is what `object_of` does not know. `occlusion` grades the data set's visibility.

    Args:
        root: folder with `v1.0-*/` and `samples/`, or one of its version folders where it has several.
        camera: channel, as "CAM_BACK".

    Raises:
        DataError: no or several versions, a table is missing or malformed, no such camera; on access, a record or file
            of the frame is missing or malformed.
    """

    name = "nuScenes"
    licence = LICENCE
    posed = True

    def __init__(self, root: Path | str, camera: str = "CAM_FRONT") -> None:
        folders = version_folders(Path(root))
        if len(folders) != 1:
            what = f"{len(folders)} versions ({', '.join(map(str, folders))}); give one of them" if folders else (
                "no v1.0-*/sample_data.json; give the folder that holds v1.0-mini/ or the like and samples/"
            )  # fmt: skip
            raise DataError(f"{root}: {what}")
        self.root, self.camera = folders[0].parent, camera
        self._tables = read_tables(folders[0], (camera, LIDAR))
        if not any(channel == camera for _, channel in self._tables.data):
            raise DataError(
                f"{folders[0] / 'sensor.json'}: no key frames of {camera!r}; cameras are named CAM_FRONT..."
            )
        self._samples = tuple(sample for samples in self._tables.scenes.values() for sample in samples)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def sequences(self) -> dict[str, tuple[int, ...]]:
        """Indices of the frames of each scene, in order of time."""
        lengths = [len(samples) for samples in self._tables.scenes.values()]
        ends = np.cumsum(lengths).tolist()
        spans = zip(self._tables.scenes, lengths, ends, strict=True)
        return {name: tuple(range(end - length, end)) for name, length, end in spans}

    @property
    def regions(self) -> dict[str, str]:
        """Where each scene was recorded, as "singapore-onenorth"."""
        return dict(self._tables.locations)

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Unix time of each sample."""
        return tuple(sample["timestamp"] * MICROSECONDS for sample in self._samples)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of frames that have labels: all, or none as in the test version."""
        return () if self._tables.annotations is None else tuple(range(len(self)))

    @property
    def missing(self) -> tuple[str, ...]:
        """What this copy lacks, and what follows from that."""
        lines = () if self.labelled else ("sample_annotation.json: no boxes",)
        return lines if self._has_lidar else (*lines, f"samples/{LIDAR}: no LiDAR points")

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        token = self._samples[index]["token"]
        with naming(f"{self._tables.folder}: sample {token}", REMEDY):
            return self._frame(token, self._tables.key_frame(token, self.camera))

    def _frame(self, token: str, record: Record) -> Frame:
        path = self.root / record["filename"]
        image = read_rgb(path)
        if {"width", "height"} <= record.keys():
            check_size(image, (record["height"], record["width"]), path, "sample_data.json")
        camera = self._camera(record, *image.shape[:2])
        points, lidar_from_cam = self._sweep(token, camera) if self._has_lidar else (None, None)
        return Frame(
            timestamp_s=record["timestamp"] * MICROSECONDS,
            camera=camera,
            image=image,
            points_lidar=points,
            boxes=self._boxes(token, camera),
            lidar_from_cam=lidar_from_cam,
            source=str(path),
        )

    @cached_property
    def _has_lidar(self) -> bool:
        return (self.root / "samples" / LIDAR).is_dir()

    @cached_property
    def _track_ids(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self._tables.by_token["instance"])}

    def _world_from_sensor(self, record: Record) -> SE3:
        asker = f"sample_data {record['token']}"
        ego = self._tables.find("ego_pose", record["ego_pose_token"], asker)
        calibration = self._tables.find("calibrated_sensor", record["calibrated_sensor_token"], asker)
        folder = self._tables.folder
        world_from_ego = pose_of(ego["rotation"], ego["translation"], f"{folder / 'ego_pose.json'}: {ego['token']}")
        where = f"{folder / 'calibrated_sensor.json'}: {calibration['token']}"
        return world_from_ego @ pose_of(calibration["rotation"], calibration["translation"], where)

    def _camera(self, record: Record, height_px: int, width_px: int) -> Camera:
        calibration = self._tables.by_token["calibrated_sensor"][record["calibrated_sensor_token"]]
        world_from_cam = self._world_from_sensor(record)
        with naming(f"{self._tables.folder / 'calibrated_sensor.json'}: {calibration['token']}", REMEDY):
            k = np.array(calibration["camera_intrinsic"], dtype=np.float64).reshape(3, 3)
            cx, cy = float(k[0, 2] + PIXEL_CENTRE), float(k[1, 2] + PIXEL_CENTRE)
            return Camera(world_from_cam, float(k[0, 0]), float(k[1, 1]), cx, cy, width_px, height_px)

    def _sweep(self, token: str, camera: Camera) -> tuple[Float32[ndarray, "n 4"], SE3]:
        record = self._tables.key_frame(token, LIDAR)
        points = read_lidar(self.root / record["filename"])
        return points, self._world_from_sensor(record).inverse() @ camera.world_from_cam

    def _boxes(self, token: str, camera: Camera) -> Boxes | None:
        if self._tables.annotations is None:
            return None
        found = [(r, object_of(*self._kind(r))) for r in self._tables.annotations.get(token, [])]
        kept = [(r, OBJECT_ID[name]) for r, name in found if name and r["num_lidar_pts"] + r["num_radar_pts"] > 0]
        ids = np.array([self._track_ids[r["instance_token"]] for r, _ in kept], dtype=np.int64)
        labels = np.array([label for _, label in kept], dtype=np.int64)
        occlusion = np.array([self._occlusion(r) for r, _ in kept], dtype=np.int64)
        cuboids = np.array([self._cuboid(r) for r, _ in kept]).reshape(-1, 7)
        return boxes_in_camera(cuboids, SE3.identity(), labels, camera, ids, occlusion)

    def _kind(self, annotation: Record) -> tuple[str, tuple[str, ...]]:
        asker = f"sample_annotation {annotation['token']}"
        instance = self._tables.find("instance", annotation["instance_token"], asker)
        category = self._tables.find("category", instance["category_token"], f"instance {instance['token']}")
        attributes = (self._tables.find("attribute", token, asker) for token in annotation["attribute_tokens"])
        return category["name"], tuple(record["name"] for record in attributes)

    def _occlusion(self, annotation: Record) -> int:
        record = self._tables.by_token["visibility"].get(annotation["visibility_token"], {})
        return OCCLUSION_OF_LEVEL.get(record.get("level", ""), UNKNOWN_OCCLUSION)

    def _cuboid(self, annotation: Record) -> list[float]:
        where = f"{self._tables.folder / 'sample_annotation.json'}: {annotation['token']}"
        pose = pose_of(annotation["rotation"], annotation["translation"], where)
        with naming(where, REMEDY):
            width, length, height = np.array(annotation["size"], dtype=np.float64)
            if not 0 < min(width, length, height) <= max(width, length, height) < np.inf:
                raise ValueError(f"size is {annotation['size']}, want three positive numbers of metres")
        return [*pose.translation_m, length, width, height, float(yaw_of(pose.rotation[None, :, 0])[0])]


def load_nuscenes(request: FleetRequest) -> Fleet:
    """One vehicle a scene, in the region that the scene's log names; front camera.

    `request.path` None means `$CONVOY_DATA/nuscenes`. Shares are as for CamVid.

    Raises:
        DataError: the data are missing or without labels, or too few for so many vehicles.
    """
    return divide_fleet(read_nuscenes(data_path(request.path, "nuscenes")), request)


def read_nuscenes(path: Path) -> Recordings:
    """The labelled frames of each drive in a folder, by its front camera.

    Raises:
        DataError: the data are missing or unreadable.
    """
    return read_drives(NuScenes(path), path)
