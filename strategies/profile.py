"""How long a round would take on real vehicles: a compute and link profile, and the clock that it drives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ProfileConfig:
    """Distribution of vehicles' speeds and links.

    Args:
        train_examples_per_s: median training speed of a vehicle.
        spread: sigma of the log-normal spread over vehicles; 0 makes all alike.
        uplink_bps, downlink_bps: median radio rates of a vehicle.
        backhaul_bps: rate between an RSU and the cloud.
        latency_s: one-way delay, each hop.
        straggler_share: share of the vehicles that are slower still.
        straggler_slowdown: how much slower.
    """

    train_examples_per_s: float = 40.0
    spread: float = 0.0
    uplink_bps: float = 20e6
    downlink_bps: float = 50e6
    backhaul_bps: float = 100e6
    latency_s: float = 0.02
    straggler_share: float = 0.0
    straggler_slowdown: float = 8.0


PROFILES: dict[str, ProfileConfig] = {
    "uniform": ProfileConfig(),
    "mixed": ProfileConfig(spread=0.4),
    "stragglers": ProfileConfig(spread=0.4, straggler_share=0.2),
}


class Profile:
    """Per-vehicle speeds, drawn from the seed and the vehicle's name, so they do not depend on who else is there."""

    def __init__(self, config: ProfileConfig, seed: int) -> None:
        self.config, self._seed = config, seed

    def round_s(self, vehicle: str, examples: int, model_bytes: int) -> float:
        """Seconds from the RSU's sending the model to its having the update: download, training, upload."""
        config = self.config
        rng = np.random.default_rng([self._seed, *vehicle.encode()])
        compute, radio = np.exp(config.spread * rng.standard_normal(2))
        if rng.random() < config.straggler_share:
            compute /= config.straggler_slowdown
        bits = 8 * model_bytes
        radio_s = bits / (config.downlink_bps * radio) + bits / (config.uplink_bps * radio) + 2 * config.latency_s
        return float(examples / (config.train_examples_per_s * compute) + radio_s)

    def backhaul_s(self, model_bytes: int) -> float:
        """Seconds for one model from RSU to cloud and one back."""
        return 2 * (8 * model_bytes / self.config.backhaul_bps + self.config.latency_s)


@dataclass(frozen=True)
class Clock:
    """Simulated seconds at each RSU. RSUs run on their own between cloud rounds, where all wait for the slowest."""

    at_s: Mapping[str, float] = field(default_factory=dict)

    def advance(self, rsu: str, seconds: float) -> "Clock":
        """One RSU's clock moved on."""
        return Clock({**self.at_s, rsu: self.at_s.get(rsu, 0.0) + seconds})

    def synchronise(self, seconds: float) -> "Clock":
        """All clocks set to the slowest plus the exchange with the cloud."""
        return Clock(dict.fromkeys(self.at_s, self.now_s + seconds))

    @property
    def now_s(self) -> float:
        """The slowest RSU's time."""
        return max(self.at_s.values(), default=0.0)
