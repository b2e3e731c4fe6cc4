"""Clusters that are worth more than the prices of their users: fast ones by growth, or all, with a bound."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from edge.offload.clusters import Packing
from edge.offload.knapsack import Budget, connected_sets

MOST_PARTS: Final = 4000  # connected sets that are put together pair by pair
MOST_UNIONS: Final = 50_000
_MOST_PAIRS: Final = 20_000_000  # of a set and a part that are looked at together


@dataclass(frozen=True, eq=False)
class Priced:
    """Clusters of a kind of worker above a floor.

    Args:
        members: their users [k, n].
        bound: no cluster of the kind is worth more beyond the prices of its users.
        complete: whether none is missing.
    """

    members: Bool[ndarray, "k n"]
    bound: float
    complete: bool


def grow_priced(packing: Packing, prices: Float[ndarray, "n"], kind: int) -> Bool[ndarray, "k n"]:
    """Clusters grown from every user by what each next one adds, cut where they are worth most."""
    found = [np.zeros((0, len(prices)), dtype=bool)]
    for size in head_counts(packing, kind):
        able = _able(packing, kind, size)
        members = _grow(packing.weights[np.ix_(able, able)], prices[able], size)
        found.append(np.zeros((len(members), len(prices)), dtype=bool))
        found[-1][:, able] = members
    return np.concatenate(found)


def all_priced(
    packing: Packing, prices: Float[ndarray, "n"], floors: Float[ndarray, "t"], budget: Budget
) -> list[Priced]:
    """For each kind of worker the clusters worth more than its floor beyond their prices, unless the budget ends.

    A cluster that falls apart into connected sets is worth their sum, so the best connected set of every size bounds
    all clusters; only where that does not suffice, connected sets are listed and put together.

    Args:
        packing, prices: what is priced.
        floors: by kind.
        budget: of each search.
    """
    bests: dict[bytes, Float[ndarray, s]] = {}
    sizes = [head_counts(packing, kind) for kind in range(len(packing.workers))]
    largest: dict[bytes, int] = {}
    for kind, counts in enumerate(sizes):
        for size in counts:
            key = _able(packing, kind, size).tobytes()
            largest[key] = max(size, largest.get(key, 0))
    priced = []
    for kind, floor in enumerate(floors.tolist()):
        parts = [Priced(np.zeros((0, len(prices)), dtype=bool), floor, True)]
        for size in sizes[kind]:
            able = _able(packing, kind, size)
            square, cost, key = packing.weights[np.ix_(able, able)], prices[able], able.tobytes()
            if key not in bests:
                none = np.zeros(largest[key] + 1)
                bests[key] = connected_sets(square, cost, none, climb=True, budget=budget).bounds
            parts.append(_wide(able, _above(square, cost, bests[key][: size + 1], floor, budget)))
        members = np.concatenate([part.members for part in parts])
        priced.append(Priced(members, max(part.bound for part in parts), all(part.complete for part in parts)))
    return priced


def _able(packing: Packing, kind: int, size: int) -> Bool[ndarray, "n"]:
    return packing.most[:, kind] >= size


def _wide(able: Bool[ndarray, "n"], priced: Priced) -> Priced:
    members = np.zeros((len(priced.members), len(able)), dtype=bool)
    members[:, able] = priced.members
    return Priced(members, priced.bound, priced.complete)


def _above(
    weights: Float[ndarray, "n n"],
    prices: Float[ndarray, "n"],
    best: Float[ndarray, "s"],
    floor: float,
    budget: Budget,
) -> Priced:
    """Clusters above the floor, and the bound of all, given that of connected sets by size."""
    size, any_set = len(best) - 1, joined(best)
    if any_set[size] <= floor:
        return Priced(np.zeros((0, len(prices)), dtype=bool), floor, True)
    parts = connected_sets(weights, prices, floor - any_set[::-1], budget=budget)
    if not parts.complete or len(parts.worth) > MOST_PARTS:
        best_first = np.argsort(-parts.worth, kind="stable")[:MOST_UNIONS]
        return Priced(parts.members[best_first], float(any_set[size]), False)
    members, worth, complete = unions(parts.members, parts.worth, weights > 0, any_set, floor)
    if not complete:
        return Priced(members, float(any_set[size]), False)
    return Priced(members, max(floor, float(worth.max(initial=floor))), True)


def joined(best: Float[ndarray, "s"]) -> Float[ndarray, "s"]:
    """What sets of so many users can be worth at most if they are put together from connected ones."""
    total = np.zeros(len(best))
    for size in range(1, len(best)):
        total[size] = max(total[size - 1], *(best[part] + total[size - part] for part in range(1, size + 1)))
    return total


def unions(
    members: Bool[ndarray, "k n"],
    worth: Float[ndarray, "k"],
    adjacent: Bool[ndarray, "n n"],
    any_set: Float[ndarray, "s"],
    floor: float,
) -> tuple[Bool[ndarray, "u n"], Float[ndarray, "u"], bool]:
    """Connected sets and those put together of them that are worth more than a floor, and whether these are all.

    Args:
        members, worth: the connected sets.
        adjacent: who is tied to whom; parts are never adjacent, for together they would be a connected set.
        any_set: bound of any set by size [s].
        floor: for the whole.
    """
    sizes, apart = members.sum(axis=1), members.astype(np.float32)
    whole, total, last, left = members, worth, np.arange(len(worth)), len(any_set) - 1 - sizes
    found, values = [whole[total > floor]], [total[total > floor]]
    while len(total):
        if len(total) * len(worth) > _MOST_PAIRS or sum(map(len, values)) > MOST_UNIONS:
            return np.concatenate(found), np.concatenate(values), False
        touching = (whole.astype(np.float32) @ (adjacent | np.eye(len(adjacent), dtype=bool)).astype(np.float32)) > 0
        fits = (np.arange(len(worth)) > last[:, None]) & (sizes <= left[:, None])
        hope = total[:, None] + worth + any_set[np.maximum(left[:, None] - sizes, 0)]
        row, part = np.nonzero(fits & (hope > floor) & (touching.astype(np.float32) @ apart.T == 0))
        whole, total = whole[row] | members[part], total[row] + worth[part]
        last, left = part, left[row] - sizes[part]
        found.append(whole[total > floor])
        values.append(total[total > floor])
    return np.concatenate(found), np.concatenate(values), True


def head_counts(packing: Packing, kind: int) -> list[int]:
    """The head-counts that clusters of a kind need to be sought with: 2 or more, each with users of its own."""
    most, largest = packing.most[:, kind], packing.largest(kind)
    counts = [int(count) for count in np.unique(most) if count >= 2]
    users = [int((most >= count).sum()) for count in counts] + [0]
    return sorted({min(count, largest) for k, count in enumerate(counts) if users[k] > users[k + 1]} - {0, 1})


def _grow(weights: Float[ndarray, "n n"], prices: Float[ndarray, "n"], size: int) -> Bool[ndarray, "k n"]:
    users = np.arange(len(prices))
    member, gains = np.eye(len(prices), dtype=bool), weights - prices
    gains[users, users] = -np.inf
    worth, best_worth, best = -prices, np.zeros(len(prices)), np.zeros_like(member)
    for _ in range(min(size, len(prices)) - 1):
        pick = gains.argmax(axis=1)
        worth = worth + gains[users, pick]
        member[users, pick] = True
        gains += weights[pick]
        gains[users, pick] = -np.inf
        better = worth > best_worth
        best[better], best_worth[better] = member[better], worth[better]
    return best[best_worth > 0]
