"""How vehicles move along their paths: they follow, keep clear of what is ahead, and cross junctions one at a time."""

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.town.layout import Node
from perception.datasets.town.routes import Path

STEP_S: Final = 0.1
_LOOK_M: Final = np.arange(1.0, 22.0, 1.5)
_SIDE_M: Final = 1.5
_ACCELERATION: Final = 1.6
_BRAKING: Final = 3.0
_TURN_SPEED_MPS: Final = 4.5


def drive(
    paths: list[Path], start_m: Float[ndarray, "n"], cruise_mps: Float[ndarray, "n"], half_m: Float[ndarray, "n"], seconds: float
) -> Float[ndarray, "t n"]:  # fmt: skip
    """Arc lengths of all vehicles every `STEP_S`, [t, n].

    Each step a vehicle takes the speed of the Gipps safe-distance rule (Gipps 1981, with equal braking and the reaction
    time of one step) towards the nearest of: a vehicle on its path ahead, a junction that another holds. Turns are
    taken at 4.5 m/s. What happens up to a time does not depend on `seconds`.

    Args:
        paths: one path a vehicle; it stops at its end.
        start_m: arc lengths at time 0.
        cruise_mps: desired speeds.
        half_m: half lengths of the vehicles.
    """
    s, v = start_m.astype(float).copy(), 0.7 * cruise_mps
    holder: dict[Node, int] = {}
    trace = [s.copy()]
    for _ in range(round(seconds / STEP_S)):
        gap = _gap_ahead(paths, s, half_m)
        for i, path in enumerate(paths):
            stop_m, limit = _junction(path, s[i], half_m[i], i, holder)
            room = max(min(gap[i], stop_m, path.length_m - s[i]), 0.0)
            safe = -_BRAKING * STEP_S + np.sqrt((_BRAKING * STEP_S) ** 2 + 2 * _BRAKING * room)
            v[i] = max(min(v[i] + _ACCELERATION * STEP_S, cruise_mps[i], limit, safe), 0.0)
        s = s + v * STEP_S
        trace.append(s.copy())
    return np.array(trace)


def _gap_ahead(paths: list[Path], s: Float[ndarray, "n"], half_m: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """Free metres on each vehicle's own path before it meets another, bumper to bumper less 2 m; infinity if free."""
    here = np.stack([path.at(s[i : i + 1])[0, :2] for i, path in enumerate(paths)])
    ahead = np.stack([path.at(s[i] + _LOOK_M)[:, :2] for i, path in enumerate(paths)])
    distance = np.linalg.norm(ahead[:, :, None, :] - here[None, None, :, :], axis=-1)
    distance[np.arange(len(s)), :, np.arange(len(s))] = np.inf
    reach = _LOOK_M[None, :, None] - half_m[:, None, None] - half_m[None, None, :] - 2.0
    return np.where(distance < _SIDE_M, reach, np.inf).min(axis=(1, 2))


def _junction(path: Path, s: float, half_m: float, vehicle: int, holder: dict[Node, int]) -> tuple[float, float]:
    """Metres to the stop line of a junction that another vehicle holds (or infinity), and the speed limit there.

    A vehicle within 12 m of a free junction takes hold of it, and lets go when its tail has left.
    """
    for enter, leave, node in path.junctions:
        if s - half_m > leave:
            if holder.get(node) == vehicle:
                del holder[node]
            continue
        if enter - s > 25.0:
            return np.inf, np.inf
        if enter - s < 12.0:
            holder.setdefault(node, vehicle)
        blocked = holder.get(node, vehicle) != vehicle and s + half_m <= enter
        turn = abs(float(np.diff(np.interp([enter, leave], path.s_m, path.yaw_rad))[0])) > 0.3
        slow = np.sqrt(_TURN_SPEED_MPS**2 + 2 * _ACCELERATION * max(enter - s, 0.0)) if turn else np.inf
        return (enter - s - half_m if blocked else np.inf), slow
    return np.inf, np.inf
