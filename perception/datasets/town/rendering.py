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

import geometry
from geometry import Frame
from perception import raycast
from perception.datasets.cache import not_writable, write_frame
from perception.datasets.town.config import TownConfig
from perception.datasets.town.layout import plan_town
from perception.datasets.town.scenery import Scenery, build_scenery
from perception.datasets.town.sensors import sense
from perception.datasets.town.stage import Stage, set_stage
from perception.datasets.town.traffic import SENSING_PER_REGION, plan_day, plan_holdout

HOLDOUT: Final = -1
FRAMES_WORTH_A_PROCESS: Final = 60
CHUNK_FRAMES: Final = 6


@dataclass(frozen=True)
class Shot:
    """One frame to be: the drive (a vehicle's number, or `HOLDOUT`) and the frame's place in it."""

    vehicle: int
    tick: int


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
        drive = f"vehicle-{shot.vehicle:04d}"
        if shot.vehicle == HOLDOUT:
            drive = f"holdout-{self.config.holdout_frames}"
        return self.folder / drive / f"{shot.tick:05d}.npz"

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


def seats(config: TownConfig) -> int:
    """Vehicles that sense on one day; further vehicles drive on further days."""
    return config.rsus * SENSING_PER_REGION


def render(config: TownConfig, shot: Shot) -> Frame:
    """One frame, from nothing but the configuration."""
    name = f"town (seed {config.seed}), " + ("holdout" if shot.vehicle == HOLDOUT else f"vehicle {shot.vehicle}")
    seat = 0 if shot.vehicle == HOLDOUT else shot.vehicle % seats(config)
    return sense(_stage(config, _day(config, shot)), config, seat, shot.tick, f"{name}, frame {shot.tick}")


def _day(config: TownConfig, shot: Shot) -> int:
    return HOLDOUT if shot.vehicle == HOLDOUT else shot.vehicle // seats(config)


@lru_cache(maxsize=2)
def _stage(config: TownConfig, day: int) -> Stage:
    scenery = _scenery(config)
    if day == HOLDOUT:
        return set_stage(scenery, plan_holdout(scenery.layout, config))
    return set_stage(scenery, plan_day(scenery.layout, config, day, config.frames_per_vehicle))


@lru_cache(maxsize=2)
def _scenery(config: TownConfig) -> Scenery:
    return build_scenery(plan_town(config), config.seed)


def fill_store(store: Store, shots: Sequence[Shot], workers: int) -> None:
    """Render the frames that the store lacks. Of several processes that want them at once, one renders.

    Raises:
        DataError: the cache folder cannot be written, or sumo-data is missing.
    """
    if not store.missing(shots):
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
    """Chunks in the order of days, so that a process seldom changes its stage."""
    ordered = sorted(shots, key=lambda shot: (_day(store.config, shot), shot.vehicle, shot.tick))
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
