"""The paper's crossing in SUMO: 200 m x 200 m, two lanes a direction, eight RSUs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge.offload.model import Worker
from edge.offload.scenario_random import rsu_sites
from edge.offload.sites import workers_at
from edge.offload.sumo_live import SumoRun, netconvert

_ARMS: Final = {"east": (1, 0), "north": (0, 1), "west": (-1, 0), "south": (0, -1)}
_NAMES: Final = tuple(_ARMS)  # counter-clockwise: who comes from one and turns right leaves by the next


@dataclass(frozen=True)
class CrossingConfig:
    """Streets and demand; the middle of the crossing is the origin.

    Args:
        arm_m: from the middle to the end of each of the four arms.
        lanes: of a direction.
        speed_mps: the limit, 40 km/h in the paper.
        vehicles_per_h: that enter, on all arms together; 4000 keep some forty to fifty on the road.
        left, right: shares that turn; the others go straight on.

    Raises:
        ValueError: a value is out of range.
    """

    arm_m: float = 100.0
    lanes: int = 2
    speed_mps: float = 11.11
    vehicles_per_h: float = 4000.0
    left: float = 0.35
    right: float = 0.35

    def __post_init__(self) -> None:
        for name in ("arm_m", "lanes", "speed_mps", "vehicles_per_h"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"CrossingConfig: {name} must be finite and positive, got {getattr(self, name)}")
        if not (self.left >= 0 and self.right >= 0 and self.left + self.right <= 1):
            raise ValueError(f"CrossingConfig: left is {self.left}, right is {self.right}: want shares of at most 1")


def build_crossing(
    folder: Path,
    config: CrossingConfig | None = None,
    *,
    start_s: float = 60.0,
    seconds: float = 60.0,
    step_s: float = 1.0,
    seed: int = 0,
) -> SumoRun:
    """Write network and demand into a folder; vehicles enter at random times that the seed decides.

    Args:
        folder: for net.net.xml and routes.xml.
        config: streets and demand.
        start_s, seconds, step_s, seed: see `SumoRun`.

    Raises:
        ModuleNotFoundError: SUMO is not installed.
        ValueError: a time is out of range, or netconvert fails.
    """
    config = config or CrossingConfig()
    (folder / "nodes.xml").write_text(_nodes(config))
    (folder / "edges.xml").write_text(_edges(config))
    (folder / "routes.xml").write_text(_routes(config, start_s + seconds))
    options = ["--node-files=nodes.xml", "--edge-files=edges.xml", "--offset.disable-normalization=true"]
    network = netconvert(folder, options)
    return SumoRun(network, (folder / "routes.xml",), (), start_s, seconds, step_s, seed)


def crossing_workers(
    rsus: int = 8, base_cycles_per_s: float = 2e9, reach_m: float = 200.0, seed: int = 0
) -> tuple[Worker, ...]:
    """RSUs along the arms, two on each where there are eight.

    Raises:
        ValueError: a value is out of range.
    """
    if rsus < 1:
        raise ValueError(f"rsus is {rsus}: want at least one")
    return workers_at(rsu_sites(rsus, np.zeros((1, 2))), base_cycles_per_s, reach_m=reach_m, seed=seed)


def _nodes(config: CrossingConfig) -> str:
    ends = "".join(
        f'<node id="{name}" x="{x * config.arm_m}" y="{y * config.arm_m}"/>' for name, (x, y) in _ARMS.items()
    )
    return f'<nodes><node id="middle" x="0" y="0" type="traffic_light"/>{ends}</nodes>'


def _edges(config: CrossingConfig) -> str:
    looks = f'numLanes="{config.lanes}" speed="{config.speed_mps}"'
    inward = "".join(f'<edge id="from-{name}" from="{name}" to="middle" {looks}/>' for name in _NAMES)
    outward = "".join(f'<edge id="to-{name}" from="middle" to="{name}" {looks}/>' for name in _NAMES)
    return f"<edges>{inward}{outward}</edges>"


def _routes(config: CrossingConfig, end_s: float) -> str:
    """A flow from every arm to each of the three others, drawn every second."""
    shares = {1: config.right, 2: 1 - config.left - config.right, 3: config.left}
    flows = "".join(
        f'<flow id="{start}-{_NAMES[(i + k) % 4]}" type="car" begin="0" end="{end_s}" departLane="best" '
        f'departSpeed="max" probability="{min(1.0, config.vehicles_per_h * share / 4 / 3600)}" '
        f'from="from-{start}" to="to-{_NAMES[(i + k) % 4]}"/>'
        for i, start in enumerate(_NAMES)
        for k, share in shares.items()
        if share > 0
    )
    return f'<routes><vType id="car" length="4.5" width="1.8"/>{flows}</routes>'
