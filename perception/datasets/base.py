"""The seam between data and everything that learns from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from geometry import Frame


@runtime_checkable
class Dataset(Protocol):
    """A `Sequence[Frame]` that reads frames on access, with a name and a licence."""

    name: str
    licence: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


class DataError(ValueError):
    """A data file is missing or unreadable; the message names the file, the field and the remedy."""


@dataclass(frozen=True)
class FleetRequest:
    """What a federated run asks of a data set.

    Args:
        path: root folder of the data; None for generated data or the folder that `CONVOY_DATA` implies.
        vehicles: number of vehicles to share the data among.
        seed: decides everything random.
        size_px: (height, width) of generated images; real images keep their own size.
        frames_per_vehicle: upper bound, or 0 for all there are.
        preset: for generated data, the name of the world.
        root_frames: upper bound of the frames in `Fleet.root`; 0, so that all held-out frames are evaluated on, unless
            an aggregation rule trains on frames of the server's own.
    """

    path: Path | None = None
    vehicles: int = 6
    seed: int = 0
    size_px: tuple[int, int] = (128, 384)
    frames_per_vehicle: int = 0
    preset: str = "village"
    root_frames: int = 0


@dataclass(frozen=True)
class Share:
    """What one vehicle holds: its frames to learn from and to be judged on, and the region that it drives in."""

    vehicle: str
    region: str
    train: Sequence[Frame]
    test: Sequence[Frame]


@dataclass(frozen=True)
class Fleet:
    """A data set divided among vehicles, with frames that no vehicle has trained on for the cloud to judge on.

    Args:
        name, licence: of the data set.
        shares: one a vehicle; none where a server holds its own frames alone.
        holdout: frames that the global model is evaluated on.
        notes: what a user should know of the division.
        root: frames that the server trains on itself, spread over the regions. Nobody else holds them, and no frame
            that the server or a vehicle evaluates on is of the same scene (`sharing.GUARD_S`).
    """

    name: str
    licence: str
    shares: tuple[Share, ...]
    holdout: Sequence[Frame]
    notes: tuple[str, ...] = field(default=())
    root: Sequence[Frame] = field(default=())


class FrameSubset(Sequence[Frame]):
    """Chosen frames of a data set, read on access."""

    def __init__(self, frames: Sequence[Frame], indices: Sequence[int]) -> None:
        self._frames, self._indices = frames, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        return self._frames[self._indices[index]]
