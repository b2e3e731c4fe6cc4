"""The town's truth agrees with itself, does not depend on how it was asked for, and is kept within bounds on disk."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from geometry import SE3, Camera, Frame
from perception.datasets import cache
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.cache import cache_limit_bytes, trim_cache
from perception.datasets.town import (
    HOLDOUT,
    LIGHTS,
    PRESETS,
    RIGS,
    LightConfig,
    TownConfig,
    rsu_number,
    surface_points,
    town_config,
    town_drive,
)
from perception.datasets.town import rendering as town_rendering
from perception.datasets.town.annotate import _projected, occlusion, segments, visible_shares
from perception.datasets.town.ground_truth import sample_surface
from perception.datasets.town.layout import plan_town
from perception.datasets.town.light import light_of
from perception.datasets.town.mesh import Coat, Mesh, Surface, box, smoothed
from perception.datasets.town.models import MODELS
from perception.datasets.town.mounts import CAM_FROM_BODY_AXES
from perception.datasets.town.points import Points
from perception.datasets.town.rendering import Shot, Store, render
from perception.datasets.town.scenery import Scenery, build_scenery
from perception.datasets.town.sensors import sense, vehicle_unit
from perception.datasets.town.stage import Moment, Stage, moment, rays_from, set_stage
from perception.datasets.town.textures import textured
from perception.datasets.town.traffic import plan_day
from perception.labels import SEGMENT_OF_OBJECT
from perception.raycast import Hits, RayScene

HAMLET = replace(PRESETS["hamlet"], seed=3)
WIDE = replace(HAMLET, size_px=(128, 384))
SIGNS = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])


@dataclass(frozen=True, eq=False)
class Taken:
    """A frame, what it is of, and the stage that it was taken on."""

    shot: Shot
    frame: Frame
    stage: Stage

    @property
    def viewer(self) -> int | None:
        """Place among the actors of who looks."""
        return self.stage.day.sensing[0] if self.shot.vehicle >= HOLDOUT else None

    def now(self, here_m: np.ndarray) -> Moment:
        return moment(self.stage, self.shot.tick, here_m, self.viewer)


@pytest.fixture(scope="module")
def taken() -> list[Taken]:
    """Frames of a vehicle and of a roadside unit."""
    shots = [Shot(v, tick) for v in (0, rsu_number(0)) for tick in range(5)]
    return [Taken(shot, render(WIDE, shot), _stage_of(shot)) for shot in shots]


@pytest.fixture(scope="module")
def frames(taken: list[Taken]) -> list[Frame]:
    return [each.frame for each in taken]


def _stage_of(shot: Shot) -> Stage:
    return town_rendering._stage(WIDE, town_rendering._day(WIDE, shot), town_rendering._region(WIDE, shot))


def _corners(cuboid: np.ndarray) -> np.ndarray:
    return SE3.from_yaw(float(cuboid[6]), cuboid[:3].astype(float)).apply(SIGNS * cuboid[3:6].astype(float))


def _unprojected(frame: Frame) -> np.ndarray:
    """World coordinates of the pixels that hit something, [k, 3], from the pinhole equations."""
    row, column = np.nonzero(np.isfinite(frame.depth_m))
    camera, z = frame.camera, frame.depth_m[row, column].astype(float)
    x, y = (column + 0.5 - camera.cx_px) / camera.fx_px * z, (row + 0.5 - camera.cy_px) / camera.fy_px * z
    return camera.world_from_cam.apply(np.stack([x, y, z], axis=1))


# Truth agrees with itself


def test_lidar_points_fall_on_pixels_of_the_class_that_they_hit(taken: list[Taken]) -> None:
    """The surface that a point hit is found by casting its ray again; a point that the camera cannot see (it lies
    deeper than all pixels around), and the specks that hang in the air, are left out.
    """
    right, judged = 0, 0
    for each in taken:
        frame = each.frame
        world_from_lidar = frame.camera.world_from_cam @ frame.lidar_from_cam.inverse()
        origin = world_from_lidar.translation_m
        now = each.now(origin[:2])  # above the centre of a vehicle, on the pole of a roadside unit
        points = world_from_lidar.apply(frame.points_lidar[:, :3].astype(float))
        hits = now.cast(rays_from(origin, points - origin))
        on_surface = np.abs(hits.t - 1) * np.linalg.norm(points - origin, axis=1) < 0.1
        uv, depth_m = frame.camera.project(points)
        column, row = np.floor(uv).astype(int).T
        height, width = frame.masks.shape
        inside = (depth_m > 1) & (column >= 2) & (row >= 2) & (column < width - 2) & (row < height - 2) & on_surface
        row, column, depth_m, kind = row[inside], column[inside], depth_m[inside], segments(now, hits)[inside]
        near = [(row + i, column + j) for i in range(-2, 3) for j in range(-2, 3)]
        around = np.stack([frame.masks[at] for at in near])
        deepest = np.stack([frame.depth_m[at] for at in near]).max(axis=0)
        clear = (around == around[0]).all(axis=0) & (depth_m < deepest + 0.1)
        right += int((around[0] == kind)[clear].sum())
        judged += int(clear.sum())
    assert judged > 2000
    assert right >= 0.99 * judged


def test_instances_are_where_the_masks_show_objects(frames: list[Frame]) -> None:
    for frame in frames:
        np.testing.assert_array_equal(frame.instances >= 0, np.isin(frame.masks, SEGMENT_OF_OBJECT))


def test_instance_pixels_lie_as_deep_as_their_cuboid_and_have_its_class(frames: list[Frame]) -> None:
    """A cuboid is convex: no point of it is nearer than its nearest or farther than its farthest corner."""
    for frame in frames:
        for label, track, cuboid in zip(
            frame.boxes.labels, frame.boxes.track_ids, frame.boxes.cuboids_world, strict=True
        ):
            mine = frame.instances == track
            _, depth_m = frame.camera.project(_corners(cuboid))
            assert frame.depth_m[mine].min() >= depth_m.min() - 0.01
            assert frame.depth_m[mine].max() <= depth_m.max() + 0.01
            assert set(frame.masks[mine].tolist()) == {SEGMENT_OF_OBJECT[label]}


def test_every_box_is_the_tight_rectangle_of_its_instance(frames: list[Frame]) -> None:
    boxes = 0
    for frame in frames:
        for track, xyxy in zip(frame.boxes.track_ids, frame.boxes.xyxy_px, strict=True):
            rows, columns = np.nonzero(frame.instances == track)
            assert xyxy.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes += 1
    assert boxes > 3 * len(frames)


def test_objects_without_a_box_are_small_or_hidden_and_those_with_one_are_not(taken: list[Taken]) -> None:
    """At 128 rows the thresholds hold as they stand. Hidden: what is seen spans less than the least share of what the
    corners of the cuboid span inside the image.
    """
    without = hidden = 0
    for each in taken:
        frame, boxed = each.frame, set(each.frame.boxes.track_ids.tolist())
        seen = set(np.unique(frame.instances).tolist()) - {-1}
        assert boxed <= seen
        for place, actor in enumerate(each.stage.day.actors):
            if actor.track_id not in seen:
                continue
            rows, columns = np.nonzero(frame.instances == actor.track_id)
            extent = (np.ptp(columns) + 1, np.ptp(rows) + 1)
            small = extent[1] < WIDE.min_box_height_px or len(rows) < WIDE.min_box_pixels
            uv, depth_m = frame.camera.project(_corners(each.stage.cuboid(place, each.shot.tick)))
            if depth_m.min() > 0.3:
                inside = np.clip(uv, 0, [frame.camera.width_px, frame.camera.height_px])
                covered = np.prod(extent) < WIDE.min_visible_share * np.prod(np.ptp(inside, axis=0))
                assert (actor.track_id in boxed) == (not small and not covered)
                without, hidden = without + (actor.track_id not in boxed), hidden + (covered and not small)
    assert without > 5
    assert hidden > 0


def test_truncation_is_what_the_image_cuts_off_the_projected_cuboid(frames: list[Frame]) -> None:
    cut = whole = 0
    for frame in frames:
        for cuboid, truncation in zip(frame.boxes.cuboids_world, frame.boxes.truncation, strict=True):
            uv, depth_m = frame.camera.project(_corners(cuboid))
            size = np.array([frame.camera.width_px, frame.camera.height_px])
            if (depth_m > 0.5).all():
                inside = (uv > 0.01).all() and (uv < size - 0.01).all()
                assert (truncation < 1e-6) == inside or abs(truncation) < 1e-3
                shown = np.prod(np.minimum(uv.max(axis=0), size) - np.maximum(uv.min(axis=0), 0))
                assert truncation == pytest.approx(1 - shown / np.prod(np.ptp(uv, axis=0)), abs=1e-3)
                whole, cut = whole + inside, cut + (not inside)
    assert whole > 10
    assert cut > 2


def test_occlusion_grades_follow_from_the_visible_shares(taken: list[Taken]) -> None:
    grades = []
    for each in taken:
        frame = each.frame
        now = each.now((frame.camera.world_from_cam @ frame.lidar_from_cam.inverse()).translation_m[:2])
        place = {actor.track_id: k for k, actor in enumerate(each.stage.day.actors)}
        ids = np.array([place[int(track)] for track in frame.boxes.track_ids], int)
        shares = visible_shares(each.stage, now, frame.camera, ids, each.shot.tick)
        expected = [0 if share >= 0.8 else 1 if share >= 0.4 else 2 for share in shares.tolist()]
        assert frame.boxes.occlusion.tolist() == expected
        grades += expected
    assert len(set(grades)) > 1


def test_grades_at_their_thresholds() -> None:
    assert occlusion(np.array([1.0, 0.8, 0.79, 0.4, 0.39, 0.0])).tolist() == [0, 0, 1, 1, 2, 2]


def _looking_east() -> Camera:
    """100 pixels focal length, 200 x 100 pixels, at the origin: (10, y, z) is seen at (100 - 10 y, 50 - 10 z)."""
    return Camera(SE3(CAM_FROM_BODY_AXES.T, np.zeros(3)), 100.0, 100.0, 100.0, 50.0, 200, 100)


@pytest.mark.parametrize(
    ("y_m", "z_m", "area_px", "outside"),
    [
        (0.0, 0.0, 200.0, 0.0),  # 20 x 10 pixels in the middle
        (9.0, 0.0, 200.0, 0.0),  # columns 0 to 20
        (10.0, 0.0, 100.0, 0.5),  # columns -10 to 10
        (10.5, 0.0, 50.0, 0.75),
        (10.0, 5.0, 50.0, 0.75),  # half of the columns and half of the rows
        (30.0, 0.0, 0.0, 1.0),
    ],
)
def test_projected_area_and_truncation_of_a_plate(y_m: float, z_m: float, area_px: float, outside: float) -> None:
    """A plate without depth, 2 m wide and 1 m high, 10 m ahead."""
    areas, truncation = _projected(_looking_east(), np.array([[10.0, y_m, z_m, 0.0, 2.0, 1.0, 0.0]]))
    np.testing.assert_allclose(areas, [area_px], atol=1e-9)
    np.testing.assert_allclose(truncation, [outside], atol=1e-9)


def test_what_lies_behind_the_camera_has_no_area() -> None:
    areas, truncation = _projected(_looking_east(), np.array([[-10.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.3]]))
    assert (areas.tolist(), truncation.tolist()) == ([0.0], [0.0])


# A world of one's own: level ground and road users that stand where a test puts them


def _standing(others: list[tuple[str, float, float]]) -> Frame:
    """What a vehicle sees that looks east over an empty field; others (model, metres ahead, metres to the left)."""
    layout, config = plan_town(WIDE), WIDE
    day = plan_day(layout, config, 0, 1, 0)
    here = (layout.at((0, 0)) + layout.at((1, 1))) / 2
    anyone = day.actors[day.sensing[0]]

    def actor(model: str, ahead: float, left: float, number: int) -> object:
        track = np.array([[here[0] + ahead, here[1] + left, 0.0, 0.0, 0.0]])
        kind = MODELS[model]
        return replace(anyone, model=kind, size_m=np.array(kind.size_m), track=track, track_id=number)

    actors = (actor("saloon", 0, 0, 100), *(actor(*other, 101 + k) for k, other in enumerate(others)))
    scenery = build_scenery(layout, config.seed, [])
    stage = set_stage(scenery, replace(day, actors=actors, parked=0, sensing=(0,)))
    return sense(stage, config, vehicle_unit(stage, config, 0, 0), 0, 0, "a field")


def test_an_empty_field_has_no_boxes() -> None:
    """Looked, nothing there: empty columns, not missing ones."""
    frame = _standing([])
    assert (frame.instances == -1).all()
    assert not np.isin(frame.masks, SEGMENT_OF_OBJECT).any()
    assert len(frame.boxes) == 0
    assert frame.boxes.cuboids_world.shape == (0, 7)
    assert (len(frame.boxes.truncation), len(frame.boxes.occlusion)) == (0, 0)


def test_a_van_beside_nobody_is_fully_visible() -> None:
    boxes = _standing([("van", 20.0, 0.0)]).boxes
    assert boxes.track_ids.tolist() == [101]
    assert (boxes.occlusion.tolist(), boxes.truncation.tolist()) == ([0], [0.0])
    np.testing.assert_allclose(boxes.cuboids_world[0, 3:6], MODELS["van"].size_m)


def test_a_lorry_hides_half_of_a_van() -> None:
    """The lorry's back is 9.5 - 3.5 = 6 m ahead of the vehicle's centre, 5.1 m ahead of its camera, and ends at the
    line of sight straight ahead: it hides the left half of all that lies behind it.
    """
    boxes = _standing([("van", 20.0, 0.0), ("lorry", 9.5, 2.35 / 2)]).boxes
    grade = dict(zip(boxes.track_ids.tolist(), boxes.occlusion.tolist(), strict=True))
    assert grade == {101: 1, 102: 0}
    van = boxes.xyxy_px[boxes.track_ids.tolist().index(101)]
    assert van[0] == pytest.approx(WIDE.size_px[1] / 2, abs=3)


def test_a_van_behind_a_lorry_has_no_box() -> None:
    assert _standing([("van", 20.0, 0.0), ("lorry", 9.5, 0.0)]).boxes.track_ids.tolist() == [102]


def test_the_image_cuts_a_van_that_stands_at_its_edge() -> None:
    """34 degrees to the left lies the edge, 0.6745 m a metre ahead. The van, 5.2 m long and 2 m wide, is 13.1 m ahead
    of the camera: its left back corner is seen at 8.1 / 10.5 = 0.7714 and its right front corner at 6.1 / 15.7 =
    0.3885, so that (0.7714 - 0.6745) / (0.7714 - 0.3885) = 0.253 of it is cut off.
    """
    boxes = _standing([("van", 14.0, 7.1)]).boxes
    assert len(boxes) == 1
    assert boxes.xyxy_px[0, 0] == 0
    assert boxes.truncation[0] == pytest.approx(0.253, abs=0.001)


# The same shot is the same frame, however it is asked for


def _digest(frame: Frame) -> str:
    boxes = frame.boxes
    arrays = (
        frame.image, frame.points_lidar, frame.masks, frame.instances, frame.depth_m, boxes.xyxy_px, boxes.labels,
        boxes.cuboids_world, boxes.track_ids, boxes.truncation, boxes.occlusion, frame.camera.world_from_cam.matrix,
        np.array(frame.timestamp_s),
    )  # fmt: skip
    return hashlib.sha256(b"".join(b"" if a is None else np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


STEREO = replace(HAMLET, size_px=(32, 64), cameras=RIGS["stereo"], vehicles=5)


def _in_light(light: str) -> TownConfig:
    config = town_config(FleetRequest(preset=f"hamlet@{light}", seed=3, size_px=(32, 64)))
    return replace(config, cameras=RIGS["stereo"], vehicles=5)


CONFIGS = {"day": STEREO} | {light: _in_light(light) for light in ("night", "drift", "traversals")}
# Vehicle 4 of a town that seats four a day drives on the second day.
SHOTS = {
    "day": (Shot(0, 1), Shot(0, 1, 1), Shot(rsu_number(0), 2, 3), Shot(4, 0)),
    "night": (Shot(0, 1), Shot(rsu_number(0), 2)),
    "drift": (Shot(0, 1),),
    "traversals": (Shot(4, 0, 1),),
}


@pytest.fixture(scope="module")
def digests() -> dict[str, list[str]]:
    return {light: [_digest(render(CONFIGS[light], shot)) for shot in shots] for light, shots in SHOTS.items()}


def test_all_these_frames_differ(digests: dict[str, list[str]]) -> None:
    assert len({d for found in digests.values() for d in found}) == sum(map(len, SHOTS.values()))


@pytest.mark.parametrize("light", ["day", "night", "traversals"])
def test_frames_depend_neither_on_order_nor_on_the_fleet_nor_on_the_length_of_drives(
    digests: dict[str, list[str]], light: str
) -> None:
    """Rendered last to first, on stages set anew, for more vehicles with shorter drives."""
    town_rendering._stage.cache_clear()
    town_rendering._scenery.cache_clear()
    other = replace(CONFIGS[light], vehicles=9, frames_per_vehicle=4)
    again = [_digest(render(other, shot)) for shot in reversed(SHOTS[light])]
    assert again[::-1] == digests[light]


def test_drives_of_another_length_drift_at_another_pace_and_lie_in_another_folder(tmp_path: Path) -> None:
    short, long = (town_config(FleetRequest(preset="hamlet@drift", frames_per_vehicle=frames)) for frames in (6, 12))
    assert Store(tmp_path, short).folder != Store(tmp_path, long).folder


@pytest.mark.slow
def test_a_fresh_process_renders_the_same_frames(digests: dict[str, list[str]]) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_town_world as t\n"
        "for light, shots in t.SHOTS.items():\n"
        "    print(*(t._digest(t.render(t.CONFIGS[light], shot)) for shot in shots))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == list(digests.values())


def test_sensors_of_two_vehicles_have_noise_of_their_own() -> None:
    """In an empty sky both would lose the same beams if they drew the same numbers."""
    stages = [_stage_of(Shot(vehicle, 0)) for vehicle in (0, 1)]
    seeds = {vehicle_unit(stage, WIDE, seat, 0).seed for stage in stages for seat in (0, 1)}
    assert len(seeds) == 4


def _of_block(scenery: Scenery, first: int) -> Iterator[np.ndarray]:
    """Mesh arrays of the last block built: what follows the triangles before it, without the poles at the end."""
    mesh = scenery.mesh
    yield mesh.vertices[mesh.faces][first:]
    yield from (getattr(mesh, name)[first:] for name in ("surface", "segment", "rgb"))


def test_a_block_looks_the_same_whatever_else_is_built() -> None:
    """Block 3 alone, and after three others: the same triangles, and the same windows, doors and signs on them."""
    layout = plan_town(HAMLET)
    alone, along = build_scenery(layout, HAMLET.seed, [3]), build_scenery(layout, HAMLET.seed, [0, 1, 2, 3])
    before = len(along.mesh) - len(alone.mesh)
    ground = len(build_scenery(layout, HAMLET.seed, []).mesh) - _pole_triangles(layout.rsus_m)
    for one, other in zip(_of_block(alone, ground), _of_block(along, ground + before), strict=True):
        np.testing.assert_array_equal(one, other)
    light = light_of(LIGHTS["night"])
    for scenery in (alone, along):
        assert len(scenery.facades.height_m) > 2
    painted = [_painted(scenery, light, skip) for scenery, skip in ((alone, ground), (along, ground + before))]
    for one, other in zip(*painted, strict=True):
        np.testing.assert_array_equal(one, other)


def _pole_triangles(rsus_m: np.ndarray) -> int:
    return len(rsus_m) * (16 + 12)  # a tube of eight sides and a box


def _painted(scenery: Scenery, light: object, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Albedo, gloss and glow of points spread over the facades."""
    mesh = scenery.mesh
    walls = first + np.flatnonzero(mesh.surface[first:] == Surface.FACADE)
    weights = np.random.default_rng(1).dirichlet([1, 1, 1], (len(walls), 200)).astype(np.float32)
    corners = mesh.vertices[mesh.faces[walls]]
    spots = np.einsum("fpk,fkx->fpx", weights, corners).reshape(-1, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.repeat(normals / np.linalg.norm(normals, axis=1, keepdims=True), 200, axis=0).astype(np.float32)
    faces, n = np.repeat(walls, 200), len(spots)
    points = Points(
        spots, normals, -normals, np.full(n, 8.0, np.float32),
        mesh.surface[faces], mesh.rgb[faces], mesh.owner[faces],
    )  # fmt: skip
    albedo = textured(points, scenery.facades, scenery.layout, light)
    return albedo.rgb, albedo.gloss, albedo.glow


@pytest.mark.slow
def test_traversals_drive_the_same_streets_in_another_light() -> None:
    """Days 0 to 3 are vehicles 0, 4, 8 and 12 of two regions: day, dusk, night, rain. Wherever traffic lets them be by
    then, they are on the lane that day 0 drives along in its two minutes.
    """
    config = replace(CONFIGS["traversals"], vehicles=13, cameras=RIGS["front"])
    assert [config.light_on(day, 9.0) for day in range(5)] == [
        LIGHTS[name] for name in ("day", "dusk", "night", "rain", "day")
    ]
    drives = [[render(config, Shot(vehicle, tick)) for tick in (0, 5)] for vehicle in (0, 4, 8, 12)]
    means = [drive[0].image.mean() for drive in drives]
    assert means[2] < min(means[0], means[1], means[3]) - 20
    assert len({_digest(drive[0]) for drive in drives}) == 4
    first = plan_day(plan_town(config), config, 0, 240, 0)
    driven = first.actors[first.sensing[0]].trace.positions_m
    lane = driven[:-1, None] + np.linspace(0, 1, 20)[:, None] * np.diff(driven, axis=0)[:, None]
    for frame in (frame for drive in drives for frame in drive):
        pose = frame.camera.world_from_cam
        on_ground = (pose.translation_m - 0.9 * pose.rotation[:, 2]) * [1, 1, 0]
        assert cKDTree(lane.reshape(-1, 3)).query(on_ground)[0] < 0.2


# Points on surfaces


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 20), st.floats(0.5, 20), st.integers(0, 10**6))
def test_points_follow_the_areas_of_two_triangles(short: float, long: float, seed: int) -> None:
    """Right triangles with legs 2 and `short`, 2 and `long`, at heights 0 and 5: areas `short` and `long`. Counts are
    Poisson; six standard deviations are room enough.
    """
    base = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0]], np.float32)
    corners = np.stack([base * np.float32([1, short, 1]), base * np.float32([1, long, 1]) + np.float32([0, 0, 5])])
    points = sample_surface(corners, 50.0, np.random.default_rng(seed))
    for height, leg in ((0.0, short), (5.0, long)):
        mine = points[points[:, 2] == height]
        assert abs(len(mine) - 50 * leg) < 6 * np.sqrt(50 * leg) + 6
        share = mine[:, :2] / [2, leg]
        assert (share > -1e-6).all()
        assert (share.sum(axis=1) < 1 + 1e-5).all()
    assert len(points) == (points[:, 2] == 0).sum() + (points[:, 2] == 5).sum()


