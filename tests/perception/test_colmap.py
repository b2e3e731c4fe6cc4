"""COLMAP models: written here by pycolmap, whose projections are the reference, and the real sample."""

import os
from pathlib import Path

import cv2  # before pycolmap, which brings codecs of its own
import numpy as np
import pytest
from PIL import Image

from perception.datasets.base import DataError
from perception.datasets.colmap import Colmap
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.lens import Lens

pycolmap = pytest.importorskip("pycolmap", reason="pip install pycolmap to test against it")

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
needs_door = pytest.mark.skipif(
    not (CONVOY_DATA and (Path(CONVOY_DATA) / "lund_door").is_dir()),
    reason="set CONVOY_DATA to a folder with lund_door/ to test on real photographs",
)
WIDTH, HEIGHT = 240, 160
POINTS = np.array([[x, y, 5.0 + 0.25 * x] for x in (-2.25, 0.0, 2.25) for y in (-1.3, 0.1, 1.3)])
PARAMETERS = {
    "SIMPLE_PINHOLE": [200, 121.25, 78.75],
    "PINHOLE": [200, 210, 121.25, 78.75],
    "SIMPLE_RADIAL": [200, 121.25, 78.75, -0.12],
    "RADIAL": [200, 121.25, 78.75, 0.15, -0.05],
    "OPENCV": [200, 210, 121.25, 78.75, -0.1, 0.02, 0.01, -0.02],
    "FULL_OPENCV": [200, 210, 121.25, 78.75, 0.1, 0.02, 0.01, -0.02, 0.01, 0.05, 0.01, 0.002],
}


