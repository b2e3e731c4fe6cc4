"""Frames as a COLMAP text model: `sparse/0/{cameras,images,points3D}.txt` and `images/`.

Both sides put the centre of the first pixel at (0.5, 0.5), so intrinsics are copied. Points are the frames' LiDAR or
depth, one in each 10 cm cube; a point's track is the one image that it was taken from, where its observation is its
exact projection and its error 0.
"""

from pathlib import Path

from geometry import Camera, Frame
from perception.datasets.export.points import SeenPoints, Thinning, seen_points
from perception.datasets.export.writing import ExportOptions, image_of, save_image, save_text

MODEL = Path("sparse") / "0"


class ColmapWriter:
    """Images share a camera where their intrinsics are equal. Frames without LiDAR and depth add no points."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        del options
        self._folder = folder
        self._thinning = Thinning()
        self._cameras: dict[str, int] = {}
        self._images: list[str] = []
        self._points: list[str] = []
        self._bare = 0

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self._bare} frames without LiDAR and depth, so without points",) if self._bare else ()

    def add(self, frame: Frame) -> None:
        image = image_of(frame, "COLMAP")
        seen = seen_points(frame, image)
        name = f"{len(self._images):06d}.png"
        save_image(self._folder / "images" / name, image)
        camera_id = self._cameras.setdefault(camera_text(frame.camera), len(self._cameras) + 1)
        image_id, first_point = len(self._images) + 1, len(self._points) + 1
        self._bare += seen is None
        fresh = None if seen is None else seen.select(self._thinning.keep(seen.world_m))
        self._images.append(image_text(image_id, frame.camera, camera_id, name, fresh, first_point))
        if fresh is not None:
            self._points += point_lines(fresh, image_id, first_point)

    def close(self) -> None:
        """The three tables."""
        model = self._folder / MODEL
        cameras = "".join(f"{camera_id} {text}\n" for text, camera_id in self._cameras.items())
        save_text(model / "cameras.txt", "# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy\n" + cameras)
        head = "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of each observation\n"
        save_text(model / "images.txt", head + "".join(self._images))
        head = "# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each observation\n"
        save_text(model / "points3D.txt", head + "".join(self._points))


def camera_text(camera: Camera) -> str:
    """Model, size and parameters."""
    numbers = (camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px)
    return f"PINHOLE {camera.width_px} {camera.height_px} {_join(numbers)}"


def image_text(
    image_id: int, camera: Camera, camera_id: int, name: str, points: SeenPoints | None, first_point: int
) -> str:
    """Two lines: the pose as `cam_from_world`, and the observations of points numbered from `first_point`."""
    cam_from_world = camera.world_from_cam.inverse()
    pose = _join((*cam_from_world.quat_wxyz, *cam_from_world.translation_m))
    places = () if points is None else enumerate(points.image_px.tolist(), start=first_point)
    observations = " ".join(f"{u!r} {v!r} {point_id}" for point_id, (u, v) in places)
    return f"{image_id} {pose} {camera_id} {name}\n{observations}\n"


def point_lines(points: SeenPoints, image_id: int, first_point: int) -> list[str]:
    """A line a point, numbered from `first_point`; its track is its place among the image's observations."""
    rows = zip(points.world_m.tolist(), points.rgb.tolist(), strict=True)
    return [
        f"{first_point + place} {_join(position)} {_join(rgb)} 0 {image_id} {place}\n"
        for place, (position, rgb) in enumerate(rows)
    ]


def _join(numbers: tuple[float, ...] | list[float] | list[int]) -> str:
    return " ".join(str(number) if isinstance(number, int) else repr(float(number)) for number in numbers)
