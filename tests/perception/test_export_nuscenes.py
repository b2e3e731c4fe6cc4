"""Exports to nuScenes' tables: every token leads somewhere, and what it leads to is right."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry import SE3
from perception.datasets.export import ExportReport, export_frames
from perception.datasets.export.nuscenes import TABLES
from perception.datasets.placement import inside_cuboid
from tests.perception.export_frames import CUBOIDS, HEIGHT, WIDTH, Frames, drive, without

Tables = dict[str, dict[str, Any]]
LINKS = {
    "sample": {"scene_token": "scene"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
    },
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance", "visibility_token": "visibility"},
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
    "calibrated_sensor": {"sensor_token": "sensor"},
    "instance": {
        "category_token": "category",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    },
}


def export(frames: list, out: Path) -> tuple[Tables, ExportReport]:
    report = export_frames(Frames(frames), "nuscenes", out)
    rows = {path.stem: json.loads(path.read_text()) for path in (out / "v1.0-convoy").glob("*.json")}
    assert sorted(rows) == sorted(TABLES)
    tables = {name: {row["token"]: row for row in table} for name, table in rows.items()}
    assert {name: len(table) for name, table in rows.items()} == {name: len(table) for name, table in tables.items()}
    return tables, report


@pytest.fixture
def frames() -> list:
    """Two drives; in the second an object's occlusion is known."""
    first, second = drive(3), drive(2)
    assert second[0].boxes is not None
    second[0] = replace(second[0], boxes=replace(second[0].boxes, occlusion=np.array([0, 2])))
    return [*first, *second]


def chain(table: dict[str, Any], start: str) -> list[str]:
    """Tokens from `start` along `next`; every `prev` must lead back."""
    tokens, before = [], ""
    while start:
        assert table[start]["prev"] == before
        tokens.append(start)
        before, start = start, table[start]["next"]
    return tokens


def test_every_link_leads_to_a_row(tmp_path: Path, frames: list) -> None:
    tables, _ = export(frames, tmp_path / "out")
    for name, links in LINKS.items():
        for row in tables[name].values():
            for field, target in links.items():
                unknown = field == "visibility_token" and row[field] == ""
                assert unknown or row[field] in tables[target], (name, field)
    for name in set(TABLES) - {"visibility"}:
        assert all(len(token) == 32 and int(token, 16) >= 0 for token in tables[name]), name
    for row in tables["sample_annotation"].values():
        assert all(token in tables["attribute"] for token in row["attribute_tokens"])
    assert all(token in tables["log"] for row in tables["map"].values() for token in row["log_tokens"])
    for row in (*tables["sample_data"].values(), *tables["map"].values()):
        assert (tmp_path / "out" / row["filename"]).is_file()


def test_chains_hold_samples_data_and_annotations_in_order(tmp_path: Path, frames: list) -> None:
    tables, report = export(frames, tmp_path / "out")
    assert report.notes == ("2 scenes, for time goes back between them",)
    seen: list[str] = []
    for scene in tables["scene"].values():
        tokens = chain(tables["sample"], scene["first_sample_token"])
        assert (tokens[-1], len(tokens)) == (scene["last_sample_token"], scene["nbr_samples"])
        times = [tables["sample"][token]["timestamp"] for token in tokens]
        assert (np.diff(times) == 100_000).all(), "microseconds"
        seen += tokens
    assert sorted(seen) == sorted(tables["sample"])
    channels = {
        row["token"]: tables["sensor"][tables["calibrated_sensor"][row["calibrated_sensor_token"]]["sensor_token"]]
        for row in tables["sample_data"].values()
    }
    starts = [row for row in tables["sample_data"].values() if not row["prev"]]
    assert len(starts) == 4, "two sensors in two scenes"
    for row in starts:
        tokens = chain(tables["sample_data"], row["token"])
        assert {channels[token]["channel"] for token in tokens} == {channels[row["token"]]["channel"]}
    for instance in tables["instance"].values():
        tokens = chain(tables["sample_annotation"], instance["first_annotation_token"])
        assert (tokens[-1], len(tokens)) == (instance["last_annotation_token"], instance["nbr_annotations"])
    assert sorted(row["nbr_annotations"] for row in tables["instance"].values()) == [2, 2, 3, 3]


