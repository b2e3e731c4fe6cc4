"""Divides recorded sequences among vehicles, in blocks of time that keep test frames apart from training frames."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from geometry import Frame
from perception.datasets.base import DataError, Fleet, FleetRequest, Share
from perception.datasets.names import vehicle_names
from perception.datasets.recordings import MIN_FRAMES, Part, Recordings, Source, limit_frames, usable_sources
from perception.datasets.root_frames import describe_root, split_root, take_root

TEST_FRACTION = 0.25
GUARD_S = 0.5
SPLIT_NOTES = (
    "A vehicle's test frames are a quarter of its frames: the last in time, or the first in every second part of a "
    f"sequence. Training frames less than {GUARD_S} s from a test frame are dropped.",
    "The holdout is the union of the vehicles' test frames: nobody trains on them.",
)


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


def divide_fleet(recordings: Recordings, request: FleetRequest) -> Fleet:
    """Divides recordings among vehicles; the holdout is the validation set or, without one, all test frames.

    Root frames are taken out of the holdout, and so out of the vehicles' test frames where these make it up.

    Raises:
        DataError: no usable sequence, too few frames for so many vehicles, or none that can be spared for the root.
    """
    sources, left_out = usable_sources(recordings, recordings.sources)
    parts = divide_sources(sources, request)
    if recordings.validation:
        holdout, root = split_root(recordings.validation, request.root_frames, GUARD_S)
        split_notes = (SPLIT_NOTES[0], recordings.validation_note)
    else:
        parts, root = take_root(parts, request.root_frames, GUARD_S)
        holdout = [part.source.select(part.test) for part in parts]
        split_notes = SPLIT_NOTES
    names = vehicle_names([part.name for part in parts])
    shares = tuple(_share(name, part) for name, part in zip(names, parts, strict=True))
    notes = (*recordings.notes, *left_out, *split_notes, *describe_root(root, GUARD_S))
    return _fleet(recordings, shares, holdout, root, notes)


def own_share(recordings: Recordings, vehicle: str, region: str, limit: int = 0) -> Share:
    """Gives one vehicle all frames of a folder of its own; each sequence is split in time as in `divide_fleet`.

    Args:
        recordings: what the folder holds.
        vehicle: the vehicle's name.
        region: where it drives; "" for the region of most of its frames.
        limit: upper bound of frames, or 0 for all there are.

    Raises:
        DataError: no usable sequence, or the guard between test and training leaves nothing to train on.
    """
    sources = limit_frames(usable_sources(recordings, recordings.everything)[0], limit)
    blocks = [(source, *time_blocks(source.timestamps_s, 1, 0, GUARD_S)[0]) for source in sources]
    train = [source.select(chosen) for source, chosen, _ in blocks]
    test = [source.select(chosen) for source, _, chosen in blocks]
    if not any(source.timestamps_s for source in train):
        raise DataError(
            f"{recordings.where}: all training frames of vehicle {vehicle} are less than {GUARD_S} s from a test "
            "frame; give it longer sequences"
        )
    licence = recordings.licence
    return Share(vehicle, region or _main_region(sources), _join("train", licence, train), _join("test", licence, test))


def holdout_fleet(recordings: Recordings, root_frames: int = 0) -> Fleet:
    """Makes a fleet without vehicles of a folder: all its frames are held out, but for those of the root.

    Raises:
        DataError: no labelled frame, or none that can be spared for the root.
    """
    if not recordings.everything:
        raise DataError(f"{recordings.where}: no labelled frame of {recordings.name}; {recordings.remedy}")
    holdout, root = split_root(recordings.everything, root_frames, GUARD_S)
    return _fleet(recordings, (), holdout, root, (*recordings.notes, *describe_root(root, GUARD_S)))


def divide_sources(sources: Sequence[Source], request: FleetRequest, guard_s: float = GUARD_S) -> list[Part]:
    """Makes one part a vehicle; `request.vehicles` 0 asks for one a sequence.

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
    return [
        part
        for source, count in zip(chosen, counts, strict=True)
        for part in _parts_of(source, count, request.frames_per_vehicle, guard_s)
    ]


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


def _parts_of(source: Source, count: int, limit: int, guard_s: float) -> list[Part]:
    parts = []
    for place, (train, test) in enumerate(time_blocks(source.timestamps_s, count, limit, guard_s), start=1):
        name = source.name if count == 1 else f"{source.name}-{place}"
        if not train:
            raise DataError(
                f"vehicle {name}: in {count} parts of {source.name} all its training frames are less than {guard_s} s "
                "from a test frame; ask for fewer vehicles"
            )
        parts.append(Part(name, source, train, test))
    return parts


def _share(vehicle: str, part: Part) -> Share:
    train, test = part.source.select(part.train), part.source.select(part.test)
    return Share(vehicle, part.source.region, train.frames, test.frames)


def _fleet(
    recordings: Recordings,
    shares: tuple[Share, ...],
    holdout: Sequence[Source],
    root: Sequence[Source],
    notes: tuple[str, ...],
) -> Fleet:
    name, licence = recordings.name, recordings.licence
    judged = _join(f"{name} holdout", licence, holdout)
    return Fleet(name, licence, shares, judged, notes, _join(f"{name} root", licence, root))


def _join(name: str, licence: str, sources: Sequence[Source]) -> Concatenated:
    return Concatenated(name, licence, [source.frames for source in sources])


def _main_region(sources: Sequence[Source]) -> str:
    frames = Counter[str]()
    for source in sources:
        frames[source.region] += len(source.frames)
    return frames.most_common(1)[0][0]
