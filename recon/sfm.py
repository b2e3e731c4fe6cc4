"""Points by structure from motion between cameras whose poses are known, through pycolmap (Schönberger and Frahm 2016).

Poses and intrinsics stay as they are: features are found and matched, and what agrees with the cameras is triangulated,
so that the points lie in the frames' own world.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray

from geometry import Frame

INSTALL: Final = "structure from motion needs pycolmap: pip install pycolmap"
MAX_EXHAUSTIVE: Final = 50  # frames of which every pair is matched; a longer drive in order of time only near ones
OVERLAP: Final = 10  # how many later frames each is matched with then
_ONLY_FATAL: Final = 3

Mask = Bool[ndarray, "_ _"]  # [h, w]; images may differ in size


@dataclass(frozen=True, eq=False)
class SfmPoints:
    """Triangulated points.

    Args:
        xyz_world: in the frames' world, [n, 3].
        rgb: mean colour over the images that see the point, [n, 3].
        images: how many images see at least one of the points.
    """

    xyz_world: Float32[ndarray, "n 3"]
    rgb: UInt8[ndarray, "n 3"]
    images: int


def triangulate(
    frames: Sequence[Frame],
    *,
    usable: Sequence[Mask] | None = None,
    seed: int = 0,
    threads: int = 1,
) -> SfmPoints:
    """Points from SIFT features of images with known cameras; sizes and intrinsics may differ from frame to frame.

    Every pair of images is matched; more than 50 frames are put in order of time and each is matched with its ten
    neighbours before and after, and some farther away.

    Args:
        frames: with images and good poses (errors of a few pixels leave few points).
        usable: where features may lie, one mask a frame; everywhere by default.
        seed: of the RANSAC that sorts out matches.
        threads: of pycolmap; -1 is all cores. Only one gives the same points every time.

    Raises:
        ImportError: pycolmap or OpenCV is not installed; the message names the pip command.
        ValueError: fewer than two frames, a frame without image, or no point could be triangulated.
    """
    if len(frames) < 2:
        raise ValueError(f"structure from motion needs at least two frames, got {len(frames)}")
    for frame in frames:
        if frame.image is None:
            raise ValueError(f"{frame.source or 'frame'}: no image; structure from motion takes frames with images")
    colmap = _pycolmap()
    ordered, masks = _in_time(frames, usable)
    with tempfile.TemporaryDirectory(prefix="convoy-sfm-") as folder, _quiet(colmap):
        root = Path(folder)
        _write_images(root, ordered, masks)
        colmap.set_random_seed(seed)
        try:
            _extract(colmap, root, ordered, masks is not None, threads)
            _match(colmap, root, len(ordered), seed, threads)
            model = _triangulate(colmap, root, ordered, seed, threads)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"structure from motion failed in pycolmap: {str(error).strip()}") from error
    points = [point for _, point in sorted(model.points3D.items())]
    if not points:
        raise ValueError(
            f"structure from motion found no point in {len(frames)} frames: "
            "check poses and intrinsics, and that the images overlap and the camera moved"
        )
    images = sum(image.num_points3D > 0 for image in model.images.values())
    xyz, rgb = np.array([point.xyz for point in points]), np.array([point.color for point in points])
    return SfmPoints(xyz.astype(np.float32), rgb.astype(np.uint8), images)


def _pycolmap() -> Any:
    try:
        import cv2  # noqa: F401  before pycolmap, which brings codecs of its own
    except ImportError as error:
        raise ImportError("structure from motion needs OpenCV: pip install opencv-python-headless") from error
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return pycolmap


def _name(index: int) -> str:
    return f"{index:06d}.png"


def _in_time(frames: Sequence[Frame], usable: Sequence[Mask] | None) -> tuple[list[Frame], list[Mask] | None]:
    order = sorted(range(len(frames)), key=lambda index: frames[index].timestamp_s)
    masked = usable is not None and not all(mask.all() for mask in usable)
    return [frames[index] for index in order], [usable[index] for index in order] if usable and masked else None


@contextmanager
def _quiet(colmap: Any) -> Iterator[None]:
    """pycolmap logs every image to the terminal; its errors come as exceptions."""
    before = colmap.logging.minloglevel
    colmap.logging.minloglevel = _ONLY_FATAL
    try:
        yield
    finally:
        colmap.logging.minloglevel = before


def _write_images(root: Path, frames: Sequence[Frame], masks: Sequence[Mask] | None) -> None:
    import cv2

    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for folder in ("images", "masks", "model"):
        (root / folder).mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(root / "images" / _name(index)), np.asarray(frame.image)[..., ::-1], quick)
        if masks is not None:
            cv2.imwrite(str(root / "masks" / f"{_name(index)}.png"), masks[index].astype(np.uint8) * 255, quick)


def _extract(colmap: Any, root: Path, frames: Sequence[Frame], masked: bool, threads: int) -> None:
    """SIFT features of all images into the database, each image with its own camera."""
    reader = colmap.ImageReaderOptions(camera_model="PINHOLE")
    if masked:
        reader.mask_path = str(root / "masks")
    options = colmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False)
    colmap.extract_features(
        root / "database.db",
        root / "images",
        camera_mode=colmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        extraction_options=options,
        device=colmap.Device.cpu,
    )
    with colmap.Database.open(root / "database.db") as database:
        stored = {image.name: image for image in database.read_all_images()}
        for index, frame in enumerate(frames):
            if _name(index) in stored:
                database.update_camera(_camera(colmap, frame, stored[_name(index)].camera_id))


def _camera(colmap: Any, frame: Frame, camera_id: int) -> Any:
    """Pixels need no shift: both conventions put the first centre at (0.5, 0.5)."""
    camera = frame.camera
    params = [camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px]
    return colmap.Camera(
        model="PINHOLE",
        width=camera.width_px,
        height=camera.height_px,
        params=params,
        camera_id=camera_id,
        has_prior_focal_length=True,
    )


def _match(colmap: Any, root: Path, count: int, seed: int, threads: int) -> None:
    verification = colmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    shared: dict[str, Any] = {
        "matching_options": colmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False),
        "verification_options": verification,
        "device": colmap.Device.cpu,
    }
    if count <= MAX_EXHAUSTIVE:
        colmap.match_exhaustive(root / "database.db", **shared)
    else:
        pairing = colmap.SequentialPairingOptions(overlap=OVERLAP, num_threads=threads)
        colmap.match_sequential(root / "database.db", pairing_options=pairing, **shared)


def _triangulate(colmap: Any, root: Path, frames: Sequence[Frame], seed: int, threads: int) -> Any:
    """A model of the known cameras and poses, filled with points."""
    model = colmap.Reconstruction()
    with colmap.Database.open(root / "database.db") as database:
        for image in database.read_all_images():
            frame = frames[int(Path(image.name).stem)]
            model.add_camera_with_trivial_rig(_camera(colmap, frame, image.camera_id))
            pose = colmap.Rigid3d(frame.camera.world_from_cam.inverse().matrix[:3])
            known = colmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            model.add_image_with_trivial_frame(known, pose)
    options = colmap.IncrementalPipelineOptions(num_threads=threads, random_seed=seed)
    options.triangulation.random_seed = options.mapper.random_seed = seed
    options.triangulation.ignore_two_view_tracks = False  # known poses check them: as exact, and twice as many points
    return colmap.triangulate_points(
        model, root / "database.db", root / "images", root / "model", options=options, refine_intrinsics=False
    )
