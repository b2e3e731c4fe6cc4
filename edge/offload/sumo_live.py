"""States of vehicles from a running SUMO simulation; the only importer of libsumo in this package."""

import contextlib
import math
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy import ndarray

from edge.offload.states import VehicleStates
from geometry.trace import Indicator

_REMEDY: Final = "a live simulation needs SUMO: `pip install 'convoy[sumo]'`, or use a recorded one"
_NOWHERE_M: Final = 1e8  # SUMO's word for a vehicle that is between two places
_WITHOUT_SENSORS: Final = ("pedestrian", "bicycle", "moped", "motorcycle")  # SUMO's classes of vehicles
_SIDES: Final = np.array([Indicator.OFF, Indicator.RIGHT, Indicator.LEFT, Indicator.OFF], np.int8)


@dataclass(frozen=True)
class SumoRun:
    """A simulation to be watched.

    Args:
        network: .net.xml.
        routes: files of vehicles and their routes.
        additional: further files, in the order in which SUMO has to read them.
        start_s: time of the first states; what happens before is simulated unwatched.
        seconds: how long states are given.
        step_s: between two states and two steps of the simulation.
        seed: decides what SUMO draws.

    Raises:
        ValueError: a file is missing, or a time is out of range.
    """

    network: Path
    routes: tuple[Path, ...]
    additional: tuple[Path, ...] = ()
    start_s: float = 0.0
    seconds: float = 60.0
    step_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        missing = [path for path in (self.network, *self.routes, *self.additional) if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0]}: no such file; check the folder of the scenario")
        if not (0 <= self.start_s < math.inf and 0 < self.seconds < math.inf and 0 < self.step_s <= 10):
            problem = f"start_s is {self.start_s}, seconds is {self.seconds}, step_s is {self.step_s}"
            raise ValueError(f"SumoRun: {problem}: want a start of 0 or more, a positive time, a step of up to 10 s")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"SumoRun: seed is {self.seed}, want 0 to 2**31 - 1")


def watch(run: SumoRun) -> Generator[VehicleStates, None, None]:
    """States of all vehicles, step by step; the simulation ends with the iterator.

    Vehicles come in the order in which they entered the road; bicycles and the like are left out. SUMO gives the middle
    of a vehicle's front end; states have its centre. A process has room for one simulation at a time.

    Raises:
        ModuleNotFoundError: SUMO is not installed.
        ValueError: SUMO refuses its files; the message has its own words.
        RuntimeError: a simulation is running in this process already.
    """
    libsumo = _library()
    if libsumo.isLoaded():
        raise RuntimeError("a SUMO simulation is running in this process already: read it to its end or close it first")
    try:
        libsumo.start(_command(run))
        known: dict[str, tuple[float, float]] = {}
        steps = round(run.seconds / run.step_s)
        if run.start_s > 0:  # 0 would be a step
            libsumo.simulationStep(run.start_s)
        for _ in range(steps):
            libsumo.simulationStep()
            yield _read(libsumo, known, libsumo.simulation.getTime() - run.step_s)
    except libsumo.TraCIException as error:
        raise ValueError(f"SUMO failed on {run.network}: {error}") from None
    finally:
        libsumo.close()


def netconvert(folder: Path, options: Sequence[str]) -> Path:
    """Make net.net.xml in a folder by SUMO's netconvert, whose wheel is eclipse-sumo.

    Raises:
        ModuleNotFoundError: SUMO is not installed.
        ValueError: netconvert fails; the message has its own words.
    """
    try:
        import sumo
    except ModuleNotFoundError:
        raise ModuleNotFoundError(_REMEDY) from None
    program = str(Path(sumo.SUMO_HOME) / "bin" / "netconvert")
    command = [program, *options, "--output-file=net.net.xml", "--no-warnings", "--no-turnarounds=true"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"SUMO's netconvert failed: {done.stderr.strip()[-400:]}")
    return folder / "net.net.xml"


def _library() -> ModuleType:
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):  # it warns of versions of pyarrow
            import libsumo
    except ModuleNotFoundError:
        raise ModuleNotFoundError(_REMEDY) from None
    return libsumo


def _command(run: SumoRun) -> list[str]:
    command = ["sumo", "-n", str(run.network), "-r", ",".join(map(str, run.routes)), "--seed", str(run.seed)]
    command += ["--step-length", str(run.step_s), "--no-step-log", "true", "--no-warnings", "true"]
    if run.additional:
        command += ["-a", ",".join(map(str, run.additional))]
    return command


def _read(libsumo: ModuleType, known: dict[str, tuple[float, float]], time_s: float) -> VehicleStates:
    """All vehicles; `known` keeps their departures and lengths. SUMO's clock is a step ahead of what it tells."""
    vehicle, present = libsumo.vehicle, libsumo.vehicle.getIDList()
    known |= {name: (vehicle.getDeparture(name), _length_m(vehicle, name)) for name in present if name not in known}
    names, rows = [], []
    for name in sorted(present, key=lambda name: (known[name][0], name)):
        x, y = vehicle.getPosition(name)
        if abs(x) < _NOWHERE_M and known[name][1] > 0:
            looks = vehicle.getAngle(name), vehicle.getSpeed(name), vehicle.getSignals(name)
            rows.append((x, y, *looks, known[name][1]))
            names.append(name)
    table: ndarray = np.array(rows, np.float64).reshape(len(rows), 6)
    heading_rad = np.remainder(np.deg2rad(90.0 - table[:, 2]) + np.pi, 2 * np.pi) - np.pi
    ahead = np.stack([np.cos(heading_rad), np.sin(heading_rad)], axis=1)
    return VehicleStates(
        time_s=time_s,
        names=tuple(names),
        position_m=table[:, :2] - ahead * table[:, 5:] / 2,
        heading_rad=heading_rad,
        speed_mps=np.abs(table[:, 3]),
        indicator=_SIDES[table[:, 4].astype(int) & 3],
    )


def _length_m(vehicle: Any, name: str) -> float:
    """0 for a vehicle without sensors."""
    return 0.0 if vehicle.getVehicleClass(name) in _WITHOUT_SENSORS else vehicle.getLength(name)