def test_scenes_do_not_begin_together(tmp_path: Path, frames: list) -> None:
    """The devkit sorts scenes by their first time and fails on equal ones."""
    tables, _ = export(frames, tmp_path / "out")
    starts = [tables["sample"][scene["first_sample_token"]]["timestamp"] for scene in tables["scene"].values()]
    assert starts == [5_000_000, 5_000_001]


def test_poses_boxes_and_points_are_where_the_frame_has_them(tmp_path: Path, frames: list) -> None:
    tables, _ = export(frames[:1], tmp_path / "out")
    frame = frames[0]
    by_format = {row["fileformat"]: row for row in tables["sample_data"].values()}
    camera, lidar = by_format["jpg"], by_format["pcd"]
    assert (camera["width"], camera["height"]) == (WIDTH, HEIGHT)
    mounting = tables["calibrated_sensor"][camera["calibrated_sensor_token"]]
    ego = tables["ego_pose"][camera["ego_pose_token"]]
    pose = rigid(ego) @ rigid(mounting)
    np.testing.assert_allclose(pose.matrix, frame.camera.world_from_cam.matrix, atol=1e-12)
    # The first pixel's centre lies at 0 there.
    assert mounting["camera_intrinsic"] == [[100.0, 0.0, 59.75], [0.0, 101.0, 40.0], [0.0, 0.0, 1.0]]
    rows = np.fromfile(tmp_path / "out" / lidar["filename"], "<f4").reshape(-1, 5)
    np.testing.assert_array_equal(rows[:, :3], frame.points_lidar[:, :3])
    np.testing.assert_allclose(rows[:, 3], 255 * frame.points_lidar[:, 3], rtol=1e-6)
    world_from_lidar = rigid(ego) @ rigid(tables["calibrated_sensor"][lidar["calibrated_sensor_token"]])
    np.testing.assert_allclose(world_from_lidar.apply(rows[:, :3].astype(float)), frame.points_world(), atol=1e-9)
    for row, cuboid in zip(tables["sample_annotation"].values(), CUBOIDS.astype(float), strict=True):
        assert row["size"] == cuboid[[4, 3, 5]].tolist(), "width, length, height"
        np.testing.assert_allclose(row["translation"], cuboid[:3])
        np.testing.assert_allclose(
            rigid(row).rotation @ [1, 0, 0], [np.cos(cuboid[6]), np.sin(cuboid[6]), 0], atol=1e-9
        )
        assert row["num_lidar_pts"] == inside_cuboid(frame.points_world(), cuboid).sum()


def test_occlusion_becomes_visibility(tmp_path: Path, frames: list) -> None:
    tables, _ = export(frames, tmp_path / "out")
    found = [row["visibility_token"] for row in tables["sample_annotation"].values()]
    assert found == [""] * 6 + ["4", "1"] + [""] * 2
    assert tables["visibility"]["4"]["level"] == "v80-100"


def test_frames_without_lidar_are_left_out_and_untracked_boxes_are_objects_of_their_own(tmp_path: Path) -> None:
    frames: list = drive(3)
    frames[1] = without(frames[1], "points_lidar")
    frames[2] = replace(frames[2], boxes=replace(frames[2].boxes, track_ids=None))
    tables, report = export(frames, tmp_path / "out")
    assert "frame 5.1: no LiDAR points" in report.problems[0]
    assert len(tables["sample"]) == 2
    assert len(tables["instance"]) == 4
    frames[0] = replace(frames[0], boxes=replace(frames[0].boxes, cuboids_world=None))
    tables, report = export(frames[:1], tmp_path / "flat")
    assert report.notes == ("2 boxes without cuboids left out",)
    assert tables["sample_annotation"] == {}


def rigid(row: dict[str, Any]) -> SE3:
    return SE3.from_quat(np.array(row["rotation"]), np.array(row["translation"]))
