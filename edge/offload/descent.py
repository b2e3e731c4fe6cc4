"""Relocate and swap: the best move of every start of a batch at once, until none of them has one that gains."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy import ndarray

_NEVER: Final = np.float32(1e6)
_GAIN: Final = 1e-5  # of a weight of about 1: what is told from rounding
_SHRINK: Final = 0.7  # starts that are done leave the batch when no more than this share of it goes on


def descend(
    weights: Float32[ndarray, "n n"],
    labels: Int[ndarray, "s n"],
    capacities: Int[ndarray, "s m"],
    allowed: Bool[ndarray, "s n m"] | None = None,
    most_moves: int = 500,
) -> tuple[Int[ndarray, "s n"], Float32[ndarray, "s"]]:
    """Labels from which no move of one user and no swap of two gains, and the sums of weights within their clusters.

    Args:
        weights: symmetric, 0 or more, largest about 1.
        labels: cluster of each user, m for none; within capacities and allowed.
        capacities: places of each cluster.
        allowed: whether a user may be in a cluster; None allows all.
        most_moves: of one start.
    """
    state = _State(weights, labels.copy(), capacities, allowed)
    done_labels, done_values = labels.copy(), np.zeros(len(labels), dtype=np.float32)
    running = np.arange(len(labels))
    for _ in range(most_moves):
        gaining = state.move()
        if gaining.mean() <= _SHRINK:
            done = ~gaining
            done_labels[running[done]], done_values[running[done]] = state.labels[done], state.values()[done]
            running = running[gaining]
            state.keep(gaining)
        if not len(running):
            break
    done_labels[running], done_values[running] = state.labels, state.values()
    return done_labels, done_values


class _State:
    """Labels with what every user is tied to every cluster by, changed move by move."""

    def __init__(
        self,
        weights: Float32[ndarray, "n n"],
        labels: Int[ndarray, "s n"],
        capacities: Int[ndarray, "s m"],
        allowed: Bool[ndarray, "s n m"] | None,
    ) -> None:
        starts, users = labels.shape
        none = self.none = capacities.shape[1]
        self.weights, self.labels = weights, labels
        self.ties = np.concatenate([weights, np.zeros((1, users), dtype=np.float32)])
        member = self._member(labels)
        self.tie = np.matmul(member, weights)
        self.tie[:, none] = 0
        if allowed is not None:
            self.tie[:, :none] -= np.where(allowed, np.float32(0), _NEVER).swapaxes(1, 2)
        sizes = member.sum(axis=2).astype(np.int64)
        self.places = np.concatenate([capacities, np.full((starts, 1), users + 1)], axis=1) - sizes

    def values(self) -> Float32[ndarray, "s"]:
        return self._own()[:, 0].sum(axis=1) / 2

    def keep(self, chosen: Bool[ndarray, "s"]) -> None:
        """Leave out the other starts."""
        self.labels, self.tie, self.places = self.labels[chosen], self.tie[chosen], self.places[chosen]

    def move(self) -> Bool[ndarray, "s"]:
        """Relocate a user in every start where that gains, else swap two where that does; tells which moved."""
        starts, users = self.labels.shape
        rows = np.arange(starts)
        change = self.tie - self._own()
        full = np.where(self.places > 0, np.float32(0), _NEVER)[:, :, None]
        moves = (change - full).reshape(starts, -1)
        move = moves.argmax(axis=1)
        gaining = moves[rows, move] > _GAIN
        target, first = np.divmod(move, users)
        second = np.full(starts, users)  # stands for nobody
        rest = np.flatnonzero(~gaining)
        if len(rest):
            swaps = self._swaps(rest, change[rest]).reshape(len(rest), -1)
            swap = swaps.argmax(axis=1)
            gaining[rest] = swaps[rows[: len(rest)], swap] > _GAIN
            second[rest], first[rest] = np.divmod(swap, users)
            target[rest] = self.labels[rest, second[rest]]
        self._exchange(rows[gaining], first[gaining], second[gaining], target[gaining])
        return gaining

    def _member(self, labels: Int[ndarray, "s n"]) -> Float32[ndarray, "s c n"]:
        return (labels[:, None] == np.arange(self.none + 1)[:, None]).astype(np.float32)

    def _own(self) -> Float32[ndarray, "s 1 n"]:
        starts, users = self.labels.shape
        first = np.arange(starts)[:, None] * (self.none + 1) * users + np.arange(users)
        return self.tie.reshape(-1).take(first + self.labels * users)[:, None]

    def _swaps(self, rows: Int[ndarray, "k"], change: Float32[ndarray, "k c n"]) -> Float32[ndarray, "k n n"]:
        """Gain of swapping the clusters of two users; not positive for two of the same cluster."""
        labels = self.labels[rows]
        half = np.matmul(self._member(labels).swapaxes(1, 2), change)
        assigned = labels < self.none
        # A tie between the two is lost to each of them who comes to a cluster that the other leaves.
        half -= self.weights if assigned.all() else self.weights * assigned[:, :, None]
        return half + half.swapaxes(1, 2)

    def _exchange(
        self, row: Int[ndarray, "k"], first: Int[ndarray, "k"], second: Int[ndarray, "k"], target: Int[ndarray, "k"]
    ) -> None:
        """Send `first` to `target` and, unless it is nobody, `second` from there to where `first` was."""
        source = self.labels[row, first]
        tie = self.ties[first] - self.ties[second]
        self.tie[row, source] -= tie
        self.tie[row, target] += tie
        self.tie[:, self.none] = 0
        self.labels[row, first] = target
        swapped = second < self.labels.shape[1]
        self.labels[row[swapped], second[swapped]] = source[swapped]
        self.places[row, source] += ~swapped
        self.places[row, target] -= ~swapped
