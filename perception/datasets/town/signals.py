"""Traffic lights with a fixed cycle at every second junction."""

from enum import IntEnum
from typing import Final

from perception.datasets.town.layout import Node

GREEN_S: Final = 15.0
AMBER_S: Final = 3.0
CLEAR_S: Final = 2.0
CYCLE_S: Final = 2 * (GREEN_S + AMBER_S + CLEAR_S)


class Light(IntEnum):
    """What a signal shows."""

    RED = 0
    AMBER = 1
    GREEN = 2


def has_signals(node: Node) -> bool:
    """Whether a junction has traffic lights: every second one, as the black fields of a chessboard."""
    return sum(node) % 2 == 0


def offset_s(node: Node) -> float:
    """Time by which a junction's cycle is shifted, so that neighbours do not switch together."""
    return float((17 * node[0] + 29 * node[1]) % CYCLE_S)


def green(node: Node, axis: int, time_s: float) -> Light:
    """What the traffic along an axis sees: green for 15 s, amber for 3 s, red for the rest of 40 s.

    The two axes take turns; between one's amber and the other's green both are red for 2 s. It says nothing about
    whether the junction has lights: ask `has_signals`.

    Args:
        node: the junction.
        axis: 0 for traffic along x, 1 for traffic along y.
        time_s: seconds since the start of the day.

    Raises:
        ValueError: there is no such axis.
    """
    if axis not in (0, 1):
        raise ValueError(f"a junction's axes are 0 (along x) and 1 (along y), got {axis}")
    phase_s = (time_s + offset_s(node) - axis * CYCLE_S / 2) % CYCLE_S
    if phase_s < GREEN_S:
        return Light.GREEN
    return Light.AMBER if phase_s < GREEN_S + AMBER_S else Light.RED
