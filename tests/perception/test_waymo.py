"""The Waymo Open Dataset, version 2: parquet tables written here to the published schema."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from geometry import SE3
from perception.datasets import load_fleet
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.lens import Lens
from perception.datasets.placement import inside_cuboid
from perception.datasets.waymo import Waymo, load_waymo
from perception.datasets.waymo_io import RangeImage, straighten_boxes
from tests.perception.bad_frames import problems_of

SEGMENT = "10017090168044687777_6380_000_6400_000"
WIDTH, HEIGHT = 96, 64
START_US, PERIOD_US = 1_550_083_467_000_000, 100_000
RANGE_H, RANGE_W = 2, 4
TIME, CAMERA, LASER, NAME = (
    f"key.{part}" for part in ("frame_timestamp_micros", "camera_name", "laser_name", "segment_context_name")
)
PINHOLE = {"f_u": 80.0, "f_v": 80.0, "c_u": 48.0, "c_v": 32.0}
Rows = list[dict[str, Any]]


def moved(x: float, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> list[float]:
    return SE3.from_yaw(yaw, np.array([x, y, z], dtype=float)).matrix.ravel().tolist()


def jpeg(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (70, 80, 90)).save(file, "JPEG")
    return file.getvalue()


def small_segment(frames: int = 3) -> dict[str, Rows]:
    """The vehicle drives east at 10 m/s; an image has a pose half a metre past that of its frame."""
    tables: dict[str, Rows] = {"camera_calibration": [], "lidar_calibration": [], "stats": []}
    for name in (1, 2):
        row = {CAMERA: name, "extrinsic.transform": moved(1.5, 0, 2), "width": WIDTH, "height": HEIGHT}
        row |= {f"intrinsic.{key}": value for key, value in PINHOLE.items()}
        row |= {f"intrinsic.{key}": 0.0 for key in ("k1", "k2", "p1", "p2", "k3")}
        tables["camera_calibration"].append(row | {"rolling_shutter_direction": 4})
    inclination = {"beam_inclination.min": -0.2, "beam_inclination.max": 0.2}
    for name, values in ((1, [-0.3, 0.0]), (2, None)):
        row = {LASER: name, "extrinsic.transform": moved(1, 0, 2, yaw=2.0 * name), "beam_inclination.values": values}
        tables["lidar_calibration"].append(row | inclination)
    tables["stats"] = [{TIME: START_US, "location": "location_sf", "weather": "sunny"}]
    for part in ("camera_image", "camera_box", "vehicle_pose", "lidar", "lidar_pose", "lidar_box"):
        tables[part] = []
    for number in range(frames):
        add_frame(tables, START_US + number * PERIOD_US, float(number))
    return tables


def add_frame(tables: dict[str, Rows], time: int, x: float) -> None:
    tables["vehicle_pose"].append({TIME: time, "world_from_vehicle.transform": moved(x)})
    for name in (2, 1):
        row = {TIME: time, CAMERA: name, "image": jpeg(), "pose.transform": moved(x + 0.5)}
        tables["camera_image"].append(row)
    for kind, name, u in ((1, "car", 20.0), (2, "walker", 50.0), (3, "sign", 60.0), (4, "rider", 95.0)):
        row = {TIME: time, CAMERA: 1, "key.camera_object_id": name, "type": kind}
        row |= {"box.center.x": u, "box.center.y": 30.0, "box.size.x": 10.0, "box.size.y": 8.0}
        tables["camera_box"].append(row)
    image = np.zeros((RANGE_H, RANGE_W, 4), np.float32)
    image[..., 0] = -1
    image[1, 1], image[0, 2] = (10, 0.5, 0, 0), (20, 7.0, 0, 0)
    both = {"range_image_return1.values": image.ravel().tolist(), "range_image_return1.shape": [RANGE_H, RANGE_W, 4]}
    tables["lidar"] += [{TIME: time, LASER: name} | both for name in (1, 2)]
    poses = np.zeros((RANGE_H, RANGE_W, 6), np.float32)
    poses[..., 3] = x + 0.25
    both = {"range_image_return1.values": poses.ravel().tolist(), "range_image_return1.shape": [RANGE_H, RANGE_W, 6]}
    tables["lidar_pose"].append({TIME: time, LASER: 1} | both)
    for kind, name, ahead in ((1, "near", 12.0), (1, "behind", -12.0), (3, "post", 12.0)):
        row = {TIME: time, "key.laser_object_id": name, "type": kind, "num_lidar_points_in_box": 3, "box.heading": 0.5}
        row |= {"box.center.x": ahead, "box.center.y": 0.0, "box.center.z": 1.0}
        tables["lidar_box"].append(row | {"box.size.x": 4.0, "box.size.y": 2.0, "box.size.z": 1.5})


PREFIX = {"camera_image": "CameraImage", "camera_box": "CameraBox", "camera_calibration": "CameraCalibration"}
PREFIX |= {"lidar": "LiDAR", "lidar_pose": "LiDARPose", "lidar_calibration": "LiDARCalibration"}
PREFIX |= {"lidar_box": "LiDARBox", "vehicle_pose": "VehiclePose", "stats": "Stats"}


def write_waymo(root: Path, tables: dict[str, Rows] | None = None, segment: str = SEGMENT) -> Path:
    for component, rows in (tables or small_segment()).items():
        (root / component).mkdir(parents=True, exist_ok=True)
        named = [
            {NAME: segment}
            | {key if key.startswith("key.") else f"[{PREFIX[component]}Component].{key}": v for key, v in row.items()}
            for row in rows
        ]
        parquet.write_table(pa.Table.from_pylist(named), root / component / f"{segment}.parquet")
    return root


def test_a_frame_has_its_image_boxes_and_the_pose_of_its_image(tmp_path: Path) -> None:
    frames = Waymo(write_waymo(tmp_path))
    assert len(frames) == 3
    assert frames.missing == ()
    frame = frames[2]
    assert frame.timestamp_s == pytest.approx((START_US + 2 * PERIOD_US) / 1e6)
    assert frame.image is not None
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    # The vehicle stands at 2 + 0.5 when the image is taken, the camera 1.5 m ahead of its origin and 2 m up.
    np.testing.assert_allclose(frame.camera.world_from_cam.translation_m, [4, 0, 2], atol=1e-9)
    # 10 m ahead, 1 m to the left and 1 m up of the camera: u falls, v falls.
    points_px, _ = frame.camera.project(np.array([[14.0, 1, 3]]))
    np.testing.assert_allclose(points_px, [[48 - 8, 32 - 8]], atol=1e-6)
    assert frame.boxes is not None
    assert frame.boxes.labels.tolist() == [0, 1, 2]  # signs are left out
    np.testing.assert_allclose(frame.boxes.xyxy_px, [[15, 26, 25, 34], [45, 26, 55, 34], [90, 26, 96, 34]])
    assert frame.boxes.track_ids is not None
    assert frame.boxes.track_ids.tolist() == [0, 3, 1]  # car, walker, rider among car, rider, sign, walker


def test_points_of_the_range_image_lie_where_the_sensors_looked(tmp_path: Path) -> None:
    frame = Waymo(write_waymo(tmp_path))[1]
    assert frame.points_lidar is not None
    # Of 4 columns the second looks 45 degrees to the left of ahead, the third 45 degrees to the right, whatever the
    # sensor's own yaw. Laser 1 gives its beams, lowest first: row 0 is level, row 1 looks down by 0.3. Laser 2 gives
    # only their range, -0.2 to 0.2: row 0 looks up by 0.1, row 1 down by 0.1.
    c = np.sqrt(0.5)
    expected = [
        [1.25 + 20 * c, -20 * c, 2],
        [1.25 + 10 * np.cos(0.3) * c, 10 * np.cos(0.3) * c, 2 - 10 * np.sin(0.3)],
        [1 + 20 * np.cos(0.1) * c, -20 * np.cos(0.1) * c, 2 + 20 * np.sin(0.1)],
        [1 + 10 * np.cos(0.1) * c, 10 * np.cos(0.1) * c, 2 - 10 * np.sin(0.1)],
    ]  # laser 1 has a pose for each pixel, a quarter of a metre past that of the frame
    np.testing.assert_allclose(frame.points_lidar[:, :3], expected, atol=1e-5)
    np.testing.assert_allclose(frame.points_lidar[:, 3], np.tanh([7, 0.5, 7, 0.5]), atol=1e-6)
    np.testing.assert_allclose(frame.points_world()[0], [2.25 + 20 * c, -20 * c, 2], atol=1e-5)


def test_pixel_poses_take_points_through_the_world() -> None:
    """Slow oracle: each pixel through 4x4 matrices, built from rotations about one axis at a time."""
    rng = np.random.default_rng(0)
    ranges = rng.uniform(2, 30, (3, 5)).astype(np.float32)
    poses = rng.uniform(-0.5, 0.5, (3, 5, 6)).astype(np.float32)
    inclination = np.array([0.1, 0.0, -0.2])
    vehicle_from_lidar = SE3.from_yaw(0.7, np.array([1.0, 0.2, 2.0]))
    world_from_vehicle = SE3.from_yaw(-0.4, np.array([3.0, 1.0, 0.5]))
    image = RangeImage(ranges, np.zeros_like(ranges), inclination, vehicle_from_lidar, poses)
    ours = image.points_vehicle(world_from_vehicle)[:, :3]
    expected = []
    for row, column in np.ndindex(3, 5):
        azimuth = np.pi * (1 - (2 * column + 1) / 5) - 0.7
        up, r = inclination[row], ranges[row, column]
        point = r * np.array([np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up)])
        roll, pitch, yaw = poses[row, column, :3].astype(float)
        turns = [cv2.Rodrigues(np.eye(3)[axis] * angle)[0] for axis, angle in ((2, yaw), (1, pitch), (0, roll))]
        at_pixel = SE3(turns[0] @ turns[1] @ turns[2], poses[row, column, 3:].astype(float))
        expected.append((world_from_vehicle.inverse() @ at_pixel @ vehicle_from_lidar).apply(point[None])[0])
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_lidar_boxes_are_cuboids_with_their_projections(tmp_path: Path) -> None:
    frame = Waymo(write_waymo(tmp_path), boxes="lidar")[1]
    assert frame.boxes is not None
    assert frame.boxes.labels.tolist() == [0]
    assert frame.boxes.cuboids_world is not None
    np.testing.assert_allclose(frame.boxes.cuboids_world, [[13, 0, 1, 4, 2, 1.5, 0.5]], atol=1e-5)
    assert inside_cuboid(np.array([[13.0, 0, 1]]), frame.boxes.cuboids_world[0]).all()
    centre_px, _ = frame.camera.project(np.array([[13.0, 0, 1]]))
    left, top, right, bottom = frame.boxes.xyxy_px[0]
    assert left < centre_px[0, 0] < right
    assert top < centre_px[0, 1] < bottom


def test_images_and_boxes_are_straightened_together(tmp_path: Path) -> None:
    tables = small_segment()
    tables["camera_calibration"][0] |= {"intrinsic.k1": -0.3, "intrinsic.k2": 0.1, "intrinsic.p1": 0.01}
    frame = Waymo(write_waymo(tmp_path, tables))[0]
    lens = Lens(80.0, 80.0, 48.0, 32.0, WIDTH, HEIGHT, (-0.3, 0.1, 0.01, 0.0, 0.0))
    assert frame.camera.fx_px == lens.straightened().fx_px
    # OpenCV bends points 10 m ahead into the photograph; a box of no size there must lead back to the pinhole's point.
    points_cam = np.random.default_rng(1).uniform([-4, -3, 10], [4, 3, 10], (20, 3))
    matrix = np.array([[80.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])
    bent, _ = cv2.projectPoints(points_cam, np.zeros(3), np.zeros(3), matrix, np.array(lens.distortion))
    boxes = np.tile(bent[:, 0] + 0.5, 2)
    straight, _ = lens.straightened().camera(SE3.identity()).project(points_cam)
    np.testing.assert_allclose(straighten_boxes(boxes, lens), np.tile(straight, 2), atol=0.05)


def test_what_is_not_there_is_none_and_listed(tmp_path: Path) -> None:
    root = write_waymo(tmp_path)
    for component in ("camera_box", "lidar", "lidar_pose", "stats"):
        (root / component / f"{SEGMENT}.parquet").unlink()
    frames = Waymo(root)
    assert frames[0].boxes is None
    assert frames[0].points_lidar is None
    assert [line.partition(" ")[0] for line in frames.missing] == ["camera_box", "lidar", "lidar_pose"]
    assert frames.regions == {SEGMENT: "waymo"}
    with pytest.raises(DataError, match="no sequence of Waymo Open Dataset with 2 labelled"):
        load_waymo(FleetRequest(path=root))


def test_a_frame_without_objects_has_empty_boxes(tmp_path: Path) -> None:
    tables = small_segment()
    tables["camera_box"] = [row for row in tables["camera_box"] if row[TIME] == START_US]
    boxes = Waymo(write_waymo(tmp_path, tables))[1].boxes
    assert boxes is not None
    assert len(boxes) == 0


def put(component: str, place: int, **values: Any) -> Callable[[dict[str, Rows]], None]:
    return lambda tables: tables[component][place].update({key.replace("__", "."): v for key, v in values.items()})


def drop(component: str, field: str) -> Callable[[dict[str, Rows]], None]:
    return lambda tables: [row.pop(field) for row in tables[component]]  # type: ignore[func-returns-value]


NAN = float("nan")


@pytest.mark.parametrize(
    ("component", "spoil", "says", "bad"),
    [
        ("camera_image", put("camera_image", 3, image=jpeg()[:200]), "frame 1550083467100000: ", [1]),
        ("camera_image", put("camera_image", 3, image=jpeg(10, 10)), "(10, 10), the calibration says (64, 96)", [1]),
        ("camera_image", put("camera_image", 3, pose__transform=[NAN] * 16), "pose: ", [1]),
        ("camera_image", drop("camera_image", "pose.transform"), "no column [CameraImageComponent].pose", [0, 1, 2]),
        ("camera_box", put("camera_box", 5, box__center__x=NAN), "NaN", [1]),
        ("camera_box", drop("camera_box", "type"), "no column [CameraBoxComponent].type", [0, 1, 2]),
        ("vehicle_pose", lambda t: t["vehicle_pose"].pop(1), "no row with key.frame_timestamp_micros", [1]),
        ("vehicle_pose", put("vehicle_pose", 1, world_from_vehicle__transform=[NAN] * 16), "frame 15500834671", [1]),
        ("lidar", put("lidar", 2, range_image_return1__values=[1.0] * 5), "laser 1: range_image_return1: ", [1]),
        ("lidar", put("lidar", 2, range_image_return1__values=[NAN] * 32), "want finite values", [1]),
        ("lidar", lambda t: [t["lidar"].pop(2), t["lidar"].pop(2)], "holds no points", [1]),
        ("lidar_calibration", lambda t: t["lidar_calibration"].pop(), "no row with key.laser_name 2", [0, 1, 2]),
        (
            "lidar_calibration",
            put("lidar_calibration", 0, beam_inclination__values=[0.0]),
            "laser 1: 1 beam inclinations for 2 rows",
            [0, 1, 2],
        ),
        ("camera_calibration", put("camera_calibration", 0, intrinsic__f_u=0.0), "camera 1: ", [0, 1, 2]),
        ("camera_calibration", lambda t: t["camera_calibration"].pop(0), "no row with key.camera_name 1", [0, 1, 2]),
    ],
)
def test_bad_rows_are_named_and_cost_no_more_than_they_must(
    tmp_path: Path, component: str, spoil: Callable[[dict[str, Rows]], object], says: str, bad: list[int]
) -> None:
    tables = small_segment()
    spoil(tables)
    found = problems_of(Waymo(write_waymo(tmp_path, tables)))
    assert list(found) == bad
    message = found[bad[0]]
    assert str(tmp_path / component / f"{SEGMENT}.parquet") in message
    assert says in message
    assert ";" in message, "the part after the semicolon is the remedy"


def test_a_truncated_segment_is_one_bad_frame_among_the_others(tmp_path: Path) -> None:
    root = write_waymo(tmp_path, segment="a")
    write_waymo(tmp_path, segment="b")
    path = root / "camera_image/a.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    frames = Waymo(root)
    found = problems_of(frames)
    assert list(found) == [0]
    assert f"{path}: damaged" in found[0]
    assert frames.sequences == {"b": (1, 2, 3)}
    (root / "lidar/b.parquet").write_bytes(b"PAR1")
    assert len(problems_of(Waymo(root))) == 4


def test_a_fleet_has_a_vehicle_a_segment_where_it_was_recorded(tmp_path: Path) -> None:
    for segment in ("a", "b"):
        tables = small_segment(frames=12)
        for component in ("lidar", "lidar_pose", "lidar_calibration"):
            tables.pop(component)
        write_waymo(tmp_path, tables, segment)
    assert format_of(tmp_path) == "Waymo Open Dataset v2"
    assert len(open_dataset(tmp_path)) == 24
    fleet = load_fleet("waymo", FleetRequest(path=tmp_path, vehicles=2))
    assert [(share.vehicle, share.region) for share in fleet.shares] == [("a", "location_sf"), ("b", "location_sf")]
    # The last 3 of 12 frames are the test; of the 9 before them, 4 are less than 0.5 s away.
    assert [(len(share.train), len(share.test)) for share in fleet.shares] == [(5, 3), (5, 3)]
    with pytest.raises(DataError, match="no camera 'REAR'"):
        Waymo(tmp_path, camera="REAR")
    with pytest.raises(DataError, match="no camera_image"):
        Waymo(tmp_path / "lidar_box")
