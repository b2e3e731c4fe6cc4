"""The town as data: drives whose frames are read on access, dealt to vehicles and a holdout."""

import os
import warnings
from collections.abc import Sequence
from typing import Final

from geometry import Frame
from perception.datasets.base import Fleet, FleetRequest, FrameSubset, Share
from perception.datasets.cache import CorruptFrame, read_frame, write_frame
from perception.datasets.town.config import TownConfig, town_config
from perception.datasets.town.rendering import Shot, fill_cache, frame_path, render

LICENCE: Final = "CC0-1.0 (generated); shapes of cars and people from sumo-data, EPL-2.0"
HOLDOUT: Final = -1


class TownDrive(Sequence[Frame]):
    """One vehicle's frames in the order of time, read from the cache; a damaged file is rendered again.

    Args:
        config: the town.
        vehicle: its number, or `HOLDOUT`.
        frames: length of the drive.
    """

    licence = LICENCE

    def __init__(self, config: TownConfig, vehicle: int, frames: int) -> None:
        self.config, self.vehicle, self._frames = config, vehicle, frames
        self.name = "town/holdout" if vehicle == HOLDOUT else f"town/vehicle-{vehicle}"

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        shot = Shot(self.vehicle, range(self._frames)[index])
        path = frame_path(self.config, shot)
        try:
            return read_frame(path)
        except CorruptFrame as error:
            warnings.warn(f"{error}; rendering it again", stacklevel=2)
            frame = render(self.config, shot)
            write_frame(path, frame)
            return frame


def load_town(request: FleetRequest, workers: int | None = None) -> Fleet:
    """The town that a request describes, rendered into the cache if it is not there yet.

    Vehicle k drives in region k modulo the number of RSUs. The last part of each drive is its test set; the holdout is
    a drive through all regions on another day, by a vehicle that is in no share.

    Args:
        request: preset, seed, number of vehicles, image size, frames; its `path` is not used.
        workers: processes that render, default one a CPU; what they render does not depend on it.

    Raises:
        DataError: unknown preset, values out of range, sumo-data missing, or a cache folder that cannot be written.
    """
    config = town_config(request)
    drives = [TownDrive(config, k, config.frames_per_vehicle) for k in range(config.vehicles)]
    holdout = TownDrive(config, HOLDOUT, config.holdout_frames)
    shots = [Shot(drive.vehicle, i) for drive in (*drives, holdout) for i in range(len(drive))]
    fill_cache(config, shots, workers or os.cpu_count() or 1)
    shares = tuple(_share(config, drive) for drive in drives)
    notes = (f"{config.rsus} regions, {config.frames_per_vehicle} frames a vehicle at {config.rate_hz:g} Hz",)
    return Fleet(f"town/{request.preset}", LICENCE, shares, holdout, notes)


def _share(config: TownConfig, drive: TownDrive) -> Share:
    frames = len(drive)
    held_back = min(max(round(config.test_share * frames), 1), frames - 1)
    train = FrameSubset(drive, range(frames - held_back))
    test = FrameSubset(drive, range(frames - held_back, frames))
    return Share(f"vehicle-{drive.vehicle}", f"rsu-{drive.vehicle % config.rsus}", train, test)
