"""The town's traffic moved by SUMO: the same streets, routes and traffic lights. The only importer of libsumo."""

import contextlib
import importlib.util
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor

from geometry import Trace
from geometry.sumo import RoadNetwork, read_fcd, read_network
from perception.datasets.base import DataError
from perception.datasets.town.driving import STEP_S
from perception.datasets.town.layout import JUNCTION_M, Layout, Node
from perception.datasets.town.looks import kind_of
from perception.datasets.town.populace import Populace
from perception.datasets.town.routes import neighbours
from perception.datasets.town.signals import Light, green
from perception.datasets.town.sumo_files import (
    axis_of,
    document,
    edge_element,
    node_element,
    node_of,
    vehicle_elements,
)
from perception.datasets.town.traces import driver_name

_REMEDY: Final = "the driver 'sumo' needs SUMO: `pip install 'convoy[sumo]'`, or set TownConfig.driver to 'kinematic'"


@dataclass(frozen=True)
class SumoJob:
    """A simulation on a network.

    Args:
        routes: vehicle types and vehicles; the network is net.net.xml beside it.
        seconds: how long, at most.
        seed: decides what SUMO draws.
        first: id of the vehicle whose arrival ends the simulation, or "".
        goal_m: how far it has to drive.
        signals: the junctions with traffic lights, by SUMO's id.
    """

    routes: str
    seconds: float
    seed: int
    first: str
    goal_m: float
    signals: tuple[tuple[str, Node], ...]


def drive_sumo(
    layout: Layout, there: list[Populace], seconds: float, seed: list[int], goal_m: float = np.inf
) -> list[list[Trace]]:
    """Traces of the drivers of some regions on their routes; one seed gives the same traces again.

    SUMO runs in a process of its own. Its junctions are not exact to the centimetre: a car that turns and a cyclist
    beside it may touch.

    Args:
        layout: the streets.
        there: whose drivers; what comes out is in their order.
        seconds: how long, at most.
        seed: decides what SUMO draws.
        goal_m: the distance after which the very first driver has arrived and the motion ends.

    Raises:
        DataError: SUMO is not installed, or fails; the message has its own words.
    """
    if any(importlib.util.find_spec(name) is None for name in ("libsumo", "sumo")):
        raise DataError(_REMEDY)
    with tempfile.TemporaryDirectory(prefix="convoy-sumo-") as name:
        folder = Path(name)
        run_job(sumo_job(build_network(layout, there, folder), there, seconds, seed, goal_m), folder)
        looks = {driver_name(p.region, i): look for p in there for i, look in enumerate(p.driver_looks)}
        sizes = {name: (float(s[0]), float(s[1]), float(s[2])) for name, (_, s, _) in looks.items()}
        kinds = {name: kind_of(look[0]) for name, look in looks.items()}
        found = {trace.name: trace for trace in read_fcd(folder / "fcd.xml", kinds, sizes)}
    lost = [name for name in looks if name not in found]
    if lost:
        raise DataError(f"SUMO found no room for {len(lost)} of {len(looks)} drivers ({lost[0]}): have fewer a region")
    return [[found[driver_name(people.region, i)] for i in range(len(people.drivers))] for people in there]


