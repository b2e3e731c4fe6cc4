"""Structure from motion with known cameras: a textured wall whose distance is known, and the fox."""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

import recon.sfm
from geometry import SE3, Camera, Frame
from recon.sfm import SfmPoints, triangulate

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
WALL_M, FOCAL_PX, STEP_M = 4.0, 100.0, 0.32  # a step moves the wall by 100 * 0.32 / 4 = 8 px
STEP_PX = 8
NORTH = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # world from a camera that looks north
START_M = np.array([20.0, -30.0, 2.0])

needs_pycolmap = pytest.mark.skipif(find_spec("pycolmap") is None, reason="needs pycolmap: pip install pycolmap")


def wall_texture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    return cv2.resize(noise, (240, 160), interpolation=cv2.INTER_CUBIC)


def wall_frames(count: int = 5) -> list[Frame]:
    """Cameras side by side before a wall; every other image is smaller."""
    texture, frames = wall_texture(), []
    for k in range(count):
        height, width = (120, 160) if k % 2 == 0 else (110, 150)
        image = np.ascontiguousarray(texture[:height, k * STEP_PX : k * STEP_PX + width])
        pose = SE3(NORTH, START_M + np.array([k * STEP_M, 0, 0]))
        camera = Camera(pose, FOCAL_PX, FOCAL_PX, 80, 60, width, height)  # the same rays through the same corner
        frames.append(Frame(float(k), camera, image=image, source=f"wall {k}"))
    return frames


def on_wall(points: SfmPoints) -> np.ndarray:
    """Columns and rows of points in the texture, having checked that they lie on the wall."""
    offset_m = points.xyz_world - START_M
    np.testing.assert_allclose(np.median(offset_m[:, 1]), WALL_M, atol=0.02)
    assert (np.abs(offset_m[:, 1] - WALL_M) < 0.2).mean() > 0.95
    column = FOCAL_PX * offset_m[:, 0] / WALL_M + 80
    row = -FOCAL_PX * offset_m[:, 2] / WALL_M + 60
    return np.stack([column, row], axis=1)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@needs_pycolmap
def test_a_wall_is_found_where_it_stands_in_its_colours(scratch: Path) -> None:
    found = triangulate(wall_frames())
    assert len(found.xyz_world) > 30
    assert found.images == 5
    column, row = on_wall(found).astype(int).T
    error = np.abs(wall_texture()[row, column].astype(float) - found.rgb).mean(axis=1)
    assert np.median(error) < 15  # of 255; a feature lies between pixels
    assert not list(scratch.iterdir())


@needs_pycolmap
def test_it_repeats_itself() -> None:
    first, second = triangulate(wall_frames(3), seed=4), triangulate(wall_frames(3), seed=4)
    np.testing.assert_array_equal(first.xyz_world, second.xyz_world)
    np.testing.assert_array_equal(first.rgb, second.rgb)


@needs_pycolmap
def test_masked_pixels_have_no_points() -> None:
    frames = wall_frames()
    column, _ = on_wall(triangulate(frames, usable=[_left(frame) for frame in frames])).T
    assert column.max() < 100 + 1  # column 100 of the texture is column 100 - 8 k of image k


def _left(frame: Frame) -> np.ndarray:
    """Columns of the texture below 100."""
    columns = np.arange(frame.camera.width_px) + STEP_PX * round(frame.timestamp_s)
    return np.broadcast_to(columns < 100, (frame.camera.height_px, frame.camera.width_px)).copy()


@needs_pycolmap
def test_long_drives_are_matched_in_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recon.sfm, "MAX_EXHAUSTIVE", 4)
    monkeypatch.setattr(recon.sfm, "OVERLAP", 1)
    frames = wall_frames(6)
    found = triangulate([frames[k] for k in (3, 0, 5, 1, 4, 2)])
    assert found.images == 6
    on_wall(found)


@needs_pycolmap
def test_nothing_to_be_found(scratch: Path) -> None:
    grey = [Frame(f.timestamp_s, f.camera, image=np.full_like(f.image, 128)) for f in wall_frames(3)]
    with pytest.raises(ValueError, match="no point in 3 frames: check poses"):
        triangulate(grey)
    assert not list(scratch.iterdir())


@needs_pycolmap
def test_failures_inside_pycolmap_are_named(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("database is locked\n")

    monkeypatch.setattr(recon.sfm, "_match", fail)
    with pytest.raises(ValueError, match=r"failed in pycolmap: database is locked$"):
        triangulate(wall_frames(2))
    assert not list(scratch.iterdir())


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = wall_frames(2)
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        triangulate(frames[:1])
    with pytest.raises(ValueError, match="wall 0: no image"):
        triangulate([Frame(0.0, frames[0].camera, source="wall 0"), frames[1]])
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ImportError, match="pip install pycolmap"):
        triangulate(frames)


@needs_pycolmap
@pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "fox").is_dir()),
    reason="set CONVOY_DATA to a folder with fox/ to test on real photographs",
)
def test_the_fox() -> None:
    from perception.datasets.transforms import Transforms

    frames = list(Transforms(Path(CONVOY_DATA) / "fox", scale=0.15))[:8]
    found = triangulate(frames)
    assert found.images >= 6
    assert len(found.xyz_world) >= 100
    for frame in frames:
        assert (frame.camera.project(found.xyz_world)[1] > 0).mean() > 0.99
