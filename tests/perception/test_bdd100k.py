"""BDD100K, written here to the published layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception.datasets import load_fleet
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.bdd100k import BDD100K, load_bdd100k
from perception.datasets.folder import format_of, open_dataset
from perception.labels import SEGMENTS

WIDTH, HEIGHT = 64, 36


def label(
    category: str, box: tuple[float, float, float, float] = (10, 10, 19, 14), **attributes: Any
) -> dict[str, Any]:
    named = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    return {"id": "0", "category": category, "box2d": named, "attributes": attributes}


def entry(name: str, labels: Any = None, time: str = "daytime", weather: str = "clear") -> dict[str, Any]:
    attributes = {"weather": weather, "timeofday": time, "scene": "city street"}
    found = {} if labels is None else {"labels": labels}
    return {"name": f"{name}.jpg", "attributes": attributes, "timestamp": 10000, **found}


def write_split(root: Path, entries: list[dict[str, Any]], split: str = "train", detections: Any = "") -> Path:
    """An image for each entry, and the label file with the entries, or with other content."""
    folder = root / "images/100k" / split
    folder.mkdir(parents=True)
    for place, item in enumerate(entries):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 50 + place, np.uint8)).save(folder / item["name"])
    (root / "labels/det_20").mkdir(parents=True, exist_ok=True)
    (root / f"labels/det_20/det_{split}.json").write_text(json.dumps(entries) if detections == "" else detections)
    return root


def test_boxes_are_mapped_and_cut_at_the_border(tmp_path: Path) -> None:
    labels = [
        label("car", occluded=False),
        label("rider", occluded=True),
        label("pedestrian"),
        label("truck", (-9, -9, 4, 4)),
        label("bus", (60, 30, 99, 99)),
        label("car", (70, 5, 90, 9)),  # outside the image
        label("car", (-9, 5, -1.8, 9)),  # reaches to column -1.8, none of which is in the image
        *(label(name) for name in ("bicycle", "motorcycle", "train", "traffic light", "traffic sign")),
    ]
    boxes = BDD100K(write_split(tmp_path, [entry("a", labels)]))[0].boxes
    assert boxes is not None
    assert boxes.labels.tolist() == [0, 2, 1, 0, 0]
    # Columns 10 to 19 and rows 10 to 14, both counted in.
    assert boxes.xyxy_px[0].tolist() == [10, 10, 20, 15]
    assert boxes.xyxy_px[3:].tolist() == [[0, 0, 5, 5], [60, 30, WIDTH, HEIGHT]]
    assert boxes.occlusion is not None
    assert boxes.occlusion.tolist() == [0, 1, 3, 3, 3]


def test_nothing_there_and_nobody_looked_are_told_apart(tmp_path: Path) -> None:
    root = write_split(tmp_path, [entry("a"), entry("b", [])])
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images/100k/train/c.jpg")
    frames = BDD100K(root)
    for index in (0, 1):
        boxes = frames[index].boxes
        assert boxes is not None
        assert len(boxes) == 0
    assert frames[2].boxes is None
    assert frames.attributes(2) == {}
    assert frames.labelled == (0, 1)


def test_attributes_and_filters(tmp_path: Path) -> None:
    entries = [
        entry("a", time="daytime", weather="rainy"),
        entry("b", time="night", weather="rainy"),
        entry("c", time="night", weather="clear"),
    ]
    root = write_split(tmp_path, entries)
    frames = BDD100K(root)
    assert frames.attributes(1) == {"weather": "rainy", "timeofday": "night", "scene": "city street"}
    assert [Path(frame.source).stem for frame in BDD100K(root, weather="rainy")] == ["a", "b"]
    assert [Path(frame.source).stem for frame in BDD100K(root, weather="rainy", timeofday="night")] == ["b"]
    with pytest.raises(DataError, match=r"no image with \{'weather': 'foggy'\}; the labels know .*'clear', 'rainy'"):
        BDD100K(root, weather="foggy")


def test_masks_hold_training_ids(tmp_path: Path) -> None:
    root = write_split(tmp_path, [entry("a"), entry("b"), entry("c")])
    folder = root / "labels/sem_seg/masks/train"
    folder.mkdir(parents=True)
    ids = np.full((HEIGHT, WIDTH), 255, np.uint8)
    ids[0, :5] = [0, 8, 13, 16, 18]
    Image.fromarray(ids).save(folder / "a.png")
    Image.fromarray(ids + np.uint8(40)).save(folder / "b.png")
    frames = BDD100K(root)
    masks = frames[0].masks
    assert masks is not None
    assert [SEGMENTS[value] if value != 255 else "" for value in masks[0, :6]] == [
        "road", "vegetation", "vehicle", "", "cyclist", "",
    ]  # fmt: skip
    assert (masks[1:] == 255).all()
    with pytest.raises(DataError, match=r"masks/train/b\.png: class 40, want 0\.\.18 or 255; use"):
        frames[1]
    assert frames[2].masks is None


def test_images_that_are_absent_are_skipped_and_counted(tmp_path: Path) -> None:
    root = write_split(tmp_path, [entry(name) for name in "abcd"])
    (root / "images/100k/train/b.jpg").unlink()
    frames = BDD100K(root)
    assert [Path(frame.source).stem for frame in frames] == ["a", "c", "d"]
    assert frames.missing == ("1 of 4 frames skipped, listed but not in images/: b.jpg",)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([{"category": "car"}], "label 0: box2d: no field x1"),
        ([label("car", (10, 10, float("nan"), 14))], "label 0: box2d: x2 holds NaN"),
        ([label("car"), label("car", (10, 10, 5, 14))], "label 1: box2d runs from (10.0, 10.0) to (5.0, 14.0)"),
        ([label("hovercraft")], "label 0: unknown category 'hovercraft', want one of pedestrian"),
        (["car"], "label 0: unknown category None"),
        ({"car": 1}, "labels are a dict, want a list"),
    ],
)
def test_a_broken_label_costs_its_own_frame(tmp_path: Path, labels: Any, says: str) -> None:
    frames = BDD100K(write_split(tmp_path, [entry("a", [label("car")]), entry("b", labels)]))
    assert frames[0].boxes is not None
    with pytest.raises(DataError) as caught:
        frames[1]
    message = str(caught.value)
    assert says in message
    assert "det_train.json: image 1 (b.jpg)" in message
    assert ";" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"name": "a.jpg"', "not a whole JSON file"),
        ('"text"', "want a list of images, found a str"),
        ("[{}]", "image 0 has no name"),
    ],
)
def test_a_broken_label_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(DataError, match=rf"det_train\.json:? .*{says}.*; fetch labels/det_20 again"):
        BDD100K(write_split(tmp_path, [entry("a")], detections=content))


def test_a_truncated_image_costs_its_own_frame(tmp_path: Path) -> None:
    root = write_split(tmp_path, [entry("a"), entry("b")])
    path = root / "images/100k/train/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    frames = BDD100K(root)
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image .*; fetch"):
        frames[0]
    assert frames[1].image is not None


def test_the_folder_is_told_from_camvid_and_an_empty_one_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images/100k/\{train,val\}"):
        BDD100K(tmp_path)
    root = write_split(tmp_path, [entry("a")])
    assert format_of(root) == "BDD100K"
    assert len(open_dataset(root)) == 1


def test_the_small_set_of_images_without_detections_is_read(tmp_path: Path) -> None:
    write_split(tmp_path, [entry("a")])
    (tmp_path / "images/100k").rename(tmp_path / "images/10k")
    (tmp_path / "labels/det_20/det_train.json").unlink()
    frames = BDD100K(tmp_path)
    assert frames[0].boxes is None
    assert frames.missing == ("labels/det_20/: no boxes and no attributes",)


def write_fleet(root: Path) -> Path:
    times = ["daytime"] * 8 + ["night"] * 4 + ["dawn/dusk"] * 4 + ["undefined"] * 4
    return write_split(root, [entry(f"{place:02d}", time=time) for place, time in enumerate(times)])


def test_times_of_day_are_regions(tmp_path: Path) -> None:
    root = write_fleet(tmp_path)
    fleet = load_fleet("bdd100k", FleetRequest(path=root, vehicles=4))
    assert [(s.vehicle, s.region, len(s.train), len(s.test)) for s in fleet.shares] == [
        ("daytime-1", "daytime", 3, 1),
        ("daytime-2", "daytime", 3, 1),
        ("night", "night", 3, 1),
        ("dawn-dusk", "dawn-dusk", 3, 1),
    ]
    assert len(fleet.holdout) == 4
    write_split(root, [entry("x"), entry("y")], split="val")
    fleet = load_bdd100k(FleetRequest(path=root, vehicles=0))
    assert [share.region for share in fleet.shares] == ["daytime", "night", "dawn-dusk"]
    assert [Path(frame.source).stem for frame in fleet.holdout] == ["x", "y"]


def test_an_unlabelled_copy_makes_no_fleet(tmp_path: Path) -> None:
    write_split(tmp_path, [entry("a")], detections="[]")
    with pytest.raises(DataError, match="no sequence of BDD100K with 2 labelled frames; fetch labels/det_20"):
        load_bdd100k(FleetRequest(path=tmp_path))
