"""KITTI object files and fleets, written here to the published schema."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geometry import SE3
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.kitti import KittiObject, load_kitti
from perception.datasets.kitti_io import KittiCalibration, read_labels, read_object_calibration, read_velodyne
from perception.datasets.kitti_oxts import read_oxts
from perception.datasets.pcd import read_pcd
from perception.datasets.placement import inside_cuboid

WIDTH, HEIGHT = 120, 80
# Focal length 100, principal point (60, 40) with pixel centres at integers, camera 2 at 6 cm from camera 0.
P2 = "100 0 60 6.0 0 100 40 0.2 0 0 1 0.003"
IDENTITY = "1 0 0 0 1 0 0 0 1"
# LiDAR x ahead, y left, z up, 8 cm above and 27 cm behind camera 0: x_cam = -y, y_cam = -z - 0.08, z_cam = x - 0.27.
VELO_TO_CAM = "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27"
CAR = "Car 0.00 0 -1.57 50.0 30.0 70.0 50.0 2.0 1.8 4.0 0.0 1.65 10.0 -1.5707963267948966"


def write_object_root(root: Path, labels: str = CAR) -> Path:
    for folder in ("image_2", "calib", "label_2", "velodyne"):
        (root / "training" / folder).mkdir(parents=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(root / "training/image_2/000007.png")
    calib = f"P2: {P2}\nR0_rect: {IDENTITY}\nTr_velo_to_cam: {VELO_TO_CAM}\n"
    (root / "training/calib/000007.txt").write_text(calib)
    (root / "training/label_2/000007.txt").write_text(labels + "\n")
    np.array([[10.27, 0, -0.9, 0.5], [5, 1, -1, 0.25]], "<f4").tofile(root / "training/velodyne/000007.bin")
    return root


def test_projection_equals_the_projection_matrix_applied_as_printed() -> None:
    projection = np.array([[721.5, 0, 609.6, 44.86], [0, 721.5, 172.9, 0.2164], [0, 0, 1, 0.002746]])
    calibration = KittiCalibration.from_projection(projection, None)
    camera = calibration.camera(SE3.identity(), 1242, 375)
    points_rect = np.random.default_rng(0).uniform([-10, -2, 4], [10, 2, 60], (50, 3))
    homogeneous = np.column_stack([points_rect, np.ones(50)]) @ projection.T
    ours_px, depth_m = camera.project(calibration.cam_from_rect.apply(points_rect))
    # KITTI's first pixel has its centre at 0, ours at 0.5.
    np.testing.assert_allclose(ours_px, homogeneous[:, :2] / homogeneous[:, 2:] + 0.5, atol=1e-9)
    np.testing.assert_allclose(depth_m, homogeneous[:, 2], atol=1e-12)


def test_object_frame_has_its_car_where_the_label_puts_it(tmp_path: Path) -> None:
    frames = KittiObject(write_object_root(tmp_path))
    frame = frames[0]
    assert len(frames) == 1
    assert frame.timestamp_s == 7
    assert frame.image is not None
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    assert frame.boxes is not None
    assert frame.boxes.labels.tolist() == [0]
    np.testing.assert_allclose(frame.boxes.xyxy_px, [[50.5, 30.5, 70.5, 50.5]])
    # 10 m ahead, the bottom 1.65 m below camera 0, which is 1.65 m above the road; heading along the camera's z.
    np.testing.assert_allclose(frame.boxes.cuboids_world, [[10, 0, 1, 4, 1.8, 2, 0]], atol=1e-6)
    # LiDAR point 0 lies 10 m ahead of camera 0 and 0.9 - 0.08 = 0.82 m below it: 0.83 m above the road.
    np.testing.assert_allclose(frame.points_world()[0], [10, 0, 0.83], atol=1e-6)
    assert inside_cuboid(frame.points_world(), frame.boxes.cuboids_world[0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("rotation_y", "yaw"), [(0.0, -np.pi / 2), (-np.pi / 2, 0.0), (np.pi / 2, np.pi), (np.pi, np.pi / 2)]
)
def test_yaw_is_counter_clockwise_from_ahead(tmp_path: Path, rotation_y: float, yaw: float) -> None:
    """KITTI turns clockwise seen from above, from the camera's right; ours counter-clockwise, from ahead."""
    line = CAR.rsplit(" ", 1)[0] + f" {rotation_y!r}"
    frame = KittiObject(write_object_root(tmp_path, line))[0]
    assert frame.boxes is not None
    assert frame.boxes.cuboids_world is not None
    assert np.cos(frame.boxes.cuboids_world[0, 6] - yaw) == pytest.approx(1, abs=1e-6)


