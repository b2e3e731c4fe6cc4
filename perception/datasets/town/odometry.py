"""What a vehicle knows of its own motion: a GNSS receiver that wanders, a gyroscope and wheel speed with noise."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import Trace
from perception.datasets.base import DataError


@dataclass(frozen=True)
class OdometryConfig:
    """Noise of the sensors. Standard deviations are those of one sample.

    Args:
        rate_hz: samples a second of gyroscope and wheel speed; times_s are these.
        gnss_rate_hz: fixes a second; between fixes the last one stays.
        gnss_sigma_m: standard deviation of a fix's error in each of x and y: white noise and bias together.
        gnss_bias_share: share of that variance which is the bias, 0..1. The bias is a first-order Gauss-Markov
            process, stationary from the first sample.
        gnss_bias_time_s: its time constant: its autocorrelation falls to 1/e.
        gnss_vertical: factor by which errors in z are larger.
        gyro_sigma_radps: white noise of the yaw rate.
        gyro_bias_radps: standard deviation of its bias, which is constant over a drive.
        speed_sigma_mps: white noise of the wheel speed.
        speed_scale: standard deviation of the wheel speed's relative error, constant over a drive.
    """

    rate_hz: float = 50.0
    gnss_rate_hz: float = 5.0
    gnss_sigma_m: float = 1.5
    gnss_bias_share: float = 0.8
    gnss_bias_time_s: float = 60.0
    gnss_vertical: float = 2.0
    gyro_sigma_radps: float = 0.003
    gyro_bias_radps: float = 0.002
    speed_sigma_mps: float = 0.05
    speed_scale: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.gnss_rate_hz <= self.rate_hz:
            raise DataError(f"OdometryConfig: want 0 < gnss_rate_hz <= rate_hz, got {self}")
        if not 0 <= self.gnss_bias_share <= 1 or self.gnss_bias_time_s <= 0:
            raise DataError(f"OdometryConfig: want gnss_bias_share in 0..1 and gnss_bias_time_s > 0, got {self}")
        noise = (self.gnss_sigma_m, self.gnss_vertical, self.gyro_sigma_radps, self.gyro_bias_radps)
        if min(*noise, self.speed_sigma_mps, self.speed_scale) < 0:
            raise DataError(f"OdometryConfig: standard deviations must not be negative, got {self}")


NOISE_FREE = OdometryConfig(
    gnss_sigma_m=0.0, gyro_sigma_radps=0.0, gyro_bias_radps=0.0, speed_sigma_mps=0.0, speed_scale=0.0
)


@dataclass(frozen=True, eq=False)
class Odometry:
    """Measurements of one drive.

    Args:
        times_s: [t].
        position_m: x y z of the last GNSS fix, of the point on the ground below the vehicle's centre; ENU, [t, 3].
        sigma_m: standard deviation of each coordinate of the fix, as the receiver states it, [t, 3].
        yaw_rate_radps: counter-clockwise, mean over the interval up to the next sample, [t].
        speed_mps: along the heading, mean over the interval up to the next sample, [t].
    """

    times_s: Float[ndarray, "t"]
    position_m: Float[ndarray, "t 3"]
    sigma_m: Float[ndarray, "t 3"]
    yaw_rate_radps: Float[ndarray, "t"]
    speed_mps: Float[ndarray, "t"]


def measure(trace: Trace, config: OdometryConfig, seed: int) -> Odometry:
    """What the sensors of a vehicle measure while it moves along a trace, from its first to its last sample.

    Args:
        trace: the true motion.
        config: rates and noise.
        seed: decides the noise; one seed gives the same measurements again.

    Raises:
        DataError: the trace is shorter than two samples at `config.rate_hz`.
    """
    begin_s, end_s = float(trace.times_s[0]), float(trace.times_s[-1])
    count = int((end_s - begin_s) * config.rate_hz + 1e-6) + 1
    if count < 2:
        raise DataError(f"trace {trace.name}: lasts {end_s - begin_s:.3f} s, too short for {config.rate_hz} Hz")
    gyro_rng, speed_rng, fix_rng = np.random.default_rng([seed, 19]).spawn(3)
    times = begin_s + np.arange(count) / config.rate_hz
    truth = trace.at(times)
    step = np.diff(truth.positions_m[:, :2], axis=0)
    rate = _held(np.diff(np.unwrap(truth.yaw_rad)) * config.rate_hz)
    speed = _held(np.linalg.norm(step, axis=1) * config.rate_hz)
    scale = np.array([1.0, 1.0, config.gnss_vertical])
    fix = np.floor(np.arange(count) * config.gnss_rate_hz / config.rate_hz + 1e-9).astype(int)
    first = np.searchsorted(fix, np.arange(fix[-1] + 1))
    error = gnss_error(len(first), config, fix_rng) * scale
    return Odometry(
        times_s=times,
        position_m=(truth.positions_m[first] + error)[fix],
        sigma_m=np.broadcast_to(config.gnss_sigma_m * scale, (count, 3)).copy(),
        yaw_rate_radps=rate
        + config.gyro_bias_radps * gyro_rng.normal()
        + gyro_rng.normal(0, config.gyro_sigma_radps, count),
        speed_mps=speed * (1 + config.speed_scale * speed_rng.normal())
        + speed_rng.normal(0, config.speed_sigma_mps, count),
    )


def gnss_error(fixes: int, config: OdometryConfig, rng: np.random.Generator) -> Float[ndarray, "k 3"]:
    """Errors of consecutive fixes: white noise plus a first-order Gauss-Markov bias, independent in x, y, z.

    The bias is b[k+1] = a b[k] + sqrt(1 - a²) s n[k] with a = exp(-T / time constant), interval T between fixes and
    stationary standard deviation s; its autocorrelation after t seconds is exp(-t / time constant).
    """
    bias_m = config.gnss_sigma_m * config.gnss_bias_share**0.5
    white_m = config.gnss_sigma_m * (1 - config.gnss_bias_share) ** 0.5
    a = float(np.exp(-1 / (config.gnss_rate_hz * config.gnss_bias_time_s)))
    white, bias = rng.normal(size=(fixes, 2, 3)).swapaxes(0, 1)
    for k in range(1, fixes):
        bias[k] = a * bias[k - 1] + (1 - a * a) ** 0.5 * bias[k]
    return bias_m * bias + white_m * white


def dead_reckoned(odometry: Odometry, start_m: Float[ndarray, "2"], yaw_rad: float) -> Float[ndarray, "t 3"]:
    """x, y and yaw from speed and yaw rate alone; over an interval the vehicle goes straight along its mean heading.

    Args:
        odometry: the measurements.
        start_m: x, y at the first sample.
        yaw_rad: heading at the first sample.
    """
    dt = np.diff(odometry.times_s)
    turn = odometry.yaw_rate_radps[:-1] * dt
    yaw = yaw_rad + np.concatenate([[0.0], np.cumsum(turn)])
    heading, distance = yaw[:-1] + turn / 2, odometry.speed_mps[:-1] * dt
    step = np.stack([distance * np.cos(heading), distance * np.sin(heading)], axis=1)
    return np.column_stack([start_m + np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)]), yaw])


def _held(rates: Float[ndarray, "n"]) -> Float[ndarray, "m"]:
    """The last value once more, so that there is one a sample."""
    return np.append(rates, rates[-1])
