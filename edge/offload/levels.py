"""Head-counts that a worker may be planned with, where they differ between its users."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray


def levels_of(most: Int[ndarray, "n m"]) -> list[Int[ndarray, "_"]]:
    """For each worker the head-counts of its users that are worth planning with, rising; [0] if it can have nobody.

    Args:
        most: head-count of each user at each worker.
    """
    return [_level(column) for column in most.T]


def draw_capacities(levels: list[Int[ndarray, "_"]], starts: int, rng: np.random.Generator) -> Int[ndarray, "s m"]:
    """A head-count for every worker, drawn for each start."""
    fixed = np.array([level[-1] for level in levels])
    drawn = np.repeat(fixed[None], starts, axis=0)
    for worker, level in enumerate(levels):
        if len(level) > 1:
            drawn[:, worker] = rng.choice(level, starts)
    return drawn


def replan(most: Int[ndarray, "n m"], labels: Int[ndarray, "s n"], rng: np.random.Generator) -> Int[ndarray, "s m"]:
    """Head-counts drawn between what a cluster has and the most that its members allow.

    A small one lets users change places with members, a large one lets users join.

    Args:
        most: head-count of each user at each worker.
        labels: worker of each user, m for none.
        rng: draws.
    """
    starts, (users, workers) = len(labels), most.shape
    least = np.full((starts, workers + 1), users)
    sizes = np.zeros((starts, workers + 1), dtype=np.int64)
    row, user = np.divmod(np.arange(labels.size), users)
    at = labels.reshape(-1)
    np.minimum.at(least, (row, at), np.append(most, np.full((users, 1), users), axis=1)[user, at])
    np.add.at(sizes, (row, at), 1)
    return rng.integers(sizes, np.maximum(least, sizes), endpoint=True)[:, :workers]


def _level(most: Int[ndarray, "n"]) -> Int[ndarray, "k"]:
    counts = np.unique(most[most > 0])
    users = np.array([(most >= count).sum() for count in counts] + [0])
    # A smaller count is worth while only if it lets more users in than a larger one does.
    kept = counts[users[:-1] > users[1:]]
    return kept if len(kept) else np.zeros(1, dtype=np.int64)
