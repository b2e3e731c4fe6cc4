"""Where states come from, by name: SUMO's crossing and Bologna, a recorded FCD file, or any traces."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from edge.offload.bologna import bologna_folder, bologna_run
from edge.offload.model import Worker
from edge.offload.recorded import TraceTable, record
from edge.offload.scenario_random import rsu_sites
from edge.offload.sites import check_reach, junctions_of, points_along, spread_sites, workers_at
from edge.offload.states import VehicleStates
from edge.offload.sumo_crossing import CrossingConfig, build_crossing
from edge.offload.sumo_live import SumoRun, watch
from geometry.sumo import RoadNetwork, read_fcd, read_network
from geometry.trace import Trace

LIVE: Final = ("crossing", "bologna")
TRUTH_S: Final = 4.0  # recorded beyond the last tick, so that its turns are known
SITE_STEP_M: Final = 10.0


@dataclass(frozen=True)
class SceneRequest:
    """What is asked of a scene.

    Args:
        seconds: of states.
        start_s: time of the first; None for the scene's own.
        step_s: between two states.
        seed: of the traffic and of the workers' speeds.
        rsus: how many RSUs; 0 for the scene's own number, 8 at the crossing, as few as reach every junction elsewhere.
        sites_m: where RSUs stand instead, east and north.
        base_cycles_per_s: c of the paper; workers have one to three 1 GHz steps more.
        reach_m: of an RSU's radio.
        crossing: streets and demand of the crossing.

    Raises:
        ValueError: a number is out of range.
    """

    seconds: float = 60.0
    start_s: float | None = None
    step_s: float = 0.5
    seed: int = 0
    rsus: int = 0
    sites_m: tuple[tuple[float, float], ...] = ()
    base_cycles_per_s: float = 2e9
    reach_m: float = 200.0
    crossing: CrossingConfig = field(default_factory=CrossingConfig)

    def __post_init__(self) -> None:
        if not (0 < self.seconds < np.inf and 0 < self.step_s <= self.seconds):
            raise ValueError(f"seconds is {self.seconds}, step_s is {self.step_s}: want 0 < step_s <= seconds")
        if self.rsus < 0:
            raise ValueError(f"rsus is {self.rsus}: want 0 (the scene's own number) or more")


@dataclass(frozen=True, eq=False)
class Scene:
    """Vehicles, RSUs and roads.

    Args:
        name: as it was asked for.
        workers: the RSUs' computers.
        states: starts anew at every call.
        roads: where there is a network.
        table: the record that the states come from; None if they are live.
    """

    name: str
    workers: tuple[Worker, ...]
    states: Callable[[], Iterator[VehicleStates]]
    roads: RoadNetwork | None = None
    table: TraceTable | None = None


def open_scene(name: str, request: SceneRequest, live: bool = False) -> Scene:
    """A scene by name; a simulation is recorded first unless it is to be live.

    Args:
        name: "crossing", "bologna" (its files in $CONVOY_DATA), or the path of an FCD file; the network beside it
            (NAME.net.xml for NAME.xml or NAME.xml.gz), if there is one, gives roads and RSUs.
        request: what is asked for.
        live: have states from SUMO while it runs; turns are then not known in advance.

    Raises:
        ValueError: an unknown name, a file that cannot be read, a value out of range, an RSU that reaches no road, or
            a file that is to be live.
        ModuleNotFoundError: SUMO is needed and not installed.
    """
    if name in LIVE:
        return _simulated(name, request, live)
    if live:
        raise ValueError(f"{name}: a recorded file is not live; live scenes are {', '.join(LIVE)}")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{name}: no such file, and no scene of that name; scenes are {', '.join(LIVE)}")
    network = path.with_name(path.name.removesuffix(".gz").removesuffix(".xml") + ".net.xml")
    return trace_scene(name, read_fcd(path), request, read_network(network) if network.is_file() else None)


def trace_scene(name: str, traces: Sequence[Trace], request: SceneRequest, roads: RoadNetwork | None = None) -> Scene:
    """A scene of recorded or generated traces, such as the town's.

    Args:
        name: for tables and pictures.
        traces: of all road users.
        request: what is asked for; `start_s` defaults to the first time in the traces.
        roads: the network, if there is one.

    Raises:
        ValueError: there is no vehicle, the traces end before `start_s`, or an RSU reaches no road.
    """
    table = TraceTable.of(traces)
    first_s, last_s = table.span_s
    start_s = first_s if request.start_s is None else request.start_s
    if start_s > last_s:
        raise ValueError(f"{name}: start_s is {start_s:g}, but the traces end at {last_s:g} s")
    seconds = min(request.seconds, last_s - start_s + request.step_s)
    if roads is not None:
        workers = _workers(request, junctions_of(roads), points_along(roads, SITE_STEP_M))
    else:
        driven_m = np.unique(np.round(table.position_m / SITE_STEP_M), axis=0) * SITE_STEP_M
        workers = _workers(request, driven_m, driven_m)
    return Scene(name, workers, lambda: table.ticks(start_s, seconds, request.step_s), roads, table)


def _simulated(name: str, request: SceneRequest, live: bool) -> Scene:
    with tempfile.TemporaryDirectory(prefix="convoy-offload-") as folder:
        run = _run(name, request, Path(folder))
        roads = read_network(run.network)
        states = [] if live else list(watch(replace(run, seconds=request.seconds + TRUTH_S)))
    own = request if request.sites_m or name != "crossing" else replace(request, sites_m=_crossing_sites(request.rsus))
    if not live:
        return trace_scene(name, record(states), replace(own, start_s=run.start_s), roads)
    workers = _workers(own, junctions_of(roads), points_along(roads, SITE_STEP_M))
    return Scene(name, workers, lambda: _live(name, request), roads)


def _live(name: str, request: SceneRequest) -> Iterator[VehicleStates]:
    with tempfile.TemporaryDirectory(prefix="convoy-offload-") as folder:
        yield from watch(_run(name, request, Path(folder)))


def _run(name: str, request: SceneRequest, folder: Path) -> SumoRun:
    own_s = {"bologna": 600.0, "crossing": 60.0}[name]
    start_s = own_s if request.start_s is None else request.start_s
    times = {"start_s": start_s, "seconds": request.seconds, "step_s": request.step_s}
    if name == "bologna":
        return bologna_run(bologna_folder(), **times, seed=request.seed)
    return build_crossing(folder, request.crossing, **times, seed=request.seed)


def _crossing_sites(count: int) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in rsu_sites(count or 8, np.zeros((1, 2))).tolist())


def _workers(
    request: SceneRequest, candidates_m: Float[ndarray, "k 2"], roads_m: Float[ndarray, "r 2"]
) -> tuple[Worker, ...]:
    """At the sites asked for, else spread over the candidates."""
    if request.sites_m:
        sites_m = np.array(request.sites_m, float)
    else:
        sites_m = spread_sites(candidates_m, request.reach_m, request.rsus)
    workers = workers_at(sites_m, request.base_cycles_per_s, reach_m=request.reach_m, seed=request.seed)
    check_reach(workers, roads_m)
    return workers
