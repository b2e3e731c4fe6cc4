"""Cityscapes' classes (Cordts et al., CVPR 2016), which BDD100K shares, in our label space.

Ids and names are torchvision's table. Left out, so 255: void classes, parking, rail track, trailers, caravans, trains.
Masks count bicycles and motorcycles as "cyclist", ridden or not, as CamVid does; boxes of cyclists are those of riders.
"""

from functools import cache
from typing import Final

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from perception.labels import IGNORE, SEGMENT_ID

SEGMENT_OF_CLASS: Final = {
    "road": "road",
    "sidewalk": "pavement",
    "building": "building",
    "wall": "building",
    "bridge": "building",
    "tunnel": "building",
    "fence": "fence",
    "guard rail": "fence",
    "pole": "pole",
    "polegroup": "pole",
    "traffic light": "sign",
    "traffic sign": "sign",
    "vegetation": "vegetation",
    "terrain": "vegetation",
    "sky": "sky",
    "person": "pedestrian",
    "rider": "cyclist",
    "bicycle": "cyclist",
    "motorcycle": "cyclist",
    "car": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
}
OBJECT_OF_CLASS: Final = {
    "person": "pedestrian",
    "rider": "cyclist",
    "car": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
}


@cache
def segments_of_label_ids() -> UInt8[ndarray, "256"]:
    """Our class, or 255, of each label id (0..33) of `labelIds.png`."""
    return _lookup("id")


@cache
def segments_of_train_ids() -> UInt8[ndarray, "256"]:
    """Our class, or 255, of each training id (0..18)."""
    return _lookup("train_id")


@cache
def class_names() -> dict[int, str]:
    """Cityscapes' name of each label id."""
    from torchvision.datasets import Cityscapes  # takes a second to import: only when labels are read

    return {entry.id: entry.name for entry in Cityscapes.classes}


def _lookup(field: str) -> UInt8[ndarray, "256"]:
    from torchvision.datasets import Cityscapes

    table = np.full(256, IGNORE, np.uint8)
    for entry in Cityscapes.classes:
        number = getattr(entry, field)
        if entry.name in SEGMENT_OF_CLASS and 0 <= number < IGNORE:
            table[number] = SEGMENT_ID[SEGMENT_OF_CLASS[entry.name]]
    return table
