"""Traffic lights as they look at a time: a pole at the right of every approach, a housing, three lamps."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.layout import HALF_ROAD_M, KERB_M, Layout, Node
from perception.datasets.town.mesh import Coat, Mesh, Surface, box, merged, tube
from perception.datasets.town.routes import neighbours
from perception.datasets.town.signals import Light, green, has_signals
from perception.labels import SEGMENT_ID

SEEN_M: Final = 75.0
_POLE, _HEAD = SEGMENT_ID["pole"], SEGMENT_ID["sign"]
_FROM_JUNCTION_M: Final = 10.6
_BEHIND_KERB_M: Final = 0.45
_BOTTOM_M: Final = 2.3
_LAMP_M: Final = 0.22
_LIT: Final = {Light.RED: (0.9, 0.02, 0.02), Light.AMBER: (0.9, 0.45, 0.02), Light.GREEN: (0.02, 0.75, 0.3)}
_DARK: Final = (0.03, 0.03, 0.03)


def signal_heads(layout: Layout, here_m: Float[ndarray, "2"], time_s: float) -> Iterator[Mesh]:
    """The traffic lights near a place."""
    for i in np.flatnonzero(np.abs(layout.xs_m - here_m[0]) < SEEN_M):
        for j in np.flatnonzero(np.abs(layout.ys_m - here_m[1]) < SEEN_M):
            node = (int(i), int(j))
            if has_signals(node):
                yield from _junction(layout, node, time_s)


def _junction(layout: Layout, node: Node, time_s: float) -> Iterator[Mesh]:
    here = layout.at(node)
    for other in neighbours(layout, node):
        out = layout.at(other) - here
        out = out / np.linalg.norm(out)
        axis = 0 if abs(out[0]) > 0.5 else 1
        kerb = here + _FROM_JUNCTION_M * out + (HALF_ROAD_M + _BEHIND_KERB_M) * np.array([-out[1], out[0]])
        yield _head(kerb, out, green(node, axis, time_s))


def _head(spot: Float[ndarray, "2"], out: Float[ndarray, "2"], shown: Light) -> Mesh:
    """A signal that faces `out`; the lamps are from the top red, amber, green."""
    x, y = spot
    parts = [
        tube((x, y, KERB_M), (x, y, _BOTTOM_M), 0.06, 6, Coat(_POLE, (0.2, 0.21, 0.22))),
        box((x, y, _BOTTOM_M), (0.3, 0.3, 3.6 * _LAMP_M), Coat(_HEAD, (0.02, 0.02, 0.02))),
    ]
    for place, light in enumerate((Light.GREEN, Light.AMBER, Light.RED)):
        coat = Coat(_HEAD, _LIT[light], Surface.LAMP) if light == shown else Coat(_HEAD, _DARK)
        centre = (x + 0.16 * out[0], y + 0.16 * out[1], _BOTTOM_M + 0.06 + 1.15 * _LAMP_M * place)
        size = (0.06, _LAMP_M, _LAMP_M) if abs(out[0]) > 0.5 else (_LAMP_M, 0.06, _LAMP_M)
        parts.append(box(centre, size, coat))
    return merged(parts)