def build_network(layout: Layout, there: list[Populace], folder: Path) -> RoadNetwork:
    """Write the streets of some regions, and those between them that a route uses, as net.net.xml.

    Raises:
        DataError: netconvert is not installed, or fails; the message has its own words.
    """
    try:
        import sumo
    except ModuleNotFoundError:
        raise DataError(_REMEDY) from None
    nodes = {node for people in there if people.region >= 0 for node in layout.nodes_of(people.region)}
    nodes |= {node for people in there for route in people.routes for node in route}
    order = sorted(nodes)
    edges = [(a, b) for a in order for b in neighbours(layout, a) if b in nodes]
    (folder / "nodes.xml").write_text(document("nodes", [node_element(layout, node) for node in order]))
    (folder / "edges.xml").write_text(document("edges", [edge_element(a, b) for a, b in edges]))
    command = [str(Path(sumo.SUMO_HOME) / "bin" / "netconvert"), "--node-files=nodes.xml", "--edge-files=edges.xml"]
    command += ["--output-file=net.net.xml", "--no-turnarounds=true", "--offset.disable-normalization=true"]
    built = subprocess.run([*command, "--no-warnings"], cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode:
        raise DataError(f"SUMO's netconvert failed: {built.stderr.strip()[-400:]}")
    return read_network(folder / "net.net.xml")


def sumo_job(
    network: RoadNetwork, there: list[Populace], seconds: float, seed: list[int], goal_m: float = np.inf
) -> SumoJob:
    """The drivers of some regions on a network that `build_network` made for them."""
    drivers = [
        vehicle_elements(network, driver_name(people.region, i), *row)
        for people in there
        for i, row in enumerate(zip(people.drivers, people.routes, people.driver_looks, strict=True))
    ]
    first = next((driver_name(people.region, 0) for people in there if people.drivers), "")
    return SumoJob(
        routes=document("routes", [types for types, _ in drivers] + [vehicle for _, vehicle in drivers]),
        seconds=seconds,
        seed=int(np.random.default_rng(seed).integers(2**31)),
        first=first if goal_m < np.inf else "",
        goal_m=goal_m,
        signals=tuple((name, node_of(name)) for name in network.traffic_lights),
    )


def run_job(job: SumoJob, folder: Path) -> None:
    """Run a simulation in another process on the folder's net.net.xml; it leaves fcd.xml there.

    Raises:
        DataError: SUMO fails; the message has its own words.
    """
    with ProcessPoolExecutor(max_workers=1) as executor:
        problem = executor.submit(_run, job, folder).result()
    if problem:
        raise DataError(f"SUMO failed: {problem}")


def _run(job: SumoJob, folder: Path) -> str:
    """Simulate. Returns what went wrong, or ""."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):  # it warns of versions of pyarrow
        import libsumo
    (folder / "routes.xml").write_text(job.routes)
    options = ["sumo", "-n", str(folder / "net.net.xml"), "-r", str(folder / "routes.xml"), "--seed", str(job.seed)]
    options += ["--step-length", str(STEP_S), "--fcd-output", str(folder / "fcd.xml"), "--fcd-output.signals", "true"]
    options += ["--precision", "4", "--no-step-log", "true", "--no-warnings", "true", "--time-to-teleport", "-1"]
    options += ["--collision.action", "none"]
    try:
        libsumo.start(options)
        _simulate(libsumo, job)
        libsumo.close()
    except libsumo.TraCIException as error:
        return str(error)
    return ""


def _simulate(libsumo: Any, job: SumoJob) -> None:
    """Step until the time is over or the first vehicle has arrived, with the town's own traffic lights."""
    lights = [(name, node, _links(libsumo, name)) for name, node in job.signals]
    shown: dict[str, str] = {}
    for step in range(int(np.ceil(job.seconds / STEP_S)) + 2):
        for name, node, links in lights:
            state = "".join(_letter(green(node, axis, step * STEP_S), left) for axis, left in links)
            if shown.get(name) != state:
                libsumo.trafficlight.setRedYellowGreenState(name, state)
                shown[name] = state
        libsumo.simulationStep()
        if job.first and step:
            gone = job.first not in libsumo.vehicle.getIDList()
            if gone or libsumo.vehicle.getDistance(job.first) >= job.goal_m - JUNCTION_M:
                return


def _links(libsumo: Any, name: str) -> list[tuple[int, bool]]:
    """For each signal of a junction: the axis of the traffic that it is for, and whether it is for a left turn."""
    links = libsumo.trafficlight.getControlledLinks(name)
    return [axis_of(*(lane.rsplit("_", 1)[0] for lane in link[0][:2])) for link in links]


def _letter(light: Light, left: bool) -> str:
    """SUMO's letter; who turns left gives way to oncoming traffic."""
    return {Light.RED: "r", Light.AMBER: "y", Light.GREEN: "g" if left else "G"}[light]
