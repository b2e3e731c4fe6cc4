"""Parts of the town: rays, meshes, models, routes and driving, against arithmetic done by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3
from perception.datasets.base import DataError
from perception.datasets.town import PRESETS, LidarConfig, LightConfig, TownConfig, models
from perception.datasets.town.driving import STEP_S, drive
from perception.datasets.town.layout import plan_town
from perception.datasets.town.lidar import scan_directions
from perception.datasets.town.light import light_of
from perception.datasets.town.mesh import Coat, blob, box, gable, merged, tube
from perception.datasets.town.routes import CAR_OFFSET_M, grand_tour, lane_path, neighbours, path_through, wander
from perception.raycast import MISS, RayScene, simplified

SQUARE = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], np.float32)
SQUARE_FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
PLAIN = Coat(1, (0.5, 0.5, 0.5))


def test_rays_hit_a_square_where_arithmetic_says() -> None:
    scene = RayScene(SQUARE, SQUARE_FACES)
    rays = np.array([[1.5, 0.5, 3, 0, 0, -1], [0.5, 1.5, 3, 0, 0, -2], [5, 5, 3, 0, 0, -1]], np.float32)
    hits = scene.cast(rays)
    np.testing.assert_allclose(hits.t, [3, 1.5, np.inf], rtol=1e-6)  # t counts direction lengths
    np.testing.assert_array_equal(hits.face, [0, 1, MISS])
    np.testing.assert_allclose(hits.normal[:2], [[0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(scene.occluded(rays), [True, True, False])


def test_an_empty_scene_is_missed() -> None:
    scene = RayScene(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    rays = np.array([[0, 0, 0, 0, 0, 1]], np.float32)
    assert scene.cast(rays).t[0] == np.inf
    assert not scene.occluded(rays)[0]


def test_the_nearer_of_two_scenes_wins_and_faces_are_shifted() -> None:
    low, high = RayScene(SQUARE, SQUARE_FACES), RayScene(SQUARE + np.float32([0, 0, 1]), SQUARE_FACES)
    rays = np.array([[1.5, 0.5, 3, 0, 0, -1], [1.5, 0.5, 0.5, 0, 0, -1]], np.float32)
    hits = low.cast(rays).nearer(high.cast(rays), 2)
    np.testing.assert_allclose(hits.t, [2, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(hits.face, [2, 0])


def test_simplifying_keeps_the_extent_of_a_fine_grid() -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 11), np.linspace(0, 1, 11))
    i = (np.arange(10)[:, None] * 11 + np.arange(10)).ravel()
    faces = np.concatenate([np.stack([i, i + 1, i + 12], 1), np.stack([i, i + 12, i + 11], 1)])
    vertices, fewer = simplified(np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1), faces, 50)
    assert len(fewer) <= 50
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [[0, 0, 0], [1, 1, 0]], atol=0.05)
    assert simplified(SQUARE, SQUARE_FACES, 10)[1] is SQUARE_FACES


def _outward_volume(shape) -> float:  # type: ignore[no-untyped-def]
    """Volume by the divergence theorem: positive when faces wind counter-clockwise seen from outside."""
    a, b, c = shape.vertices.astype(float)[shape.faces].transpose(1, 0, 2)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def test_solids_have_the_volume_of_their_formula_and_wind_outwards() -> None:
    assert _outward_volume(box((1, 2, 3), (2, 3, 4), PLAIN)) == pytest.approx(24)
    assert _outward_volume(gable((0, 0, 0), (2, 3, 4), True, PLAIN)) == pytest.approx(12)  # half the box around it
    assert _outward_volume(gable((0, 0, 0), (2, 3, 4), False, PLAIN)) == pytest.approx(12)
    ball = blob((0, 0, 0), (1, 1, 1), np.random.default_rng(0), PLAIN)
    assert 2.5 < _outward_volume(ball) < 5.5  # a rough ball: 4.19 for a smooth one


def test_a_tube_stays_at_its_radius() -> None:
    pipe = tube((0, 0, 1), (0, 0, 5), 0.5, 8, PLAIN)
    np.testing.assert_allclose(np.hypot(pipe.vertices[:, 0], pipe.vertices[:, 1]), 0.5, atol=1e-6)
    assert sorted(set(pipe.vertices[:, 2].tolist())) == [1, 5]


def test_merging_keeps_every_triangle() -> None:
    parts = [box((0, 0, 0), (1, 1, 1), PLAIN), tube((0, 0, 0), (0, 0, 1), 1.0, 5, Coat(2, (1, 0, 0)))]
    whole = merged(parts)
    np.testing.assert_array_equal(whole.vertices[whole.faces[:12]], parts[0].vertices[parts[0].faces])
    np.testing.assert_array_equal(whole.vertices[whole.faces[12:]], parts[1].vertices[parts[1].faces])
    assert whole.segment.tolist() == [1] * 12 + [2] * 10
    assert len(merged([])) == 0


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("stride", [0.0, 0.25])
def test_every_model_fills_its_cuboid(name: str, stride: float) -> None:
    model = models.MODELS[name]
    size, colours = np.array(model.size_m), np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    placed = models.place(model, size, colours, np.array([10.0, -5.0, 0.5, 0.7]), stride)
    local = SE3.from_yaw(0.7, np.array([10.0, -5.0, 0.5])).inverse().apply(placed.vertices.astype(float))
    low, high = local.min(axis=0), local.max(axis=0)
    assert (low >= [*(-size[:2] / 2 - 1e-4), -1e-4]).all()
    assert (high <= [*(size[:2] / 2 + 1e-4), size[2] + 1e-4]).all()
    assert (high - low)[2] == pytest.approx(size[2], rel=0.02)
    assert placed.rgb.min() >= 0  # every placeholder colour was replaced
    darkened_road = {3} if model.label == models.VEHICLE else set()
    assert set(placed.segment.tolist()) == {8 + model.label} | darkened_road


def test_missing_sumo_data_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ModuleNotFoundError("No module named 'sumo_data'")

    monkeypatch.setattr(models, "files", absent)
    with pytest.raises(DataError, match="pip install sumo-data"):
        models.read_obj("car-normal-citrus")


def test_cars_look_forward() -> None:
    """Red lamps are at the back: at smaller x once the mesh is turned to x forward."""
    parts = models.read_obj("car-normal-citrus")
    middle = {name: vertices[faces].mean(axis=(0, 1))[0] for name, (vertices, faces) in parts.items()}
    assert middle["lights.red"] < -0.5 < 0.5 < middle["lights"]


def test_scan_pattern_of_two_beams_and_four_bearings() -> None:
    directions = scan_directions(LidarConfig(beams=2, azimuths=4, lowest_deg=-30.0, highest_deg=0.0))
    c, s = np.sqrt(3) / 2, -0.5
    expected = [[c, 0, s], [0, c, s], [-c, 0, s], [0, -c, s], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]
    np.testing.assert_allclose(directions, expected, atol=1e-12)


def test_sun_due_north_at_thirty_degrees() -> None:
    light = LightConfig(sun_azimuth_deg=90.0, sun_elevation_deg=30.0)
    np.testing.assert_allclose(light_of(light).to_sun, [0, np.sqrt(3) / 2, 0.5], atol=1e-6)


@pytest.mark.parametrize(("rsus", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (6, 3, 2)])
def test_regions_are_laid_out_in_a_grid_around_their_rsus(rsus: int, columns: int, rows: int) -> None:
    layout = plan_town(TownConfig(rsus=rsus))
    assert (len(layout.xs_m), len(layout.ys_m)) == (3 * columns, 3 * rows)
    for region in range(rsus):
        x, y = layout.at(layout.nodes_of(region)[4])
        assert layout.rsus_m[region].tolist() == [x, y]
        assert layout.region_at(x + 5, y - 5) == region
    streets = (3 * columns - 1, 3 * rows - 1)
    assert len(layout.blocks()) == streets[0] * streets[1] + 2 * sum(streets)


def test_the_grand_tour_follows_streets_and_meets_every_region() -> None:
    layout = plan_town(TownConfig(rsus=4))
    tour = grand_tour(layout)
    assert all(b in neighbours(layout, a) for a, b in pairwise(tour))
    assert {layout.region_at(*layout.at(node)) for node in tour} == {0, 1, 2, 3}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_lanes_are_smooth_and_keep_to_the_right(seed: int) -> None:
    layout = plan_town(PRESETS["hamlet"])
    nodes = set(layout.nodes_of(0))
    route = wander(layout, ((0, 0), (1, 0)), nodes, 12, np.random.default_rng(seed))
    assert all(a != c for a, c in zip(route[:-2], route[2:], strict=True))  # never back the way it came
    path = lane_path(layout, route, CAR_OFFSET_M)
    assert np.abs(np.diff(path.yaw_rad)).max() < 0.2
    assert np.diff(path.s_m).max() < 0.8
    middle = (path.s_m > 1) & (path.s_m < path.junctions[0][0] - 1)
    np.testing.assert_allclose(path.points_m[middle, 1] - layout.ys_m[0], -CAR_OFFSET_M, atol=1e-9)  # eastward


def test_a_vehicle_stops_behind_one_that_stands() -> None:
    """The first stands at the end of its path at 100 m; the second must stay half lengths and a gap behind."""
    road = path_through(np.stack([np.linspace(0, 100, 201), np.zeros(201)], axis=1))
    trace = drive([road, road], np.array([100.0, 0.0]), np.array([8.0, 8.0]), np.array([2.0, 2.0]), 60.0)
    gap = trace[:, 0] - trace[:, 1] - 4.0
    assert gap.min() > 0.5
    assert gap[-1] < 8.0
    assert (np.diff(trace, axis=0) >= 0).all()
    assert np.diff(trace[:, 1]).max() <= 8.0 * STEP_S + 1e-9


def test_traffic_does_not_collide_nor_lock_up_and_the_past_does_not_depend_on_the_future() -> None:
    layout = plan_town(PRESETS["hamlet"])
    nodes, rng = layout.nodes_of(0), np.random.default_rng(5)
    streets = [(a, b) for a in nodes for b in neighbours(layout, a) if b in nodes]
    picked = rng.permutation(len(streets))[:14]
    paths = [lane_path(layout, wander(layout, streets[k], set(nodes), 40, rng), CAR_OFFSET_M) for k in picked]
    n = len(paths)
    args = (paths, np.full(n, 5.0), rng.uniform(6, 9, n), np.full(n, 2.3))
    trace = drive(*args, 100.0)
    np.testing.assert_array_equal(drive(*args, 20.0), trace[:101])
    xy = np.stack([path.at(s)[:, :2] for path, s in zip(paths, trace.T, strict=True)])
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(n)[:, :, None]
    assert distance.min() > 2.2  # cars in opposite lanes pass at 3.1 m, and nobody shares a lane closer than that
    assert (trace[-1] - trace[-151] > 5).mean() > 0.7  # most still move in the last 30 s
