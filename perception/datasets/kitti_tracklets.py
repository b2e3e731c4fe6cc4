"""KITTI raw's `tracklet_labels.xml`: objects followed through a drive, in LiDAR coordinates."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from geometry import SE3, Boxes, Camera
from perception.datasets.base import DataError
from perception.datasets.files import require
from perception.datasets.kitti_io import OBJECT_OF_KITTI
from perception.datasets.placement import clip_boxes, cuboid_corners, hull_boxes, yaw_of
from perception.labels import OBJECT_ID


@dataclass(frozen=True)
class TrackPose:
    """One object in one frame.

    Args:
        track_id: place of the track in the file.
        kind: KITTI's object type.
        cuboid_velo: x y z of the centre, length, width, height (m), yaw (rad, about z), in the LiDAR's frame.
    """

    track_id: int
    kind: str
    cuboid_velo: tuple[float, ...]


def read_tracklets(path: Path) -> dict[int, list[TrackPose]]:
    """All objects by frame number.

    Raises:
        DataError: missing, not XML, an element is missing or no finite number, or the object type is unknown.
    """
    require(path, "fetch the tracklets archive of the drive")
    try:
        tracks = ElementTree.parse(path).getroot().findall("./tracklets/item")
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not whole XML ({error}); fetch the tracklets archive again") from error
    by_frame: dict[int, list[TrackPose]] = defaultdict(list)
    for track_id, track in enumerate(tracks):
        for frame, pose in _read_track(track, track_id, path):
            by_frame[frame].append(pose)
    return dict(by_frame)


def _read_track(track: ElementTree.Element, track_id: int, path: Path) -> list[tuple[int, TrackPose]]:
    where = f"{path}: track {track_id}"
    kind = track.findtext("objectType") or ""
    if kind not in OBJECT_OF_KITTI:
        raise DataError(f"{where}: objectType {kind!r} is unknown; KITTI has {', '.join(OBJECT_OF_KITTI)}")
    first = int(_number(track, "first_frame", where))
    length, width, height = (_number(track, key, where) for key in ("l", "w", "h"))
    poses = []
    for place, item in enumerate(track.findall("./poses/item")):
        x, y, z, yaw = (_number(item, key, where) for key in ("tx", "ty", "tz", "rz"))
        cuboid = (x, y, z + height / 2, length, width, height, yaw)  # tz is the middle of the bottom face
        poses.append((first + place, TrackPose(track_id, kind, cuboid)))
    return poses


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError as error:
        raise DataError(f"{where}: <{key}> is {text!r}, want a number; fetch the tracklets archive again") from error
    if not np.isfinite(value):
        raise DataError(f"{where}: <{key}> is {text}; remove the track or fetch the archive again")
    return value


def boxes_from_tracks(poses: list[TrackPose], camera: Camera, world_from_velo: SE3) -> Boxes:
    """What the camera can see of the tracked objects.

    The 2D box surrounds the projected cuboid, so it is a little looser than one drawn by hand. Objects outside the
    image and types that `OBJECT_OF_KITTI` leaves out are dropped. Occluded objects stay, even where the tracklet says 2
    (fully): most of those show in the image and in the LiDAR, as with KITTI object's 2 (largely).
    """
    seen = [pose for pose in poses if OBJECT_OF_KITTI[pose.kind] is not None]
    cuboids_velo = np.array([pose.cuboid_velo for pose in seen]).reshape(-1, 7)
    corners_world = world_from_velo.apply(cuboid_corners(cuboids_velo).reshape(-1, 3)).reshape(-1, 8, 3)
    xyxy_px, keep = clip_boxes(hull_boxes(corners_world, camera), camera.width_px, camera.height_px)
    yaw = cuboids_velo[:, 6]
    headings_velo = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    yaw_world = yaw_of(headings_velo @ world_from_velo.rotation.T)
    cuboids = np.column_stack([world_from_velo.apply(cuboids_velo[:, :3]), cuboids_velo[:, 3:6], yaw_world])
    labels = np.array([OBJECT_ID[str(OBJECT_OF_KITTI[pose.kind])] for pose in seen], dtype=np.int64)
    track_ids = np.array([pose.track_id for pose in seen], dtype=np.int64)
    return Boxes(xyxy_px, labels, cuboids.astype(np.float32), track_ids).select(keep)
