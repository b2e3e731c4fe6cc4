"""Frames as `transforms.json`, which nerfstudio and its relatives read.

`transform_matrix` maps OpenGL camera coordinates (x right, y up, z backwards) to the world, which stays east, north, up
in metres. Pixel centres lie at .5 there as here. `points.ply` holds the coloured points.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import SE3, Camera, Frame
from perception.datasets.export.points import SeenPoints, Thinning, save_ply, seen_points
from perception.datasets.export.writing import ExportOptions, image_of, save_image, save_text, time_of

OPENCV_FROM_OPENGL: Final = np.diag([1.0, -1.0, -1.0, 1.0])
PLY: Final = "points.ply"


class TransformsWriter:
    """Intrinsics stand beside each image. Frames without LiDAR and depth add no points."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        del options
        self._folder = folder
        self._thinning = Thinning()
        self._frames: list[dict[str, Any]] = []
        self._points: list[SeenPoints] = []

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self._points else (f"no LiDAR and no depth, so no {PLY}",)

    def add(self, frame: Frame) -> None:
        image, time_s = image_of(frame, "transforms.json"), time_of(frame)
        seen = seen_points(frame, image)
        name = f"images/{len(self._frames):06d}.png"
        save_image(self._folder / name, image)
        self._frames.append({"file_path": name, "time": time_s} | camera_entries(frame.camera))
        if seen is not None:
            self._points.append(seen.select(self._thinning.keep(seen.world_m)))

    def close(self) -> None:
        """The table and the points."""
        content: dict[str, Any] = {"camera_model": "OPENCV", "applied_transform": np.eye(4)[:3].tolist()}
        if self._points:
            world_m = np.concatenate([points.world_m for points in self._points])
            save_ply(self._folder / PLY, world_m, np.concatenate([points.rgb for points in self._points]))
            content["ply_file_path"] = PLY
        save_text(self._folder / "transforms.json", json.dumps(content | {"frames": self._frames}, indent=1) + "\n")


def camera_entries(camera: Camera) -> dict[str, Any]:
    """Size, intrinsics and pose of one image."""
    return {
        "w": camera.width_px,
        "h": camera.height_px,
        "fl_x": float(camera.fx_px),
        "fl_y": float(camera.fy_px),
        "cx": float(camera.cx_px),
        "cy": float(camera.cy_px),
        "transform_matrix": opengl_matrix(camera.world_from_cam).tolist(),
    }


def opengl_matrix(world_from_cam: SE3) -> Float[ndarray, "4 4"]:
    """Maps OpenGL camera coordinates to the world."""
    return world_from_cam.matrix @ OPENCV_FROM_OPENGL
