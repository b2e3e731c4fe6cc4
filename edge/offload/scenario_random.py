"""Random traffic about crossings, without a simulator: as many vehicles and RSUs as wanted, decided by a seed."""

import math
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from edge.offload.mobility import Prediction
from edge.offload.scenario import ScenarioConfig, Situation, situation
from edge.offload.sites import workers_at
from edge.offload.states import VehicleStates

ARM_M: Final = 100.0
LANES_M: Final = (1.6, 4.8)  # middle of the two lanes to the right of the road's axis
VEHICLES_A_CROSSING: Final = 40
RSU_DISTANCES_M: Final = (25.0, 75.0)


def random_scenario(
    vehicles: int = 40,
    rsus: int = 8,
    seed: int = 0,
    config: ScenarioConfig | None = None,
    base_cycles_per_s: float = 2e9,
    reach_m: float = 200.0,
) -> Situation:
    """A slot of vehicles that approach crossings and turn left, right or (three in ten) not at all.

    Crossings lie 200 m apart in a square, one for every 40 vehicles, each with four roads of two lanes a direction.

    Args:
        vehicles: on the road; who takes part depends on `config.participants`.
        rsus: spread over the crossings' arms.
        seed: decides positions, turns and the workers' speeds.
        config: tasks, links and geometry; by default the paper's.
        base_cycles_per_s: c of the paper.
        reach_m: of the radio.

    Raises:
        ValueError: a number is negative, or there are no RSUs.
    """
    if vehicles < 0 or rsus < 1:
        raise ValueError(f"vehicles is {vehicles} and rsus is {rsus}: want 0 or more vehicles and at least one RSU")
    rng = np.random.default_rng(seed)
    crossings_m = crossing_grid(max(1, math.ceil(vehicles / VEHICLES_A_CROSSING)))
    states = _approaching(vehicles, crossings_m, rng)
    turn = rng.choice(np.array([-1, 0, 1], np.int8), vehicles, p=[0.35, 0.3, 0.35])
    workers = workers_at(rsu_sites(rsus, crossings_m), base_cycles_per_s, reach_m=reach_m, seed=seed)
    expected = Prediction(states.position_m, states.heading_rad, turn)
    return situation(states, expected, workers, config or ScenarioConfig())


def crossing_grid(count: int) -> Float[ndarray, "k 2"]:
    """Centres of crossings that fill a square row by row, 200 m apart, the first at the origin."""
    index = np.arange(count)
    width = math.ceil(math.sqrt(count))
    return 2 * ARM_M * np.stack([index % width, index // width], axis=1).astype(np.float64)


def rsu_sites(count: int, crossings_m: Float[ndarray, "k 2"]) -> Float[ndarray, "m 2"]:
    """Places beside the crossings' arms, 25 m and 75 m from the middle, dealt evenly to the crossings.

    Eight at one crossing are two on every arm, as in the paper; more than eight a crossing stand closer together.
    """
    index, crossings = np.arange(count), len(crossings_m)
    place = index // crossings
    around = place % 4 * (math.pi / 2)
    rings = max(2, math.ceil(math.ceil(count / crossings) / 4))
    ring = place // 4
    distance_m = np.asarray(RSU_DISTANCES_M)[ring] if rings == 2 else (ring + 0.5) * ARM_M / rings
    return crossings_m[index % crossings] + distance_m[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1)


def _approaching(count: int, crossings_m: Float[ndarray, "k 2"], rng: np.random.Generator) -> VehicleStates:
    """Vehicles on the right-hand lanes that lead to a crossing, evenly along the arms."""
    arm = rng.integers(0, 4, count) * (math.pi / 2)  # from the crossing outwards
    out, right = np.stack([np.cos(arm), np.sin(arm)], axis=1), np.stack([-np.sin(arm), np.cos(arm)], axis=1)
    along_m = rng.uniform(0, ARM_M, count)
    lane_m = np.asarray(LANES_M)[rng.integers(0, 2, count)]
    position_m = crossings_m[np.arange(count) % len(crossings_m)] + out * along_m[:, None] + right * lane_m[:, None]
    heading_rad = np.remainder(arm + 2 * math.pi, 2 * math.pi) - math.pi
    names = tuple(f"v{i}" for i in range(count))
    speed_mps = rng.uniform(0, 11.11, count)
    return VehicleStates(0.0, names, position_m, heading_rad, speed_mps, np.zeros(count, np.int8))
