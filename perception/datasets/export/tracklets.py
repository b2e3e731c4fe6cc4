"""KITTI raw's `tracklet_labels.xml`, written: objects followed through a drive, in LiDAR coordinates."""

from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import SE3, Boxes
from perception.datasets.export.kitti_object import TYPE_OF_LABEL
from perception.datasets.placement import yaw_of

STATE_LABELLED = 2
UNSET = -1
TruncationAndOcclusion = tuple[int, int]


@dataclass(eq=False)
class Track:
    """An object in consecutive frames.

    Args:
        kind: KITTI's object type.
        size_m: length, width, height.
        first_frame: number of its first frame.
        poses: x y z of the middle of the bottom face (m) and yaw (rad) in the LiDAR's frame, a frame each.
        hidden: truncation (0 inside, 1 partly outside the image) and occlusion (0..2), a frame each; -1 is unknown.
    """

    kind: str
    size_m: tuple[float, float, float]
    first_frame: int
    poses: list[Float[ndarray, "4"]] = field(default_factory=list)
    hidden: list[TruncationAndOcclusion] = field(default_factory=list)


class TrackBook:
    """Collects the objects of a drive. Where an object is missed in a frame, a new tracklet begins.

    `used` says whether any frame was labelled, with or without objects in it.
    """

    def __init__(self) -> None:
        self.used = False
        self._tracks: list[Track] = []
        self._open: dict[tuple[object, ...], Track] = {}

    def add(self, frame_number: int, boxes: Boxes, world_from_lidar: SE3) -> None:
        """The objects of the next frame; `boxes` has cuboids. Without track ids every box is a tracklet of its own."""
        assert boxes.cuboids_world is not None
        self.used = True
        poses, hidden = poses_lidar(boxes.cuboids_world, world_from_lidar), _hidden(boxes)
        still_open: dict[tuple[object, ...], Track] = {}
        for place, cuboid in enumerate(boxes.cuboids_world):
            name = place if boxes.track_ids is None else int(boxes.track_ids[place])
            length, width, height = (round(float(side), 4) for side in cuboid[3:6])
            key = (name, int(boxes.labels[place]), length, width, height)
            track = None if boxes.track_ids is None else self._open.get(key)
            if track is None or key in still_open:
                track = Track(TYPE_OF_LABEL[boxes.labels[place]], (length, width, height), frame_number)
                self._tracks.append(track)
            track.poses.append(poses[place])
            track.hidden.append(hidden[place])
            still_open[key] = track
        self._open = still_open

    def xml(self) -> str:
        """The file's content."""
        root = ElementTree.Element("boost_serialization", signature="serialization::archive", version="9")
        tracklets = ElementTree.SubElement(root, "tracklets", class_id="0", tracking_level="0", version="0")
        _texts(tracklets, {"count": len(self._tracks), "item_version": 1})
        for track in self._tracks:
            _append_track(tracklets, track)
        ElementTree.indent(root)
        return (
            '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>\n' + ElementTree.tostring(root, "unicode") + "\n"
        )


def poses_lidar(cuboids_world: Float[ndarray, "n 7"], world_from_lidar: SE3) -> Float[ndarray, "n 4"]:
    """x y z of the middle of the bottom face and yaw about z, in the LiDAR's frame."""
    cuboids = np.asarray(cuboids_world, dtype=np.float64)
    lidar_from_world = world_from_lidar.inverse()
    bottom = lidar_from_world.apply(cuboids[:, :3]) - cuboids[:, 5:6] * np.array([0.0, 0.0, 0.5])
    yaw = cuboids[:, 6]
    headings = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    return np.column_stack([bottom, yaw_of(headings @ lidar_from_world.rotation.T)])


def _hidden(boxes: Boxes) -> list[TruncationAndOcclusion]:
    unknown = np.full(len(boxes), UNSET)
    truncated = unknown if boxes.truncation is None else (boxes.truncation > 0).astype(int)
    occluded = unknown if boxes.occlusion is None else np.where(boxes.occlusion <= 2, boxes.occlusion, UNSET)
    return [(int(t), int(o)) for t, o in zip(truncated, occluded, strict=True)]


def _append_track(parent: ElementTree.Element, track: Track) -> None:
    item = ElementTree.SubElement(parent, "item")
    length, width, height = track.size_m
    _texts(item, {"objectType": track.kind, "h": height, "w": width, "l": length, "first_frame": track.first_frame})
    poses = ElementTree.SubElement(item, "poses")
    _texts(poses, {"count": len(track.poses), "item_version": 2})
    for (x, y, z, yaw), (truncated, occluded) in zip(track.poses, track.hidden, strict=True):
        pose = ElementTree.SubElement(poses, "item")
        _texts(pose, {"tx": float(x), "ty": float(y), "tz": float(z), "rx": 0, "ry": 0, "rz": float(yaw)})
        _texts(pose, {"state": STATE_LABELLED, "occlusion": occluded, "occlusion_kf": 0, "truncation": truncated})
        unset = ("amt_occlusion", "amt_occlusion_kf", "amt_border_l", "amt_border_r", "amt_border_kf")
        _texts(pose, dict.fromkeys(unset, UNSET))
    _texts(item, {"finished": 1})


def _texts(parent: ElementTree.Element, values: dict[str, str | int | float]) -> None:
    for key, value in values.items():
        ElementTree.SubElement(parent, key).text = str(value)