def test_points_spread_evenly_over_a_triangle() -> None:
    """Of a triangle's points a quarter lies in the half-size triangle at each corner; the mean is the centroid."""
    corners = np.array([[[0, 0, 0], [3, 0, 0], [0, 6, 3]]], np.float32)
    points = sample_surface(corners, 3000.0, np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(points.mean(axis=0), [1, 2, 1], atol=0.03)
    weights = np.column_stack([points[:, 0] / 3, points[:, 1] / 6])
    weights = np.column_stack([weights, 1 - weights.sum(axis=1)])
    np.testing.assert_allclose((weights > 0.5).mean(axis=0), 0.25, atol=0.015)


def test_no_surface_has_no_points() -> None:
    assert sample_surface(np.zeros((0, 3, 3), np.float32), 10.0, np.random.default_rng(0)).shape == (0, 3)


def test_surface_points_stay_near_the_path_and_miss_nothing() -> None:
    """A path between two regions: what is near lies in blocks of both."""
    layout = plan_town(HAMLET)
    x, y = (layout.xs_m[2] + layout.xs_m[3]) / 2 - 2, layout.ys_m[1]
    assert layout.region_at(x, y) == 0
    path = np.array([[x - 3, y], [x, y]])
    points = surface_points(HAMLET, path, 45.0, 4.0)
    away = np.linalg.norm(points[:, None, :2] - path, axis=2).min(axis=1)
    assert away.max() <= 45.0
    mesh = build_scenery(layout, HAMLET.seed, range(len(layout.blocks()))).mesh
    middle = mesh.vertices[mesh.faces].mean(axis=1)
    small = (np.ptp(mesh.vertices[mesh.faces], axis=1).max(axis=1) < 5) & (middle[:, 2] > 0.5)
    middle = middle[small & (np.linalg.norm(middle[:, None, :2] - path, axis=2).min(axis=1) < 42)]
    assert len(middle) > 50
    assert cKDTree(points).query(middle)[0].max() < 5.0


def test_depth_images_lie_on_the_surface() -> None:
    """Half of the points of a surface lie within sqrt(ln 2 / (pi d)) of the nearest of samples of density d, 4.7 cm for
    100 a square metre; at edges, where surfaces meet, they are nearer.
    """
    frame = render(HAMLET, Shot(0, 0))
    path = frame.camera.world_from_cam.translation_m[None, :2]
    seen = _unprojected(frame)[~np.isin(frame.masks, SEGMENT_OF_OBJECT)[np.isfinite(frame.depth_m)]]
    seen = seen[np.linalg.norm(seen[:, :2] - path, axis=1) < 14]
    truth = surface_points(HAMLET, path, 15.0, 100.0)
    away, _ = cKDTree(truth).query(seen)
    assert len(seen) > 1000
    assert np.median(away) < 1.1 * np.sqrt(np.log(2) / (np.pi * 100))
    assert np.quantile(away, 0.99) < 0.2


# Meshes and hits


def _cube_normals(crease_deg: float) -> tuple[Mesh, np.ndarray]:
    cube = box((0, 0, -0.5), (1, 1, 1), Coat(0, (1, 1, 1)))
    return cube, smoothed(cube, crease_deg).normals


def test_edges_sharper_than_the_crease_stay_sharp() -> None:
    cube, normals = _cube_normals(80.0)
    a, b, c = cube.vertices[cube.faces].transpose(1, 0, 2)
    np.testing.assert_allclose(normals, np.repeat(np.cross(b - a, c - a)[:, None], 3, axis=1), atol=1e-6)


def test_edges_below_the_crease_are_rounded() -> None:
    """All triangles have the same area. Two of each face meet in (-1, -1, -1) and (1, 1, 1); one of x, one of y and
    two of z in (-1, -1, 1).
    """
    cube, normals = _cube_normals(100.0)
    at = cube.vertices[cube.faces].reshape(-1, 3)
    for corner, expected in (
        ((-0.5, -0.5, -0.5), np.array([-1, -1, -1]) / np.sqrt(3)),
        ((0.5, 0.5, 0.5), np.array([1, 1, 1]) / np.sqrt(3)),
        ((-0.5, -0.5, 0.5), np.array([-1, -1, 2]) / np.sqrt(6)),
    ):
        mine = normals.reshape(-1, 3)[(at == np.float32(corner)).all(axis=1)]
        assert len(mine) >= 4
        np.testing.assert_allclose(mine, np.broadcast_to(expected, mine.shape), atol=1e-6)


def test_normals_of_a_stretched_ball_are_those_of_the_ellipsoid() -> None:
    """The normal of x^2 / a^2 + y^2 / b^2 + z^2 / c^2 = 1 is (x / a^2, y / b^2, z / c^2)."""
    cube = smoothed(box((0, 0, -0.5), (1, 1, 1), Coat(0, (1, 1, 1))), 100.0)
    turned = cube.transformed(np.diag([2.0, 1.0, 0.5]), np.zeros(3)).normals[0, 0]
    expected = np.array([-1 / 2, -1, -2])
    np.testing.assert_allclose(turned / np.linalg.norm(turned), expected / np.linalg.norm(expected), atol=1e-6)


def test_the_nearer_hit_brings_its_normal_and_weights_along() -> None:
    def hits(t: list[float], face: int, normal: list[float], uv: list[float]) -> Hits:
        n = len(t)
        rows = np.tile(np.float32(normal), (n, 1)), np.tile(np.float32(uv), (n, 1))
        return Hits(np.float32(t), np.full(n, face, np.int32), *rows)

    mine = hits([1, 5, np.inf, np.inf, 2], 4, [0, 0, 1], [0.1, 0.2])
    theirs = hits([2, 3, 7, np.inf, 2], 1, [1, 0, 0], [0.3, 0.4])
    nearer = mine.nearer(theirs, 10)
    np.testing.assert_array_equal(nearer.t, np.float32([1, 3, 7, np.inf, 2]))
    assert nearer.face.tolist() == [4, 11, 11, 4, 4]  # of two as near, the first
    np.testing.assert_array_equal(nearer.normal[:, 0], [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(nearer.uv, np.float32([[0.1, 0.2], [0.3, 0.4], [0.3, 0.4], [0.1, 0.2], [0.1, 0.2]]))


def test_weights_of_a_hit_give_its_place() -> None:
    corners = np.float32([[0, 0, 0], [4, 0, 0], [0, 2, 0]])
    rays = np.float32([[1, 0.5, 9, 0, 0, -1]])
    hits = RayScene(corners, np.int32([[0, 1, 2]])).cast(rays)
    np.testing.assert_allclose(hits.uv, [[0.25, 0.25]], atol=1e-6)  # 1 = 4 u, 0.5 = 2 v


# The cache's size


def _folder(root: Path, number: int, kilobytes: int, used_s: float) -> Path:
    folder = root / f"town-{number:016x}"
    folder.mkdir(parents=True)
    (folder / "a.npz").write_bytes(b"0" * 1000 * kilobytes)
    (folder / ".lock").touch()
    os.utime(folder, (used_s, used_s))
    return folder


def test_the_folder_unused_for_longest_goes_first(tmp_path: Path) -> None:
    old, new, mine = (_folder(tmp_path, k, 10, 1000.0 * (k + 1)) for k in (2, 5, 0))
    assert trim_cache(tmp_path, mine, 30_000) == []
    assert trim_cache(tmp_path, mine, 25_000) == [old]
    assert (old.exists(), new.exists(), mine.exists()) == (False, True, True)
    assert trim_cache(tmp_path, mine, 1) == [new]
    assert (mine / "a.npz").stat().st_size == 10_000


def test_a_locked_folder_stays(tmp_path: Path) -> None:
    held, other, mine = (_folder(tmp_path, k, 10, 1000.0 * (k + 1)) for k in (0, 1, 2))
    with FileLock(held / ".lock"):
        assert trim_cache(tmp_path, mine, 15_000) == [other]
    assert (held / "a.npz").is_file()


def test_what_was_not_generated_is_never_removed(tmp_path: Path) -> None:
    """Someone may point CONVOY_CACHE at a folder that holds more."""
    photographs, mine = tmp_path / "photographs", _folder(tmp_path, 0, 10, 5000.0)
    photographs.mkdir()
    (photographs / ".lock").touch()
    (photographs / "a.jpg").write_bytes(b"0" * 50_000)
    os.utime(photographs, (1.0, 1.0))
    assert trim_cache(tmp_path, mine, 1) == []
    assert sorted(path.name for path in photographs.iterdir()) == [".lock", "a.jpg"]


def test_files_that_vanish_meanwhile_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process renames its part files while the sizes are added up."""
    busy, mine = _folder(tmp_path, 0, 10, 1000.0), _folder(tmp_path, 1, 10, 2000.0)
    part, stat = busy / ".part-1.npz", Path.stat
    part.write_bytes(b"0")

    def vanishing(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        if path == part:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", vanishing)
    assert trim_cache(tmp_path, mine, 10**9) == []


def test_reading_a_complete_town_counts_as_use(tmp_path: Path) -> None:
    tiny = replace(HAMLET, vehicles=1, frames_per_vehicle=1, holdout_frames=0, size_px=(16, 32))
    folder = town_drive(tiny, 0, workers=1, root=tmp_path).store.folder
    os.utime(folder, (1000.0, 1000.0))
    town_drive(tiny, 0, workers=1, root=tmp_path)
    assert folder.stat().st_mtime > 1000.0
    assert trim_cache(tmp_path, _folder(tmp_path, 0, 10, 1000.0), 1) == [folder]  # by its name it was generated


def test_twenty_gigabytes_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVOY_CACHE_GB", raising=False)
    assert cache_limit_bytes() == 20_000_000_000
    monkeypatch.setenv("CONVOY_CACHE_GB", "0.5")
    assert cache_limit_bytes() == 500_000_000


@pytest.mark.parametrize("text", ["", "much", "0", "-3", "nan", "inf", "1e400"])
def test_a_limit_that_is_no_positive_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CONVOY_CACHE_GB", text)
    with pytest.raises(DataError, match=r"CONVOY_CACHE_GB.*positive number of gigabytes"):
        cache_limit_bytes()


def test_a_full_disk_is_one_clear_error_and_leaves_no_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    tiny = replace(HAMLET, vehicles=1, frames_per_vehicle=1, size_px=(16, 32))
    for owner, name in ((os, "replace"), (cache, "_pack")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(DataError, match=r"No space left on device.*CONVOY_CACHE"):
                town_drive(tiny, 0, workers=1, root=tmp_path)
    assert list(tmp_path.rglob("*.npz")) == []
    assert town_drive(tiny, 0, workers=1, root=tmp_path)[0].masks.shape == (16, 32)  # once there is room


# Settings that cannot be


@pytest.mark.parametrize("preset", ["metropolis", "metropolis@night", "", "@night"])
def test_unknown_presets_are_refused(preset: str) -> None:
    with pytest.raises(DataError, match=r"no preset.*hamlet.*village"):
        town_config(FleetRequest(preset=preset))


@pytest.mark.parametrize("light", ["noon", "Night", "night@rain"])
def test_unknown_lights_name_the_known_ones(light: str) -> None:
    with pytest.raises(DataError, match=r"no light.*day.*night.*drift.*traversals"):
        town_config(FleetRequest(preset=f"hamlet@{light}"))


@pytest.mark.parametrize(
    "bad",
    [
        {"visibility_m": 0.0},
        {"visibility_m": -5.0},
        {"visibility_m": float("nan")},
        {"rain": 2.0},
        {"rain": -0.1},
        {"cloud": 1.5},
        {"noise": -1.0},
        {"sun_elevation_deg": 100.0},
        {"sun_elevation_deg": float("nan")},
        {"sun_azimuth_deg": float("nan")},
        {"sun_azimuth_deg": float("inf")},
    ],
)
def test_weather_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"^light: .*got"):
        LightConfig(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"cameras": ()},
        {"rsu_cameras": ()},
        {"rsus": 0},
        {"frames_per_vehicle": 0},
        {"holdout_frames": -1},
        {"size_px": (15, 64)},
        {"fov_deg": 200.0},
        {"rate_hz": 0.0},
        {"rate_hz": float("nan")},
    ],
)
def test_towns_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"a town's|a town needs"):
        replace(HAMLET, **bad)
