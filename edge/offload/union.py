"""Local search on any value of clusters, such as the union that their members see: relocate and swap, one at a time.

The pairwise sum counts a place twice that two others see. An assignment that is good for it is a good start for what is
meant, and a few moves mend the rest.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from edge.offload.capacity import assignment_of, places
from edge.offload.heuristic import SearchConfig, solve
from edge.offload.model import UNASSIGNED, Assignment, ClusterValue, Slot
from edge.offload.post import rematch

_GAIN: Final = 1e-9


@dataclass(frozen=True, eq=False)
class UnionPolicy:
    """The policy: our heuristic for pairs, then moves that raise the value of clusters.

    Args:
        cluster_value: of clusters of the very slot that is assigned.
        config, seed: of the heuristic.
        passes: over all users at most.
    """

    cluster_value: ClusterValue
    config: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 0
    passes: int = 5

    def assign(self, slot: Slot) -> Assignment:
        """An assignment that no single move makes better, unless the passes end first."""
        worker = raise_value(slot, solve(slot, self.config, self.seed), self.cluster_value, self.passes)
        return assignment_of(slot, rematch(slot, without_gain(slot, worker, self.cluster_value)))


def raise_value(
    slot: Slot, worker: Int[ndarray, "n"], cluster_value: ClusterValue, passes: int = 5
) -> Int[ndarray, "n"]:
    """Take for one user after the other the best move: to another cluster, or in exchange for one of its members.

    Args:
        slot: head-counts are kept.
        worker: of each user, feasible; `UNASSIGNED` for none.
        cluster_value: see `ClusterValue`.
        passes: over all users at most.
    """
    clusters = _Clusters(slot, worker, cluster_value)
    for _ in range(passes):
        if not sum(clusters.improve(user) for user in range(len(slot))):
            break
    return clusters.worker


def without_gain(slot: Slot, worker: Int[ndarray, "n"], cluster_value: ClusterValue) -> Int[ndarray, "n"]:
    """Leave out users without whom their cluster is worth as much, one after the other."""
    worker = worker.copy()
    for user in np.flatnonzero(worker != UNASSIGNED).tolist():
        members = np.flatnonzero(worker == worker[user])
        whole, rest = cluster_value([members, members[members != user]])
        if rest >= whole - _GAIN:
            worker[user] = UNASSIGNED
    return worker


class _Clusters:
    def __init__(self, slot: Slot, worker: Int[ndarray, "n"], cluster_value: ClusterValue) -> None:
        self.most, self.worker, self.cluster_value = places(slot), worker.copy(), cluster_value
        self.related = slot.pair_value > 0
        self.known: dict[bytes, float] = {}

    def improve(self, user: int) -> bool:
        """Make the best move of a user, if one gains."""
        moves = self._moves(user)
        if not moves:
            return False
        gains = self._gains(moves)
        best = int(gains.argmax())
        if gains[best] <= _GAIN:
            return False
        for member, target in moves[best].items():
            self.worker[member] = target
        return True

    def _moves(self, user: int) -> list[dict[int, int]]:
        """New workers of one or two users: where somebody related to the user is, with or without an exchange."""
        here, moves = int(self.worker[user]), []
        for target in np.unique(self.worker[self.related[user]]).tolist():
            if target in (here, UNASSIGNED):
                continue
            members = np.flatnonzero(self.worker == target).tolist()
            moves += [{user: target}, *({user: target, other: here} for other in members)]
            moves += [{user: target, other: UNASSIGNED} for other in members if here != UNASSIGNED]
        return [move for move in moves if self._fits(move)]

    def _fits(self, move: dict[int, int]) -> bool:
        worker = self._after(move)
        for target in set(move.values()) - {UNASSIGNED}:
            members = np.flatnonzero(worker == target)
            if (self.most[members, target] < len(members)).any():
                return False
        return True

    def _after(self, move: dict[int, int]) -> Int[ndarray, "n"]:
        worker = self.worker.copy()
        worker[list(move)] = list(move.values())
        return worker

    def _gains(self, moves: list[dict[int, int]]) -> Float[ndarray, "k"]:
        wanted = [self._touched(move) for move in moves]
        new = {members.tobytes(): members for before, after in wanted for members in before + after}
        new = {key: members for key, members in new.items() if key not in self.known}
        if new:
            self.known |= dict(zip(new, self.cluster_value(list(new.values())).tolist(), strict=True))
        return np.array([self._sum(after) - self._sum(before) for before, after in wanted])

    def _touched(self, move: dict[int, int]) -> tuple[list[Int[ndarray, "_"]], list[Int[ndarray, "_"]]]:
        """The clusters that change, before and after."""
        after = self._after(move)
        touched = ({int(self.worker[user]) for user in move} | set(move.values())) - {UNASSIGNED}
        return [np.flatnonzero(self.worker == one) for one in touched], [
            np.flatnonzero(after == one) for one in touched
        ]

    def _sum(self, clusters: list[Int[ndarray, "_"]]) -> float:
        return sum(self.known[members.tobytes()] for members in clusters)
