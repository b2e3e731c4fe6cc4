"""nuScenes: small tables written here to the published schema, and the real sample below CONVOY_DATA."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geometry import SE3
from perception.datasets import load_fleet
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.nuscenes import NuScenes, NuScenesInfo, load_nuscenes
from perception.datasets.placement import inside_cuboid
from tests.perception.bad_frames import problems_of

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
SAMPLE = Path(CONVOY_DATA) / "nuscenes_sample"
needs_sample = pytest.mark.skipif(
    not (CONVOY_DATA and SAMPLE.is_dir()), reason="set CONVOY_DATA to a folder with nuscenes_sample/ to test on it"
)

WIDTH, HEIGHT = 160, 90
K = [[100.0, 0.0, 80.0], [0.0, 100.0, 45.0], [0.0, 0.0, 1.0]]
LEVEL = [0.5, -0.5, 0.5, -0.5]  # camera axes (right, down, ahead) in those of the vehicle (ahead, left, up)
RIGHT = [np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)]  # a quarter turn clockwise: x to the right, y ahead
STRAIGHT = [1.0, 0.0, 0.0, 0.0]
CATEGORIES = ["vehicle.car", "vehicle.bicycle", "human.pedestrian.adult", "movable_object.barrier", "vehicle.trailer"]
Tables = dict[str, list[dict[str, Any]]]


def annotation(sample: str, name: str, category: int, **other: Any) -> dict[str, Any]:
    record = {"token": f"{sample}-{name}", "sample_token": sample, "instance_token": f"i{category}-{name}"}
    record |= {"attribute_tokens": [], "visibility_token": "4", "num_lidar_pts": 9, "num_radar_pts": 0}
    return record | {"translation": [32, -2, 1], "size": [2, 4, 2], "rotation": STRAIGHT} | other


def small_tables(scenes: int = 1, samples: int = 1) -> Tables:
    """The vehicle drives east at 10 m/s; the camera's ego pose is half a metre past the LiDAR's."""
    tables: Tables = {"map": [], "scene": [], "sample": [], "sample_data": [], "ego_pose": [], "sample_annotation": []}
    tables["log"] = [{"token": "log", "location": "singapore-onenorth"}]
    tables["sensor"] = [{"token": name, "channel": name} for name in ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP")]
    tables["calibrated_sensor"] = [
        {"token": f"c{name}", "sensor_token": name, "translation": at, "rotation": turn, "camera_intrinsic": k}
        for name, at, turn, k in (("CAM_FRONT", [1.5, 0, 1.5], LEVEL, K), ("LIDAR_TOP", [1, 0, 1.8], RIGHT, []))
    ]
    tables["category"] = [{"token": f"k{place}", "name": name} for place, name in enumerate(CATEGORIES)]
    tables["attribute"] = [{"token": "ridden", "name": "cycle.with_rider"}]
    tables["visibility"] = [{"token": "4", "level": "v80-100"}, {"token": "1", "level": "v0-40"}]
    for scene in range(scenes):
        tables["scene"].append({"token": f"s{scene}", "name": f"scene-{scene:04d}", "log_token": "log"})
        for number in range(samples):
            add_sample(tables, scene, number)
    instances = {row["instance_token"] for row in tables["sample_annotation"]}
    tables["instance"] = [{"token": t, "category_token": f"k{t[1]}"} for t in sorted(instances)]
    return tables


def add_sample(tables: Tables, scene: int, number: int) -> None:
    token, time_us = f"s{scene}n{number}", 1_500_000_000_000_000 + 500_000 * number
    tables["sample"].append({"token": token, "timestamp": time_us, "scene_token": f"s{scene}"})
    for channel, ending, x in (("CAM_FRONT", "jpg", 10.5), ("LIDAR_TOP", "pcd.bin", 10.0)):
        pose = {"token": f"p{token}{channel}", "translation": [x, 0, 0], "rotation": STRAIGHT, "timestamp": time_us}
        tables["ego_pose"].append(pose)
        record = {"token": f"d{token}{channel}", "sample_token": token, "ego_pose_token": pose["token"]}
        record |= {"calibrated_sensor_token": f"c{channel}", "is_key_frame": True, "timestamp": time_us}
        tables["sample_data"].append(record | {"filename": f"samples/{channel}/{token}.{ending}"})
    tables["sample_data"].append(tables["sample_data"][-2] | {"token": f"x{token}", "is_key_frame": False})
    tables["sample_annotation"] += [
        annotation(token, "car", 0),
        annotation(token, "hidden", 0, num_lidar_pts=0),
        annotation(token, "behind", 0, translation=[-20, 0, 1]),
        annotation(token, "parked", 1),
        annotation(token, "rider", 1, attribute_tokens=["ridden"], visibility_token="1"),
        annotation(token, "adult", 2, visibility_token=""),
        annotation(token, "barrier", 3),
        annotation(token, "trailer", 4),
    ]


def write_nuscenes(root: Path, tables: Tables | None = None) -> Path:
    tables = tables or small_tables()
    for folder in ("v1.0-mini", "samples/CAM_FRONT", "samples/LIDAR_TOP"):
        (root / folder).mkdir(parents=True)
    for name, records in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
    for sample in tables["sample"]:
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(root / f"samples/CAM_FRONT/{sample['token']}.jpg")
        cloud = np.array([[2, 20, -0.8, 51, 3], [0, 1, 0, 255, 4]], "<f4")
        cloud.tofile(root / f"samples/LIDAR_TOP/{sample['token']}.pcd.bin")
    return root


def test_points_and_boxes_meet_in_the_image_of_a_moving_camera(tmp_path: Path) -> None:
    frame = NuScenes(write_nuscenes(tmp_path))[0]
    # The LiDAR stands at x = 10 + 1, the camera at 10.5 + 1.5; 20 m ahead of the LiDAR is 19 m ahead of the camera.
    np.testing.assert_allclose(frame.points_world()[0], [31, -2, 1], atol=1e-5)
    np.testing.assert_allclose(frame.camera.world_from_cam.translation_m, [12, 0, 1.5])
    points_px, depth_m = frame.camera.project(frame.points_world()[:1])
    np.testing.assert_allclose(depth_m, [19], atol=1e-5)
    np.testing.assert_allclose(points_px, [[80.5 + 100 * 2 / 19, 45.5 + 100 * 0.5 / 19]], atol=1e-4)
    assert frame.points_lidar is not None
    np.testing.assert_allclose(frame.points_lidar[:, 3], [51 / 255, 1])
    assert frame.boxes is not None
    assert frame.boxes.cuboids_world is not None
    np.testing.assert_allclose(frame.boxes.cuboids_world[0], [32, -2, 1, 4, 2, 2, 0], atol=1e-6)
    assert inside_cuboid(frame.points_world(), frame.boxes.cuboids_world[0]).tolist() == [True, False]
    # From 18 to 22 m ahead, 1 to 3 m to the right, from 1.5 m below the camera to 0.5 m above it.
    box = [80.5 + 100 / 22, 45.5 - 50 / 18, 80.5 + 300 / 18, 45.5 + 150 / 18]
    np.testing.assert_allclose(frame.boxes.xyxy_px[0], box, atol=1e-4)


def test_classes_are_mapped_and_unseen_objects_left_out(tmp_path: Path) -> None:
    boxes = NuScenes(write_nuscenes(tmp_path))[0].boxes
    assert boxes is not None
    assert boxes.labels.tolist() == [0, 2, 1]  # the car, the ridden bicycle, the adult
    assert boxes.occlusion is not None
    assert boxes.occlusion.tolist() == [0, 2, 3]
    assert boxes.track_ids is not None
    assert len(set(boxes.track_ids.tolist())) == 3


@pytest.mark.parametrize(("yaw", "expected"), [(0.0, 0.0), (2.5, 2.5), (-3.0, -3.0)])
def test_yaw_is_that_of_the_quaternion(tmp_path: Path, yaw: float, expected: float) -> None:
    tables = small_tables()
    tables["sample_annotation"][0]["rotation"] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    boxes = NuScenes(write_nuscenes(tmp_path, tables))[0].boxes
    assert boxes is not None
    assert boxes.cuboids_world is not None
    assert boxes.cuboids_world[0, 6] == pytest.approx(expected, abs=1e-6)


def test_scenes_are_sequences_in_order_of_time(tmp_path: Path) -> None:
    tables = small_tables(scenes=2, samples=3)
    tables["sample"].reverse()
    frames = NuScenes(write_nuscenes(tmp_path, tables))
    assert frames.sequences == {"scene-0000": (0, 1, 2), "scene-0001": (3, 4, 5)}
    assert np.diff(frames.timestamps_s[:3]).tolist() == [0.5, 0.5]
    assert frames[4].source.endswith("s1n1.jpg")
    assert format_of(tmp_path) == "nuScenes"
    assert len(open_dataset(tmp_path / "v1.0-mini")) == 6


def test_without_labels_or_lidar_those_are_none(tmp_path: Path) -> None:
    tables = small_tables()
    tables["sample_annotation"] = []
    root = write_nuscenes(tmp_path, tables)
    (root / "samples/LIDAR_TOP").rename(root / "elsewhere")
    frames = NuScenes(root)
    assert frames[0].boxes is None
    assert frames[0].points_lidar is None
    assert frames.missing == ("sample_annotation.json: no boxes", "samples/LIDAR_TOP: no LiDAR points")
    with pytest.raises(DataError, match="no sequence of nuScenes with 2 labelled"):
        load_nuscenes(FleetRequest(path=root))


def test_a_frame_whose_sample_has_no_object_has_empty_boxes(tmp_path: Path) -> None:
    tables = small_tables(samples=2)
    tables["sample_annotation"] = [r for r in tables["sample_annotation"] if r["sample_token"] == "s0n0"]
    boxes = NuScenes(write_nuscenes(tmp_path, tables))[1].boxes
    assert boxes is not None
    assert len(boxes) == 0


def drop(table: str, field: str) -> Callable[[Tables], None]:
    return lambda tables: tables[table][1].pop(field)


def put(table: str, field: str, value: Any) -> Callable[[Tables], None]:
    return lambda tables: tables[table][0].update({field: value})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (put("ego_pose", "translation", [float("nan"), 0, 0]), r"ego_pose\.json: ps0n0CAM_FRONT: .*NaN"),
        (put("ego_pose", "rotation", [0, 0, 0, 0]), r"ego_pose\.json: .*not zero"),
        (put("ego_pose", "rotation", [1, 0]), r"ego_pose\.json: "),
        (put("ego_pose", "token", "other"), r"ego_pose\.json: no record 'ps0n0CAM_FRONT'"),
        (put("calibrated_sensor", "camera_intrinsic", []), r"calibrated_sensor\.json: cCAM_FRONT: "),
        (put("sample_data", "sample_token", "other"), r"sample_data\.json: no key frame of CAM_FRONT for sample s0n0"),
        (put("sample_annotation", "instance_token", "other"), r"instance\.json: no record 'other'"),
        (put("sample_annotation", "size", [2, -4, 2]), r"sample_annotation\.json: s0n0-car: .*positive"),
        (put("sample_annotation", "size", ["wide", 4, 2]), r"sample_annotation\.json: s0n0-car: "),
        (put("sample_data", "width", 320), None),  # held against the image only where both sides are given
        (lambda tables: tables["sample_data"][0].update(width=320, height=180), r"160x90, sample_data\.json says 320x"),
    ],
)
def test_a_bad_record_costs_its_frame_alone(tmp_path: Path, spoil: Callable[[Tables], None], says: str | None) -> None:
    tables = small_tables(samples=3)
    spoil(tables)
    root = write_nuscenes(tmp_path, tables)
    found = problems_of(NuScenes(root))
    if says is None:
        assert not found
        return
    assert re.search(says, found[0])
    assert ";" in found[0], "the part after the semicolon is the remedy"
    shared = "calibrated_sensor" in says  # all frames refer to that record
    assert list(found) == ([0, 1, 2] if shared else [0])


@pytest.mark.parametrize(
    ("file", "cut", "says"),
    [
        ("samples/CAM_FRONT/s0n1.jpg", 300, r"s0n1\.jpg: not a readable image"),
        ("samples/CAM_FRONT/s0n1.jpg", None, r"s0n1\.jpg: not found"),
        ("samples/LIDAR_TOP/s0n1.pcd.bin", 21, r"s0n1\.pcd\.bin: 21 bytes are no multiple of 20"),
        ("samples/LIDAR_TOP/s0n1.pcd.bin", 0, r"s0n1\.pcd\.bin: holds no points"),
        ("samples/LIDAR_TOP/s0n1.pcd.bin", None, r"s0n1\.pcd\.bin: not found"),
    ],
)
def test_a_damaged_file_costs_its_frame_alone(tmp_path: Path, file: str, cut: int | None, says: str) -> None:
    root = write_nuscenes(tmp_path, small_tables(samples=3))
    content = (root / file).read_bytes()
    (root / file).unlink()
    if cut is not None:
        (root / file).write_bytes(content[:cut])
    found = problems_of(NuScenes(root))
    assert list(found) == [1]
    assert re.search(says, found[1])


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "calibrated_sensor", "sensor", "instance"])
def test_tables_must_be_there_whole_and_with_their_fields(tmp_path: Path, table: str) -> None:
    root = write_nuscenes(tmp_path, small_tables(samples=2))
    path = root / "v1.0-mini" / f"{table}.json"
    records = json.loads(path.read_text())
    records[-1].pop("token")
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match=rf"{table}\.json: record None has no field token; "):
        NuScenes(root)
    path.write_text(json.dumps(records)[:-9])
    with pytest.raises(DataError, match=rf"{table}\.json: "):
        NuScenes(root)
    path.write_text("{}")
    with pytest.raises(DataError, match=rf"{table}\.json: "):
        NuScenes(root)
    path.unlink()
    with pytest.raises(DataError, match=rf"{table}\.json|no v1\.0-"):
        NuScenes(root)


def test_other_folders_and_cameras_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no v1"):
        NuScenes(tmp_path)
    root = write_nuscenes(tmp_path)
    with pytest.raises(DataError, match="no key frames of 'CAM_BACK'"):
        NuScenes(root, camera="CAM_BACK")
    (root / "v1.0-trainval").mkdir()
    (root / "v1.0-trainval/sample_data.json").write_text("[]")
    with pytest.raises(DataError, match="2 versions"):
        NuScenes(root)


def test_a_fleet_has_a_vehicle_a_scene_in_the_place_of_its_log(tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path, small_tables(scenes=2, samples=8))
    fleet = load_fleet("nuscenes", FleetRequest(path=root, vehicles=0))
    assert [(share.vehicle, share.region) for share in fleet.shares] == [
        ("scene-0000", "singapore-onenorth"),
        ("scene-0001", "singapore-onenorth"),
    ]
    assert [(len(share.train), len(share.test)) for share in fleet.shares] == [(6, 2), (6, 2)]
    assert len(fleet.holdout) == 4


@needs_sample
def test_boxes_of_the_real_sample_equal_those_that_its_maker_projected() -> None:
    """The info file lists boxes for each camera, from the original tables; ours come from the LiDAR's frame."""
    frames = NuScenesInfo(SAMPLE)
    listed = json.loads((SAMPLE / "sample_info.json").read_text())["data_list"][0]["cam_instances"]
    assert len(frames) == 6
    compared = 0
    for camera, frame in zip(frames.cameras, frames, strict=True):
        theirs = np.array([entry["bbox"] for entry in listed[camera]]) + 0.5  # its first pixel has its centre at 0
        assert frame.boxes is not None
        left, top, right, bottom = frame.boxes.xyxy_px.T
        whole = (left > 1) & (top > 1) & (right < frame.camera.width_px - 1) & (bottom < frame.camera.height_px - 1)
        far_px = np.abs(frame.boxes.xyxy_px[whole][:, None] - theirs[None]).max(axis=-1).min(axis=1)
        assert far_px.max() < 0.5
        assert np.median(far_px) < 0.02
        compared += len(far_px)
    assert compared >= 40


