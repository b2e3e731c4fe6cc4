"""Who owns which part of the world, as a distance to the border, so that sets of Gaussians can blend."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

Region = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]]
"""How far inside a region points of the world lie, metres; negative outside, and 0 where two regions meet."""


def power_region(sites_m: Float[Tensor, "m d"], index: int, weights_m2: Float[Tensor, "m"] | None = None) -> Region:
    """The cell of one site: nearest after each site's weight is taken off the squared distance (a power diagram).

    Args:
        sites_m: of all parties, d = 2 (east and north) or 3.
        index: of the party.
        weights_m2: larger for larger cells; all alike by default, which gives Voronoi's cells.

    Raises:
        ValueError: two sites coincide, or there is no such index.
    """
    sites = torch.as_tensor(sites_m).double()
    weights = torch.zeros(len(sites)).double() if weights_m2 is None else torch.as_tensor(weights_m2).double()
    if not 0 <= index < len(sites):
        raise ValueError(f"power_region has {len(sites)} sites, none has the index {index}")
    others = [number for number in range(len(sites)) if number != index]
    apart_m = (sites[others] - sites[index]).norm(dim=1)
    if not (apart_m > 0).all():
        raise ValueError(f"power_region: another site lies where site {index} does; leave one out")

    def inside_m(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        places = xyz.detach()[:, : sites.shape[1]].double()
        power = (places[:, None] - sites).square().sum(dim=2) - weights
        ahead = (power[:, others] - power[:, [index]]) / (2 * apart_m)
        return ahead.amin(dim=1) if others else torch.full((len(xyz),), math.inf, dtype=torch.float64)

    return inside_m


def waypoint_region(own_m: Float[ndarray, "k 2"], others_m: Float[ndarray, "j 2"]) -> Region:
    """What lies nearer to a party's waypoints than to those of all others: half of how much nearer, in metres.

    Args:
        own_m: east, north of the party's waypoints, at least one.
        others_m: those of all others; without any, the region is everywhere.

    Raises:
        ValueError: there is no own waypoint, or one is not finite.
        ImportError: (when asked) scipy is missing.
    """
    own, others = (np.asarray(places, np.float64).reshape(-1, 2) for places in (own_m, others_m))
    if not len(own) or not (np.isfinite(own).all() and np.isfinite(others).all()):
        raise ValueError(f"waypoint_region needs a waypoint, and all of them finite; got {len(own)} and {len(others)}")

    def inside_m(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        places = xyz.detach()[:, :2].double().numpy()
        if not len(others):
            return torch.full((len(xyz),), math.inf, dtype=torch.float64)
        return torch.from_numpy(0.5 * (distance_m(others, places) - distance_m(own, places)))

    return inside_m


def distance_m(sites_m: Float[ndarray, "k d"], places_m: Float[ndarray, "n d"]) -> Float[ndarray, "n"]:
    """Of each place to the nearest site.

    Raises:
        ImportError: scipy is missing.
    """
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        raise ImportError("regions of waypoints need scipy: pip install scipy") from None
    return cKDTree(sites_m).query(places_m)[0]


def masked_region(owned: Callable[[Tensor], Bool[Tensor, "n"]], reach_m: float, rings: int = 8) -> Region:
    """A region from a function that tells what is owned: the distance to where its answer changes.

    It looks around each point in 16 directions of the ground, on circles up to `reach_m` (half the blend band);
    distances are multiples of `reach_m / rings`, less half of one.
    """
    angles = torch.arange(16) * (2 * math.pi / 16)
    around = torch.stack([angles.cos(), angles.sin(), torch.zeros(16)], dim=1)

    def inside_m(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        here, distance = owned(xyz), torch.full((len(xyz),), float(reach_m), dtype=torch.float64)
        for ring in range(rings, 0, -1):
            radius = reach_m * ring / rings
            answers = torch.stack([owned(xyz + radius * step.to(xyz)) for step in around], dim=1)
            distance[(answers != here[:, None]).any(dim=1)] = radius - 0.5 * reach_m / rings
        return torch.where(here, distance, -distance)

    return inside_m


def widened(region: Region, by_m: float) -> Region:
    """A region and what lies so near to it, as near as the region itself says."""
    return lambda xyz: region(xyz) + by_m


def ramp(inside_m: Float[Tensor, "n"], blend_m: float) -> Float[Tensor, "n"]:
    """Share 0..1 of a party: 1 from half a band inside its region on, 0 from half a band outside."""
    if not (math.isfinite(blend_m) and blend_m >= 0):
        raise ValueError(f"blend_m must be finite and not negative, got {blend_m}")
    return (0.5 + inside_m / blend_m).clamp(0, 1) if blend_m else (inside_m >= 0).to(inside_m)
