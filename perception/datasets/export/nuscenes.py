"""Frames as nuScenes tables: `v1.0-convoy/*.json`, `samples/{CAM_FRONT, LIDAR_TOP}/` and an empty map.

Every frame is a sample with one camera and one LiDAR; a new scene begins where time does not go on, and scene k's times
are k - 1 microseconds late. The ego vehicle's frame is put at the LiDAR, with its axes. The principal point moves by
half a pixel, since nuScenes' tools draw with the centre of the first pixel at (0, 0). Ring numbers are 0, for frames do
not hold them. There are no radars and no other cameras.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from geometry import SE3, Boxes, Frame
from perception.datasets.base import DataError
from perception.datasets.export.kitti_object import projection_matrix
from perception.datasets.export.writing import (
    ExportOptions,
    boxes_of,
    cloud_of,
    image_of,
    name_of,
    save_floats,
    save_image,
    save_text,
    time_of,
)
from perception.datasets.placement import inside_cuboid

VERSION: Final = "v1.0-convoy"
TABLES: Final = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
CAMERA, LIDAR = "CAM_FRONT", "LIDAR_TOP"
MAP_FILE: Final = "maps/empty.png"
CATEGORY_OF_LABEL: Final = (
    "vehicle.car",
    "human.pedestrian.adult",
    "vehicle.bicycle",
)  # in the order of labels.OBJECTS
RIDDEN: Final = ((), (), ("cycle.with_rider",))
VISIBILITY: Final = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
# KITTI's grades of occlusion; nuScenes' tools take "" for unknown.
VISIBILITY_OF_OCCLUSION: Final = {0: "4", 1: "3", 2: "1"}
MICROSECONDS: Final = 1_000_000

Row = dict[str, Any]


class NuScenesWriter:
    """Frames need image and LiDAR; boxes without cuboids are left out."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        del options
        self._folder = folder
        self._tables: dict[str, list[Row]] = {name: [] for name in TABLES}
        self._calibrations: dict[str, str] = {}
        self._last: dict[str, Row] = {}
        self._last_us = 0
        self._flat_boxes = 0
        _fixed_tables(self._tables)

    @property
    def notes(self) -> tuple[str, ...]:
        scenes = len(self._tables["scene"])
        several = (f"{scenes} scenes, for time goes back between them",) if scenes > 1 else ()
        flat = (f"{self._flat_boxes} boxes without cuboids left out",) if self._flat_boxes else ()
        return several + flat

    def add(self, frame: Frame) -> None:
        image, cloud, boxes, time_s = image_of(frame, "nuScenes"), cloud_of(frame), boxes_of(frame), time_of(frame)
        lidar_from_cam = frame.lidar_from_cam
        if cloud is None or lidar_from_cam is None:
            raise DataError(f"{name_of(frame)}: no LiDAR points; nuScenes needs them in every sample, leave it out")
        world_from_ego = frame.camera.world_from_cam @ lidar_from_cam.inverse()
        sample = self._begin_sample(round(time_s * MICROSECONDS))
        camera = self._calibrate(CAMERA, lidar_from_cam, projection_matrix(frame.camera)[:, :3].tolist())
        lidar = self._calibrate(LIDAR, SE3.identity(), [])
        ego = self._ego_pose(sample, world_from_ego)
        self._add_image(sample, camera, ego, image)
        self._add_cloud(sample, lidar, ego, cloud)
        if boxes is not None and boxes.cuboids_world is not None:
            self._annotate(sample, boxes, world_from_ego.apply(cloud[:, :3].astype(np.float64)))
        self._flat_boxes += len(boxes) if boxes is not None and boxes.cuboids_world is None else 0

    def close(self) -> None:
        """The tables, and a map that shows nothing."""
        path = self._folder / MAP_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
        for name, rows in self._tables.items():
            save_text(self._folder / VERSION / f"{name}.json", json.dumps(rows, indent=0) + "\n")

    def _begin_sample(self, timestamp_us: int) -> Row:
        scene = self._last.get("scene")
        if scene is None or timestamp_us <= self._last_us:
            scene = self._begin_scene()
        self._last_us = timestamp_us
        own_us = timestamp_us + len(self._tables["scene"]) - 1  # the devkit cannot list scenes that begin together
        row: Row = {"token": _token("sample", len(self._tables["sample"])), "timestamp": own_us}
        row |= {"scene_token": scene["token"]}
        self._link("sample", row)
        scene["first_sample_token"] = scene["first_sample_token"] or row["token"]
        scene["last_sample_token"] = row["token"]
        scene["nbr_samples"] += 1
        return row

    def _begin_scene(self) -> Row:
        number = len(self._tables["scene"]) + 1
        scene: Row = {"token": _token("scene", number), "log_token": _token("log", 1), "name": f"scene-{number:04d}"}
        scene |= {"nbr_samples": 0, "first_sample_token": "", "last_sample_token": "", "description": "convoy export"}
        self._tables["scene"].append(scene)
        self._last = {"scene": scene}
        return scene

    def _link(self, table: str, row: Row, chain: str = "") -> None:
        """Append a row and tie it to the one before it in its chain, within the scene."""
        before = self._last.get(chain or table)
        row |= {"prev": "" if before is None else before["token"], "next": ""}
        if before is not None:
            before["next"] = row["token"]
        self._last[chain or table] = row
        self._tables[table].append(row)

    def _calibrate(self, channel: str, ego_from_sensor: SE3, intrinsic: list[list[float]]) -> str:
        """The token of a sensor with this mounting and these intrinsics."""
        row = {"sensor_token": _token("sensor", channel), "camera_intrinsic": intrinsic} | _pose(ego_from_sensor)
        key = json.dumps(row)
        if key not in self._calibrations:
            self._calibrations[key] = _token("calibrated_sensor", len(self._calibrations))
            self._tables["calibrated_sensor"].append({"token": self._calibrations[key]} | row)
        return self._calibrations[key]

    def _ego_pose(self, sample: Row, world_from_ego: SE3) -> str:
        token = _token("ego_pose", len(self._tables["ego_pose"]))
        row = {"token": token, "timestamp": sample["timestamp"]} | _pose(world_from_ego)
        self._tables["ego_pose"].append(row)
        return token

    def _add_image(self, sample: Row, calibration: str, ego: str, image: UInt8[ndarray, "h w 3"]) -> None:
        name = self._file_name(sample, CAMERA, "jpg")
        save_image(self._folder / name, image)
        size = {"height": image.shape[0], "width": image.shape[1]}
        self._add_data(sample, CAMERA, calibration, ego, {"filename": name, "fileformat": "jpg"} | size)

    def _add_cloud(self, sample: Row, calibration: str, ego: str, cloud: Float32[ndarray, "n 4"]) -> None:
        name = self._file_name(sample, LIDAR, "pcd.bin")
        rows = np.column_stack([cloud[:, :3], 255 * cloud[:, 3], np.zeros(len(cloud))]).astype(np.float32)
        save_floats(self._folder / name, rows)
        size = {"height": 0, "width": 0}
        self._add_data(sample, LIDAR, calibration, ego, {"filename": name, "fileformat": "pcd"} | size)

    def _add_data(self, sample: Row, channel: str, calibration: str, ego: str, file: Row) -> None:
        row: Row = {"token": _token("sample_data", len(self._tables["sample_data"])), "sample_token": sample["token"]}
        row |= {"ego_pose_token": ego, "calibrated_sensor_token": calibration, "timestamp": sample["timestamp"]}
        self._link("sample_data", row | file | {"is_key_frame": True}, chain=channel)

    def _file_name(self, sample: Row, channel: str, ending: str) -> str:
        return f"samples/{channel}/{self._last['scene']['name']}__{channel}__{sample['timestamp']}.{ending}"

    def _annotate(self, sample: Row, boxes: Boxes, points_world: Float[ndarray, "n 3"]) -> None:
        assert boxes.cuboids_world is not None
        for place, cuboid in enumerate(boxes.cuboids_world.astype(np.float64)):
            label = int(boxes.labels[place])
            instance = self._instance(sample, boxes, place)
            occlusion = 3 if boxes.occlusion is None else int(boxes.occlusion[place])
            row: Row = {"token": _token("sample_annotation", len(self._tables["sample_annotation"]))}
            row |= {"sample_token": sample["token"], "instance_token": instance["token"]}
            row |= {"visibility_token": VISIBILITY_OF_OCCLUSION.get(occlusion, "")}
            row |= {"attribute_tokens": [_token("attribute", name) for name in RIDDEN[label]]}
            row |= cuboid_entries(cuboid)
            row |= {"num_lidar_pts": int(inside_cuboid(points_world, cuboid).sum()), "num_radar_pts": 0}
            self._link("sample_annotation", row, chain=f"instance {instance['token']}")
            instance["first_annotation_token"] = instance["first_annotation_token"] or row["token"]
            instance["last_annotation_token"] = row["token"]
            instance["nbr_annotations"] += 1

    def _instance(self, sample: Row, boxes: Boxes, place: int) -> Row:
        """The object of a box: one a track and scene, or a new one where nobody tracked."""
        label = int(boxes.labels[place])
        track = f"{sample['token']} {place}" if boxes.track_ids is None else int(boxes.track_ids[place])
        key = f"{sample['scene_token']} {label} {track}"
        found = self._last.get(key)
        if found is None:
            number = len(self._tables["instance"])
            found = {
                "token": _token("instance", number),
                "category_token": _token("category", CATEGORY_OF_LABEL[label]),
            }
            found |= {"nbr_annotations": 0, "first_annotation_token": "", "last_annotation_token": ""}
            self._tables["instance"].append(found)
            self._last[key] = found
        return found


