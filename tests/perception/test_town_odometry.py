"""Odometry: the stated noise, measured, and dead reckoning without noise."""

from dataclasses import replace

import numpy as np
import pytest

from geometry import Trace
from perception.datasets.base import DataError
from perception.datasets.town.config import PRESETS
from perception.datasets.town.layout import plan_town
from perception.datasets.town.odometry import NOISE_FREE, OdometryConfig, dead_reckoned, gnss_error, measure
from perception.datasets.town.traffic import plan_day


def _circle(seconds: float, speed_mps: float = 5.0, radius_m: float = 20.0) -> Trace:
    times = np.arange(0.0, seconds + 1e-9, 0.02)
    angle = speed_mps / radius_m * times
    positions = np.stack([radius_m * np.sin(angle), radius_m * (1 - np.cos(angle)), 0 * times], axis=1)
    still = np.zeros(len(times), np.int8)
    return Trace("circle", "car", (4.5, 1.8, 1.5), times, positions, angle, np.full(len(times), speed_mps), still)


def test_without_noise_dead_reckoning_goes_round_the_circle() -> None:
    """100 s at 5 m/s on a radius of 20 m are 25 rad: it ends where sine and cosine say."""
    odometry = measure(_circle(100.0), NOISE_FREE, 0)
    np.testing.assert_allclose(odometry.yaw_rate_radps, 0.25, atol=1e-9)
    np.testing.assert_allclose(odometry.speed_mps, 5.0, atol=1e-4)
    path = dead_reckoned(odometry, np.zeros(2), 0.0)
    np.testing.assert_allclose(path[-1], [20 * np.sin(25), 20 * (1 - np.cos(25)), 25], atol=1e-3)


def test_without_noise_dead_reckoning_reproduces_a_drive_through_the_town() -> None:
    """The centre of a car that begins to turn slides a little to the side, which adds up to decimetres."""
    config = replace(PRESETS["hamlet"], seed=3)
    day = plan_day(plan_town(config), config, 0, 90)
    trace = day.actors[day.sensing[0]].trace
    odometry = measure(trace, NOISE_FREE, 0)
    truth = trace.at(odometry.times_s)
    path = dead_reckoned(odometry, trace.positions_m[0, :2], float(trace.yaw_rad[0]))
    assert np.ptp(truth.yaw_rad) > 1.5
    assert np.linalg.norm(path[:, :2] - truth.positions_m[:, :2], axis=1).max() < 0.5
    np.testing.assert_allclose(np.exp(1j * path[:, 2]), np.exp(1j * truth.yaw_rad), atol=1e-6)
    fixes = slice(None, None, 10)  # 50 Hz of samples, 5 Hz of fixes
    np.testing.assert_allclose(odometry.position_m[fixes], truth.positions_m[fixes], atol=1e-9)


def test_the_errors_of_fixes_have_the_stated_size_and_wander_at_the_stated_pace() -> None:
    """Variance 1.5²; after one time constant 0.8/e of it is left in common; white noise is the other 0.2."""
    config = OdometryConfig()
    lag = round(config.gnss_bias_time_s * config.gnss_rate_hz)
    errors = np.concatenate([gnss_error(40 * lag, config, np.random.default_rng(k)).T for k in range(8)])
    variance = (errors**2).mean()
    assert variance == pytest.approx(1.5**2, rel=0.15)
    assert (errors[:, lag:] * errors[:, :-lag]).mean() / variance == pytest.approx(0.8 / np.e, abs=0.1)
    assert (errors[:, 1:] * errors[:, :-1]).mean() / variance == pytest.approx(0.8, abs=0.03)
    first = np.array([gnss_error(1, config, np.random.default_rng(k))[0] for k in range(1000)])
    assert first.std() == pytest.approx(1.5, rel=0.06)  # stationary from the start


def test_gyroscope_and_wheel_speed_have_the_stated_noise() -> None:
    config, trace = OdometryConfig(), _circle(100.0)
    rates, speeds = [], []
    for seed in range(60):
        odometry = measure(trace, config, seed)
        rates.append(odometry.yaw_rate_radps - 0.25)
        speeds.append(odometry.speed_mps / 5.0 - 1)
    rate, speed = np.array(rates), np.array(speeds)
    assert (rate - rate.mean(axis=1, keepdims=True)).std() == pytest.approx(0.003, rel=0.02)
    assert rate.mean(axis=1).std() == pytest.approx(0.002, rel=0.3)
    assert (speed - speed.mean(axis=1, keepdims=True)).std() == pytest.approx(0.05 / 5, rel=0.02)
    assert speed.mean(axis=1).std() == pytest.approx(0.01, rel=0.3)


def test_fixes_stay_between_their_times_and_heights_are_worse() -> None:
    odometry = measure(_circle(10.0), OdometryConfig(rate_hz=20.0, gnss_rate_hz=4.0), 0)
    changes = np.flatnonzero((np.diff(odometry.position_m, axis=0) != 0).any(axis=1)) + 1
    np.testing.assert_array_equal(changes, np.arange(5, 201, 5))
    np.testing.assert_array_equal(odometry.sigma_m[0], [1.5, 1.5, 3.0])
    assert len(odometry.times_s) == 201


def test_one_seed_gives_the_same_measurements_and_a_longer_drive_keeps_them() -> None:
    one, again, other = (measure(_circle(20.0), OdometryConfig(), seed) for seed in (1, 1, 2))
    longer = measure(_circle(30.0), OdometryConfig(), 1)
    for name in ("position_m", "yaw_rate_radps", "speed_mps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert (getattr(one, name) != getattr(other, name)).any()
        np.testing.assert_allclose(getattr(one, name)[:-1], getattr(longer, name)[: len(one.times_s) - 1], atol=1e-9)


@pytest.mark.parametrize(
    "bad", [{"gnss_rate_hz": 100.0}, {"gnss_bias_share": 1.2}, {"gnss_bias_time_s": 0.0}, {"gyro_sigma_radps": -1.0}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DataError, match="OdometryConfig"):
        OdometryConfig(**bad)


def test_a_trace_that_stands_for_one_instant_cannot_be_measured() -> None:
    with pytest.raises(DataError, match=r"trace circle: lasts 0\.000 s"):
        measure(_circle(0.0), OdometryConfig(), 0)
