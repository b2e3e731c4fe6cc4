"""Dividing recorded sequences among vehicles, in blocks of time that keep test frames apart from training frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geometry import Frame
from perception.datasets.base import DataError, FleetRequest, FrameSubset, Share

TEST_FRACTION = 0.25
GUARD_S = 0.5
MIN_FRAMES = 2
SPLIT_NOTES = (
    "A vehicle's test frames are a quarter of its frames: the last in time, or the first in every second part of a "
    f"sequence. Training frames less than {GUARD_S} s from a test frame are dropped.",
    "The holdout is the union of the vehicles' test frames: nobody trains on them.",
)


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


class Concatenated(Sequence[Frame]):
    """Several sequences of frames, one after another, read on access."""

    def __init__(self, name: str, licence: str, parts: Sequence[Sequence[Frame]]) -> None:
        self.name, self.licence = name, licence
        self._where = tuple((part, index) for part in parts for index in range(len(part)))

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        part, inner = self._where[index]
        return part[inner]


def share_out(sources: Sequence[Source], request: FleetRequest, guard_s: float = GUARD_S) -> tuple[Share, ...]:
    """One share a vehicle; `request.vehicles` 0 asks for one a sequence.

    Each part of a sequence gives a quarter of its frames, a block in time, to its test set: the last quarter, or the
    first for every second part, so that test blocks of neighbours meet. Training frames less than `guard_s` from any
    test frame of the same sequence are dropped, since they show the same scene.

    Raises:
        DataError: fewer than two frames a vehicle, or the guard leaves nothing to train on.
    """
    if request.vehicles < 0 or 0 < request.frames_per_vehicle < MIN_FRAMES:
        raise DataError(
            f"vehicles is {request.vehicles} and frames-per-vehicle {request.frames_per_vehicle}; want 0 (one "
            f"a sequence) or more vehicles, and 0 (all) or at least {MIN_FRAMES} frames: one to train on, one to test"
        )
    vehicles = request.vehicles or len(sources)
    chosen = list(sources[:vehicles])
    counts = parts_per_source([len(source.frames) for source in chosen], vehicles)
    return tuple(
        share
        for source, parts in zip(chosen, counts, strict=True)
        for share in _shares_of(source, parts, request.frames_per_vehicle, guard_s)
    )


def parts_per_source(lengths: Sequence[int], vehicles: int) -> list[int]:
    """How many vehicles each sequence serves: one, then one more where parts are longest; at least 2 frames a part.

    Raises:
        DataError: there are fewer frames than that takes.
    """
    limit = sum(length // MIN_FRAMES for length in lengths)
    if vehicles > limit or not lengths:
        raise DataError(
            f"{vehicles} vehicles need at least {MIN_FRAMES} frames each; these sequences of {list(lengths)} frames "
            f"serve at most {limit}: ask for fewer vehicles or give more data"
        )
    parts = [1] * len(lengths)
    while sum(parts) < vehicles:
        room = [
            length / k if length // (k + 1) >= MIN_FRAMES else 0.0 for length, k in zip(lengths, parts, strict=True)
        ]
        parts[int(np.argmax(room))] += 1
    return parts


def time_blocks(
    timestamps_s: Sequence[float], parts: int, limit: int, guard_s: float
) -> list[tuple[list[int], list[int]]]:
    """Indices (train, test) of each contiguous part of a sequence; `limit` caps the frames of a part unless it is 0."""
    times = np.asarray(timestamps_s, dtype=np.float64)
    blocks = []
    for place, part in enumerate(np.array_split(np.arange(len(times)), parts)):
        if limit and limit < len(part):
            part = part[np.linspace(0, len(part) - 1, limit).round().astype(int)]
        tests = max(1, round(TEST_FRACTION * len(part)))
        blocks.append((part[:-tests], part[-tests:]) if place % 2 == 0 else (part[tests:], part[:tests]))
    test_times = times[np.concatenate([test for _, test in blocks])]
    far = (np.abs(times[:, None] - test_times) >= guard_s).all(axis=1)
    return [(train[far[train]].tolist(), test.tolist()) for train, test in blocks]


def _shares_of(source: Source, parts: int, limit: int, guard_s: float) -> list[Share]:
    shares = []
    for place, (train, test) in enumerate(time_blocks(source.timestamps_s, parts, limit, guard_s), start=1):
        name = source.name if parts == 1 else f"{source.name}-{place}"
        if not train:
            raise DataError(
                f"vehicle {name}: in {parts} parts of {source.name} all its training frames are less than {guard_s} s "
                "from a test frame; ask for fewer vehicles"
            )
        shares.append(Share(name, source.region, FrameSubset(source.frames, train), FrameSubset(source.frames, test)))
    return shares
