"""Slots for tests, and the best assignment by trying all."""

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from edge.offload.capacity import places
from edge.offload.model import Slot, Task, User, Worker


def make_slot(users: int, workers: int, seed: int, *, density: float = 0.4, mixed: bool = False) -> Slot:
    """Users on a line, random values; `mixed` deadlines, work, rates and reaches differ."""
    rng = np.random.default_rng(seed)
    value = rng.random((users, users)) * (rng.random((users, users)) < density)
    np.fill_diagonal(value, 0)
    people = [User(f"u{i}", (100.0 * float(rng.random()), 0.0), 0.0) for i in range(users)]
    reach_m = [float(rng.uniform(30, 90)) if mixed else 1e3 for _ in range(workers)]
    speeds = rng.integers(1, 4, workers) * 1e9
    team = [Worker(f"w{j}", (100.0 * float(rng.random()), 0.0), float(speeds[j]), reach_m[j]) for j in range(workers)]
    rates_bps = rng.uniform(5e6 if mixed else 1.5e7, 1.8e7, (users, workers))
    return Slot.of(people, team, _tasks(users, rng, mixed), value=value, uplink_bps=rates_bps)


def changed(slot: Slot, **fields: Any) -> Slot:
    """The slot with other fields."""
    given = {name: getattr(slot, name) for name in ("users", "workers", "tasks", "value", "uplink_bps", "allowed")}
    given |= fields
    return Slot.of(given.pop("users"), given.pop("workers"), given.pop("tasks"), **given)


def best_value(slot: Slot) -> float:
    """The largest value of all assignments: worker by worker, any subset of the users that are left."""
    users, most = len(slot), places(slot)
    subsets = ((np.arange(2**users)[:, None] >> np.arange(users)) & 1).astype(bool)
    worth = np.einsum("ki,ij,kj->k", subsets, slot.value, subsets)
    best = np.zeros(2**users)
    for worker in range(len(slot.workers)):
        size = subsets.sum(axis=1)
        fits = (np.where(subsets, most[:, worker], users) >= size[:, None]).all(axis=1)
        own = np.where(fits, worth, -np.inf)
        best = np.array([max(best[whole & ~part] + own[part] for part in _parts(whole)) for whole in range(2**users)])
    return float(best[-1])


def value_by_hand(slot: Slot, worker: Int[ndarray, "n"]) -> float:
    """Sum over ordered pairs at the same worker."""
    pairs = [(i, k) for i in range(len(slot)) for k in range(len(slot)) if i != k and worker[i] == worker[k] >= 0]
    return float(sum(slot.value[i, k] for i, k in pairs))


def _parts(whole: int) -> list[int]:
    parts, part = [0], whole
    while part:
        parts.append(part)
        part = (part - 1) & whole
    return parts


def _tasks(users: int, rng: np.random.Generator, mixed: bool) -> list[Task]:
    if not mixed:
        return [Task(2e5, 2e8, 0.6)] * users
    return [Task(2e5, float(rng.uniform(1e8, 4e8)), float(rng.uniform(0.1, 0.9))) for _ in range(users)]
