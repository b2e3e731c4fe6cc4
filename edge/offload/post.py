"""What is mended once the clusters are found: nobody without gain, nobody together in vain, large ones at fast workers.

None of it changes the value of an assignment; it lowers delays and saves uplinks.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from edge.offload.capacity import places
from edge.offload.model import UNASSIGNED, Slot

_LEAST_S: Final = 1e-9


def tidy(slot: Slot, worker: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """`without_idle`, then `spread`, then `rematch`."""
    return rematch(slot, spread(slot, without_idle(slot, worker)))


def without_idle(slot: Slot, worker: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Leave out who gains nothing from its cluster and gives nothing to it."""
    same = (worker[:, None] == worker) & (worker != UNASSIGNED)
    return np.where((slot.pair_value * same).sum(axis=1) > 0, worker, UNASSIGNED)


def spread(slot: Slot, worker: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Move parts of clusters that have nothing from each other to workers without users, where that lowers delays."""
    worker, most = worker.copy(), places(slot)
    parts = _parts(slot, worker)
    while True:
        idle = np.setdiff1d(np.arange(len(slot.workers)), worker)
        if not len(idle) or not len(parts):
            return worker
        late = np.array([most[part][:, idle].min(axis=0) < len(part) for part in parts])
        saved_s = np.where(late, -np.inf, _saved_s(slot, worker, parts, idle))
        part, one = np.unravel_index(int(saved_s.argmax()), saved_s.shape)
        if saved_s[part, one] <= _LEAST_S:
            return worker
        worker[parts[part]] = idle[one]


def rematch(slot: Slot, worker: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Give whole clusters to other workers so that the sum of all delays is least; the clusters stay as they are."""
    from scipy.optimize import linear_sum_assignment

    member = np.arange(len(slot.workers))[:, None] == worker
    sizes = member.sum(axis=1)
    fits, delays_s = _cluster_fits(slot, member, sizes), _cluster_delays_s(slot, member, sizes)
    worst_s = 1 + 2 * delays_s[fits].sum()
    _, target = linear_sum_assignment(np.where(fits, delays_s, worst_s))
    return np.where(worker == UNASSIGNED, UNASSIGNED, target[worker])


def _parts(slot: Slot, worker: Int[ndarray, "n"]) -> list[Int[ndarray, "_"]]:
    """Users of each connected part of a cluster that is not the whole cluster."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    used = np.flatnonzero(worker != UNASSIGNED)
    same = (worker[used, None] == worker[used]) & (slot.pair_value[np.ix_(used, used)] > 0)
    count, label = connected_components(csr_array(same), directed=False)
    size = np.bincount(worker[used], minlength=len(slot.workers))
    parts = [used[label == one] for one in range(count)]
    return [part for part in parts if len(part) < size[worker[part[0]]]]


def _saved_s(
    slot: Slot, worker: Int[ndarray, "n"], parts: list[Int[ndarray, "_"]], idle: Int[ndarray, "i"]
) -> Float[ndarray, "p i"]:
    """What the sum of all delays loses when a part goes to a worker without users; 0 for a part that is alone."""
    saved_s = np.zeros((len(parts), len(idle)))
    for row, part in enumerate(parts):
        at = worker[part[0]]
        together = np.flatnonzero(worker == at)
        size, cycles, own = len(together), slot.cycles[together].sum(), slot.cycles[part].sum()
        if size == len(part):
            continue
        before_s = (size * cycles - (size - len(part)) * (cycles - own)) / slot.cycles_per_s[at]
        sending_s = np.where(slot.allowed, slot.transmission_s, 0)[part].sum(axis=0)
        saved_s[row] = before_s - len(part) * own / slot.cycles_per_s[idle] + sending_s[at] - sending_s[idle]
    return saved_s


def _cluster_fits(slot: Slot, member: Bool[ndarray, "m n"], sizes: Int[ndarray, "m"]) -> Bool[ndarray, "m m"]:
    """Whether all members of a cluster (row) end in time at a worker (column)."""
    user = np.flatnonzero(member.any(axis=0))
    cluster = member[:, user].argmax(axis=0)
    late = np.zeros((len(member), len(slot.workers)), dtype=bool)
    np.logical_or.at(late, cluster, places(slot)[user] < sizes[cluster][:, None])
    return ~late


def _cluster_delays_s(slot: Slot, member: Bool[ndarray, "m n"], sizes: Int[ndarray, "m"]) -> Float[ndarray, "m m"]:
    sending_s = member @ np.where(slot.allowed, slot.transmission_s, 0)
    return sending_s + sizes[:, None] * (member @ slot.cycles)[:, None] / slot.cycles_per_s
