"""Root frames: the few labelled frames that a server trains on itself, for rules that compare updates with its own.

Nothing is evaluated on them, nor on frames of the same scene (Cao et al. 2021, "FLTrust", section 4, has the server
collect its root data set apart from everything else).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perception.datasets.base import DataError
from perception.datasets.recordings import Part, Source

ROOT_NOTE = (
    "Frames that the server keeps for its rule of aggregation: {}, spread over what is held out. Nobody is evaluated "
    "on them or on frames less than {} s from one."
)


def split_root(sources: Sequence[Source], count: int, guard_s: float) -> tuple[list[Source], list[Source]]:
    """Divides held-out sequences into frames to evaluate on and at most `count` root frames.

    Frames less than `guard_s` from a root frame of their sequence are in neither.

    Raises:
        DataError: `count` is not 0 and no frame can be spared.
    """
    owners = [[0] * len(source.frames) for source in sources]
    if not count:
        return list(sources), [source.select([]) for source in sources]
    chosen = select_root([source.timestamps_s for source in sources], _regions(sources), owners, count, guard_s)
    pairs = list(zip(sources, chosen, strict=True))
    return [source.select(rest) for source, (_, rest) in pairs], [source.select(root) for source, (root, _) in pairs]


def take_root(parts: Sequence[Part], count: int, guard_s: float) -> tuple[list[Part], list[Source]]:
    """Takes at most `count` root frames out of the test frames of parts, each of which keeps a test frame at least.

    Raises:
        DataError: `count` is not 0 and no frame can be spared.
    """
    sources = list(dict.fromkeys(part.source for part in parts))
    owned = [[part for part in parts if part.source is source] for source in sources]
    tests = [[index for part in own for index in part.test] for own in owned]
    times = [[source.timestamps_s[index] for index in test] for source, test in zip(sources, tests, strict=True)]
    owners = [[place for place, part in enumerate(own) for _ in part.test] for own in owned]
    chosen = select_root(times, _regions(sources), owners, count, guard_s)
    root = [
        source.select([test[i] for i in picks]) for source, test, (picks, _) in zip(sources, tests, chosen, strict=True)
    ]
    kept = {source: {test[i] for i in rest} for source, test, (_, rest) in zip(sources, tests, chosen, strict=True)}
    return [replace(part, test=[index for index in part.test if index in kept[part.source]]) for part in parts], root


def select_root(
    times_s: Sequence[Sequence[float]],
    regions: Sequence[str],
    owners: Sequence[Sequence[int]],
    count: int,
    guard_s: float,
) -> list[tuple[list[int], list[int]]]:
    """Selects root frames, region after region in turn, and for each sequence its indices (root, still held out).

    Args:
        times_s: of the held-out frames of each sequence.
        regions: of each sequence.
        owners: who is tested on each frame of each sequence.
        count: root frames at most.
        guard_s: no frame nearer than this to a root frame stays held out.

    Raises:
        DataError: `count` is not 0 and no frame can be spared.
    """
    chosen: list[tuple[list[int], list[int]]] = [([], list(range(len(times)))) for times in times_s]
    order = sorted(range(len(regions)), key=lambda i: (list(regions[:i]).count(regions[i]), i))
    grown = True
    while grown:
        grown = False
        for i in order:
            if sum(len(root) for root, _ in chosen) == count:
                return chosen
            more = spare_frame(times_s[i], owners[i], chosen[i][0], guard_s)
            if more is not None:
                chosen[i], grown = more, True
    if not any(root for root, _ in chosen):
        raise DataError(
            "the rules fltrust and validated-mean take frames of the server's own; no held-out frame can be spared: "
            "give more data, ask for fewer vehicles, or name a folder of frames in holdout-path"
        )
    return chosen


def spare_frame(
    times_s: Sequence[float], owners: Sequence[int], root: Sequence[int], guard_s: float
) -> tuple[list[int], list[int]] | None:
    """Adds to a sequence's root the frame that lies farthest from it, or at first the one with the fewest neighbours.

    Returns the root's indices and those at least `guard_s` from all of them; None where any choice leaves fewer than
    half of the frames, or an owner without a frame.
    """
    times = np.asarray(times_s, dtype=np.float64)
    away_s = np.abs(times[:, None] - times[list(root)]).min(axis=1, initial=np.inf)
    held_out = away_s >= guard_s
    kept = np.concatenate([[0], held_out.cumsum()])
    near = [np.searchsorted(times, times - guard_s, "right"), np.searchsorted(times, times + guard_s, "left")]
    left = kept[-1] - (kept[near[1]] - kept[near[0]])
    best_first = np.lexsort((np.arange(len(times)), -left, -away_s))
    for pick in best_first[held_out[best_first] & (2 * left[best_first] >= len(times))].tolist():
        rest = np.flatnonzero(held_out & (np.abs(times - times[pick]) >= guard_s)).tolist()
        if {owners[i] for i in rest} == set(owners):
            return sorted([*root, pick]), rest
    return None


def describe_root(root: Sequence[Source], guard_s: float) -> tuple[str, ...]:
    """Makes a note on the root frames, if there are any."""
    found = sum(len(source.frames) for source in root)
    return (ROOT_NOTE.format(found, guard_s),) if found else ()


def _regions(sources: Sequence[Source]) -> list[str]:
    return [source.region for source in sources]