def spots(at_px: np.ndarray) -> np.ndarray:
    """A dark image with bright spots whose centres lie at the given image coordinates."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    light = sum(200 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8) for x, y in at_px)
    return np.repeat(np.asarray(light).round().astype(np.uint8)[..., None], 3, axis=2)


def spot_near(image: np.ndarray, at_px: np.ndarray) -> np.ndarray:
    """Centre of the light within 6 px of a place."""
    u, v = np.meshgrid(np.arange(image.shape[1]) + 0.5, np.arange(image.shape[0]) + 0.5)
    light = image[..., 0] * (np.hypot(u - at_px[0], v - at_px[1]) < 6)
    return np.array([(u * light).sum(), (v * light).sum()]) / light.sum()


def write_model(root: Path, model: str, binary: bool = False, folder: str = "sparse/0", images: int = 3) -> Path:
    """A model of `POINTS` seen from `images` places, with a photograph of the points from each."""
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=PARAMETERS[model], camera_id=7)
    scene = pycolmap.Reconstruction()
    scene.add_camera_with_trivial_rig(camera)
    (root / "images").mkdir(parents=True)
    for number in range(images):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d([0.02, 0.1 * number, 0.03]), [0.1 * number, -0.05, 0.2])
        image = pycolmap.Image(name=f"{number}.png", camera_id=7, image_id=number + 1)
        scene.add_image_with_trivial_frame(image, pose)
        seen = camera.img_from_cam(POINTS @ pose.rotation.matrix().T + pose.translation)
        Image.fromarray(spots(np.array(seen))).save(root / "images" / image.name)
    for number, point in enumerate(POINTS):
        scene.add_point3D(point, pycolmap.Track(), np.array([number, 100, 200], np.uint8))
    (root / folder).mkdir(parents=True, exist_ok=True)
    scene.write_binary(root / folder) if binary else scene.write_text(root / folder)
    return root


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("model", list(PARAMETERS))
def test_straightened_photographs_show_points_where_the_pinhole_projects_them(
    tmp_path: Path, model: str, binary: bool
) -> None:
    frames = Colmap(write_model(tmp_path, model, binary))
    assert len(frames) == 3
    np.testing.assert_allclose(frames.points_world, POINTS, atol=1e-6)
    assert frames.point_rgb.tolist() == [[number, 100, 200] for number in range(len(POINTS))]
    for frame in frames:
        at_px, depth_m = frame.camera.project(frames.points_world.astype(np.float64))
        inside = ((at_px > 7) & (at_px < [WIDTH - 7, HEIGHT - 7])).all(axis=1)
        assert (depth_m > 0).all()
        assert inside.sum() >= 5
        assert frame.image is not None
        for place in at_px[inside]:
            np.testing.assert_allclose(spot_near(frame.image, place), place, atol=0.15)


def test_scale_keeps_points_in_place(tmp_path: Path) -> None:
    root = write_model(tmp_path, "OPENCV")
    full, half = Colmap(root)[1], Colmap(root, scale=0.5)[1]
    assert half.image is not None
    assert half.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    np.testing.assert_allclose(half.camera.project(POINTS)[0], full.camera.project(POINTS)[0] / 2)
    np.testing.assert_allclose(
        spot_near(half.image, half.camera.project(POINTS)[0][4]), half.camera.project(POINTS)[0][4], atol=0.15
    )
    with pytest.raises(DataError, match=r"scale is 0, want"):
        Colmap(root, scale=0)


@pytest.mark.parametrize("folder", ["sparse/0", "sparse", "colmap_ground_truth", "."])
def test_every_place_for_a_model_is_found(tmp_path: Path, folder: str) -> None:
    write_model(tmp_path, "PINHOLE", folder=folder)
    assert format_of(tmp_path) == "COLMAP"
    assert [Path(frame.source).name for frame in open_dataset(tmp_path)] == ["0.png", "1.png", "2.png"]


def test_a_scaled_copy_of_the_images_is_taken_and_a_crop_refused(tmp_path: Path) -> None:
    root = write_model(tmp_path, "SIMPLE_RADIAL")
    reference = Colmap(root)[0].camera
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(root / "images/0.png")
    camera = Colmap(root)[0].camera
    np.testing.assert_allclose(camera.intrinsics[:2] * 2, reference.intrinsics[:2])
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(root / "images/0.png")
    with pytest.raises(DataError, match=r"0\.png: 120x160, its camera says 240x160; use"):
        Colmap(root)[0]


@pytest.mark.parametrize("k1", [-0.2, 0.2])
def test_no_pixel_of_a_straightened_image_is_blank(k1: float) -> None:
    lens = Lens(200.0, 200.0, 118.0, 82.0, WIDTH, HEIGHT, (k1, 0.0, 0.0, 0.0))
    straight = lens.straighten(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    assert straight.min() >= 250  # the outermost pixel may lie up to 1/100 px outside
    zoom = lens.straightened().fx_px / lens.fx_px
    assert zoom == 1 if k1 < 0 else 1 < zoom < 1.2


def test_an_image_without_a_file_is_skipped_and_counted(tmp_path: Path) -> None:
    root = write_model(tmp_path, "PINHOLE")
    (root / "images/1.png").unlink()
    frames = Colmap(root)
    assert [Path(frame.source).name for frame in frames] == ["0.png", "2.png"]
    assert frames.missing == ("1 of 3 frames skipped, no file in images/: 1.png",)
    for number in (0, 2):
        (root / f"images/{number}.png").unlink()
    with pytest.raises(DataError, match="none of the 3 images of the model is there"):
        Colmap(root)


def test_a_broken_image_or_pose_costs_its_own_frame(tmp_path: Path) -> None:
    root = write_model(tmp_path, "PINHOLE")
    path = root / "images/0.png"
    path.write_bytes(path.read_bytes()[:200])
    model = root / "sparse/0/images.txt"
    lines = model.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if line.endswith(" 2.png"))
    lines[place] = " ".join(["nan" if field == 5 else text for field, text in enumerate(lines[place].split())])
    model.write_text("\n".join(lines) + "\n")
    frames = Colmap(root)
    with pytest.raises(DataError, match=r"0\.png: not a readable image .*; fetch"):
        frames[0]
    assert frames[1].image is not None
    with pytest.raises(DataError, match=r"images\.txt: pose of 2\.png: .*NaN.*; export"):
        frames[2]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            "cameras.txt",
            "PINHOLE",
            "THIN_PRISM_FISHEYE",
            r"cameras\.txt:\d: camera model THIN_PRISM_FISHEYE is not read",
        ),
        ("cameras.txt", " 78.75", "", r"cameras\.txt:\d: 3 numbers, want 4"),
        ("cameras.txt", " 78.75", " nan", r"cameras\.txt:\d: holds NaN"),
        ("cameras.txt", "240 160", "240 -160", r"'-160' is no whole number"),
        ("cameras.txt", "PINHOLE 240 160 200 210 121.25 78.75", "PINHOLE", r"2 fields, want an id"),
        ("cameras.txt", "PINHOLE 240 160 200", "PINHOLE 240 160 -200", r"at least 1 pixel"),
        ("images.txt", " 7 1.png", " 7", r"images\.txt:\d: 9 fields, want 10"),
        ("images.txt", "1 0.99", "1 zero", r"could not convert string to float: 'zero"),
        ("points3D.txt", " 100 200 ", " 100 900 ", r"colours run from 0 to 900, want 0\.\.255"),
        ("points3D.txt", "-2.25", "inf", r"points3D\.txt: 3 of 9 points hold NaN or infinity; remove"),
        ("points3D.txt", " 100 200 ", " x 200 ", r"points3D\.txt:\d+: could not convert"),
    ],
)
def test_malformed_text_is_named_with_its_line(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    path = write_model(tmp_path, "PINHOLE") / "sparse/0" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=says):
        _ = Colmap(tmp_path).points_world


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_binary_file_that_ends_early_is_named(tmp_path: Path, file: str) -> None:
    path = write_model(tmp_path, "OPENCV", binary=True) / "sparse/0" / file
    whole = path.read_bytes()
    for size in (3, 20, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"{file}: ends early, at byte {size}; export"):
            _ = Colmap(tmp_path).points_world


def test_an_unknown_model_number_and_an_unknown_camera_are_named(tmp_path: Path) -> None:
    root = write_model(tmp_path, "PINHOLE", binary=True)
    path = root / "sparse/0/cameras.bin"
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"\x05" + content[13:])  # count 8 bytes, id 4 bytes, then the model: fisheye
    with pytest.raises(DataError, match=r"cameras\.bin: camera 7: camera model number 5 is not read, only"):
        Colmap(root)
    path.write_bytes(content[:8] + b"\x08" + content[9:])
    with pytest.raises(DataError, match=r"0\.png has camera 7, which is not in cameras"):
        Colmap(root)[0]


def test_a_folder_without_a_model_and_a_model_without_points(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no COLMAP model; want images/"):
        Colmap(tmp_path)
    root = write_model(tmp_path, "PINHOLE")
    (root / "sparse/0/points3D.txt").unlink()
    assert Colmap(root).points_world.shape == Colmap(root).point_rgb.shape == (0, 3)


@needs_door
def test_real_model_equals_what_pycolmap_reads() -> None:
    root = Path(CONVOY_DATA) / "lund_door"
    frames, reference = Colmap(root), pycolmap.Reconstruction(root / "colmap_ground_truth")
    assert (len(frames), len(frames.points_world)) == (12, 11384)
    np.testing.assert_allclose(
        np.sort(frames.points_world, axis=0),
        np.sort([point.xyz for point in reference.points3D.values()], axis=0),
        rtol=1e-6,
        atol=1e-6,
    )
    image = reference.find_image_with_name("DSC_0005.JPG")
    seen = [point for point in image.points2D if point.has_point3D()]
    points = np.array([reference.points3D[point.point3D_id].xyz for point in seen])
    straight = image.camera.cam_from_img(np.array([point.xy for point in seen]))
    camera = frames[4].camera
    observed_px = straight * [camera.fx_px, camera.fy_px] + [camera.cx_px, camera.cy_px]
    errors_px = np.linalg.norm(camera.project(points)[0] - observed_px, axis=1)
    assert len(points) > 5000
    assert np.median(errors_px) < 0.5  # pycolmap gives the whole model a mean of 0.35 px


@needs_door
def test_real_points_have_the_colours_of_the_pixels_that_they_project_to() -> None:
    """Holds only if poses, distortion and the pixel convention are right: at 6 px off it is half as good."""
    frames = Colmap(Path(CONVOY_DATA) / "lund_door", scale=0.5)
    frame = frames[5]
    assert frame.image is not None
    at_px, depth = frame.camera.project(frames.points_world.astype(np.float64))
    smooth = cv2.GaussianBlur(frame.image, (0, 0), 1).astype(float).mean(axis=2)
    colours = frames.point_rgb.astype(float).mean(axis=1)

    def correlation(shift_px: float) -> float:
        u, v = (at_px + shift_px).astype(int).T
        inside = (depth > 0) & (u >= 0) & (v >= 0) & (u < frame.camera.width_px) & (v < frame.camera.height_px)
        return float(np.corrcoef(smooth[v[inside], u[inside]], colours[inside])[0, 1])

    assert correlation(0) > 0.9
    assert correlation(0) > correlation(6) + 0.2
