"""Where regions lie in one world, from similarities between pairs of them: a pose graph with loop closures.

Each region is a node, each measured similarity between two an edge. Around a loop the measurements do not agree; the
graph spreads what is left over, each edge in proportion to what it is known to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from geometry import Sim3
from recon.chart import rotation_vector

Robust = Literal["linear", "soft_l1", "huber", "cauchy"]
_BOUND: Final = math.log(1e3)  # of the logarithm of a scale


@dataclass(frozen=True)
class Edge:
    """A measured similarity between two regions.

    Args:
        a, b: names of the regions.
        a_from_b: maps coordinates of b to those of a.
        sigma_rad, sigma_log_scale, sigma_m: standard deviations of its rotation, scale and translation.

    Raises:
        ValueError: both regions are the same, or a deviation is not positive.
    """

    a: str
    b: str
    a_from_b: Sim3
    sigma_rad: float = 0.01
    sigma_log_scale: float = 0.01
    sigma_m: float = 0.1

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"an edge joins two regions, got {self.a!r} twice")
        for name in ("sigma_rad", "sigma_log_scale", "sigma_m"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"Edge.{name} of {self.a!r}, {self.b!r} must be positive, got {getattr(self, name)}")

    @property
    def sigmas(self) -> Float[ndarray, "7"]:
        """One a number of `difference`."""
        return np.repeat([self.sigma_rad, self.sigma_log_scale, self.sigma_m], [3, 1, 3])


def difference(found: Sim3, measured: Sim3) -> Float[ndarray, "7"]:
    """How far two similarities a-from-b are apart: rotation vector (radians), log of scale, translation, in a's axes.

    Scale and rotation are of the one after the inverse of the other; translations are subtracted, so that their
    difference is in metres of a however far a's origin lies.
    """
    turn = rotation_vector(found.rotation @ measured.rotation.T)
    log_scale = math.log(found.scale / measured.scale)
    return np.concatenate([turn, [log_scale], found.translation_m - measured.translation_m])


def solve(
    edges: Sequence[Edge],
    fixed: str,
    world_from_fixed: Sim3 | None = None,
    start: dict[str, Sim3] | None = None,
    robust: Robust = "soft_l1",
    rounds: int = 100,
) -> dict[str, Sim3]:
    """World from each region, by least squares over seven numbers a region (scipy's trust region, sparse Jacobian).

    Args:
        edges: measured similarities; several between the same two are welcome.
        fixed: the region that stays where it is.
        world_from_fixed: where that is; the world is this region's frame by default.
        start: a first guess for all; by default measurements are chained, from the fixed region outwards.
        robust: loss of residuals in standard deviations; "cauchy", which follows "soft_l1", all but ignores a
            wrong edge of a loop.
        rounds: the most steps.

    Returns:
        by name, in order of names; the fixed one as given.

    Raises:
        ValueError: a region is not joined to the fixed one, or is missing in `start`, or an option is unknown.
        ImportError: scipy is missing.
    """
    from scipy.optimize import least_squares

    if robust not in get_args(Robust):
        raise ValueError(f"robust is one of {', '.join(get_args(Robust))}, got {robust!r}")
    along = chained(edges, fixed, world_from_fixed)  # also if there is a start: it raises if something is not joined
    guess = along if start is None else start
    if missing := sorted({name for edge in edges for name in (edge.a, edge.b)} - set(guess)):
        raise ValueError(f"start does not say where {', '.join(missing)} lie")
    guess = {**guess, fixed: Sim3.identity() if world_from_fixed is None else world_from_fixed}
    names = sorted(guess)
    if not edges or len(names) == 1:
        return {name: guess[name] for name in names}
    graph = _Graph(guess, names, edges, free=[number for number, name in enumerate(names) if name != fixed])
    numbers = np.zeros(7 * len(graph.free))
    options: dict[str, Any] = {"max_nfev": rounds, "x_scale": "jac", "xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
    for loss in ("soft_l1", "cauchy") if robust == "cauchy" else (robust,):
        found = least_squares(graph.residuals, numbers, jac_sparsity=graph.sparsity(), loss=loss, **options)
        numbers = found.x
    turn, scale, shift_m = graph.nodes(numbers)
    solved = {name: Sim3(turn[place], shift_m[place], scale[place]) for place, name in enumerate(names)}
    return solved | {fixed: guess[fixed]}


class _Graph:
    """Nodes and edges as arrays."""

    def __init__(self, guess: dict[str, Sim3], names: Sequence[str], edges: Sequence[Edge], free: Sequence[int]):
        self.free, self.count = list(free), len(names)
        self.turn, self.scale, self.shift_m = _stacked([guess[name] for name in names])
        place = {name: number for number, name in enumerate(names)}
        self.a, self.b = (np.array([place[name] for name in ends], np.int64) for ends in _ends(edges))
        self.measured = _stacked([edge.a_from_b for edge in edges])
        self.sigmas = np.stack([edge.sigmas for edge in edges])

    def nodes(self, numbers: Float[ndarray, "m"]) -> tuple[ndarray, ndarray, ndarray]:
        """Rotations, scales and translations: each guess turned and scaled about its own origin, and shifted."""
        from scipy.spatial.transform import Rotation

        moves = np.zeros((self.count, 7))
        moves[self.free] = numbers.reshape(-1, 7)
        scale = self.scale * np.exp(np.clip(moves[:, 3], -_BOUND, _BOUND))
        return Rotation.from_rotvec(moves[:, :3]).as_matrix() @ self.turn, scale, self.shift_m + moves[:, 4:]

    def residuals(self, numbers: Float[ndarray, "m"]) -> Float[ndarray, "r"]:
        """`difference` of each edge, in standard deviations."""
        from scipy.spatial.transform import Rotation

        turn, scale, shift_m = self.nodes(numbers)
        back = turn[self.a].transpose(0, 2, 1)
        shift = np.einsum("nij,nj->ni", back, shift_m[self.b] - shift_m[self.a]) / scale[self.a, None]
        wanted_turn, wanted_scale, wanted_shift = self.measured
        rotation = Rotation.from_matrix(back @ turn[self.b] @ wanted_turn.transpose(0, 2, 1)).as_rotvec()
        log_scale = np.log(scale[self.b] / scale[self.a] / wanted_scale)
        return (np.concatenate([rotation, log_scale[:, None], shift - wanted_shift], axis=1) / self.sigmas).ravel()

    def sparsity(self) -> Float[ndarray, "r m"]:
        """Which numbers each residual depends on: those of its two regions."""
        ends = (self.a[:, None] == self.free) | (self.b[:, None] == self.free)
        return np.kron(ends, np.ones((7, 7)))


def _stacked(poses: Sequence[Sim3]) -> tuple[Float[ndarray, "n 3 3"], Float[ndarray, "n"], Float[ndarray, "n 3"]]:
    turn, shift_m = (np.stack([getattr(pose, name) for pose in poses]) for name in ("rotation", "translation_m"))
    return turn, np.array([pose.scale for pose in poses]), shift_m


def _ends(edges: Sequence[Edge]) -> tuple[list[str], list[str]]:
    return [edge.a for edge in edges], [edge.b for edge in edges]


def chained(edges: Sequence[Edge], fixed: str, world_from_fixed: Sim3 | None = None) -> dict[str, Sim3]:
    """World from each region along the fewest edges from the fixed one; earlier edges first.

    Raises:
        ValueError: a region is not joined to the fixed one.
    """
    nodes = {fixed: Sim3.identity() if world_from_fixed is None else world_from_fixed}
    layer = {fixed}
    while layer:
        reached: dict[str, Sim3] = {}
        for edge in edges:
            if edge.a in layer and edge.b not in nodes:
                reached.setdefault(edge.b, nodes[edge.a] @ edge.a_from_b)
            if edge.b in layer and edge.a not in nodes:
                reached.setdefault(edge.a, nodes[edge.b] @ edge.a_from_b.inverse())
        nodes |= reached
        layer = set(reached)
    if apart := sorted({name for edge in edges for name in (edge.a, edge.b)} - set(nodes)):
        raise ValueError(f"no edges lead from {fixed!r} to {', '.join(apart)}: measure one, or solve them apart")
    return nodes
