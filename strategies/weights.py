"""Bounds what one vehicle weighs in an aggregate: the number of examples is its own word."""

from collections.abc import Iterable, Mapping
from statistics import median_low


def weight_limit(claims: Iterable[int], max_ratio: float, ceiling: int) -> int:
    """Returns the largest weight that one of the claimed numbers of examples may have.

    Args:
        claims: numbers of examples, each at least 1.
        max_ratio: the limit as a multiple of their median, the lower of two; 0 for no limit but the ceiling. While
            fewer than half of the claims are lies, the median lies among honest ones.
        ceiling: limit whatever the median is.
    """
    known = list(claims)
    if not known or not max_ratio:
        return ceiling
    return min(ceiling, max(1, int(max_ratio * median_low(known))))


def cap_weights(claims: Mapping[str, int], max_ratio: float, ceiling: int) -> dict[str, int]:
    """Returns the claims with each above the limit lowered to it, and each below zero raised to zero."""
    limit = weight_limit([claim for claim in claims.values() if claim > 0], max_ratio, ceiling)
    return {name: min(max(claim, 0), limit) for name, claim in claims.items()}
