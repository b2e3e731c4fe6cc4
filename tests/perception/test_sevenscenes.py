"""7-Scenes: sequences written here to the published layout, and the real sample below CONVOY_DATA."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from geometry import Frame
from perception.datasets.base import DataError
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.sevenscenes import SevenScenes, find_sequences, read_depth, read_pose
from tests.perception.bad_frames import problems_of

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
KITCHEN = Path(CONVOY_DATA) / "sevenscenes_redkitchen"
needs_kitchen = pytest.mark.skipif(
    not (CONVOY_DATA and KITCHEN.is_dir()),
    reason="set CONVOY_DATA to a folder with sevenscenes_redkitchen/ to test on it",
)

WIDTH, HEIGHT = 64, 48
# The camera stands at (1, 2, 3), y of the file down, and looks along the file's x: right is -z, down is y.
POSE = "0 0 1 1\n0 1 0 2\n-1 0 0 3\n0 0 0 1\n"


def write_sequence(folder: Path, numbers: Sequence[int] = (0, 1, 2)) -> Path:
    folder.mkdir(parents=True)
    depth = np.tile(np.arange(WIDTH, dtype=np.uint16) * 100 + 1000, (HEIGHT, 1))
    depth[0], depth[-1] = 0, 65535
    for number in numbers:
        stem = folder / f"frame-{number:06d}"
        Image.new("RGB", (WIDTH, HEIGHT), (50, 60, 70)).save(f"{stem}.color.png")
        cv2.imwrite(f"{stem}.depth.png", depth)
        Path(f"{stem}.pose.txt").write_text(POSE)
    return folder


def test_the_world_is_turned_until_up_is_up(tmp_path: Path) -> None:
    frame = SevenScenes(write_sequence(tmp_path / "seq-01"))[0]
    camera = frame.camera
    np.testing.assert_allclose(camera.world_from_cam.translation_m, [1, 3, -2])
    np.testing.assert_allclose(camera.world_from_cam.rotation @ [0, 1, 0], [0, 0, -1])  # down
    np.testing.assert_allclose(camera.world_from_cam.rotation @ [0, 0, 1], [1, 0, 0])  # ahead: the file's x
    assert (camera.width_px, camera.height_px) == (WIDTH, HEIGHT)
    assert (camera.fx_px, camera.cx_px, camera.cy_px) == (52.5, 32, 24)  # 525 at 640 px, a tenth of that here


def test_depth_is_in_metres_in_the_colour_cameras_view(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "seq-01")
    raw = read_depth(folder / "frame-000000.depth.png")
    np.testing.assert_allclose(raw[1], np.arange(WIDTH) * 0.1 + 1, atol=1e-6)
    assert np.isinf(raw[[0, -1]]).all()
    depth_m = SevenScenes(folder)[0].depth_m
    assert depth_m is not None
    # A colour pixel u pixels right of the middle sees what the depth camera sees 585 / 525 times as far out. At the
    # left edge that is 31.5 * 585 / 525 = 35.1 px, outside of the 32 there are; the 4th column has 28.5 * 1.114 =
    # 31.76, which falls into the depth image's first.
    assert np.isinf(depth_m[:, :3]).all()
    np.testing.assert_allclose(depth_m[24, 3], 1.0, atol=1e-6)
    np.testing.assert_allclose(depth_m[24, 32], 1 + 0.1 * 32, atol=1e-6)
    seen = np.isfinite(depth_m[24])
    assert (np.diff(depth_m[24, seen]) > 0).all()


def test_intrinsics_of_the_depth_camera_are_read_where_they_are_given(tmp_path: Path) -> None:
    write_sequence(tmp_path / "seq-01")
    (tmp_path / "camera-intrinsics.txt").write_text("52.5 0 32\n0 52.5 24\n0 0 1\n")
    depth_m = SevenScenes(tmp_path)[0].depth_m
    assert depth_m is not None
    np.testing.assert_allclose(depth_m[24], np.arange(WIDTH) * 0.1 + 1, atol=1e-6)  # both cameras alike: unchanged
    (tmp_path / "camera-intrinsics.txt").write_text("52.5 0 32\n0 52.5\n")
    with pytest.raises(DataError, match=r"camera-intrinsics\.txt: 3x3 matrix: 5 numbers, want 9"):
        SevenScenes(tmp_path)[0]


def test_sequences_and_the_published_split(tmp_path: Path) -> None:
    for name, numbers in (("seq-01", (0, 30)), ("seq-02", (5,)), ("seq-12", (1, 2))):
        write_sequence(tmp_path / name, numbers)
    (tmp_path / "TrainSplit.txt").write_text("sequence1\nsequence12\n")
    (tmp_path / "TestSplit.txt").write_text("sequence2 \nsequence3\n\n")
    frames = SevenScenes(tmp_path)
    assert frames.sequences == {"seq-01": (0, 1), "seq-02": (2,), "seq-12": (3, 4)}
    assert frames.splits == {"train": ("seq-01", "seq-12"), "test": ("seq-02",)}
    assert frames.timestamps_s[:2] == (0, 1)
    assert frames.missing == ()
    assert [folder.name for folder in find_sequences(tmp_path)] == ["seq-01", "seq-02", "seq-12"]
    assert format_of(tmp_path) == format_of(tmp_path / "seq-02") == "7-Scenes"
    assert len(open_dataset(tmp_path)) == 5
    (tmp_path / "TestSplit.txt").write_text("sequence2\nall of them\n")
    with pytest.raises(DataError, match=r"TestSplit\.txt:2: 'all of them' names no sequence; "):
        frames.splits  # noqa: B018


def test_jpeg_images_and_frames_without_depth(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "seq")
    (folder / "frame-000001.color.png").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "frame-000001.color.jpg")
    (folder / "frame-000001.depth.png").unlink()
    frames = SevenScenes(tmp_path)
    assert frames[1].depth_m is None
    assert frames[1].source.endswith("frame-000001.color.jpg")
    assert frames.missing[0] == "depth.png of 1 of 3 frames: no depth there"


@pytest.mark.parametrize(
    ("part", "content", "says"),
    [
        ("pose.txt", b"nan " * 16, "holds NaN or infinity"),
        ("pose.txt", b"1 0 0 0 0 1 0 0", "8 numbers, want 16"),
        ("pose.txt", b"2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "not rigid"),
        ("pose.txt", b"\xff\xfe\x00", "not a text file"),
        ("pose.txt", None, "not found"),
        ("color.png", b"\x89PNG\r\n\x1a\n", "not a readable image"),
        ("color.png", None, "not found"),
        ("depth.png", b"\x89PNG\r\n\x1a\n", "not a readable image"),
    ],
)
def test_a_bad_file_is_named_and_costs_its_frame_alone(
    tmp_path: Path, part: str, content: bytes | None, says: str
) -> None:
    folder = write_sequence(tmp_path / "seq-01")
    path = folder / f"frame-000001.{part}"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = problems_of(SevenScenes(tmp_path))
    assert list(found) == [1]
    assert str(path) in found[1]
    assert says in found[1]
    assert ";" in found[1], "the part after the semicolon is the remedy"


@pytest.mark.parametrize("size", [200, 120, 60])
def test_truncated_images_are_named(tmp_path: Path, size: int) -> None:
    folder = write_sequence(tmp_path / "seq-01")
    path = folder / "frame-000001.depth.png"
    path.write_bytes(path.read_bytes()[:size])
    assert list(problems_of(SevenScenes(tmp_path))) == [1]
    with pytest.raises(DataError, match=r"depth\.png: not a readable image"):
        read_depth(path)


def test_depth_of_another_kind_or_size_is_refused(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "seq-01")
    path = folder / "frame-000001.depth.png"
    Image.new("L", (WIDTH, HEIGHT)).save(path)
    with pytest.raises(DataError, match="mode L, want one channel of 16 bits"):
        SevenScenes(tmp_path)[1]
    cv2.imwrite(str(path), np.zeros((5, 5), np.uint16))
    with pytest.raises(DataError, match=r"\(5, 5\), the image is \(48, 64\)"):
        SevenScenes(tmp_path)[1]
    with pytest.raises(DataError, match=r"no frame-\*\.pose\.txt"):
        SevenScenes(tmp_path / "seq-01" / "nowhere")


@needs_kitchen
def test_the_real_room_is_level_and_its_depth_meets_its_image() -> None:
    frames = SevenScenes(KITCHEN)
    assert len(frames) == 125
    poses = [read_pose(KITCHEN / f"seq/frame-{number:06d}.pose.txt") for number in range(0, 1000, 8)]
    assert len(poses) == len(frames)
    assert frames.timestamps_s[-1] == pytest.approx(992 / 30)
    with_depth = [frame for frame in (frames[i] for i in range(0, 125, 5)) if frame.depth_m is not None]
    assert len(with_depth) == 25
    down = np.mean([frame.camera.world_from_cam.rotation[:, 1] for frame in with_depth], axis=0)
    assert down[2] < -0.95
    # Where depth jumps, images have edges: more so after the depth is scaled to the colour camera's view than before.
    ours, raw = [], []
    for frame in with_depth[::3]:
        assert frame.depth_m is not None
        ours.append(edge_contrast(frame, frame.depth_m))
        path = Path(frame.source.replace("color.jpg", "depth.png"))
        raw.append(edge_contrast(frame, read_depth(path)))
    assert np.mean(ours) > 1.2 * np.mean(raw)


def edge_contrast(frame: Frame, depth_m: np.ndarray, border: int = 60) -> float:
    """Mean image gradient at jumps in depth over that anywhere, inside of a border."""
    grey = cv2.GaussianBlur(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    depth_m = np.where(np.isfinite(depth_m), depth_m, np.nan)
    jumps = np.zeros(depth_m.shape, dtype=bool)
    jumps[:, 1:-1] = np.abs(depth_m[:, 2:] - depth_m[:, :-2]) > 0.1
    inner = (slice(border, -border), slice(border, -border))
    return float(gradient[inner][jumps[inner]].mean() / gradient[inner].mean())