def test_classes_are_mapped_and_boxes_clipped_or_dropped(tmp_path: Path) -> None:
    def line(kind: str, box: str) -> str:
        return f"{kind} 0 0 0 {box} 2 2 2 0 1 9 0"

    inside = "10 10 20 20"
    kinds = ["Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare"]
    lines = [line(kind, inside) for kind in kinds]
    lines += [line("Car", "-30 10 20 200"), line("Car", "119.4 10 150 20"), line("Car", "-9 -9 -5 -5"), ""]
    boxes = KittiObject(write_object_root(tmp_path, "\n".join(lines)))[0].boxes
    assert boxes is not None
    assert boxes.labels.tolist() == [0, 0, 1, 1, 2, 0]
    np.testing.assert_allclose(boxes.xyxy_px[-1], [0, 10.5, 20.5, HEIGHT])


def test_absent_labels_cloud_and_an_empty_label_file_are_told_apart(tmp_path: Path) -> None:
    root = write_object_root(tmp_path, "")
    boxes = KittiObject(root)[0].boxes
    assert boxes is not None
    assert len(boxes) == 0
    (root / "training/label_2/000007.txt").unlink()
    (root / "training/velodyne/000007.bin").unlink()
    frames = KittiObject(root / "training")
    assert frames[0].boxes is None
    assert frames[0].points_lidar is None
    assert frames.labelled == ()


def spoil_cloud(points: np.ndarray) -> bytes:
    return np.asarray(points, "<f4").tobytes()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("velodyne/000007.bin", b"123456789", "9 bytes are no multiple of 16"),
        ("velodyne/000007.bin", b"", "no points"),
        ("velodyne/000007.bin", spoil_cloud([[1, 2, np.nan, 0], [1, 2, 3, 0]]), "1 of 2 points hold NaN"),
        ("velodyne/000007.bin", spoil_cloud([[1, 2, 3, 200]]), "intensity runs from 200 to 200"),
        ("calib/000007.txt", b"P2: 1 2 3\nR0_rect: 1\nTr_velo_to_cam: 1\n", "P2: 3 numbers, want 12"),
        ("calib/000007.txt", f"P2: {P2}\nR0_rect: {IDENTITY}\n".encode(), "no entry Tr_velo_to_cam"),
        ("calib/000007.txt", f"P2: {P2}\nR0_rect: {'2 ' * 9}\nTr_velo_to_cam: {VELO_TO_CAM}".encode(), "not rigid"),
        ("label_2/000007.txt", f"{CAR}\n{CAR} 0.99".encode(), ":2: 16 fields, want 15"),
        ("label_2/000007.txt", CAR.replace("10.0", "nan").encode(), ":1: holds NaN"),
        ("label_2/000007.txt", CAR.replace("10.0", "ten").encode(), "'ten'"),
        ("label_2/000007.txt", CAR.replace("Car", "Lorry").encode(), "unknown type 'Lorry'"),
        ("label_2/000007.txt", b"\xff\xfe\x00", "not a text file"),
        ("image_2/000007.png", b"\x89PNG\r\n\x1a\n", "not a readable image"),
        ("image_2/000007.png", None, "not found"),
        ("calib/000007.txt", None, "not found"),
    ],
)
def test_a_broken_file_is_named_with_field_and_remedy(
    tmp_path: Path, file: str, content: bytes | None, says: str
) -> None:
    path = write_object_root(tmp_path) / "training" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        KittiObject(tmp_path)[0]
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert ";" in message, "the part after the semicolon is the remedy"


def test_a_folder_without_the_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training/image_2"):
        KittiObject(tmp_path)


def test_fleet_of_an_official_object_root_and_of_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sequence of KITTI with 2 labelled frames"):
        load_kitti(FleetRequest(path=tmp_path))
    training = write_object_root(tmp_path) / "training"
    for folder, ending in (("image_2", "png"), ("calib", "txt"), ("label_2", "txt")):
        first = (training / folder / f"000007.{ending}").read_bytes()
        for number in range(8, 15):
            (training / folder / f"{number:06d}.{ending}").write_bytes(first)
    fleet = load_kitti(FleetRequest(path=tmp_path, vehicles=2))
    assert [(share.vehicle, len(share.train), len(share.test)) for share in fleet.shares] == [
        ("object-1", 3, 1),
        ("object-2", 3, 1),
    ]
    assert sorted(frame.timestamp_s for frame in fleet.holdout) == [10, 11]
    with pytest.raises(DataError, match="at most 4"):
        load_kitti(FleetRequest(path=tmp_path, vehicles=5))


def test_readers_name_a_missing_file(tmp_path: Path) -> None:
    for read in (read_velodyne, read_object_calibration, read_labels, read_oxts, read_pcd):
        with pytest.raises(DataError, match=r"absent: not found; "):
            read(tmp_path / "absent")
