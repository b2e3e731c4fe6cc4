"""nuScenes on disk: the JSON tables, joined and checked, and LiDAR files (Caesar et al., CVPR 2020)."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.driving_io import naming
from perception.datasets.files import check_cloud, require

Record = dict[str, Any]

LICENCE = "CC BY-NC-SA 4.0 (nuScenes, Motional)"
LIDAR = "LIDAR_TOP"
POINT_VALUES = 5  # x y z intensity ring
INTENSITY_MAX = 255
REMEDY = "fetch the metadata archive of the same version again"
FIELDS: dict[str, tuple[str, ...]] = {
    "log": ("token", "location"),
    "scene": ("token", "name", "log_token"),
    "sample": ("token", "timestamp", "scene_token"),
    "sensor": ("token", "channel"),
    "calibrated_sensor": ("token", "sensor_token", "translation", "rotation", "camera_intrinsic"),
    "sample_data": (
        "token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "timestamp", "is_key_frame",
    ),
    "ego_pose": ("token", "translation", "rotation"),
    "category": ("token", "name"),
    "instance": ("token", "category_token"),
    "attribute": ("token", "name"),
    "visibility": ("token", "level"),
    "sample_annotation": (
        "token", "sample_token", "instance_token", "attribute_tokens", "visibility_token", "translation", "size",
        "rotation", "num_lidar_pts", "num_radar_pts",
    ),
}  # fmt: skip

# A prefix of the category's name; trailers, and people in wheelchairs, prams and on scooters, are left out.
OBJECT_OF_CATEGORY = {
    "vehicle.car": "vehicle",
    "vehicle.truck": "vehicle",
    "vehicle.bus": "vehicle",
    "vehicle.construction": "vehicle",
    "vehicle.emergency": "vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}
CYCLES = ("vehicle.bicycle", "vehicle.motorcycle")
RIDDEN = "cycle.with_rider"
# KITTI's grades for nuScenes's share of the object that shows in all six images together.
OCCLUSION_OF_LEVEL = {"v80-100": 0, "v60-80": 1, "v40-60": 1, "v0-40": 2}
UNKNOWN_OCCLUSION = 3


def object_of(category: str, attributes: tuple[str, ...]) -> str | None:
    """Our name of an object's class, None for what is left out; bicycles and motorcycles count with a rider only."""
    if category.startswith(CYCLES):
        return "cyclist" if RIDDEN in attributes else None
    return next((name for prefix, name in OBJECT_OF_CATEGORY.items() if category.startswith(prefix)), None)


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of one version, of key frames and chosen channels only.

    Args:
        folder: the `v1.0-*` folder.
        scenes: records of the `sample` table in order of time, by scene name.
        locations: where each scene was recorded.
        data: records of `sample_data` by (sample token, channel).
        by_token: records by token, of the tables that others refer to.
        annotations: records by sample token, or None where the version has no labels.
    """

    folder: Path
    scenes: dict[str, tuple[Record, ...]]
    locations: dict[str, str]
    data: dict[tuple[str, str], Record]
    by_token: dict[str, dict[str, Record]]
    annotations: dict[str, list[Record]] | None

    def find(self, table: str, token: str, asker: str) -> Record:
        """A record by its token.

        Raises:
            DataError: there is none.
        """
        if token not in self.by_token[table]:
            raise DataError(f"{self.folder / table}.json: no record {token!r}, which {asker} refers to; {REMEDY}")
        return self.by_token[table][token]

    def key_frame(self, sample_token: str, channel: str) -> Record:
        """The `sample_data` record of a channel in a sample.

        Raises:
            DataError: there is none.
        """
        if (sample_token, channel) not in self.data:
            path = self.folder / "sample_data.json"
            raise DataError(f"{path}: no key frame of {channel} for sample {sample_token}; {REMEDY}")
        return self.data[sample_token, channel]


def read_tables(folder: Path, channels: tuple[str, ...]) -> Tables:
    """Reads and joins what the chosen channels need. The full release holds millions of records: it takes minutes.

    Raises:
        DataError: a table is missing, no JSON, or a record lacks a field or refers to one that is not there.
    """
    with naming(str(folder), REMEDY):
        return _join(folder, channels)


def _join(folder: Path, channels: tuple[str, ...]) -> Tables:
    by_token = {name: _by_token(folder, name) for name in ("log", "sensor", "calibrated_sensor")}
    wanted = {t for t, r in by_token["sensor"].items() if r["channel"] in channels}
    calibrations = {t: r for t, r in by_token["calibrated_sensor"].items() if r["sensor_token"] in wanted}
    rows = read_table(
        folder, "sample_data", lambda r: r["is_key_frame"] and r["calibrated_sensor_token"] in calibrations
    )
    channel_of = {t: by_token["sensor"][r["sensor_token"]]["channel"] for t, r in calibrations.items()}
    poses = {row["ego_pose_token"] for row in rows}
    by_token["ego_pose"] = _by_token(folder, "ego_pose", lambda r: r["token"] in poses)
    annotations = _annotations(folder)
    if annotations is not None:
        by_token |= {name: _by_token(folder, name) for name in ("category", "instance", "attribute", "visibility")}
    scenes = read_table(folder, "scene")
    samples = defaultdict(list)
    for sample in sorted(read_table(folder, "sample"), key=lambda r: r["timestamp"]):
        samples[sample["scene_token"]].append(sample)
    tables = Tables(
        folder,
        {scene["name"]: tuple(samples[scene["token"]]) for scene in scenes},
        {},
        {(row["sample_token"], channel_of[row["calibrated_sensor_token"]]): row for row in rows},
        by_token,
        annotations,
    )
    for scene in scenes:
        tables.locations[scene["name"]] = tables.find("log", scene["log_token"], f"scene {scene['name']}")["location"]
    return tables


def read_table(folder: Path, name: str, keep: Callable[[Record], bool] = lambda record: True) -> list[Record]:
    """The records of a table that `keep` wants; the others are dropped while the file is parsed.

    Raises:
        DataError: missing, not a JSON list of records, or a record lacks a field.
    """
    path = require(folder / f"{name}.json", "fetch the metadata archive (v1.0-*) of nuScenes")

    def check(record: Record) -> Record | None:
        missing = [field for field in FIELDS[name] if field not in record]
        if missing:
            raise DataError(f"{path}: record {record.get('token')!r} has no field {', '.join(missing)}; {REMEDY}")
        return record if keep(record) else None

    try:
        records = json.loads(path.read_bytes(), object_hook=check)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not whole JSON ({error}); {REMEDY}") from error
    if not isinstance(records, list):
        raise DataError(f"{path}: holds no list of records; {REMEDY}")
    return [record for record in records if record is not None]


def read_lidar(path: Path) -> Float32[ndarray, "n 4"]:
    """x y z (m, LiDAR frame) and intensity / 255 of a `.pcd.bin` file.

    Raises:
        DataError: missing, truncated, NaN, or an intensity above 255.
    """
    size = require(path, "fetch the LiDAR blobs").stat().st_size
    if size % (4 * POINT_VALUES):
        raise DataError(f"{path}: {size} bytes are no multiple of {4 * POINT_VALUES} (5 values); fetch it again")
    points = np.fromfile(path, "<f4").reshape(-1, POINT_VALUES)[:, :4]
    return check_cloud(points / np.array([1, 1, 1, INTENSITY_MAX], np.float32), path)


def _by_token(folder: Path, name: str, keep: Callable[[Record], bool] = lambda record: True) -> dict[str, Record]:
    return {record["token"]: record for record in read_table(folder, name, keep)}


def _annotations(folder: Path) -> dict[str, list[Record]] | None:
    if not (folder / "sample_annotation.json").exists():
        return None
    by_sample = defaultdict(list)
    for record in read_table(folder, "sample_annotation"):
        by_sample[record["sample_token"]].append(record)
    return dict(by_sample) or None  # the test version has the table without records
