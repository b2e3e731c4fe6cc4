"""Argoverse 2: feather tables written here to the published schema, and the real log below CONVOY_DATA."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import feather

from perception.datasets import load_fleet
from perception.datasets.argoverse2 import Argoverse2, find_logs, load_argoverse2
from perception.datasets.arrow_io import read_feather, read_parquet
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.folder import format_of, open_dataset
from perception.datasets.placement import inside_cuboid
from tests.perception.bad_frames import problems_of

CONVOY_DATA = os.environ.get("CONVOY_DATA", "")
LIDAR_LOG = Path(CONVOY_DATA) / "av2_lidar"
needs_log = pytest.mark.skipif(
    not (CONVOY_DATA and LIDAR_LOG.is_dir()), reason="set CONVOY_DATA to a folder with av2_lidar/ to test on it"
)

NAME = "0a1b"
WIDTH, HEIGHT = 120, 160
START_NS = 315_966_000_000_000_000
SWEEP_NS, DELAY_NS = 100_000_000, 20_000_000
LEVEL = (0.5, -0.5, 0.5, -0.5)  # camera axes (right, down, ahead) in those of the vehicle (ahead, left, up)
STRAIGHT = (1.0, 0.0, 0.0, 0.0)
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
OBJECTS = (  # category, centre in the ego frame, points inside
    ("REGULAR_VEHICLE", (20.0, -2.0, 1.0), 5),
    ("PEDESTRIAN", (15.0, 2.0, 1.0), 5),
    ("BICYCLIST", (25.0, 0.0, 1.0), 5),
    ("BICYCLE", (25.0, 0.0, 1.0), 5),
    ("BUS", (30.0, 0.0, 1.0), 0),
    ("TRUCK", (-30.0, 0.0, 1.0), 5),
)


def write_table(path: Path, columns: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(columns), str(path))


def write_log(root: Path, sweeps: int = 3, name: str = NAME) -> Path:
    """The vehicle drives east at 10 m/s; an image is taken 20 ms, so 0.2 m, after each sweep, and one in between."""
    log = root / name
    times = [START_NS + place * SWEEP_NS for place in range(sweeps)]
    shots = [time + late for time in times for late in (DELAY_NS, DELAY_NS + SWEEP_NS // 2)]
    known = sorted({*times, *shots})
    poses = np.array([(*STRAIGHT, 500 + (time - START_NS) * 1e-8, 30, 2) for time in known])
    write_table(log / "city_SE3_egovehicle.feather", {"timestamp_ns": known} | dict(zip(POSE, poses.T, strict=True)))
    write_calibration(log)
    rows = [(time, *entry) for time in times for entry in OBJECTS]
    columns: dict[str, object] = {
        "timestamp_ns": [row[0] for row in rows],
        "track_uuid": [row[1] for row in rows],
        "category": [row[1] for row in rows],
        "length_m": [4.0] * len(rows),
        "width_m": [2.0] * len(rows),
        "height_m": [1.5] * len(rows),
    }
    columns |= {key: [(*STRAIGHT, *row[2])[place] for row in rows] for place, key in enumerate(POSE)}
    write_table(log / "annotations.feather", columns | {"num_interior_pts": [row[3] for row in rows]})
    for time in times:
        write_sweep(log, time)
    (log / "map").mkdir()
    (log / f"map/log_map_archive_{name}____PIT_city_47896.json").write_text("{}")
    for shot in shots:
        path = log / f"sensors/cameras/ring_front_center/{shot}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (80, 80, 80)).save(path)
    return log


def write_calibration(log: Path) -> None:
    sensors = {"ring_front_center": (*LEVEL, 1.6, 0.0, 1.4), "up_lidar": (*STRAIGHT, 1.35, 0.0, 1.64)}
    values = dict(zip(POSE, np.array(list(sensors.values())).T, strict=True))
    write_table(log / "calibration/egovehicle_SE3_sensor.feather", {"sensor_name": list(sensors)} | values)
    numbers = {"fx_px": 100.0, "fy_px": 100.0, "cx_px": 60.0, "cy_px": 80.0, "k1": -0.2, "k2": 0.0, "k3": 0.0}
    sizes = {"height_px": np.array([HEIGHT], np.uint16), "width_px": np.array([WIDTH], np.uint16)}
    columns = {"sensor_name": ["ring_front_center"]} | {key: [value] for key, value in numbers.items()} | sizes
    write_table(log / "calibration/intrinsics.feather", columns)


def write_sweep(log: Path, time_ns: int, x: float = 19.0) -> None:
    columns = {key: np.array(values, np.float16) for key, values in (("x", [x, 5]), ("y", [-2, 3]), ("z", [1, 0]))}
    more = {"intensity": np.array([51, 255], np.uint8), "laser_number": np.array([1, 2], np.uint8)}
    write_table(log / f"sensors/lidar/{time_ns}.feather", columns | more | {"offset_ns": np.array([0, 9], np.int32)})


def test_points_and_boxes_meet_in_the_nearest_image(tmp_path: Path) -> None:
    frames = Argoverse2(write_log(tmp_path))
    assert len(frames) == 3
    assert frames.missing == ()
    frame = frames[1]
    # The sweep is taken at x = 500 + 1, the image 0.2 m farther on, 1.6 m ahead of the rear axle.
    np.testing.assert_allclose(frame.camera.world_from_cam.translation_m, [502.8, 30, 3.4], atol=1e-9)
    np.testing.assert_allclose(frame.points_world()[0], [520, 28, 3], atol=1e-9)
    assert frame.points_lidar is not None
    np.testing.assert_allclose(frame.points_lidar, [[19, -2, 1, 51 / 255], [5, 3, 0, 1]])
    points_px, depth_m = frame.camera.project(frame.points_world()[:1])
    np.testing.assert_allclose(depth_m, [17.2])
    np.testing.assert_allclose(points_px, [[60.5 + 100 * 2 / 17.2, 80.5 + 100 * 0.4 / 17.2]])
    assert frame.boxes is not None
    assert frame.boxes.labels.tolist() == [0, 1, 2]  # the empty bus, the truck behind and the bicycle are left out
    assert frame.boxes.cuboids_world is not None
    np.testing.assert_allclose(frame.boxes.cuboids_world[0], [521, 28, 3, 4, 2, 1.5, 0], atol=1e-4)
    assert inside_cuboid(frame.points_world(), frame.boxes.cuboids_world[0]).tolist() == [True, False]
    # The near face is 19 - 2.8 = 16.2 m ahead of the camera, 1 to 3 m to its right; the top 0.35 m above it.
    assert frame.boxes.xyxy_px[0, 2] == pytest.approx(60.5 + 300 / 16.2, abs=1e-3)
    assert frame.boxes.xyxy_px[0, 1] == pytest.approx(80.5 - 35 / 16.2, abs=1e-3)


def test_tracks_keep_their_numbers_and_images_their_times(tmp_path: Path) -> None:
    frames = Argoverse2(write_log(tmp_path))
    ids = [frame.boxes.track_ids.tolist() for frame in frames]  # type: ignore[union-attr]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == 3
    shots = [int(Path(frame.source).stem) - START_NS for frame in frames]
    assert shots == [DELAY_NS, SWEEP_NS + DELAY_NS, 2 * SWEEP_NS + DELAY_NS]
    assert np.allclose(np.diff(frames.timestamps_s), 0.1)


def test_yaw_goes_from_the_ego_frame_to_the_city(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    path = log / "city_SE3_egovehicle.feather"
    table = feather.read_table(str(path)).to_pandas()
    table["qw"], table["qz"] = np.cos(0.5), np.sin(0.5)  # the vehicle heads 1 rad to the left of east
    feather.write_feather(table, str(path))
    path = log / "annotations.feather"
    table = feather.read_table(str(path)).to_pandas()
    table["qw"], table["qz"] = np.cos(0.2), np.sin(0.2)
    feather.write_feather(table, str(path))
    boxes = Argoverse2(log)[0].boxes
    assert boxes is not None
    assert boxes.cuboids_world is not None
    np.testing.assert_allclose(boxes.cuboids_world[:, 6], 1.4, atol=1e-6)


def test_images_alone_give_a_frame_each_and_labels_to_the_nearest(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    (log / "sensors/lidar").rename(log / "sensors/elsewhere")
    frames = Argoverse2(log)
    assert len(frames) == 6
    assert [frame.points_lidar for frame in frames] == [None] * 6
    assert [frame.boxes is not None for frame in frames] == [True, False] * 3  # 70 ms from one sweep, 30 from the next
    assert frames.labelled == (0, 2, 4)


def test_sweeps_alone_have_the_calibrated_camera_or_a_level_placeholder(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    (log / "sensors/cameras").rename(log / "elsewhere")
    frames = Argoverse2(log)
    assert frames[0].image is None
    np.testing.assert_allclose(frames[0].camera.world_from_cam.translation_m, [501.6, 30, 3.4], atol=1e-9)
    assert frames.labelled == ()
    assert [line.partition(":")[0] for line in frames.missing] == ["sensors/cameras/ring_front_center in 1 of 1 logs"]
    (log / "calibration").rename(log / "gone")
    assert "calibration in 1 of 1 logs: the camera is a level placeholder" in frames.missing
    np.testing.assert_allclose(frames[0].camera.world_from_cam.rotation @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    assert frames[0].boxes is not None
    with pytest.raises(DataError, match="no sequence of Argoverse 2 with 2 labelled"):
        load_argoverse2(FleetRequest(path=log))


def change(file: str, edit: Callable[..., object]) -> Callable[[Path], None]:
    def apply(log: Path) -> None:
        table = feather.read_table(str(log / file)).to_pandas()
        edited = edit(table)
        feather.write_feather(table if edited is None else edited, str(log / file))

    return apply


def cut(file: str, size: int | None) -> Callable[[Path], None]:
    def apply(log: Path) -> None:
        content = (log / file).read_bytes()
        (log / file).unlink()
        if size is not None:
            (log / file).write_bytes(content[:size])

    return apply


SWEEP = f"sensors/lidar/{START_NS}.feather"
SHOT = f"sensors/cameras/ring_front_center/{START_NS + DELAY_NS}.jpg"
POSES, LABELS = "city_SE3_egovehicle.feather", "annotations.feather"
SENSORS, INTRINSICS = "calibration/egovehicle_SE3_sensor.feather", "calibration/intrinsics.feather"


@pytest.mark.parametrize(
    ("spoil", "file", "says", "bad"),
    [
        (cut(SWEEP, 100), SWEEP, "damaged", [0]),
        (cut(SWEEP, 0), SWEEP, "damaged", [0]),
        (change(SWEEP, lambda t: t.drop(columns="intensity")), SWEEP, "no column intensity", [0]),
        (change(SWEEP, lambda t: t.assign(x=np.float16(np.nan))), SWEEP, "2 of 2 points hold NaN", [0]),
        (cut(SHOT, 300), SHOT, "not a readable image", [0]),
        (change(POSES, lambda t: t.drop(index=0)), POSES, f"no pose at timestamp_ns {START_NS}", [0]),
        (change(POSES, lambda t: t.loc.__setitem__((0, "tx_m"), np.nan)), POSES, "NaN", [0]),
        (change(POSES, lambda t: t.drop(columns="qw")), POSES, "no column qw", [0, 1, 2]),
        (cut(POSES, 50), POSES, "damaged", [0, 1, 2]),
        (change(LABELS, lambda t: t.drop(columns="category")), LABELS, "no column category", [0, 1, 2]),
        (change(LABELS, lambda t: t.assign(qw=0.0)), LABELS, "not of unit length", [0, 1, 2]),
        (change(LABELS, lambda t: t.assign(tx_m=np.nan)), LABELS, "NaN", [0, 1, 2]),
        (cut(LABELS, 99), LABELS, "damaged", [0, 1, 2]),
        (change(SENSORS, lambda t: t.assign(sensor_name="x")), SENSORS, "no sensor 'ring_front_center'; it", [0, 1, 2]),
        (change(INTRINSICS, lambda t: t.assign(fx_px=-1.0)), INTRINSICS, "must be positive", [0, 1, 2]),
        (
            change(INTRINSICS, lambda t: t.assign(width_px=999)),
            SHOT,
            f"{WIDTH}x{HEIGHT}, intrinsics.feather",
            [0, 1, 2],
        ),
        (cut(INTRINSICS, None), INTRINSICS, "not found", [0, 1, 2]),
    ],
)
def test_damage_is_named_and_costs_no_more_than_it_must(
    tmp_path: Path, spoil: Callable[[Path], None], file: str, says: str, bad: list[int]
) -> None:
    log = write_log(tmp_path)
    spoil(log)
    found = problems_of(Argoverse2(log))
    assert list(found) == bad
    assert str(log / file) in found[0]
    assert says in found[0]
    assert ";" in found[0], "the part after the semicolon is the remedy"


def test_a_missing_image_in_the_middle_leaves_its_sweep(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    (log / f"sensors/cameras/ring_front_center/{START_NS + SWEEP_NS + DELAY_NS}.jpg").unlink()
    frames = Argoverse2(log)
    assert [frame.image is None for frame in frames] == [False, True, False]
    assert frames.labelled == (0, 2)


def test_logs_are_found_in_their_split_and_not_above_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no city_SE3_egovehicle"):
        Argoverse2(tmp_path)
    write_log(tmp_path / "val", name="one")
    write_log(tmp_path / "val", name="two")
    assert [log.name for log in find_logs(tmp_path / "val")] == ["one", "two"]
    assert find_logs(tmp_path) == ()
    assert format_of(tmp_path / "val") == "Argoverse 2"
    frames = open_dataset(tmp_path / "val")
    assert len(frames) == 6
    assert frames[5].timestamp_s == frames[2].timestamp_s
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/city_SE3_egovehicle.feather").write_bytes(b"")
    with pytest.raises(DataError, match=r"no sensors/lidar/\*\.feather and no sensors/cameras"):
        Argoverse2(tmp_path / "bare")


def test_a_fleet_has_a_vehicle_a_log_in_its_city(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_log(tmp_path, sweeps=12, name=name)
    fleet = load_fleet("argoverse2", FleetRequest(path=tmp_path, vehicles=2))
    assert [(share.vehicle, share.region) for share in fleet.shares] == [("one", "PIT"), ("two", "PIT")]
    # The last 3 of 12 frames are the test; of the 9 before them, 4 are less than 0.5 s away.
    assert [(len(share.train), len(share.test)) for share in fleet.shares] == [(5, 3), (5, 3)]


def test_without_pyarrow_the_message_tells_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "table").write_bytes(b"")
    for read in (read_feather, read_parquet):
        with pytest.raises(DataError, match="pip install pyarrow"):
            read(tmp_path / "table", ("a",), "")


@needs_log
def test_real_cuboids_hold_the_points_that_the_labels_count() -> None:
    frames = Argoverse2(LIDAR_LOG)
    assert len(frames) == 2
    assert frames.regions == {"7fab2350-7eaf-3b7e-a39d-6937a4c1bede": "PIT"}
    path = frames[0].source.partition("/sensors/")[0]
    table = read_feather(Path(path) / LABELS, ("timestamp_ns", "num_interior_pts"), "")
    for frame, time_ns in zip(frames, (315966265259836000, 315966265360032000), strict=True):
        assert frame.image is None
        assert frame.boxes is not None
        assert frame.boxes.cuboids_world is not None
        points = frame.points_world()
        ours = [int(inside_cuboid(points, cuboid).sum()) for cuboid in frame.boxes.cuboids_world]
        theirs = table["num_interior_pts"][table["timestamp_ns"] == time_ns]
        # The release rounds points to half precision and a cuboid in the world has no tilt: counts differ a little.
        assert np.mean([np.abs(theirs - count).min() <= max(2, count // 20) for count in ours]) > 0.9
        assert sum(ours) > 300


@needs_log
def test_real_sweeps_meet_in_the_city() -> None:
    """Both sweeps see the same street: in the city, points of one lie by points of the other; in the ego frame less."""
    from scipy.spatial import cKDTree

    first, second = Argoverse2(LIDAR_LOG)
    gap = lambda a, b: float(np.median(cKDTree(a).query(b[::20])[0]))  # noqa: E731
    assert first.points_lidar is not None
    assert second.points_lidar is not None
    assert gap(first.points_world(), second.points_world()) <= gap(
        first.points_lidar[:, :3], second.points_lidar[:, :3]
    )
    np.testing.assert_allclose(
        first.camera.world_from_cam.translation_m, second.camera.world_from_cam.translation_m, atol=1.5
    )