@needs_sample
def test_cuboids_of_the_real_sample_hold_the_points_that_it_counts() -> None:
    frame = NuScenesInfo(SAMPLE)[0]
    assert frame.boxes is not None
    assert frame.boxes.cuboids_world is not None
    inside = [inside_cuboid(frame.points_world(), cuboid).sum() for cuboid in frame.boxes.cuboids_world]
    instances = json.loads((SAMPLE / "sample_info.json").read_text())["data_list"][0]["instances"]
    counts = [entry["num_lidar_pts"] for entry in instances]
    assert max(inside) > 400
    # Nearly every count occurs among the file's own, which were made from the same sweep.
    assert np.mean([min(abs(count - n) for count in counts) <= 2 for n in inside]) > 0.9


def tables_of_the_sample(info: dict[str, Any]) -> Tables:
    """The real sample as the official tables would hold it; the poses at the cameras' times come out of `lidar2cam`."""

    def pose(matrix: np.ndarray) -> dict[str, Any]:
        rigid = SE3.from_matrix(matrix)
        return {"rotation": rigid.quat_wxyz.tolist(), "translation": rigid.translation_m.tolist()}

    world_from_ego, lidar = np.array(info["ego2global"]), info["lidar_points"]
    world_from_lidar = world_from_ego @ np.array(lidar["lidar2ego"])
    tables = small_tables()
    for name in ("sample_data", "sample_annotation", "instance", "ego_pose", "calibrated_sensor", "sensor"):
        tables[name] = []
    sensors = [("LIDAR_TOP", lidar["lidar_path"], np.array(lidar["lidar2ego"]), world_from_ego, [])]
    for channel, image in info["images"].items():
        ego_from_cam = np.array(image["cam2ego"])
        moved = world_from_lidar @ np.linalg.inv(image["lidar2cam"]) @ np.linalg.inv(ego_from_cam)
        sensors.append((channel, image["img_path"], ego_from_cam, moved, image["cam2img"]))
    for channel, file, ego_from_sensor, ego_pose, k in sensors:
        tables["sensor"].append({"token": channel, "channel": channel})
        calibration = {"token": f"c{channel}", "sensor_token": channel, "camera_intrinsic": k} | pose(ego_from_sensor)
        tables["calibrated_sensor"].append(calibration)
        tables["ego_pose"].append({"token": f"p{channel}"} | pose(ego_pose))
        record = {"token": channel, "sample_token": "s0n0", "filename": f"samples/{channel}/{file}", "timestamp": 0}
        links = {"ego_pose_token": f"p{channel}", "calibrated_sensor_token": f"c{channel}", "is_key_frame": True}
        tables["sample_data"].append(record | links)
    for number, box in enumerate(info["instances"]):
        if box["bbox_label_3d"] in (0, 7) and box["num_lidar_pts"] + box["num_radar_pts"]:  # cars and pedestrians
            x, y, z, length, width, height, yaw = box["bbox_3d"]
            heading = world_from_lidar[:3, :3] @ [np.cos(yaw), np.sin(yaw), 0]
            turn = np.arctan2(heading[1], heading[0])
            centre = (world_from_lidar @ [x, y, z, 1])[:3].tolist()
            rotation = [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
            kind = 0 if box["bbox_label_3d"] == 0 else 2
            where = {"translation": centre, "size": [width, length, height], "rotation": rotation}
            tables["sample_annotation"].append(annotation("s0n0", str(number), kind, **where))
            tables["instance"].append({"token": f"i{kind}-{number}", "category_token": f"k{kind}"})
    return tables


@needs_sample
def test_both_readers_see_the_real_sample_alike(tmp_path: Path) -> None:
    info = json.loads((SAMPLE / "sample_info.json").read_text())["data_list"][0]
    (tmp_path / "v1.0-mini").mkdir()
    for name, records in tables_of_the_sample(info).items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
    files = {channel: image["img_path"] for channel, image in info["images"].items()}
    for channel, file in (files | {"LIDAR_TOP": info["lidar_points"]["lidar_path"]}).items():
        (tmp_path / "samples" / channel).mkdir(parents=True)
        (tmp_path / "samples" / channel / file).symlink_to(SAMPLE / file)
    by_info = NuScenesInfo(SAMPLE)
    for camera, theirs in zip(by_info.cameras, by_info, strict=True):
        ours = NuScenes(tmp_path, camera=camera)[0]
        np.testing.assert_allclose(ours.points_world(), theirs.points_world(), atol=1e-3)
        assert ours.boxes is not None
        assert theirs.boxes is not None
        drawn = theirs.boxes.xyxy_px
        far_px = [np.abs(drawn - box).max(axis=1).min() for box in ours.boxes.xyxy_px]
        assert max(far_px, default=0) < 0.1
        assert len(ours.boxes) >= len(theirs.boxes) - 4  # the lorries, the digger and the cyclist are left out


def spoiled_sample(root: Path, change: Callable[[dict[str, Any]], object]) -> NuScenesInfo:
    for path in SAMPLE.iterdir():
        (root / path.name).symlink_to(path)
    info = json.loads((SAMPLE / "sample_info.json").read_text())
    change(info["data_list"][0])
    (root / "sample_info.json").unlink()
    (root / "sample_info.json").write_text(json.dumps(info))
    return NuScenesInfo(root)


@needs_sample
@pytest.mark.parametrize(
    ("change", "says", "read"),
    [
        (lambda s: s["images"]["CAM_BACK"].pop("cam2img"), "CAM_BACK has no field cam2img", 5),
        (lambda s: s["images"]["CAM_BACK"]["lidar2cam"].pop(), "CAM_BACK: lidar2cam: ", 5),
        (lambda s: s["images"]["CAM_BACK"].update(img_path="nowhere.jpg"), r"nowhere\.jpg: not found", 5),
        (lambda s: s["ego2global"][0].__setitem__(3, float("nan")), "sample: ego2global: ", 0),
        (lambda s: s["instances"][5].update(bbox_3d=[1, 2, 3]), "instances: ", 0),
        (lambda s: s["instances"][0]["bbox_3d"].__setitem__(0, float("nan")), "instances: .*NaN", 0),
    ],
)
def test_a_spoiled_sample_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str, read: int
) -> None:
    frames = spoiled_sample(tmp_path, change)
    found = problems_of(frames)
    assert len(found) == 6 - read
    assert re.search(rf"{says}.*; ", found[frames.cameras.index("CAM_BACK")])


def test_an_info_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content, says in (('{"data_list": []}', "no field metainfo"), ("[]", "holds a list"), ("{", "not a whole")):
        (tmp_path / "sample_info.json").write_text(content)
        with pytest.raises(DataError, match=says):
            NuScenesInfo(tmp_path)
