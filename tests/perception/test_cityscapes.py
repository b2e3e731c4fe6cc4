"""Cityscapes, written here to the published layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from perception.datasets import load_fleet
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.cityscapes import Cityscapes, load_cityscapes
from perception.datasets.cityscapes_labels import segments_of_label_ids, segments_of_train_ids
from perception.datasets.folder import format_of, open_dataset
from perception.labels import SEGMENTS

WIDTH, HEIGHT = 64, 32
STEM = "ulm_000003_000034"
# The angles and offsets of a published camera file, and the sensor_T_ISO_8855 (vehicle to sensor, x ahead, y left,
# z up) that the 3D box annotations (Gählert et al., 2020) give for the same recording.
CAMERA = {
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
    "extrinsic": {"baseline": 0.209313, "yaw": -0.0195, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "z": 1.22},
}
SENSOR_FROM_VEHICLE = np.array(
    [
        [0.9990881051503779, -0.01948468779721943, -0.03799085532693703, -1.6501524664770573],
        [0.019498764210995674, 0.9998098810245096, 0.0, -0.1331288872611436],
        [0.03798363254444427, -0.0007407747301939942, 0.9992780868764849, -1.2836173638418473],
    ]
)


def write_frame(root: Path, stem: str = STEM, split: str = "train", **files: Any) -> Path:
    """An image, road everywhere but for two cars and a rider, and a camera; `files` replaces or (None) leaves out."""
    city = stem.partition("_")[0]
    labels = np.full((HEIGHT, WIDTH), 7, np.uint8)
    ids = labels.astype(np.uint16)
    for label, number, (left, top, right, bottom) in ((26, 26000, (4, 10, 9, 14)), (26, 26001, (20, 8, 30, 20))):
        labels[top:bottom, left:right], ids[top:bottom, left:right] = label, number
    labels[8:12, 40:42], ids[8:12, 40:42] = 25, 25000
    labels[12:16, 40:42], ids[12:16, 40:42] = 33, 33000
    labels[20:22, 50:60], ids[20:22, 50:60] = 26, 26  # a group of cars
    content = {"labelIds": labels, "instanceIds": ids, "camera": CAMERA, **files}
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
    for kind in ("labelIds", "instanceIds"):
        if content[kind] is not None:
            save(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png", content[kind])
    if content["camera"] is not None:
        path = root / "camera" / split / city / f"{stem}_camera.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content["camera"]))
    return root


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_frame_has_masks_instances_and_boxes_that_agree(tmp_path: Path) -> None:
    frame = Cityscapes(write_frame(tmp_path))[0]
    assert frame.timestamp_s == 34 / 17
    assert frame.masks is not None
    assert frame.instances is not None
    assert frame.boxes is not None
    assert [SEGMENTS[frame.masks[row, column]] for row, column in ((0, 0), (10, 4), (8, 40), (15, 41), (21, 55))] == [
        "road", "vehicle", "cyclist", "cyclist", "vehicle",
    ]  # fmt: skip
    # In order of ids: the rider, then the cars. The bicycle and the group have no box.
    assert frame.boxes.labels.tolist() == [2, 0, 0]
    assert frame.boxes.xyxy_px.tolist() == [[40, 8, 42, 12], [4, 10, 9, 14], [20, 8, 30, 20]]
    assert frame.boxes.track_ids is not None
    assert frame.boxes.track_ids.tolist() == [25000, 26000, 26001]
    assert sorted(np.unique(frame.instances)) == [-1, 25000, 26000, 26001]
    assert (frame.instances == 26001).sum() == 10 * 12


def test_labels_are_mapped_by_name() -> None:
    by_name = {entry.name: entry for entry in TorchvisionCityscapes.classes}
    ours = {name: int(segments_of_label_ids()[entry.id]) for name, entry in by_name.items() if entry.id >= 0}
    assert len(ours) == 34
    assert {SEGMENTS[segment] for segment in ours.values() if segment != 255} == set(SEGMENTS)
    unlabelled = {name for name, segment in ours.items() if segment == 255}
    assert unlabelled >= {"unlabeled", "ego vehicle", "out of roi", "static", "dynamic", "train", "parking"}
    assert segments_of_label_ids()[255] == segments_of_train_ids()[255] == 255
    for name, entry in by_name.items():
        if 0 <= entry.train_id < 19:
            assert segments_of_train_ids()[entry.train_id] == ours[name]


def test_the_pose_is_that_of_the_published_calibration(tmp_path: Path) -> None:
    frame = Cityscapes(write_frame(tmp_path))[0]
    points_vehicle = np.array([[20.0, 3.0, 0.5], [15.0, -4.0, 2.0], [40.0, 0.0, 1.0]])
    ahead, left, up = SENSOR_FROM_VEHICLE @ np.column_stack([points_vehicle, np.ones(3)]).T
    inner = CAMERA["intrinsic"]
    expected_px = np.stack([inner["u0"] - inner["fx"] * left / ahead, inner["v0"] - inner["fy"] * up / ahead], axis=1)
    # Half a pixel for the first pixel's centre; the image here is a copy scaled to 64 of 2048 columns. The published
    # angles and offsets are rounded, by up to 5 cm at the rear axle.
    at_px, depth_m = frame.camera.project(points_vehicle)
    np.testing.assert_allclose(at_px, (expected_px + 0.5) / 32, atol=0.25)
    np.testing.assert_allclose(depth_m, ahead, atol=0.06)
    np.testing.assert_allclose(frame.camera.world_from_cam.translation_m, [1.7, 0.1, 1.22])
    np.testing.assert_allclose(frame.camera.world_from_cam.rotation[:, 2], SENSOR_FROM_VEHICLE[0, :3], atol=1e-4)
    np.testing.assert_allclose(-frame.camera.world_from_cam.rotation[:, 1], SENSOR_FROM_VEHICLE[2, :3], atol=1e-4)


def test_what_has_no_file_is_none_or_nominal(tmp_path: Path) -> None:
    frames = Cityscapes(write_frame(tmp_path, labelIds=None, instanceIds=None, camera=None))
    frame = frames[0]
    assert frame.masks is None
    assert frame.instances is None
    assert frame.boxes is None
    assert frame.camera.fx_px == pytest.approx(32 / np.tan(np.radians(24.5)))
    assert frames.missing == ("gtFine/: no masks, instances and boxes", "camera/: poses and intrinsics are nominal")
    assert frames.labelled == ()


def test_a_frame_without_objects_was_looked_at(tmp_path: Path) -> None:
    frame = Cityscapes(write_frame(tmp_path, instanceIds=np.full((HEIGHT, WIDTH), 7, np.uint16)))[0]
    assert frame.boxes is not None
    assert len(frame.boxes) == 0


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"labelIds": np.full((HEIGHT, WIDTH), 40, np.uint8)}, r"labelIds\.png: label 40, want 0\.\.33; use"),
        ({"labelIds": np.zeros((8, 8), np.uint8)}, r"labelIds\.png: is \(8, 8\), the image \(32, 64\); take"),
        ({"labelIds": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}, r"labelIds\.png: mode RGB"),
        ({"instanceIds": np.zeros((8, 8), np.uint16)}, r"instanceIds\.png: is \(8, 8\)"),
        ({"instanceIds": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}, r"instanceIds\.png: 3 axes, want one channel"),
        ({"camera": {}}, r"camera\.json: intrinsic: no field fx; add"),
        ({"camera": {**CAMERA, "extrinsic": {"yaw": float("nan")}}}, r"camera\.json: extrinsic: yaw holds NaN"),
        ({"camera": {**CAMERA, "intrinsic": {**CAMERA["intrinsic"], "fx": 0}}}, r"camera\.json: .* must be positive"),
        ({"camera": [1]}, r"camera\.json: holds a list"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    frames = Cityscapes(write_frame(tmp_path, **files))
    with pytest.raises(DataError, match=says):
        frames[0]


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine_labelIds", "gtFine_instanceIds"])
def test_a_truncated_image_costs_its_own_frame(tmp_path: Path, kind: str) -> None:
    write_frame(write_frame(tmp_path), "ulm_000003_000035")
    path = next(tmp_path.glob(f"*/train/ulm/{STEM}_{kind}.png"))
    for size in (40, path.stat().st_size - 20):
        path.write_bytes(path.read_bytes()[:size])
        frames = Cityscapes(tmp_path)
        with pytest.raises(DataError, match=rf"{kind}\.png: not a readable image .*; fetch"):
            frames[0]
        assert frames[1].boxes is not None


def test_a_scrambled_instance_file_is_named(tmp_path: Path) -> None:
    frames = Cityscapes(write_frame(tmp_path))
    path = next(tmp_path.glob("gtFine/*/*/*instanceIds.png"))
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"\0\0\0\0"))
    with pytest.raises(DataError, match=r"instanceIds\.png: not a readable image"):
        frames[0]


def test_an_image_that_was_cropped_does_not_fit_its_camera(tmp_path: Path) -> None:
    root = write_frame(tmp_path, labelIds=None, instanceIds=None)
    save(next(root.glob("leftImg8bit/*/*/*.png")), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"camera\.json: image is 32x32, want twice as wide"):
        Cityscapes(root)[0]


def test_other_names_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no leftImg8bit/\{train,val\}/CITY"):
        Cityscapes(tmp_path)
    root = write_frame(tmp_path)
    assert format_of(root) == "Cityscapes"
    save(root / "leftImg8bit/train/ulm/holiday_leftImg8bit.png", np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"holiday_leftImg8bit\.png: not named CITY_SEQUENCE_NUMBER"):
        open_dataset(root)


@pytest.fixture
def two_cities(tmp_path: Path) -> Path:
    for city in ("bonn", "ulm"):
        for sequence in range(4):
            write_frame(tmp_path, f"{city}_{sequence:06d}_000019")
    return tmp_path


def test_cities_are_vehicles_and_regions(two_cities: Path) -> None:
    fleet = load_fleet("cityscapes", FleetRequest(path=two_cities, vehicles=2))
    assert [(s.vehicle, s.region, len(s.train), len(s.test)) for s in fleet.shares] == [
        ("bonn", "bonn", 3, 1),
        ("ulm", "ulm", 3, 1),
    ]
    assert [Path(frame.source).name[:10] for frame in fleet.holdout] == ["bonn_00000", "ulm_000003"]
    three = load_cityscapes(FleetRequest(path=two_cities, vehicles=3))
    assert [share.region for share in three.shares] == ["bonn", "bonn", "ulm"]


def test_validation_cities_are_the_holdout(two_cities: Path) -> None:
    write_frame(two_cities, "lindau_000000_000019", split="val")
    fleet = load_cityscapes(FleetRequest(path=two_cities, vehicles=0))
    assert [share.vehicle for share in fleet.shares] == ["bonn", "ulm"]
    assert [Path(frame.source).parent.name for frame in fleet.holdout] == ["lindau"]
    assert any("validation split" in note for note in fleet.notes)


def test_an_unlabelled_copy_makes_no_fleet(tmp_path: Path) -> None:
    write_frame(tmp_path, instanceIds=None)
    with pytest.raises(DataError, match="no sequence of Cityscapes with 2 labelled frames; fetch gtFine"):
        load_cityscapes(FleetRequest(path=tmp_path))
