"""BDD100K's detection labels: a JSON list of images in the Scalabel format (Yu et al., CVPR 2020)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from geometry import Boxes
from perception.datasets.base import DataError
from perception.datasets.json_files import json_float, read_json
from perception.labels import OBJECT_ID

REMEDY: Final = "fetch labels/det_20 again"
ATTRIBUTES: Final = ("weather", "timeofday", "scene")
LAST_PIXEL: Final = 1.0  # Scalabel's x2, y2 name the last column and row in the box, ours its far edge
# Names of 2020 and of 2018. Trains, trailers, signs and bicycles and motorcycles without their rider have no box.
OBJECT_OF_CATEGORY: Final[dict[str, str | None]] = {
    "pedestrian": "pedestrian",
    "person": "pedestrian",
    "other person": "pedestrian",
    "rider": "cyclist",
    "car": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "other vehicle": "vehicle",
    "train": None,
    "trailer": None,
    "bicycle": None,
    "bike": None,
    "motorcycle": None,
    "motor": None,
    "traffic light": None,
    "traffic sign": None,
}


@dataclass(frozen=True, eq=False)
class Entry:
    """What a label file says of one image.

    Args:
        attributes: weather, timeofday, scene.
        boxes: objects, not clipped to the image; None where nobody looked.
        fault: what is wrong with the labels, for when the frame is read; empty where nothing is.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    boxes: Boxes | None = None
    fault: str = ""


def read_entries(path: Path) -> dict[str, Entry]:
    """Entries by image name. An image listed without labels was looked at: its boxes are empty.

    Persons are pedestrians, riders cyclists, cars, trucks and buses vehicles. `occlusion` is 0 (not occluded), 1
    (occluded, by an unknown share) or 3 (not said).

    Raises:
        DataError: missing, not JSON, or not a list of named images. A malformed label is its image's `fault`.
    """
    content = read_json(path, REMEDY)
    listed = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise DataError(f"{path}: want a list of images, found a {type(content).__name__}; {REMEDY}")
    return dict(_entry(image, f"{path}: image {place}") for place, image in enumerate(listed))


def _entry(image: Any, where: str) -> tuple[str, Entry]:
    name = image.get("name") if isinstance(image, dict) else None
    if not isinstance(name, str):
        raise DataError(f"{where} has no name; {REMEDY}")
    said = image.get("attributes")
    said = said if isinstance(said, dict) else {}
    attributes = {key: str(said[key]) for key in ATTRIBUTES if said.get(key) is not None}
    try:
        return name, Entry(attributes, _boxes(image.get("labels") or [], f"{where} ({name})"))
    except DataError as error:
        return name, Entry(attributes, Boxes.empty(), str(error))


def _boxes(labels: Any, where: str) -> Boxes:
    if not isinstance(labels, list):
        raise DataError(f"{where}: labels are a {type(labels).__name__}, want a list; {REMEDY}")
    found = [box for number, label in enumerate(labels) for box in _box(label, f"{where}: label {number}")]
    if not found:
        return Boxes.empty()
    corners, kinds, occlusion = zip(*found, strict=True)
    return Boxes(np.array(corners, np.float32), np.array(kinds, np.int64), occlusion=np.array(occlusion, np.int64))


def _box(label: Any, where: str) -> list[tuple[list[float], int, int]]:
    """Corners, class and occlusion of a label, or nothing where it is no object of ours."""
    category = label.get("category") if isinstance(label, dict) else None
    if category not in OBJECT_OF_CATEGORY and (not isinstance(category, str) or "box2d" in label):
        raise DataError(
            f"{where}: unknown category {category!r}, want one of {', '.join(OBJECT_OF_CATEGORY)}; {REMEDY}"
        )
    kind = OBJECT_OF_CATEGORY.get(category)
    if kind is None:
        return []
    box = label.get("box2d")
    left, top, right, bottom = (json_float(box, key, f"{where}: box2d") for key in ("x1", "y1", "x2", "y2"))
    if right < left or bottom < top:
        raise DataError(f"{where}: box2d runs from ({left}, {top}) to ({right}, {bottom}); {REMEDY}")
    said = label.get("attributes")
    occluded = said.get("occluded") if isinstance(said, dict) else None
    occlusion = 3 if occluded is None else int(bool(occluded))
    return [([left, top, right + LAST_PIXEL, bottom + LAST_PIXEL], OBJECT_ID[kind], occlusion)]
