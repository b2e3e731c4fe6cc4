"""Light and weather of the town: what follows from them in pictures and in LiDAR scans, by arithmetic."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3
from perception.datasets.base import DataError, FleetRequest
from perception.datasets.town import LIGHTS, PRESETS, KeyLight, LightConfig, TownConfig, town_config
from perception.datasets.town import rendering as town_rendering
from perception.datasets.town.config import LidarConfig
from perception.datasets.town.lamps import Headlight, StreetLamps
from perception.datasets.town.layout import plan_town
from perception.datasets.town.lidar import scan
from perception.datasets.town.light import DRIFT, drift_schedule, light_at, light_of
from perception.datasets.town.mesh import Surface
from perception.datasets.town.mounts import LIDAR_MOUNT_M
from perception.datasets.town.points import Points
from perception.datasets.town.scenery import build_scenery
from perception.datasets.town.sensors import sense, vehicle_unit
from perception.datasets.town.shading import shade, sky
from perception.datasets.town.stage import Moment, moment
from perception.datasets.town.weather import bloom, streaks

HAMLET = replace(PRESETS["hamlet"], seed=3)
UP = np.float32([[0, 0, 1]])

# What follows from the sun's height and the clouds


@settings(max_examples=60, deadline=None)
@given(st.floats(-90, 90), st.floats(-90, 90), st.floats(0, 1))
def test_a_higher_sun_never_darkens(one_deg: float, other_deg: float, cloud: float) -> None:
    low, high = (light_of(LightConfig(sun_elevation_deg=e, cloud=cloud)) for e in sorted((one_deg, other_deg)))
    for name in ("sun_rgb", "ambient_rgb", "horizon_rgb", "zenith_rgb"):
        assert (getattr(high, name) >= getattr(low, name) - 1e-6).all(), name
    assert low.lamps >= high.lamps


@settings(max_examples=30, deadline=None)
@given(st.floats(-90, 90), st.floats(0, 1), st.floats(0, 1))
def test_clouds_take_direct_light(elevation_deg: float, one: float, other: float) -> None:
    few, many = (light_of(LightConfig(sun_elevation_deg=elevation_deg, cloud=c)) for c in sorted((one, other)))
    assert (many.sun_rgb <= few.sun_rgb + 1e-6).all()


def test_the_sun_lights_nothing_below_the_horizon_and_the_sky_nothing_below_twelve_degrees() -> None:
    assert not light_of(LightConfig(sun_elevation_deg=-0.1)).sun_rgb.any()
    assert light_of(LightConfig(sun_elevation_deg=-6.0)).ambient_rgb.max() > 0.02
    assert light_of(LightConfig(sun_elevation_deg=-12.0)).ambient_rgb.max() < 0.02


@pytest.mark.parametrize(
    ("name", "lit"),
    [("day", False), ("overcast", False), ("rain", False), ("dusk", True), ("night", True), ("fog", True)],
)
def test_lamps_burn_in_the_dark_and_in_fog(name: str, lit: bool) -> None:
    assert light_of(LIGHTS[name]).lamps is lit


def test_the_ray_towards_the_sun_is_the_brightest_of_a_low_suns_sky() -> None:
    light = light_of(replace(LIGHTS["dusk"], cloud=0.0))
    away = light.to_sun * np.float32([-1, -1, 1])
    towards, opposite = sky(np.stack([light.to_sun, away]), light)
    assert towards.sum() > opposite.sum() + 0.5


# Light over time


def test_light_between_two_keys_by_hand() -> None:
    """A quarter of the way from 10 s to 14 s."""
    a = LightConfig(sun_azimuth_deg=100.0, sun_elevation_deg=40.0, cloud=0.0, visibility_m=800.0, rain=0.2, noise=1.0)
    b = LightConfig(sun_azimuth_deg=60.0, sun_elevation_deg=-20.0, cloud=1.0, visibility_m=400.0, rain=0.6, noise=3.0)
    schedule = (KeyLight(10.0, a), KeyLight(14.0, b))
    between = light_at(schedule, 11.0)
    values = [getattr(between, field.name) for field in fields(LightConfig)]
    assert values == pytest.approx([90.0, 25.0, 0.25, 700.0, 0.3, 1.5])
    assert (light_at(schedule, 3.0), light_at(schedule, 10.0)) == (a, a)
    assert (light_at(schedule, 14.0), light_at(schedule, 99.0)) == (b, b)


@pytest.mark.parametrize("times_s", [(), (5.0, 5.0), (5.0, 4.0), (0.0, 2.0, 1.0)])
def test_keys_whose_times_do_not_increase_are_refused(times_s: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="times that increase"):
        light_at(tuple(KeyLight(t, LightConfig()) for t in times_s), 1.0)


@pytest.mark.parametrize("preset", ["hamlet", "village", "street"])
def test_a_drifting_drive_passes_through_all_lights_from_its_first_frame_on(preset: str) -> None:
    """Each of the six has eight of the 48 frames and holds for the middle four; frame 8 is half way to the second."""
    config = town_config(FleetRequest(preset=f"{preset}@drift", frames_per_vehicle=48))
    times_s = config.warmup_s + np.arange(48) / config.rate_hz
    lights = [config.light_on(0, t) for t in times_s]
    assert lights[0] == LIGHTS["day"]
    assert [lights[8 * k + 4] for k in range(6)] == [LIGHTS[name] for name in DRIFT]
    day, dusk = LIGHTS["day"], LIGHTS["dusk"]
    for field in fields(LightConfig):
        between = (getattr(day, field.name) + getattr(dusk, field.name)) / 2
        assert getattr(lights[8], field.name) == pytest.approx(between)


def test_a_schedule_of_drift_by_hand() -> None:
    keys = drift_schedule(10.0, 24.0)
    assert [key.time_s for key in keys] == [11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33]
    assert [key.light for key in keys[::2]] == [LIGHTS[name] for name in DRIFT] == [key.light for key in keys[1::2]]


def test_a_schedule_goes_before_days_and_days_before_the_light() -> None:
    fog, rain, night = (LIGHTS[name] for name in ("fog", "rain", "night"))
    config = replace(HAMLET, light=fog)
    assert config.light_on(7, 3.0) == fog
    config = replace(config, lights_by_day=(rain, night))
    assert [config.light_on(day, 3.0) for day in (0, 1, 2)] == [rain, night, rain]
    assert replace(config, schedule=(KeyLight(0.0, LIGHTS["day"]),)).light_on(1, 3.0) == LIGHTS["day"]


# Haze


def _board(distance_m: np.ndarray, tone: float) -> Points:
    """Grey plates that face a viewer at the origin, at distances to the north, 2 m up."""
    n = len(distance_m)
    rows = lambda *xyz: np.tile(np.float32(xyz), (n, 1))  # noqa: E731
    place = rows(0, 1, 0) * distance_m[:, None] + rows(0, 0, 2)
    return Points(
        place, rows(0, -1, 0), rows(0, 1, 0), distance_m, np.full(n, Surface.SHADE, np.uint8),
        np.full((n, 3), tone, np.float32), np.full(n, -1, np.int32),
    )  # fmt: skip


def _shaded(points: Points, light: LightConfig) -> np.ndarray:
    layout = plan_town(HAMLET)
    scenery = build_scenery(layout, 0, [])
    dark = Headlight(np.zeros(3, np.float32), np.float32([0, 1, 0]), 0.0)
    lit = np.ones(len(points.distance_m), bool)
    return shade(points, lit, scenery.facades, layout, light_of(light), scenery.lamps, dark)


@pytest.mark.parametrize("visibility_m", [25.0, 80.0, 400.0])
def test_contrast_falls_with_distance_by_koschmieders_law(visibility_m: float) -> None:
    """Of the difference between a light and a dark plate, exp(-d / visibility) is left at distance d."""
    distance_m = np.float32([5, 20, 60, 150])
    clear, hazy = (replace(LIGHTS["overcast"], visibility_m=v) for v in (1e9, visibility_m))
    contrast = [_shaded(_board(distance_m, 0.8), w) - _shaded(_board(distance_m, 0.1), w) for w in (clear, hazy)]
    expected = np.broadcast_to(np.exp(-distance_m / visibility_m)[:, None], (4, 3))
    np.testing.assert_allclose(contrast[1] / contrast[0], expected, rtol=1e-3, atol=1e-4)


def test_all_things_far_away_in_fog_look_alike() -> None:
    light, far = replace(LIGHTS["fog"], visibility_m=20.0), np.float32([400.0])
    np.testing.assert_allclose(_shaded(_board(far, 0.9), light), _shaded(_board(far, 0.0), light), atol=1e-5)


# Lamps


def test_light_below_one_lamp_by_hand() -> None:
    """Power 22 at a height of 6 m: 22 / 36 straight below, 22 * 6 / 45^1.5 three metres east (36 + 9 = 45)."""
    lamps = StreetLamps(np.array([[10.0, 20.0, 6.0]]))
    low, light = lamps._map
    i, j = (np.array([10.0, 20.0]) - low).astype(int)
    assert light[i, j] == pytest.approx(22 / 36, rel=1e-6)
    for di, dj in ((3, 0), (-3, 0), (0, 3), (0, -3)):
        assert light[i + di, j + dj] == pytest.approx(22 * 6 / 45**1.5, rel=1e-6)
    spots = np.float32([[10.5, 20.5, 0], [13.5, 20.5, 0], [10.5, 20.5, 11.2], [500, 500, 0], [-500, 20, 0]])
    on = lamps.on(spots, np.repeat(UP, 5, axis=0))
    np.testing.assert_allclose(on[:2, 0], [22 / 36, 22 * 6 / 45**1.5], rtol=1e-5)
    np.testing.assert_array_equal(on[2:], 0)  # well above the lamp, and out of its reach
    upright = lamps.on(spots[:1], np.float32([[1, 0, 0]]))
    np.testing.assert_allclose(upright, 0.55 * on[:1], rtol=1e-5)


def test_two_lamps_add_up() -> None:
    a, b = np.array([[10.0, 20.0, 6.0]]), np.array([[22.0, 27.0, 5.0]])
    x, y = np.meshgrid(np.arange(0.5, 30), np.arange(10.5, 40))
    spots = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1).astype(np.float32)
    up = np.repeat(UP, len(spots), axis=0)
    both = StreetLamps(np.concatenate([a, b])).on(spots, up)
    np.testing.assert_allclose(both, StreetLamps(a).on(spots, up) + StreetLamps(b).on(spots, up), atol=1e-5)


def test_no_lamps_give_no_light() -> None:
    assert not StreetLamps(np.zeros((0, 3))).on(np.zeros((1, 3), np.float32), UP).any()


def test_headlights_fall_with_the_square_of_the_distance() -> None:
    """Along the axis; close by they fall less, as from a lamp that is no point."""
    lamp = Headlight(np.float32([1, 2, 0.9]), np.float32([0, 1, 0]))
    spots = np.float32([[1, 2 + d, 0.9] for d in (20, 40, 80, -20)])
    on = lamp.on(spots, np.repeat(np.float32([[0, -1, 0]]), 4, axis=0))[:, 0]
    np.testing.assert_allclose(on[1:3] / on[:2], [1 / 4, 1 / 4], rtol=0.1)
    assert on[2] / on[1] == pytest.approx(1 / 4, rel=0.03)
    assert on[3] == 0  # behind
    above = lamp.on(np.float32([[1, 42, 6.0]]), np.float32([[0, -1, 0]]))[0, 0]
    assert above < 0.2 * on[1]  # dipped
    assert not replace(lamp, power=0.0).on(spots, np.repeat(UP, 4, axis=0)).any()


# Pictures


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[np.ndarray]]:
    """Two pictures in each light, taken on one stage."""
    stage = town_rendering._stage(HAMLET, 0, 0)
    units = {tick: vehicle_unit(stage, HAMLET, 0, tick) for tick in (0, 4)}
    return {
        name: [sense(stage, replace(HAMLET, light=light), unit, tick, 0, "").image for tick, unit in units.items()]
        for name, light in LIGHTS.items()
    }


def test_exposure_keeps_pictures_by_day_in_the_middle_and_by_night_dark(pictures: dict[str, list[np.ndarray]]) -> None:
    mean = {name: np.mean([image.mean() for image in images]) for name, images in pictures.items()}
    for name in ("day", "overcast", "dusk", "rain", "fog"):
        assert 70 < mean[name] < 115, name
    assert 15 < mean["night"] < 70


def test_fog_takes_contrast_and_rain_adds_streaks(pictures: dict[str, list[np.ndarray]]) -> None:
    def coarse(image: np.ndarray) -> np.ndarray:
        return image.reshape(16, 4, 48, 4, 3).mean(axis=(1, 3, 4))

    for fog, day in zip(pictures["fog"], pictures["day"], strict=True):
        assert coarse(fog).std() < coarse(day).std()


def test_streaks_brighten_a_dark_picture_and_bloom_spills_only_from_beyond_white() -> None:
    grey = np.full((60, 80, 3), 0.2, np.float32)
    wet = streaks(grey, 1.0, np.random.default_rng(0))
    assert (wet >= grey - 1e-6).all()
    assert 0.02 < (wet > grey + 1e-3).any(axis=2).mean() < 0.6
    np.testing.assert_array_equal(bloom(np.minimum(wet, 1)), np.minimum(wet, 1))
    lamp = grey.copy()
    lamp[30, 40] = 5.0
    assert bloom(lamp)[30, 41, 0] > 0.2 + 1e-3
    assert bloom(lamp)[30, 60, 0] == pytest.approx(0.2, abs=1e-4)


# LiDAR


@pytest.fixture(scope="module")
def here() -> tuple[Moment, SE3]:
    stage = town_rendering._stage(HAMLET, 0, 0)
    unit = vehicle_unit(stage, HAMLET, 0, 2)
    now = moment(stage, 2, unit.world_from_body.translation_m[:2], unit.actor)
    return now, unit.world_from_body @ SE3(np.eye(3), np.array(LIDAR_MOUNT_M))


LIDAR = LidarConfig(beams=24, azimuths=512)
CLUTTER_INTENSITY = 13 / 255  # 0.05 in steps of 1 / 255


def _scan(here: tuple[Moment, SE3], lidar: LidarConfig = LIDAR, **weather: float) -> np.ndarray:
    return scan(*here, lidar, LightConfig(**weather), np.random.default_rng(5))


def test_rain_loses_returns_and_adds_clutter_close_by(here: tuple[Moment, SE3]) -> None:
    """Of what is returned, 2 % is lost in dry air and 17 % in heavy rain. A beam in fifty meets a drop; where nothing
    is nearer, drops are spread as 1 m + Exp(3 m), two thirds of them within 4.3 m.
    """
    clear, wet = (_scan(here, visibility_m=1e6, rain=rain) for rain in (0.0, 1.0))
    drops = np.isclose(wet[:, 3], CLUTTER_INTENSITY)
    assert (~drops).sum() / len(clear) == pytest.approx(0.83 / 0.98, abs=0.03)
    beams = LIDAR.beams * LIDAR.azimuths
    assert 0.005 * beams < drops.sum() < 0.02 * beams
    away_m = np.linalg.norm(wet[drops, :3], axis=1)
    assert away_m.min() > 0.99
    assert (away_m < 4.3).mean() > 0.6


def test_fog_shortens_the_range_as_beer_and_lambert_have_it(here: tuple[Moment, SE3]) -> None:
    """The strongest return is 1.15 and some noise; exp(-2 r / V) leaves 2 % of it at r = V / 2 * ln(1.25 / 0.02)."""
    reach_m = {}
    for visibility_m in (15.0, 30.0, 1e6):
        away_m = np.linalg.norm(_scan(here, visibility_m=visibility_m)[:, :3], axis=1)
        assert away_m.max() < visibility_m / 2 * np.log(1.25 / 0.02) + 0.1
        reach_m[visibility_m] = np.quantile(away_m, 0.98)
    assert reach_m[15.0] < reach_m[30.0] < reach_m[1e6]
    assert reach_m[1e6] < LIDAR.range_m


def test_fog_dims_what_it_lets_through(here: tuple[Moment, SE3]) -> None:
    """Without noise and losses the same beams return; a fog of 100 m leaves exp(-2 r / 100) of their intensity."""
    quiet = replace(LIDAR, noise_m=0.0, dropout=0.0, range_m=20.0)
    clear, hazy = (_scan(here, quiet, visibility_m=v) for v in (1e9, 100.0))
    match = {tuple(row[:3]): row[3] for row in clear}
    pairs = np.array([
        (match[tuple(row[:3])], row[3], np.linalg.norm(row[:3])) for row in hazy if tuple(row[:3]) in match
    ])  # fmt: skip
    assert len(pairs) > 0.95 * len(clear)
    bright = (pairs[:, 0] < 0.99) & (pairs[:, 0] > 0.1)
    np.testing.assert_allclose(pairs[bright, 1], (pairs[:, 0] * np.exp(-pairs[:, 2] / 50))[bright], atol=1.01 / 255)


def test_clear_air_has_hardly_any_clutter(here: tuple[Moment, SE3]) -> None:
    assert np.isclose(_scan(here, visibility_m=1e6)[:, 3], CLUTTER_INTENSITY, atol=1e-4).mean() < 0.02


def test_the_holdout_passes_through_the_whole_schedule() -> None:
    """Keys at 8 s and 20 s, visibility 100 and 200: half-way along its drive, whatever its length, it is 150."""
    keys = tuple(KeyLight(t, LightConfig(visibility_m=v)) for t, v in ((8.0, 100.0), (20.0, 200.0)))
    config = TownConfig(schedule=keys, light=LIGHTS["night"])
    assert [config.holdout_light(share).visibility_m for share in (0.0, 0.5, 1.0)] == [100.0, 150.0, 200.0]
    assert TownConfig(light=LIGHTS["night"], lights_by_day=(LIGHTS["rain"],)).holdout_light(0.5) == LIGHTS["night"]


@pytest.mark.parametrize("bad", [{"beams": 0}, {"range_m": -1.0}, {"dropout": 2.0}, {"lowest_deg": 10.0}])
def test_lidars_that_cannot_be_are_refused(bad: dict) -> None:
    with pytest.raises(DataError, match="LiDAR"):
        LidarConfig(**bad)
