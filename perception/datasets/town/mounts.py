"""Where cameras sit on a vehicle or on a roadside unit's pole."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from geometry import SE3, Camera

CAM_FROM_BODY_AXES: Final = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
PRINCIPAL_ROW: Final = 0.46
LIDAR_MOUNT_M: Final = (0.0, 0.0, 1.85)
RSU_LIDAR_MOUNT_M: Final = (0.0, 0.0, 5.2)
RSU_POLE_M: Final = 6.4  # east and north of its junction: just behind both kerbs
_RSU_CAMERA_M: Final = 5.6
_AIM_M: Final = 34.0


@dataclass(frozen=True)
class CameraMount:
    """A camera on a body whose axes are x forward, y left, z up, above the point on the ground below its centre.

    Args:
        name: for file names.
        position_m: where it sits.
        yaw_deg: to the left of straight ahead.
        pitch_deg: below the horizon.
        fov_deg: horizontal field of view, or 0 for that of the town's configuration.
    """

    name: str = "front"
    position_m: tuple[float, float, float] = (0.9, 0.0, 1.5)
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    fov_deg: float = 0.0

    def camera(self, world_from_body: SE3, size_px: tuple[int, int], fov_deg: float) -> Camera:
        """The camera on a body at this pose."""
        yaw, pitch = np.radians(self.yaw_deg), np.radians(self.pitch_deg)
        c, s = np.cos(pitch), np.sin(pitch)
        nod = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        turned = SE3.from_yaw(float(yaw), np.array(self.position_m)).rotation @ nod
        pose = world_from_body @ SE3(turned @ CAM_FROM_BODY_AXES.T, np.array(self.position_m))
        height, width = size_px
        focal_px = width / (2 * np.tan(np.radians(self.fov_deg or fov_deg) / 2))
        return Camera(pose, focal_px, focal_px, width / 2, PRINCIPAL_ROW * height, width, height)


FRONT: Final = (CameraMount(),)
STEREO: Final = (CameraMount(), CameraMount("right", (0.9, -0.54, 1.5)))
SURROUND: Final = (
    CameraMount(),
    CameraMount("front-left", (0.8, 0.4, 1.5), 55.0),
    CameraMount("back-left", (-0.3, 0.5, 1.5), 110.0),
    CameraMount("back", (-1.0, 0.0, 1.5), 180.0, fov_deg=110.0),
    CameraMount("back-right", (-0.3, -0.5, 1.5), -110.0),
    CameraMount("front-right", (0.8, -0.4, 1.5), -55.0),
)
RIGS: Final = {"front": FRONT, "stereo": STEREO, "surround": SURROUND}


def rsu_mounts() -> tuple[CameraMount, ...]:
    """Four cameras on a pole at the north-east corner of a junction, each aimed down one street."""
    mounts = []
    for name, x, y in (("east", 1, 0), ("north", 0, 1), ("west", -1, 0), ("south", 0, -1)):
        aim = np.array([x * _AIM_M - RSU_POLE_M, y * _AIM_M - RSU_POLE_M])
        yaw, pitch = np.degrees(np.arctan2(aim[1], aim[0])), np.degrees(np.arctan2(_RSU_CAMERA_M, np.hypot(*aim)))
        mounts.append(CameraMount(name, (0.0, 0.0, _RSU_CAMERA_M), float(yaw), float(pitch), 75.0))
    return tuple(mounts)
