"""What a folder of recorded data holds, before it is divided: labelled sequences in order of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from geometry import Frame
from perception.datasets.base import DataError, FrameSubset

MIN_FRAMES: Final = 2  # of a sequence: one to train on, one to be tested on


@dataclass(frozen=True, eq=False)
class Source:
    """A sequence in order of time, recorded by one vehicle.

    Args:
        name: becomes the vehicle's name, with "-1", "-2", ... where several vehicles share the sequence.
        region: the RSU that it drives under.
        frames: the frames.
        timestamps_s: their times, so that none needs to be read for splitting.
    """

    name: str
    region: str
    frames: Sequence[Frame]
    timestamps_s: Sequence[float]

    def select(self, indices: Sequence[int]) -> "Source":
        """The source with some of its frames only."""
        times = [self.timestamps_s[index] for index in indices]
        return replace(self, frames=FrameSubset(self.frames, indices), timestamps_s=times)


@dataclass(frozen=True, eq=False)
class Recordings:
    """The labelled sequences of a folder.

    Args:
        name, licence: of the data set.
        where: the folder, for messages.
        sources: sequences to learn from.
        remedy: what to do where there are none.
        validation: sequences that the data set itself holds out.
        notes: what a user should know of this copy.
        validation_note: the same of `validation`.
    """

    name: str
    licence: str
    where: str
    sources: tuple[Source, ...]
    remedy: str
    validation: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    validation_note: str = ""

    @property
    def everything(self) -> tuple[Source, ...]:
        """All sequences that hold a frame, whatever the data set means them for."""
        return tuple(source for source in (*self.sources, *self.validation) if len(source.frames))


@dataclass(frozen=True, eq=False)
class Part:
    """A block in time of a sequence: what one vehicle trains on and is tested on, as indices into the sequence."""

    name: str
    source: Source
    train: Sequence[int]
    test: Sequence[int]


def usable_sources(recordings: Recordings, sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Selects sequences with a frame to train on and one to test on, and makes notes on those left out.

    Raises:
        DataError: there is none.
    """
    usable = [source for source in sources if len(source.frames) >= MIN_FRAMES]
    if not usable:
        raise DataError(
            f"{recordings.where}: no sequence of {recordings.name} with {MIN_FRAMES} labelled frames; "
            f"{recordings.remedy}"
        )
    short = [source for source in sources if len(source.frames) < MIN_FRAMES]
    return usable, [
        f"{source.name} is left out: {len(source.frames)} labelled frames, want at least {MIN_FRAMES}."
        for source in short
    ]


def limit_frames(sources: Sequence[Source], limit: int) -> list[Source]:
    """Selects at most `limit` frames, unless it is 0, of sequences that keep `MIN_FRAMES` or more each.

    Raises:
        DataError: the limit is below `MIN_FRAMES`.
    """
    if not limit or limit >= sum(len(source.frames) for source in sources):
        return list(sources)
    if limit < MIN_FRAMES:
        raise DataError(f"frames-per-vehicle is {limit}; want 0 (all) or at least {MIN_FRAMES}")
    count = min(len(sources), limit // MIN_FRAMES)
    kept = [sources[i] for i in spread_indices(len(sources), count)]
    quotas = np.diff(np.linspace(0, limit, count + 1).round().astype(int)).tolist()
    return [
        source.select(spread_indices(len(source.frames), quota)) for source, quota in zip(kept, quotas, strict=True)
    ]


def spread_indices(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, in order and spread evenly from first to last."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()
