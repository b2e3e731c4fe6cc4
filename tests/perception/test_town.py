"""The synthetic town: what its frames promise, checked against geometry worked out another way."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from geometry import SE3, Frame
from perception.datasets.base import DataError, Fleet, FleetRequest
from perception.datasets.town import LIGHTS, PRESETS, TownConfig, load_town, town_config, town_fleet
from perception.datasets.town.rendering import HOLDOUT, Shot, render
from perception.labels import OBJECTS, SEGMENT_ID, SEGMENT_OF_OBJECT, SEGMENTS

HAMLET = replace(PRESETS["hamlet"], seed=3)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return town_fleet(HAMLET, "town/hamlet", workers=1, root=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def frames(fleet: Fleet) -> list[Frame]:
    return [frame for share in fleet.shares for part in (share.train, share.test) for frame in part]


def _unprojected(frame: Frame) -> np.ndarray:
    """World coordinates of all pixels, [h, w, 3], written out from the pinhole equations."""
    v, u = np.indices(frame.depth_m.shape)
    camera, z = frame.camera, np.where(np.isfinite(frame.depth_m), frame.depth_m, 1e4)
    x, y = (u + 0.5 - camera.cx_px) / camera.fx_px * z, (v + 0.5 - camera.cy_px) / camera.fy_px * z
    points_cam = np.stack([x, y, z], axis=-1)
    return points_cam @ camera.world_from_cam.rotation.T + camera.world_from_cam.translation_m


def _in_cuboid(points: np.ndarray, cuboid: np.ndarray, margin_m: float) -> np.ndarray:
    local = SE3.from_yaw(float(cuboid[6]), cuboid[:3].astype(float)).inverse().apply(points.reshape(-1, 3))
    return (np.abs(local) < cuboid[3:6] / 2 + margin_m).all(axis=1)


def test_vehicles_share_regions_in_turn_and_keep_the_end_of_their_drive_for_testing(fleet: Fleet) -> None:
    assert [share.region for share in fleet.shares] == ["rsu-0", "rsu-1"]
    assert [(len(share.train), len(share.test)) for share in fleet.shares] == [(5, 1), (5, 1)]  # 20 % of 6 is 1
    assert len(fleet.holdout) == HAMLET.holdout_frames
    assert fleet.shares[0].train[4].timestamp_s + 1 / HAMLET.rate_hz == fleet.shares[0].test[0].timestamp_s


def test_every_sensor_and_label_is_there(frames: list[Frame]) -> None:
    height, width = HAMLET.size_px
    for frame in frames:
        assert frame.image.shape == (height, width, 3)
        assert frame.image.std() > 20
        assert frame.points_lidar.shape[1] == 4
        assert len(frame.points_lidar) > HAMLET.lidar.beams * HAMLET.lidar.azimuths / 3
        assert frame.points_lidar[:, 3].min() >= 0
        assert frame.points_lidar[:, 3].max() <= 1
        assert frame.boxes.cuboids_world.shape == (len(frame.boxes), 7)
        assert len(set(frame.boxes.track_ids.tolist())) == len(frame.boxes)


def test_masks_stay_in_the_label_space_and_show_a_street(frames: list[Frame]) -> None:
    pixels = np.bincount(np.concatenate([frame.masks.ravel() for frame in frames]), minlength=256)
    assert pixels[len(SEGMENTS) :].sum() == 0
    assert (pixels[: len(SEGMENTS)] > 0).sum() >= 9
    for name in ("sky", "building", "road", "pavement", "vegetation", "vehicle"):
        assert pixels[SEGMENT_ID[name]] > 0.01 * pixels.sum(), name


def test_sky_is_where_depth_is_infinite(frames: list[Frame]) -> None:
    for frame in frames:
        np.testing.assert_array_equal(np.isinf(frame.depth_m), frame.masks == SEGMENT_ID["sky"])


def test_depth_puts_the_road_at_height_zero_and_pavements_a_kerb_above(frames: list[Frame]) -> None:
    for frame in frames:
        z = _unprojected(frame)[..., 2]
        near = frame.depth_m < 60
        assert np.abs(z[near & (frame.masks == SEGMENT_ID["road"])]).max() < 2e-3
        pavement = z[near & (frame.masks == SEGMENT_ID["pavement"])]
        assert pavement.min() > -2e-3
        assert pavement.max() < 0.14 + 2e-3


def test_each_box_holds_the_visible_pixels_of_its_object(frames: list[Frame]) -> None:
    """Pixels of the box's class that unproject into the object's cuboid fill the box: its sides touch them."""
    boxes = 0
    for frame in frames:
        points = _unprojected(frame)
        for (left, top, right, bottom), label, cuboid in zip(
            frame.boxes.xyxy_px.astype(int), frame.boxes.labels, frame.boxes.cuboids_world, strict=True
        ):
            mine = frame.masks == SEGMENT_OF_OBJECT[label]
            mine &= _in_cuboid(points, cuboid, 0.03).reshape(mine.shape)
            rows, columns = np.nonzero(mine[top:bottom, left:right])
            assert len(rows) >= HAMLET.min_box_pixels / 4  # half the rows, a quarter of the pixels of a full image
            assert bottom - top >= HAMLET.min_box_height_px / 2
            assert (rows.min(), columns.min()) == (0, 0)
            assert (rows.max() + 1, columns.max() + 1) == (bottom - top, right - left)
            boxes += 1
    assert boxes > 2 * len(frames)


def test_boxes_lie_inside_their_projected_cuboids(frames: list[Frame]) -> None:
    signs = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
    for frame in frames:
        for box, cuboid in zip(frame.boxes.xyxy_px, frame.boxes.cuboids_world.astype(float), strict=True):
            corners = SE3.from_yaw(cuboid[6], cuboid[:3]).apply(signs * cuboid[3:6])
            uv, depth_m = frame.camera.project(corners)
            if depth_m.min() > 0.1:
                assert (box[:2] >= uv.min(axis=0) - 1).all()
                assert (box[2:] <= uv.max(axis=0) + 1).all()


def test_all_three_kinds_of_objects_are_met(frames: list[Frame], fleet: Fleet) -> None:
    labels = np.concatenate([frame.boxes.labels for frame in (*frames, *fleet.holdout)])
    assert set(labels.tolist()) == set(range(len(OBJECTS)))


def test_lidar_points_agree_with_the_depth_image(frames: list[Frame]) -> None:
    """Where the image is smooth in depth. The LiDAR sits 0.35 m above the camera, so it sees some points behind what
    the camera sees, but hardly any in front.
    """
    shares = []
    for frame in frames:
        uv, depth_m = frame.camera.project(frame.points_world())
        column, row = np.floor(uv).astype(int).T
        height, width = frame.depth_m.shape
        inside = (depth_m > 0.5) & (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
        row, column, depth_m = row[inside], column[inside], depth_m[inside]
        image_m = np.where(np.isfinite(frame.depth_m), frame.depth_m, 1e4)
        around = np.stack([image_m[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        low, high = around.min(axis=0), around.max(axis=0)
        smooth = high - low < 0.5
        agrees = (depth_m > low - 0.1) & (depth_m < high + 0.1)
        assert smooth.sum() > 100
        assert (depth_m < low - 0.1)[smooth].mean() < 0.015
        shares.append(agrees[smooth].mean())
    assert min(shares) > 0.85
    assert np.mean(shares) > 0.95


def test_lidar_stands_on_the_road_that_it_measures(frames: list[Frame]) -> None:
    """Points that project onto road pixels lie at height 0, give or take the noise of the range."""
    for frame in frames:
        points = frame.points_world()
        uv, depth_m = frame.camera.project(points)
        height, width = frame.masks.shape
        inside = (depth_m > 1) & (uv > 1).all(axis=1) & (uv < (width - 1, height - 1)).all(axis=1)
        column, row = uv[inside].astype(int).T
        around = np.stack([frame.masks[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        on_road = (around == SEGMENT_ID["road"]).all(axis=0)
        assert on_road.sum() > 50
        assert np.abs(points[inside][on_road][:, 2]).max() < 5 * HAMLET.lidar.noise_m


def test_drives_are_continuous_and_level(fleet: Fleet) -> None:
    for share in fleet.shares:
        drive = [frame.camera.world_from_cam for part in (share.train, share.test) for frame in part]
        for before, after in pairwise(drive):
            step = after.translation_m - before.translation_m
            forward, down = before.rotation[:, 2], before.rotation[:, 1]
            assert np.linalg.norm(step) <= 9.5 / HAMLET.rate_hz + 0.5
            assert step @ forward > -0.05  # nobody reverses
            assert forward @ after.rotation[:, 2] > np.cos(0.6)
            np.testing.assert_allclose(down, [0, 0, -1], atol=1e-12)
            assert after.translation_m[2] == pytest.approx(1.5)


def test_objects_keep_their_identity_over_a_drive(fleet: Fleet) -> None:
    """An object that is seen twice has one class and one size, and has not moved faster than a car may."""
    for share in fleet.shares:
        seen: dict[int, tuple[float, int, np.ndarray]] = {}
        for frame in share.train:
            for track, label, cuboid in zip(
                frame.boxes.track_ids.tolist(), frame.boxes.labels, frame.boxes.cuboids_world, strict=True
            ):
                if track in seen:
                    then, kind, was = seen[track]
                    assert kind == label
                    np.testing.assert_allclose(was[3:6], cuboid[3:6], rtol=1e-6)
                    assert np.linalg.norm(cuboid[:2] - was[:2]) <= 10.0 * (frame.timestamp_s - then)
                seen[track] = (frame.timestamp_s, label, cuboid)


def test_the_holdout_drive_visits_every_region() -> None:
    from perception.datasets.town.layout import plan_town
    from perception.datasets.town.traffic import plan_holdout

    config = replace(HAMLET, holdout_frames=16)
    layout = plan_town(config)
    day = plan_holdout(layout, config)
    track = day.actors[day.sensing[0]].track
    assert {layout.region_at(x, y) for x, y in track[:, :2]} == set(range(config.rsus))
    assert (np.linalg.norm(np.diff(track[:, :2], axis=0), axis=1) > 5).all()


def test_regions_differ_in_what_is_seen() -> None:
    """Region 1 is the commercial one: its houses are taller, and more of them have shops, than in region 0."""
    from perception.datasets.town.layout import plan_town
    from perception.datasets.town.scenery import build_scenery

    layout = plan_town(HAMLET)
    facades = build_scenery(layout, HAMLET.seed, range(len(layout.blocks()))).facades
    region = np.array([layout.region_at(float(x), float(y)) for x, y in facades.origin_m])
    assert facades.height_m[region == 1].mean() > 1.5 * facades.height_m[region == 0].mean()
    assert facades.shop[region == 1].mean() > facades.shop[region == 0].mean() + 0.3


def test_a_longer_drive_and_a_larger_fleet_keep_the_frames_that_were_there(frames: list[Frame]) -> None:
    shorter = render(replace(HAMLET, frames_per_vehicle=3, vehicles=1), Shot(0, 2))
    _assert_same(shorter, frames[2])


def test_another_seed_gives_another_town(frames: list[Frame]) -> None:
    other = render(replace(HAMLET, seed=4), Shot(0, 0))
    assert (other.image != frames[0].image).mean() > 0.5
    assert (other.masks != frames[0].masks).mean() > 0.1


def test_light_changes_the_picture_but_no_label(frames: list[Frame]) -> None:
    night = replace(LIGHTS["night"], visibility_m=HAMLET.light.visibility_m)
    frame = render(replace(HAMLET, light=night), Shot(0, 0))
    assert frame.image.mean() < frames[0].image.mean() - 10
    np.testing.assert_array_equal(frame.masks, frames[0].masks)
    np.testing.assert_array_equal(frame.boxes.xyxy_px, frames[0].boxes.xyxy_px)
    np.testing.assert_array_equal(frame.points_lidar, frames[0].points_lidar)


def test_vehicles_beyond_a_days_seats_drive_on_another_day_in_the_same_town() -> None:
    """Two regions seat four vehicles a day; vehicle 4 starts in region 0 again, among other traffic."""
    config = replace(HAMLET, vehicles=5, frames_per_vehicle=1)
    first, fifth = render(config, Shot(0, 0)), render(config, Shot(4, 0))
    assert (first.image != fifth.image).mean() > 0.3
    assert first.boxes.track_ids.tolist() != fifth.boxes.track_ids.tolist()
    assert fifth.source != first.source


def test_request_overrides_the_preset_and_zero_leaves_it() -> None:
    kept = FleetRequest(preset="hamlet", vehicles=0, size_px=(0, 0), frames_per_vehicle=0)
    assert town_config(kept) == PRESETS["hamlet"]
    asked = FleetRequest(preset="hamlet", vehicles=5, size_px=(96, 160), frames_per_vehicle=9, seed=2)
    config = town_config(asked)
    assert (config.vehicles, config.size_px, config.frames_per_vehicle, config.seed) == (5, (96, 160), 9, 2)
    assert config.lidar == PRESETS["hamlet"].lidar


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no preset 'metropolis'.*hamlet.*village"):
        load_town(FleetRequest(preset="metropolis"))


@pytest.mark.parametrize("bad", [{"vehicles": -1}, {"size_px": (4, 4)}, {"frames_per_vehicle": -3}])
def test_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match="a town"):
        town_config(FleetRequest(preset="hamlet", **bad))


def test_village_is_the_demonstration_that_the_documentation_promises() -> None:
    village: TownConfig = PRESETS["village"]
    assert (village.vehicles, village.frames_per_vehicle, village.size_px) == (6, 48, (128, 384))


def test_drives_travel_to_other_processes(fleet: Fleet) -> None:
    there = pickle.loads(pickle.dumps(fleet))
    _assert_same(there.holdout[0], fleet.holdout[0])
    assert there.holdout.name == "town/holdout/front"
    assert "CC0" in there.holdout.licence
    assert fleet.holdout.shots[0].vehicle == HOLDOUT


def _assert_same(one: Frame, other: Frame) -> None:
    for name in ("image", "points_lidar", "masks", "depth_m"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.boxes.xyxy_px, other.boxes.xyxy_px)
    np.testing.assert_array_equal(one.boxes.cuboids_world, other.boxes.cuboids_world)
    np.testing.assert_array_equal(one.camera.world_from_cam.matrix, other.camera.world_from_cam.matrix)
