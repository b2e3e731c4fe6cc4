"""Room between road users: do the rectangles that they cover touch, and who has to wait so that none do?"""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_MARGIN_M: Final = 0.05


def overlapping(
    a: Float[ndarray, "k 3"], b: Float[ndarray, "k 3"], half_a_m: Float[ndarray, "k 2"], half_b_m: Float[ndarray, "k 2"]
) -> Bool[ndarray, "k"]:
    """Whether pairs of rectangles overlap, by the separating axes of both.

    Args:
        a, b: x, y and yaw of the centres.
        half_a_m, half_b_m: half lengths and half widths.
    """
    dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    cos_a, sin_a, cos_b, sin_b = np.cos(a[:, 2]), np.sin(a[:, 2]), np.cos(b[:, 2]), np.sin(b[:, 2])
    along, across = np.abs(cos_a * cos_b + sin_a * sin_b), np.abs(sin_a * cos_b - cos_a * sin_b)
    (la, wa), (lb, wb) = half_a_m.T, half_b_m.T
    apart = np.abs(dx * cos_a + dy * sin_a) > la + lb * along + wb * across
    apart |= np.abs(dy * cos_a - dx * sin_a) > wa + lb * across + wb * along
    apart |= np.abs(dx * cos_b + dy * sin_b) > lb + la * along + wa * across
    apart |= np.abs(dy * cos_b - dx * sin_b) > wb + la * across + wa * along
    return ~apart


def close_pairs(
    poses: Float[ndarray, "n 3"], reach_m: Float[ndarray, "n"]
) -> tuple[Int[ndarray, "k"], Int[ndarray, "k"]]:
    """Pairs i < j whose centres are nearer than the sum of their reaches."""
    order = np.argsort(poses[:, 0], kind="stable")
    x, y, reach = poses[order, 0], poses[order, 1], reach_m[order]
    last = np.searchsorted(x, x + reach + reach.max(initial=0.0), side="right")
    counts = last - np.arange(len(x)) - 1
    first = np.repeat(np.arange(len(x)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = (x[first] - x[second]) ** 2 + (y[first] - y[second]) ** 2 < (reach[first] + reach[second]) ** 2
    i, j = order[first[near]], order[second[near]]
    return np.minimum(i, j), np.maximum(i, j)


def overlapping_pairs(
    poses: Float[ndarray, "n 3"], sizes_m: Float[ndarray, "n 2"], margin_m: float = 0.0
) -> tuple[Int[ndarray, "k"], Int[ndarray, "k"]]:
    """Pairs of rectangles (x, y, yaw; length, width) that overlap once each side has moved out by `margin_m`."""
    half = sizes_m / 2 + margin_m
    i, j = close_pairs(poses, np.hypot(*half.T))
    touch = overlapping(poses[i], poses[j], half[i], half[j])
    return i[touch], j[touch]


def granted(
    now: Float[ndarray, "n 3"], wished: Float[ndarray, "n 3"], sizes_m: Float[ndarray, "n 2"]
) -> Bool[ndarray, "n"]:
    """Who may move from where it is to where it wishes to be, so that no two rectangles come to overlap.

    Of two that would overlap, the one that has the other further ahead of it stays; who stays is as safe as before,
    so that the search ends. Rectangles keep 10 cm between them. What overlaps already is held, if either moves into
    the other.
    """
    half = sizes_m / 2 + _MARGIN_M
    step = np.abs(wished[:, :2] - now[:, :2]).sum(axis=1)
    i, j = close_pairs(now, np.hypot(*half.T) + step)
    moves = step + np.abs(wished[:, 2] - now[:, 2]) > 0
    chosen = np.where(moves[:, None], wished, now)
    while len(i):
        live = moves[i] | moves[j]
        i, j = i[live], j[live]
        touch = overlapping(chosen[i], chosen[j], half[i], half[j])
        if not touch.any():
            break
        a, b = i[touch], j[touch]
        d = now[b, :2] - now[a, :2]
        before_a = d[:, 0] * np.cos(now[a, 2]) + d[:, 1] * np.sin(now[a, 2])
        before_b = -d[:, 0] * np.cos(now[b, 2]) - d[:, 1] * np.sin(now[b, 2])
        a_stays = moves[a] & (~moves[b] | (before_a > before_b))
        stays = np.where(a_stays, a, b)
        moves[stays] = False
        chosen[stays] = now[stays]
    return moves


def placed_apart(poses: Float[ndarray, "n 3"], sizes_m: Float[ndarray, "n 2"]) -> Bool[ndarray, "n"]:
    """Which of some rectangles to keep so that those kept are clear of each other; the earlier of two is kept."""
    keep = np.ones(len(poses), bool)
    i, j = overlapping_pairs(poses, sizes_m, 1.5 * _MARGIN_M)
    for a, b in sorted(zip(i.tolist(), j.tolist(), strict=True), key=lambda pair: (pair[1], pair[0])):
        if keep[a]:
            keep[b] = False
    return keep