def cuboid_entries(cuboid: Float[ndarray, "7"]) -> Row:
    """A cuboid as centre, rotation (w, x, y, z) and size (width, length, height)."""
    length, width, height = cuboid[3:6].tolist()
    return _pose(SE3.from_yaw(float(cuboid[6]), cuboid[:3])) | {"size": [width, length, height]}


def _pose(world_from_body: SE3) -> Row:
    return {"translation": world_from_body.translation_m.tolist(), "rotation": world_from_body.quat_wxyz.tolist()}


def _token(table: str, key: int | str) -> str:
    """32 hexadecimal digits that a table and a place in it decide."""
    return hashlib.blake2b(f"{table}/{key}".encode(), digest_size=16).hexdigest()


def _fixed_tables(tables: dict[str, list[Row]]) -> None:
    """What does not depend on the frames."""
    log = _token("log", 1)
    about = {"logfile": "", "vehicle": "convoy", "date_captured": "1970-01-01", "location": "convoy"}
    tables["log"].append({"token": log} | about)
    tables["map"].append({"token": _token("map", 1), "log_tokens": [log], "category": "", "filename": MAP_FILE})
    for channel, modality in ((CAMERA, "camera"), (LIDAR, "lidar")):
        tables["sensor"].append({"token": _token("sensor", channel), "channel": channel, "modality": modality})
    ridden = [name for group in RIDDEN for name in group]
    for table, values in (("category", CATEGORY_OF_LABEL), ("attribute", ridden)):
        tables[table] += [{"token": _token(table, name), "name": name, "description": ""} for name in values]
    tables["visibility"] += [{"token": key, "level": level, "description": ""} for key, level in VISIBILITY.items()]
