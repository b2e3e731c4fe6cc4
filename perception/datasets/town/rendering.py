"""From a configuration to frames in the cache, on as many processes as asked for."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from joblib.externals.loky import get_reusable_executor
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import ThreadpoolController

import geometry
from geometry import Frame
from perception import raycast
from perception.datasets.cache import cache_limit_bytes, mark_used, not_writable, trim_cache, write_frame
from perception.datasets.town.config import TownConfig
from perception.datasets.town.layout import plan_town
from perception.datasets.town.routes import toured
from perception.datasets.town.scenery import Scenery, build_scenery
from perception.datasets.town.sensors import rsu_unit, sense, vehicle_unit
from perception.datasets.town.stage import Stage, set_stage
from perception.datasets.town.traffic import SENSING_PER_REGION, plan_day, plan_holdout

HOLDOUT: Final = -1
FRAMES_WORTH_A_PROCESS: Final = 60
CHUNK_FRAMES: Final = 6
SIGHT_M: Final = 180.0  # beyond a region, what is built; haze and houses hide the rest


@dataclass(frozen=True)
class Shot:
    """One frame to be: whose (a vehicle's number, `HOLDOUT`, or `rsu_number`), its place in the drive, which camera."""

    vehicle: int
    tick: int
    camera: int = 0


def rsu_number(rsu: int) -> int:
    """What stands for a roadside unit where vehicles have their numbers."""
    return HOLDOUT - 1 - rsu


@dataclass(frozen=True)
class Store:
    """Where the frames of a town lie: below `root`, in a folder named by a digest of all that decides their content."""

    root: Path
    config: TownConfig

    @property
    def folder(self) -> Path:
        return self.root / f"town-{_digest(self.config)}"

    def path(self, shot: Shot) -> Path:
        """The file of a frame. The holdout's frames depend on their number, a vehicle's do not."""
        drive = drive_name(shot.vehicle)
        if shot.vehicle == HOLDOUT:
            drive = f"{drive}-{self.config.holdout_frames}"
        return self.folder / drive / f"{shot.tick:05d}-{shot.camera}.npz"

    def missing(self, shots: Sequence[Shot]) -> list[Shot]:
        """The frames that are not there yet."""
        return [shot for shot in shots if not self.path(shot).is_file()]


@lru_cache(maxsize=64)
def _digest(config: TownConfig) -> str:
    """Digest of the configuration, of this generator's source and of the versions of what it draws on."""
    kept = {k: v for k, v in asdict(config).items() if k not in ("vehicles", "frames_per_vehicle", "holdout_frames")}
    return hashlib.sha256((json.dumps(kept, sort_keys=True) + _generator_digest()).encode()).hexdigest()[:16]


@cache
def _generator_digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    sources += [Path(raycast.__file__), *sorted(Path(geometry.__file__).parent.glob("*.py"))]
    versions = " ".join(_version(name) for name in ("open3d", "open3d-cpu", "sumo-data"))
    digest = hashlib.sha256(versions.encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def drive_name(vehicle: int) -> str:
    """For folders and messages."""
    if vehicle >= 0:
        return f"vehicle-{vehicle}"
    return "holdout" if vehicle == HOLDOUT else f"rsu-{HOLDOUT - 1 - vehicle}"


def seats(config: TownConfig) -> int:
    """Vehicles that sense on one day; further vehicles drive on further days."""
    return config.rsus * SENSING_PER_REGION


def render(config: TownConfig, shot: Shot) -> Frame:
    """One frame, from nothing but the configuration. On one thread: BLAS gains nothing from more on rows of three."""
    with _threads().limit(limits=1):
        return _render(config, shot)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _render(config: TownConfig, shot: Shot) -> Frame:
    stage = _stage(config, _day(config, shot), _region(config, shot))
    source = f"town (seed {config.seed}), {drive_name(shot.vehicle)}, frame {shot.tick}, camera {shot.camera}"
    if shot.vehicle < HOLDOUT:
        unit = rsu_unit(stage, config, HOLDOUT - 1 - shot.vehicle, shot.tick)
    else:
        seat = 0 if shot.vehicle == HOLDOUT else shot.vehicle % seats(config) // config.rsus
        unit = vehicle_unit(stage, config, seat, shot.tick)
    return sense(stage, config, unit, shot.tick, shot.camera, source)


def _day(config: TownConfig, shot: Shot) -> int:
    """RSUs watch day 0."""
    return HOLDOUT if shot.vehicle == HOLDOUT else max(shot.vehicle, 0) // seats(config)


def _region(config: TownConfig, shot: Shot) -> int:
    """Around which region the stage is set; the holdout passes through several."""
    if shot.vehicle == HOLDOUT:
        return HOLDOUT
    return shot.vehicle % config.rsus if shot.vehicle > HOLDOUT else HOLDOUT - 1 - shot.vehicle


@lru_cache(maxsize=2)
def _stage(config: TownConfig, day: int, region: int) -> Stage:
    """What can be seen from a region on a day: its cost does not depend on how large the town is."""
    layout = plan_town(config)
    scenery = _scenery(config, region)
    if day == HOLDOUT:
        return set_stage(scenery, plan_holdout(layout, config))
    return set_stage(scenery, plan_day(layout, config, day, config.frames_per_vehicle, region))


@lru_cache(maxsize=2)
def _scenery(config: TownConfig, region: int) -> Scenery:
    layout = plan_town(config)
    regions = toured(layout) if region == HOLDOUT else [region]
    blocks = sorted({block for near in regions for block in layout.blocks_near(near, SIGHT_M)})
    return build_scenery(layout, config.seed, blocks)


def fill_store(store: Store, shots: Sequence[Shot], workers: int) -> None:
    """Render the frames that the store lacks. Of several processes that want them at once, one renders.

    Raises:
        DataError: the cache folder cannot be written, or sumo-data is missing.
    """
    if not store.missing(shots):
        mark_used(store.folder)
        return
    lock = FileLock(store.folder / ".lock")
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            Console(stderr=True).print(f"town: waiting for another process that renders into {store.folder}")
            lock.acquire()
    except OSError as error:
        raise not_writable(store.folder, error) from error
    try:
        _render_all(store, store.missing(shots), workers)
    finally:
        lock.release()
    for folder in trim_cache(store.root, store.folder, cache_limit_bytes()):
        Console(stderr=True).print(f"cache: removed {folder}, unused for longest (CONVOY_CACHE_GB)")


def _render_all(store: Store, shots: list[Shot], workers: int) -> None:
    processes = min(workers, -(-len(shots) // FRAMES_WORTH_A_PROCESS))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"rendering the town, seed {store.config.seed}", total=len(shots))
        try:
            for count in _in_processes(store, shots, processes) if processes > 1 else _here(store, shots):
                progress.advance(task, count)
        except BrokenProcessPool:
            warnings.warn(_BROKEN, stacklevel=4)
            for count in _here(store, store.missing(shots)):
                progress.advance(task, count)


_BROKEN: Final = "the processes that render the town died (out of memory?); rendering in this process instead"


def _here(store: Store, shots: Sequence[Shot]) -> Iterator[int]:
    for shot in shots:
        yield _render_chunk(store, [shot])


def _in_processes(store: Store, shots: list[Shot], processes: int) -> Iterator[int]:
    """Chunks in the order of stages, so that a process seldom changes its own."""
    config = store.config
    ordered = sorted(shots, key=lambda s: (_day(config, s), _region(config, s), s.vehicle, s.camera, s.tick))
    chunks = [ordered[i : i + CHUNK_FRAMES] for i in range(0, len(ordered), CHUNK_FRAMES)]
    # loky starts its processes without importing the caller's main script, which may have no guard against that
    pool = get_reusable_executor(max_workers=processes)
    try:
        for job in as_completed([pool.submit(_render_chunk, store, chunk) for chunk in chunks]):
            yield job.result()
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _render_chunk(store: Store, shots: Sequence[Shot]) -> int:
    for shot in shots:
        write_frame(store.path(shot), render(store.config, shot))
    return len(shots)
