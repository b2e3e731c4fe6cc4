"""What one vehicle or roadside unit senses at one instant."""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from numpy import ndarray

from geometry.camera import Camera
from geometry.se3 import SE3


@dataclass(frozen=True, eq=False)
class Boxes:
    """Objects in one image.

    Args:
        xyxy_px: left, top, right, bottom in image coordinates, float32 [n, 4].
        labels: class ids, int64 [n].
        cuboids_world: x y z of the centre, length, width, height (m), yaw (rad, about up), float32 [n, 7], or None.
        track_ids: int64 [n], the same object keeps its id over a drive, or None.
        truncation: share of the object that lies outside the image, 0..1, float32 [n], or None.
        occlusion: KITTI's grade: 0 visible, 1 partly, 2 largely occluded, 3 unknown, int64 [n], or None.

    Raises:
        ValueError: lengths differ or a coordinate is not finite.
    """

    xyxy_px: Float32[ndarray, "n 4"]
    labels: Int64[ndarray, "n"]
    cuboids_world: Float32[ndarray, "n 7"] | None = None
    track_ids: Int64[ndarray, "n"] | None = None
    truncation: Float32[ndarray, "n"] | None = None
    occlusion: Int64[ndarray, "n"] | None = None

    def __post_init__(self) -> None:
        columns = (getattr(self, field.name) for field in fields(self))
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) > 1:
            raise ValueError(f"Boxes fields differ in length: {sorted(lengths)}")
        for name in ("xyxy_px", "cuboids_world", "truncation"):
            column = getattr(self, name)
            if column is not None and not np.isfinite(column).all():
                raise ValueError(f"Boxes.{name} holds NaN or infinity")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def empty(cls) -> "Boxes":
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def select(self, keep: ndarray) -> "Boxes":
        """The boxes that a boolean mask or an index array picks."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[keep] for name, column in columns.items() if column is not None})


@dataclass(frozen=True, eq=False)
class Frame:
    """One time-stamped observation. What a sensor did not deliver, or nobody labelled, is None.

    Args:
        timestamp_s: seconds since the start of the drive, or the data set's own clock.
        camera: pose and intrinsics of the image.
        image: RGB, uint8 [h, w, 3].
        points_lidar: x y z (m) and intensity in 0..1 in the LiDAR's own frame, float32 [n, 4].
        boxes: labelled objects; an empty `Boxes` says "looked, nothing there".
        masks: semantic class ids, uint8 [h, w]; 255 is unlabelled.
        instances: track id of the object at each pixel, -1 for none, int32 [h, w].
        depth_m: depth along the camera's z, float32 [h, w]; infinity where nothing was hit.
        lidar_from_cam: maps camera coordinates to LiDAR coordinates.
        source: the file or generator that it came from, for messages.

    Raises:
        ValueError: an array's size differs from the camera's, or points without a `lidar_from_cam`.
    """

    timestamp_s: float
    camera: Camera
    image: UInt8[ndarray, "h w 3"] | None = None
    points_lidar: Float32[ndarray, "n 4"] | None = None
    boxes: Boxes | None = None
    masks: UInt8[ndarray, "h w"] | None = None
    instances: Int32[ndarray, "h w"] | None = None
    depth_m: Float32[ndarray, "h w"] | None = None
    lidar_from_cam: SE3 | None = None
    source: str = ""

    def __post_init__(self) -> None:
        size = (self.camera.height_px, self.camera.width_px)
        for name in ("image", "masks", "instances", "depth_m"):
            array = getattr(self, name)
            if array is not None and array.shape[:2] != size:
                raise ValueError(f"{self.source or 'frame'}: {name} is {array.shape[:2]}, the camera says {size}")
        if self.points_lidar is not None and self.lidar_from_cam is None:
            raise ValueError(f"{self.source or 'frame'}: LiDAR points without lidar_from_cam")

    def points_world(self) -> Float[ndarray, "n 3"]:
        """LiDAR points [n, 3] in the world.

        Raises:
            ValueError: the frame has no LiDAR.
        """
        if self.points_lidar is None or self.lidar_from_cam is None:
            raise ValueError(f"{self.source or 'frame'} has no LiDAR points")
        world_from_lidar = self.camera.world_from_cam @ self.lidar_from_cam.inverse()
        return world_from_lidar.apply(self.points_lidar[:, :3].astype(np.float64))
