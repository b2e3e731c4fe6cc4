"""The town as data: drives whose frames are read on access, dealt to vehicles and a holdout."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from geometry import Frame
from perception.datasets.base import DataError, Fleet, FleetRequest, FrameSubset, Share
from perception.datasets.cache import CorruptFrame, cache_root, read_frame, write_frame
from perception.datasets.recordings import Source
from perception.datasets.root_frames import describe_root, split_root
from perception.datasets.sharing import GUARD_S
from perception.datasets.town.config import TownConfig, town_config
from perception.datasets.town.layout import plan_town
from perception.datasets.town.rendering import HOLDOUT, Shot, Store, drive_name, fill_store, render, rsu_number
from perception.datasets.town.traffic import plan_day

LICENCE: Final = "CC0-1.0 (generated); the shapes of cars and people are sumo-data's, EPL-2.0"


class TownDrive(Sequence[Frame]):
    """One camera's frames in the order of time, read from the cache; a damaged file is rendered again.

    Args:
        store: the town and where its frames lie.
        vehicle: the vehicle's number, `HOLDOUT`, or `rsu_number(rsu)`.
        frames: length of the drive.
        camera: place among the vehicle's or RSU's cameras.
    """

    licence = LICENCE

    def __init__(self, store: Store, vehicle: int, frames: int, camera: int = 0) -> None:
        self.store = store
        self.shots = tuple(Shot(vehicle, tick, camera) for tick in range(frames))
        mounts = store.config.cameras if vehicle >= HOLDOUT else store.config.rsu_cameras
        self.name = f"town/{drive_name(vehicle)}/{mounts[camera].name}"

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        path = self.store.path(self.shots[index])
        try:
            return read_frame(path)
        except CorruptFrame as error:
            warnings.warn(f"{error}; rendering it again", stacklevel=2)
        frame = render(self.store.config, self.shots[index])
        write_frame(path, frame)
        return frame


def load_town(request: FleetRequest, workers: int | None = None) -> Fleet:
    """The town that a request describes, rendered into the cache if it is not there yet.

    Args:
        request: preset, seed, number of vehicles, image size, frames; 0 leaves the preset's. Its `path` is not used.
        workers: processes that render, default one a CPU; what they render does not depend on it.

    Raises:
        DataError: unknown preset, values out of range, sumo-data missing, or a cache folder that cannot be written.
        ImportError: open3d cannot be loaded; the message says what to install.
    """
    return town_fleet(town_config(request), f"town/{request.preset}", workers, root_frames=request.root_frames)


def town_fleet(
    config: TownConfig,
    name: str = "town",
    workers: int | None = None,
    root: Path | None = None,
    root_frames: int = 0,
) -> Fleet:
    """The fleet of a configuration of one's own.

    Vehicle k drives in region k modulo the number of RSUs. The last part of each drive is its test set; the holdout is
    a drive through all regions on another day, by a vehicle that is in no share.

    Args:
        config: the town, its vehicles and their sensors.
        name: the fleet's name.
        workers: as in `load_town`.
        root: cache folder, default `cache_root()`.
        root_frames: at most so many frames of the holdout are the server's root instead, see `Fleet.root`.

    Raises:
        DataError, ImportError: as `load_town`.
    """
    store = Store(root or cache_root(), config)
    drives = [TownDrive(store, k, config.frames_per_vehicle) for k in range(config.vehicles)]
    tour = TownDrive(store, HOLDOUT, config.holdout_frames)
    shots = [shot for drive in (*drives, tour) for shot in drive.shots]
    fill_store(store, shots, workers or os.cpu_count() or 1)
    shares = tuple(_share(config, k, drive) for k, drive in enumerate(drives))
    return _fleet(config, name, shares, tour, root_frames)


def load_town_share(request: FleetRequest, vehicle: int, workers: int | None = None) -> Share:
    """What one vehicle of `load_town` holds; only its own drive is rendered.

    Raises:
        DataError: no such vehicle; and as `load_town`.
        ImportError: as `load_town`.
    """
    config = town_config(request)
    return _share(config, vehicle, town_drive(config, vehicle, workers=workers))


def load_town_holdout(request: FleetRequest, workers: int | None = None) -> Fleet:
    """What `load_town` holds out, as a fleet without vehicles; no vehicle's drive is rendered.

    Raises:
        DataError, ImportError: as `load_town`.
    """
    config = town_config(request)
    tour = town_drive(config, HOLDOUT, workers=workers)
    return _fleet(config, f"town/{request.preset}", (), tour, request.root_frames)


def town_drive(
    config: TownConfig,
    vehicle: int,
    camera: int = 0,
    workers: int | None = None,
    root: Path | None = None,
    first: int | None = None,
) -> TownDrive:
    """One camera's drive, rendered if it is not there yet: of a vehicle, the `HOLDOUT`, or an RSU (`rsu_number`).

    With `first`, only so many frames are rendered at once; others are when they are read.

    Raises:
        DataError: no such vehicle, RSU or camera; and as `load_town`.
        ImportError: as `load_town`.
    """
    mounts = config.cameras if vehicle >= HOLDOUT else config.rsu_cameras
    if not (0 <= camera < len(mounts) and rsu_number(config.rsus) < vehicle < config.vehicles):
        raise DataError(
            f"town: no camera {camera} of {drive_name(vehicle)}; there are {config.vehicles} vehicles, {config.rsus} "
            f"RSUs, and {len(mounts)} cameras on each"
        )
    frames = config.holdout_frames if vehicle == HOLDOUT else config.frames_per_vehicle
    drive = TownDrive(Store(root or cache_root(), config), vehicle, frames, camera)
    fill_store(drive.store, drive.shots[:first], workers or os.cpu_count() or 1)
    return drive


def moving_drive(
    config: TownConfig, frames: int, apart_m: float, workers: int | None = None, root: Path | None = None
) -> FrameSubset:
    """The first frames of vehicle 0 between which it moves; only these are rendered. There may be fewer.

    A vehicle that waits at a light sees the same picture again and again, from which no scene can be learned.

    Args:
        config: the town; `frames_per_vehicle` is as far as is looked.
        frames: at most so many.
        apart_m: from one to the next, at least.
        workers, root: as in `town_fleet`.

    Raises:
        DataError, ImportError: as `load_town`.
    """
    day = plan_day(plan_town(config), config, 0, config.frames_per_vehicle, 0)
    track_m = day.actors[day.sensing[0]].track[:, :2]
    ticks = [0]
    for tick in range(len(track_m)):
        if len(ticks) < frames and np.hypot(*(track_m[tick] - track_m[ticks[-1]])) >= apart_m:
            ticks.append(tick)
    drive = TownDrive(Store(root or cache_root(), config), 0, config.frames_per_vehicle)
    fill_store(drive.store, [drive.shots[tick] for tick in ticks], workers or os.cpu_count() or 1)
    return FrameSubset(drive, ticks)


def _fleet(config: TownConfig, name: str, shares: tuple[Share, ...], tour: TownDrive, root_frames: int) -> Fleet:
    times = [shot.tick / config.rate_hz for shot in tour.shots]
    (holdout,), (root,) = split_root([Source("holdout", "town", tour, times)], root_frames, GUARD_S)
    rsus = ", ".join(f"rsu-{r} ({x:.0f}, {y:.0f})" for r, (x, y) in enumerate(plan_town(config).rsus_m))
    notes = (f"RSUs stand at (east, north) in metres: {rsus}", *describe_root([root], GUARD_S))
    return Fleet(name, LICENCE, shares, holdout.frames, notes, root.frames)


def _share(config: TownConfig, vehicle: int, drive: TownDrive) -> Share:
    frames = len(drive)
    held_back = min(max(round(config.test_share * frames), 1), frames - 1)
    train = FrameSubset(drive, range(frames - held_back))
    test = FrameSubset(drive, range(frames - held_back, frames))
    return Share(f"vehicle-{vehicle}", f"rsu-{vehicle % config.rsus}", train, test)
