"""The label space that every data set is mapped to: CamVid's eleven classes, three of which are objects with boxes."""

from typing import Final

SEGMENTS: Final = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "vegetation",
    "sign",
    "fence",
    "vehicle",
    "pedestrian",
    "cyclist",
)
OBJECTS: Final = ("vehicle", "pedestrian", "cyclist")
IGNORE: Final = 255
SEGMENT_ID: Final = {name: index for index, name in enumerate(SEGMENTS)}
OBJECT_ID: Final = {name: index for index, name in enumerate(OBJECTS)}
SEGMENT_OF_OBJECT: Final = tuple(SEGMENT_ID[name] for name in OBJECTS)

# RGB, in the order of SEGMENTS; close to the Cityscapes palette so that pictures read as users expect.
PALETTE_RGB: Final = (
    (70, 130, 180),
    (70, 70, 70),
    (153, 153, 153),
    (128, 64, 128),
    (244, 35, 232),
    (107, 142, 35),
    (220, 220, 0),
    (190, 153, 153),
    (0, 0, 142),
    (220, 20, 60),
    (119, 11, 32),
)
