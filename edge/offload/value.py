"""What vehicles gain by each other's views: pairwise values, the union that a cluster covers, awareness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy import ndarray

from edge.offload.model import UNASSIGNED
from edge.offload.roi import inside, near_pairs, shapely_library

_NOTHING: Final = 1e-9  # a share that rounding leaves where edges coincide


def exact_value(roi_m: Float[ndarray, "n k 2"], fov_m: Float[ndarray, "m l 2"]) -> Float[ndarray, "n n"]:
    """The share of user i's region (row) that user k sees and i does not: |ROI_i ∩ FOV_k \\ FOV_i| / |ROI_i|.

    This is q_ik of Q-CPTO. It is not symmetric, and 0 on the diagonal.

    Args:
        roi_m, fov_m: corners of each user's region of interest and field of view.

    Raises:
        ModuleNotFoundError: shapely is not installed.
        ValueError: the numbers of regions and fields differ.
    """
    _check_same(roi_m, fov_m)
    shapely = shapely_library()
    value = np.zeros((len(roi_m), len(fov_m)))
    if not len(roi_m):
        return value
    roi, fov = shapely.polygons(roi_m), shapely.polygons(fov_m)
    unseen = shapely.difference(roi, fov)
    user, other = shapely.STRtree(fov).query(unseen)
    user, other = user[user != other], other[user != other]
    share = shapely.area(shapely.intersection(unseen[user], fov[other])) / shapely.area(roi)[user]
    value[user, other] = np.where(share > _NOTHING, share, 0.0)
    return value


def raster_value(
    roi_m: Float[ndarray, "n k 2"], fov_m: Float[ndarray, "m l 2"], cell_m: float = 0.5, touched: bool = True
) -> Float[ndarray, "n n"]:
    """The same share counted in cells of a grid that all share, as the paper has it.

    Args:
        roi_m, fov_m: corners of convex polygons, counter-clockwise.
        cell_m: side of a cell.
        touched: a cell counts for a polygon if they touch (the paper's rule), else if its centre is inside.

    Raises:
        ValueError: a polygon is not convex, the numbers differ, `cell_m` is not positive, or a region holds no cell.
    """
    _check_same(roi_m, fov_m)
    if not 0 < cell_m < np.inf:
        raise ValueError(f"cell_m is {cell_m}: give the side of a cell in metres, more than 0")
    value, half_m = np.zeros((len(roi_m), len(fov_m))), cell_m / 2 if touched else 0.0
    if not len(roi_m):
        return value
    cells_m = _windows(roi_m, cell_m)
    wanted = inside(cells_m, roi_m, half_m)
    count = wanted.sum(axis=1)
    if not count.all():
        raise ValueError(f"cell_m is {cell_m}: region {int(count.argmin())} holds no cell; choose smaller ones")
    unseen = wanted & ~inside(cells_m, fov_m, half_m)
    user, other = near_pairs(roi_m, fov_m, 2 * half_m)
    user, other = user[user != other], other[user != other]
    seen = inside(cells_m[user], fov_m[other], half_m)
    value[user, other] = (seen & unseen[user]).sum(axis=1) / count[user]
    return value


def awareness(
    roi_m: Float[ndarray, "n k 2"], fov_m: Float[ndarray, "m l 2"], worker: Int[ndarray, "n"]
) -> Float[ndarray, "n"]:
    """The share of each user's region that is seen once the views of its cluster are fused; exact.

    Args:
        roi_m, fov_m: corners of each user's region of interest and field of view.
        worker: who fuses; users with the same one are a cluster, `UNASSIGNED` is alone with its own view.

    Raises:
        ModuleNotFoundError: shapely is not installed.
        ValueError: the numbers differ.
    """
    _check_same(roi_m, fov_m)
    shapely = shapely_library()
    roi, fov = shapely.polygons(roi_m), shapely.polygons(fov_m)
    fused = fov.copy()
    for cluster in np.unique(worker[worker != UNASSIGNED]):
        fused[worker == cluster] = shapely.union_all(fov[worker == cluster])
    return shapely.area(shapely.intersection(roi, fused)) / shapely.area(roi)


@dataclass(frozen=True, eq=False)
class UnionCoverage:
    """What a cluster's views cover together, for use as an objective: overlaps count once, unlike in pairwise sums.

    Each region is cut into equal parts; a part is covered if its centre is. Calling it with clusters gives each one's
    sum of its members' covered shares beyond what they see themselves, so a cluster of one has 0.

    Args:
        parts: how many parts a region has.
        seen: bit p of [i, k] tells whether user k sees part p of user i's region, uint64 [n, n, w].
    """

    parts: int
    seen: UInt64[ndarray, "n n w"]

    @classmethod
    def of(cls, roi_m: Float[ndarray, "n 3 2"], fov_m: Float[ndarray, "m l 2"], side: int = 16) -> "UnionCoverage":
        """Cut triangular regions into side x side equal parts.

        Raises:
            ValueError: a field of view is not convex, or the numbers differ.
        """
        _check_same(roi_m, fov_m)
        points_m = np.einsum("pc,ncx->npx", _centres(side), roi_m)
        words = -(-(side**2) // 64)
        seen = np.zeros((len(roi_m), len(fov_m), words * 8), np.uint8)
        user, other = near_pairs(roi_m, fov_m)
        packed = np.packbits(inside(points_m[user], fov_m[other]), axis=1)
        seen[user, other, : packed.shape[1]] = packed
        return cls(side**2, seen.view(np.uint64))

    def __call__(self, clusters: Sequence[Int[ndarray, "_"]]) -> Float[ndarray, "c"]:
        """Value of each cluster, given by indices of its users."""
        return np.array([self.gains(members).sum() for members in clusters], float)

    def gains(self, members: Int[ndarray, "k"]) -> Float[ndarray, "k"]:
        """Each member's covered share beyond what it sees itself."""
        together = np.bitwise_or.reduce(self.seen[np.ix_(members, members)], axis=1, initial=0)
        alone = self.seen[members, members]
        return np.bitwise_count(together & ~alone).sum(axis=1) / self.parts


def _centres(side: int) -> Float[ndarray, "p 3"]:
    """Barycentric coordinates of the centres of the side² congruent triangles that a triangle is cut into."""
    a, b = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    up = np.stack([a, b], axis=-1)[a + b < side] + 1 / 3
    down = np.stack([a, b], axis=-1)[a + b < side - 1] + 2 / 3
    first = np.concatenate([up, down]) / side
    return np.column_stack([1 - first.sum(axis=1), first])


def _windows(roi_m: Float[ndarray, "n k 2"], cell_m: float) -> Float[ndarray, "n c 2"]:
    """Centres of the grid cells about each region, as many for all."""
    low = np.floor(roi_m.min(axis=1) / cell_m).astype(int) - 1
    wide = int((np.ceil(roi_m.max(axis=1) / cell_m).astype(int) + 1 - low).max())
    steps = np.stack(np.meshgrid(np.arange(wide), np.arange(wide), indexing="ij"), axis=-1).reshape(-1, 2)
    return (low[:, None] + steps + 0.5) * cell_m


def _check_same(roi_m: Float[ndarray, "n k 2"], fov_m: Float[ndarray, "m l 2"]) -> None:
    if len(roi_m) != len(fov_m):
        raise ValueError(f"there are {len(roi_m)} regions of interest and {len(fov_m)} fields of view: want one each")
