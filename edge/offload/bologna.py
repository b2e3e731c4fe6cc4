"""A part of Bologna in SUMO: 11,000 vehicles in an hour, some eight hundred at a time; the files are the user's."""

import os
from pathlib import Path
from typing import Final

from edge.offload.model import Worker
from edge.offload.sites import junctions_of, spread_sites, workers_at
from edge.offload.sumo_live import SumoRun
from geometry.sumo import read_network

NETWORK: Final = "joined_buslanes.net.xml"
ROUTES: Final = ("joined.rou.xml", "joined_busses.rou.xml")
ADDITIONAL: Final = ("joined_vtypes.add.xml", "joined_bus_stops.add.xml", "joined_tls.add.xml")


def bologna_folder(folder: Path | None = None) -> Path:
    """Where the scenario lies: the folder given, or sumo_bologna/joined in $CONVOY_DATA.

    Raises:
        ValueError: neither is there.
    """
    if folder is None and not os.environ.get("CONVOY_DATA"):
        raise ValueError("Bologna's files are looked for in $CONVOY_DATA, which is not set: set it or pass a folder")
    found = folder or Path(os.environ["CONVOY_DATA"]) / "sumo_bologna" / "joined"
    if not (found / NETWORK).is_file():
        raise ValueError(f"{found} has no {NETWORK}: want the folder bologna/joined of DLR's sumo-scenarios")
    return found


def bologna_run(
    folder: Path, *, start_s: float = 600.0, seconds: float = 600.0, step_s: float = 1.0, seed: int = 0
) -> SumoRun:
    """The scenario without its detectors, which would write into its folder.

    Args:
        folder: see `bologna_folder`.
        start_s, seconds, step_s, seed: see `SumoRun`; after ten minutes there are some 800 vehicles on the road.

    Raises:
        ValueError: a file is missing, or a time is out of range.
    """
    routes, additional = (tuple(folder / name for name in names) for names in (ROUTES, ADDITIONAL))
    return SumoRun(folder / NETWORK, routes, additional, start_s, seconds, step_s, seed)


def bologna_workers(
    folder: Path, base_cycles_per_s: float = 2e9, reach_m: float = 200.0, seed: int = 0
) -> tuple[Worker, ...]:
    """RSUs at junctions, so few that every junction is within reach of one.

    Args:
        folder: see `bologna_folder`.
        base_cycles_per_s, reach_m, seed: see `edge.offload.sites.workers_at`.

    Raises:
        ValueError: a file is missing or unreadable, or a value is out of range.
    """
    sites_m = spread_sites(junctions_of(read_network(folder / NETWORK)), reach_m)
    return workers_at(sites_m, base_cycles_per_s, reach_m=reach_m, seed=seed)
