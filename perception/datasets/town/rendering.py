"""From a configuration to frames in the cache, on as many processes as asked for."""

import hashlib
import json
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from filelock import FileLock
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

import geometry
from geometry import Frame
from perception import raycast
from perception.datasets.cache import cache_root, not_writable, write_frame
from perception.datasets.town.config import TownConfig
from perception.datasets.town.layout import plan_town
from perception.datasets.town.scenery import Scenery, build_scenery
from perception.datasets.town.sensors import sense
from perception.datasets.town.stage import Stage, set_stage
from perception.datasets.town.traffic import SENSING_PER_REGION, plan_day, plan_holdout

FRAMES_WORTH_A_PROCESS: Final = 60
CHUNK_FRAMES: Final = 8


@dataclass(frozen=True)
class Shot:
    """One frame to be: the drive (a vehicle's number, or -1 for the holdout) and the frame's place in it."""

    vehicle: int
    tick: int


def seats(config: TownConfig) -> int:
    """Vehicles that sense on one day; more vehicles than that drive on further days."""
    return config.rsus * SENSING_PER_REGION


def frame_path(config: TownConfig, shot: Shot) -> Path:
    """Where a frame lies in the cache; the folder's name is a digest of all that decides its content."""
    drive = f"vehicle-{shot.vehicle:04d}"
    if shot.vehicle < 0:
        drive = f"holdout-{config.holdout_frames}"
    return cache_root() / f"town-{_digest(config)}" / drive / f"{shot.tick:05d}.npz"


def _digest(config: TownConfig) -> str:
    """Digest of the configuration, of this generator's source and of the versions of what it draws on."""
    kept = {k: v for k, v in asdict(config).items() if k not in ("vehicles", "frames_per_vehicle", "holdout_frames")}
    return hashlib.sha256((json.dumps(kept, sort_keys=True) + _generator_digest()).encode()).hexdigest()[:16]


@cache
def _generator_digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    sources += [Path(raycast.__file__), *sorted(Path(geometry.__file__).parent.glob("*.py"))]
    digest = hashlib.sha256("".join(version(name) for name in ("open3d", "sumo-data")).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def render(config: TownConfig, shot: Shot) -> Frame:
    """One frame, from nothing but the configuration."""
    stage, seat = _stage(replace(config, vehicles=1), _day(config, shot))
    source = f"town seed {config.seed}: " + (f"vehicle {shot.vehicle}" if shot.vehicle >= 0 else "holdout drive")
    return sense(stage, config, shot.vehicle % seats(config) if seat else 0, shot.tick, f"{source}, frame {shot.tick}")


def _day(config: TownConfig, shot: Shot) -> int:
    return -1 if shot.vehicle < 0 else shot.vehicle // seats(config)


@lru_cache(maxsize=2)
def _stage(config: TownConfig, day: int) -> tuple[Stage, bool]:
    """The stage of a day (-1 is the holdout's), and whether its vehicles have seats."""
    scenery = _scenery(config)
    plan = plan_holdout(scenery.layout, config) if day < 0 else plan_day(scenery.layout, config, day, config.frames_per_vehicle)  # fmt: skip
    return set_stage(scenery, plan), day >= 0


@lru_cache(maxsize=2)
def _scenery(config: TownConfig) -> Scenery:
    return build_scenery(plan_town(config), config.seed)


def fill_cache(config: TownConfig, shots: Sequence[Shot], workers: int) -> None:
    """Render the frames that the cache lacks. Several processes may ask for the same frames at once: one renders.

    Raises:
        DataError: the cache folder cannot be written.
    """
    if not _missing(config, shots):
        return
    folder = frame_path(config, shots[0]).parent.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _render_all(config, _missing(config, shots), workers)
    except OSError as error:
        raise not_writable(folder, error) from error


def _missing(config: TownConfig, shots: Sequence[Shot]) -> list[Shot]:
    return [shot for shot in shots if not frame_path(config, shot).is_file()]


def _render_all(config: TownConfig, shots: list[Shot], workers: int) -> None:
    processes = min(workers, -(-len(shots) // FRAMES_WORTH_A_PROCESS))
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"town (seed {config.seed})", total=len(shots))
        done = _in_processes(config, shots, processes) if processes > 1 else _here(config, shots)
        try:
            for count in done:
                progress.advance(task, count)
        except BrokenProcessPool:
            warnings.warn("town: worker processes died (is the main script guarded by `if __name__ == '__main__'`?); rendering in this process instead", stacklevel=2)  # fmt: skip
            for count in _here(config, _missing(config, shots)):
                progress.advance(task, count)


def _here(config: TownConfig, shots: Sequence[Shot]) -> Iterator[int]:
    for shot in shots:
        yield _render_chunk(config, [shot])


def _in_processes(config: TownConfig, shots: list[Shot], processes: int) -> Iterator[int]:
    """Chunks of one day's frames, so that a process seldom changes its stage."""
    shots = sorted(shots, key=lambda shot: (_day(config, shot), shot.vehicle, shot.tick))
    chunks = [shots[i : i + CHUNK_FRAMES] for i in range(0, len(shots), CHUNK_FRAMES)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs: list[Future[int]] = [pool.submit(_render_chunk, config, chunk) for chunk in chunks]
        for job in as_completed(jobs):
            yield job.result()


def _render_chunk(config: TownConfig, shots: Sequence[Shot]) -> int:
    for shot in shots:
        write_frame(frame_path(config, shot), render(config, shot))
    return len(shots)
