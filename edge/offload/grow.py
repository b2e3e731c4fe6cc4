"""Clusters grown one user at a time, many at random at once.

The start s of a batch fills its open clusters one after the other, larger ones roughly first. A cluster takes the user
that is tied to it best, less a part of the user's ties to those who are still free; where nobody is tied to it, it
takes a new seed.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

_NEVER: Final = np.float32(-1e4)
_SEED: Final = np.float32(1e-3)  # scale of a seed's score: any tie to the cluster counts for more


@dataclass(frozen=True)
class GrowConfig:
    """What a start draws its rule from, an entry each with equal chance.

    Args:
        noises: how much a tie may seem stronger than it is, as a share.
        regrets: the part of the ties to free users that is taken off.
        seed_ties: ties beyond this do not make a better seed; small values draw seeds nearly evenly.
        shuffle: clusters that differ in size by less than this many places may swap their turns.
    """

    noises: tuple[float, ...] = (0.1, 0.3, 0.8)
    regrets: tuple[float, ...] = (0.0, 0.2, 0.5)
    seed_ties: tuple[float, ...] = (0.05, 10.0)
    shuffle: float = 2.5


def scaled(weights: Float[ndarray, "n n"]) -> Float32[ndarray, "n n"]:
    """The weights in single precision, divided by the largest."""
    return (weights / (weights.max(initial=0) or 1)).astype(np.float32)


def grow(
    weights: Float32[ndarray, "n n"],
    labels: Int[ndarray, "s n"],
    capacities: Int[ndarray, "s m"],
    allowed: Bool[ndarray, "s n m"] | None,
    opened: Bool[ndarray, "s m"],
    rng: np.random.Generator,
    config: GrowConfig,
) -> Int[ndarray, "s n"]:
    """Fill the open clusters with their own users and those that have none.

    Args:
        weights: symmetric, 0 or more, largest about 1.
        labels: cluster of each user, m for none.
        capacities: places of each cluster.
        allowed: whether a user may be in a cluster; None allows all.
        opened: which clusters are emptied and grown anew.
        rng: draws the rules.
        config: see `GrowConfig`.
    """
    places = capacities * opened
    growth = _Growth(weights, _emptied(labels, opened), _turns(places, config.shuffle, rng), allowed)
    growth.draw(config, rng)
    filled, free = places.sum(axis=1), growth.free.sum(axis=1)
    if allowed is None:
        certain, steps = int(np.minimum(filled, free).min()), int(np.minimum(filled, free).max())
    else:
        certain, steps = 0, int(filled.max())
    for step in range(steps):
        growth.turn(step)
        growth.take(step, sure=step < certain)
    return growth.labels


class _Growth:
    """A batch of starts between two steps."""

    def __init__(
        self,
        weights: Float32[ndarray, "n n"],
        labels: Int[ndarray, "s n"],
        turns: Int[ndarray, "s t"],
        allowed: Bool[ndarray, "s n m"] | None,
    ) -> None:
        self.weights, self.labels, self.allowed = weights, np.ascontiguousarray(labels), allowed
        self.turns = np.ascontiguousarray(turns.T)
        self.none = int(turns[0, -1])
        self.free: Bool[ndarray, "s n"] = np.equal(labels, self.none)
        self.new = np.ones(self.turns.shape, dtype=bool)
        np.not_equal(self.turns[1:], self.turns[:-1], out=self.new[1:])
        self.some_new: list[bool] = np.logical_or.reduce(self.new, axis=1).tolist()
        self.barred = np.where(self.free, np.float32(0), _NEVER)
        self.elsewhere = np.zeros_like(self.barred)
        self.open_ties = self.free.astype(np.float32) @ weights
        self.ties, self.score, self.spare = (np.zeros_like(self.barred) for _ in range(3))
        self.first = np.arange(len(labels)) * labels.shape[1]  # of each start in flattened arrays

    def draw(self, config: GrowConfig, rng: np.random.Generator) -> None:
        """The rule of each start."""
        starts = len(self.labels)
        self.noise = 1 + _draw(config.noises, starts, rng) * rng.random(self.free.shape, dtype=np.float32)
        self.regret, self.most_ties = _draw(config.regrets, starts, rng), _draw(config.seed_ties, starts, rng)
        self.luck = _SEED * rng.random(self.free.shape, dtype=np.float32)

    def turn(self, step: int) -> None:
        """Turn to the next cluster where the last is full."""
        if not self.some_new[step]:
            return
        new = np.flatnonzero(self.new[step])
        self.ties[new] = 0
        if self.allowed is not None:
            cluster = np.minimum(self.turns[step, new], self.allowed.shape[2] - 1)
            self.elsewhere[new] = np.where(self.allowed[new, :, cluster], np.float32(0), _NEVER)

    def take(self, step: int, *, sure: bool) -> None:
        """Give every start's cluster the user that scores best; `sure` where there is one for all."""
        pick = self._score().argmax(axis=1)
        picked = self.weights.take(pick, axis=0)
        at, turns = self.first + pick, self.turns[step]
        if not sure:
            taken = (self.score.ravel()[at] > _NEVER / 2) & (turns < self.none)
            picked = picked * taken[:, None]
            at, turns = at[taken], turns[taken]
        self.labels.reshape(-1)[at] = turns
        self.barred.reshape(-1)[at] = _NEVER
        self.ties += picked
        self.open_ties -= picked

    def _score(self) -> Float32[ndarray, "s n"]:
        score, spare = self.score, self.spare
        np.multiply(self.ties, self.noise, out=score)
        score -= np.multiply(self.open_ties, self.regret, out=spare)
        score += 1
        score *= self.ties > 0
        np.minimum(self.open_ties, self.most_ties, out=spare)
        score += np.multiply(spare, self.luck, out=spare)
        score += self.barred
        if self.allowed is not None:
            score += self.elsewhere
        return score


def _emptied(labels: Int[ndarray, "s n"], opened: Bool[ndarray, "s m"]) -> Int[ndarray, "s n"]:
    """Labels without those of the open clusters."""
    clusters = opened.shape[1]
    freed = np.concatenate([opened, np.ones((len(opened), 1), dtype=bool)], axis=1)
    return np.where(np.take_along_axis(freed, labels, axis=1), clusters, labels)


def _turns(places: Int[ndarray, "s m"], shuffle: float, rng: np.random.Generator) -> Int[ndarray, "s t"]:
    """The cluster whose turn each step is, m after the last; the last column is m."""
    starts, clusters = places.shape
    urge = np.where(places > 0, places + shuffle * rng.random(places.shape), 0)
    order = np.argsort(-urge, axis=1)
    ends = np.take_along_axis(places, order, axis=1).cumsum(axis=1)
    turn = (ends[:, :, None] <= np.arange(ends[:, -1].max() + 1)).sum(axis=1)
    order = np.concatenate([order, np.full((starts, 1), clusters)], axis=1)
    return np.take_along_axis(order, turn, axis=1)


def _draw(options: tuple[float, ...], starts: int, rng: np.random.Generator) -> Float32[ndarray, "s 1"]:
    return rng.choice(np.array(options, dtype=np.float32), (starts, 1))
