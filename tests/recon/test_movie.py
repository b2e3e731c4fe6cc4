"""Pictures of scenes and the files that they are written to, read back with other means."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from geometry import SE3, Camera
from recon import movie
from recon.gaussians import Gaussians
from recon.movie import colour_depth, comparison, depth_range_m, render_camera, render_path, write_movie
from recon.render import KernelUnavailableError, rasterize
from recon.trajectories import turntable
from tests.recon.test_gaussians import scene

CAMERA = Camera(SE3.identity(), 40.0, 40.0, 16.5, 12.5, 33, 25)


def ball(depth_m: float = 4.0, scale_m: float = 0.2) -> Gaussians:
    """Orange and nearly opaque, in the middle of the view of `CAMERA`."""
    xyz, rgb = torch.tensor([[0.0, 0, depth_m]]), torch.tensor([[1.0, 0.5, 0.0]])
    return Gaussians.from_points(xyz, rgb, opacity=0.9, lone_scale_m=scale_m)


def test_one_gaussian_by_hand() -> None:
    rgb, depth_m = render_camera(ball(), CAMERA, background=(0.0, 0.0, 1.0))
    assert rgb.shape == (25, 33, 3)
    # In its centre 0.9 of orange and 0.1 of the blue behind; 0.9 · 255 = 229.5, 0.45 · 255 = 114.75, 25.5.
    np.testing.assert_allclose(rgb[12, 16].astype(int), [230, 115, 26], atol=1)
    assert depth_m[12, 16] == pytest.approx(4.0)
    assert rgb[0, 0].tolist() == [0, 0, 255]
    assert np.isinf(depth_m[0, 0])
    # Deviation 0.2 · 40 / 4 = 2 px, variance 4 + 0.3: 0.9 exp(-r² / 8.6) is above 0.5 for r < 2.25 px.
    assert np.isfinite(depth_m[12]).sum() == 5


def test_all_bands_and_the_pose_are_used() -> None:
    gaussians = scene(40, 3, dtype=torch.float32)
    view = turntable(np.zeros(3), 4.0, 2.0, CAMERA, 5)[3]
    image, _, _ = rasterize(
        *(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh),
        torch.tensor(view.world_from_cam.inverse().matrix, dtype=torch.float32)[None],
        torch.tensor(view.intrinsics, dtype=torch.float32)[None],
        33,
        25,
        sh_degree=3,
    )
    expected = (image[0].clamp(0, 1) * 255).numpy()
    rgb, _ = render_camera(gaussians.requires_grad_(), view)
    assert np.abs(rgb - expected).max() <= 0.51
    assert rgb.std() > 10


def test_a_slower_backend_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise KernelUnavailableError("no C++ compiler here")

    fast, _ = render_camera(ball(), CAMERA)
    monkeypatch.setattr("recon.render.load_kernel", refuse)
    slow = [rgb for rgb, _ in render_path(ball(), [CAMERA, CAMERA])]
    assert [record.message.split(";")[0] for record in caplog.records] == ["no C++ compiler here"]
    assert np.abs(slow[1].astype(int) - fast).max() <= 1


def test_a_path_is_rendered_one_by_one() -> None:
    seen: list[int] = []

    def progress(indices: Sequence[int]) -> Iterator[int]:
        for index in indices:
            seen.append(index)
            yield index

    views = render_path(ball(), [CAMERA, CAMERA, CAMERA], progress=progress)
    first, _ = next(views)
    assert seen == [0]
    assert np.array_equal(first, render_camera(ball(), CAMERA)[0])
    assert (len(list(views)), seen) == (2, [0, 1, 2])


def test_depth_is_brighter_where_it_is_nearer() -> None:
    depth_m = np.array([[1.0, 2.0, 4.0, 8.0, np.inf]], np.float32)
    brightness = colour_depth(depth_m, (1.0, 8.0)).astype(int).sum(axis=-1)[0]
    assert (np.diff(brightness) < 0).all()
    assert brightness[-1] == 0 < brightness[-2]
    assert depth_range_m(np.linspace(0, 100, 101, dtype=np.float32)[None, 1:]) == pytest.approx((2.98, 98.02))
    assert depth_range_m(depth_m * np.inf) is None
    assert (colour_depth(np.full((2, 2), np.inf, np.float32)) == 0).all()
    assert len(np.unique(colour_depth(np.full((2, 2), 7, np.float32)))) <= 3, "one depth, one colour"


def test_depth_without_matplotlib_is_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = colour_depth(np.array([[1.0, 2.0, np.inf]], np.float32), (1.0, 2.0))
    assert found[0].tolist() == [[255] * 3, [26] * 3, [0] * 3]  # 0.1 · 255 = 25.5


def test_a_comparison_by_hand() -> None:
    photo, render = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), 90, np.uint8)
    render[0, 0] = 200
    found = comparison(photo, render)
    assert found.shape == (2, 9, 3)
    assert np.array_equal(found[:, :3], photo)
    assert np.array_equal(found[:, 3:6], render)
    assert found[:, 6:, 0].tolist() == [[255, 40, 40], [40, 40, 40]]


def pictures(count: int = 5, height_px: int = 33, width_px: int = 47) -> list[np.ndarray]:
    """A white square that moves to the right on red."""
    frames = [np.full((height_px, width_px, 3), (200, 0, 0), np.uint8) for _ in range(count)]
    for index, frame in enumerate(frames):
        frame[8:24, 6 * index : 6 * index + 16] = 255
    return frames


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert write_movie(tmp_path / "out", iter(pictures())) == 5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "00004.png"]
    for name, picture in zip(names, pictures(), strict=True):
        with Image.open(tmp_path / "out" / name) as found:
            assert np.array_equal(np.asarray(found), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_picture_is_the_first(tmp_path: Path) -> None:
    assert write_movie(tmp_path / "out.png", pictures()) == 1
    with Image.open(tmp_path / "out.png") as found:
        assert np.array_equal(np.asarray(found), pictures()[0])


def test_a_gif_keeps_pictures_and_times(tmp_path: Path) -> None:
    assert write_movie(tmp_path / "out.gif", pictures(), rate_hz=12.0) == 5
    with Image.open(tmp_path / "out.gif") as found:
        assert (
            found.n_frames,  # type: ignore[attr-defined]
            found.info["duration"],
            found.info["loop"],
        ) == (5, 80, 0)
        for index, picture in enumerate(pictures()):
            found.seek(index)
            assert np.abs(np.asarray(found.convert("RGB")).astype(int) - picture).max() <= 4


def test_a_video_of_odd_size_loses_one_row_and_column(tmp_path: Path) -> None:
    assert write_movie(tmp_path / "out.mp4", pictures(), rate_hz=12.5) == 5
    reader = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    for picture in pictures():
        there, found = reader.read()
        assert there
        assert found.shape == (32, 46, 3)
        assert np.abs(found[..., ::-1].astype(int) - picture[:32, :46]).mean() < 10
    assert not reader.read()[0]
    reader.release()


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out"])
def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from pictures(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_movie(tmp_path / name, broken())
    assert list(tmp_path.iterdir()) == []
    write_movie(tmp_path / name, pictures())
    if name != "out":
        before = (tmp_path / name).read_bytes()
        with pytest.raises(RuntimeError, match="no more"):
            write_movie(tmp_path / name, broken())
        assert (tmp_path / name).read_bytes() == before
        assert write_movie(tmp_path / name, pictures(3)) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_video_that_is_not_whole_is_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(first: list[np.ndarray], rest: Iterator[np.ndarray]) -> list[np.ndarray]:
        return [*first, *list(rest)[1:], first[0][:1]]  # OpenCV drops a picture of another size without a word

    monkeypatch.setattr(movie, "chain", spoilt)
    with pytest.raises(OSError, match="has 4 of 5 pictures"):
        write_movie(tmp_path / "out.mp4", pictures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda folder: write_movie(folder / "out.mov", pictures()), "cannot write .mov files; end it in .mp4"),
        (lambda folder: write_movie(folder / "out.gif", []), "no pictures"),
        (lambda folder: write_movie(folder / "out.gif", pictures(), 0.0), "rate_hz is 0.0"),
        (lambda folder: write_movie(folder / "none" / "out.gif", pictures()), "none does not exist"),
        (lambda folder: write_movie(folder, pictures()), "not empty"),
        (lambda folder: write_movie(folder / "a.gif", pictures()), "named like a file"),
        (lambda folder: write_movie(folder / "b.mp4", iter(pictures() + pictures(1, 9, 9))), "give them one size"),
        (lambda folder: write_movie(folder / "b.mp4", pictures(1, 1, 9)), "too small for .mp4"),
        (lambda _: inspect.unwrap(comparison)(pictures()[0], pictures(1, 9, 9)[0]), "resize one"),
        (lambda _: colour_depth(np.ones((2, 2), np.float32), (0.0, 1.0)), "0 < nearest <= farthest"),
        (lambda _: render_camera(ball(), CAMERA, background=(0.0, 2.0, 0.0)), "in 0..1"),
        (lambda _: render_camera(ball(), CAMERA, backend="gsplat"), "CUDA device"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path: Path, call: Callable[[Path], object], says: str) -> None:
    (tmp_path / "a.gif").mkdir()
    with pytest.raises(ValueError, match=says):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(("module", "name"), [("cv2", "out.mp4"), ("PIL", "out.gif"), ("PIL", "out")])
def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install"):
        write_movie(tmp_path / name, pictures())
    assert list(tmp_path.iterdir()) == []
