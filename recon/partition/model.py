"""What is divided: cameras' positions among workers, and how long each worker takes for its share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

Profile = Callable[[Int[ndarray, "n"]], Float[ndarray, "n"]]
"""Seconds for so many views, at least one each; must not fall as views grow."""

_NEAR: Final = 4  # neighbours of a camera that say whether it stands at a border


@dataclass(frozen=True)
class Worker:
    """One that trains views: a roadside unit (RSU) with its vehicles, or one vehicle.

    Args:
        name: unique among the workers of a problem.
        position_m: east, north.
        views_per_s: views that it trains in a second, all steps of a view together; infinity costs no time.
        uplink_bps: rate at which it sends its model on.
        fixed_s: what a share costs whatever its size.
        reach_m: a camera further away cannot be its.
        max_views: the most that it takes; None is no limit.
        upload_bytes, upload_bytes_per_view: size of the model that it sends, a constant and a part per view.
        profile: measured seconds by number of views; takes the place of rates, bytes and `fixed_s`.

    Raises:
        ValueError: a value is out of range; the message names worker and field.
    """

    name: str
    position_m: tuple[float, float]
    views_per_s: float
    uplink_bps: float = math.inf
    fixed_s: float = 0.0
    reach_m: float = math.inf
    max_views: int | None = None
    upload_bytes: float = 0.0
    upload_bytes_per_view: float = 0.0
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.position_m)):
            raise ValueError(f"Worker {self.name!r}: position_m must be finite, got {self.position_m}")
        for field in ("views_per_s", "uplink_bps", "reach_m"):
            if not getattr(self, field) > 0:
                raise ValueError(f"Worker {self.name!r}: {field} must be positive, got {getattr(self, field)}")
        for field in ("fixed_s", "upload_bytes", "upload_bytes_per_view"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"Worker {self.name!r}: {field} must be 0 or more, got {getattr(self, field)}")
        if self.max_views is not None and self.max_views < 0:
            raise ValueError(f"Worker {self.name!r}: max_views must be 0 or more, got {self.max_views}")

    def completion_s(self, counts: Int[ndarray, "n"]) -> Float[ndarray, "n"]:
        """Seconds until its model of so many views has arrived; 0 for none, infinity beyond `max_views`."""
        if self.profile is None:
            sent_bytes = self.upload_bytes + self.upload_bytes_per_view * counts
            seconds = self.fixed_s + counts / self.views_per_s + 8 * sent_bytes / self.uplink_bps
        else:
            seconds = np.asarray(self.profile(np.maximum(counts, 1)), dtype=np.float64)
            if seconds.shape != counts.shape:
                raise ValueError(f"Worker {self.name!r}: profile gave shape {seconds.shape} for {counts.shape} counts")
        most = math.inf if self.max_views is None else self.max_views
        return np.where(counts == 0, 0.0, np.where(counts > most, math.inf, seconds))


@dataclass(frozen=True, eq=False)
class Problem:
    """Cameras and workers; make it with `Problem.of`.

    Args:
        cameras_m: east, north of each camera [n, 2].
        workers: who may own them.
        costs_m2: squared distance of camera and worker [n, m]; infinity where out of reach.
        times_s: completion time of each worker by number of views 0..n [m, n + 1].
    """

    cameras_m: Float[ndarray, "n 2"]
    workers: tuple[Worker, ...]
    costs_m2: Float[ndarray, "n m"]
    times_s: Float[ndarray, "m n1"]

    @classmethod
    def of(cls, cameras_m: Float[ndarray, "n 2"], workers: Sequence[Worker]) -> "Problem":
        """Check the inputs and tabulate distances and completion times.

        Raises:
            ValueError: there are no cameras or workers, a position is not finite, a name comes twice, a profile falls
                or is NaN, or a camera is out of everybody's reach.
        """
        if not len(cameras_m) or not workers:
            raise ValueError(f"cameras_m and workers must not be empty, got {len(cameras_m)} and {len(workers)}")
        bad = np.flatnonzero(~np.isfinite(cameras_m).all(axis=1))
        if len(bad):
            raise ValueError(f"cameras_m must be finite, camera {bad[0]} is at {cameras_m[bad[0]].tolist()}: drop it")
        names = [worker.name for worker in workers]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"workers need unique names, {twice!r} comes twice: rename one")
        cameras_m = np.asarray(cameras_m, dtype=np.float64)
        return cls(cameras_m, tuple(workers), _costs(cameras_m, workers), _times(len(cameras_m), workers))

    def __len__(self) -> int:
        return len(self.cameras_m)

    @property
    def limited(self) -> bool:
        """Whether some camera is out of some worker's reach."""
        return not np.isfinite(self.costs_m2).all()

    @cached_property
    def farthest_m2(self) -> float:
        """The largest squared distance of a camera and a worker that reaches it."""
        return float(self.costs_m2[np.isfinite(self.costs_m2)].max())

    @cached_property
    def spacing_m(self) -> Float[ndarray, "m"]:
        """Distance of each worker to the nearest other; 1 m where there is none or all stand at the same place."""
        positions_m = np.array([worker.position_m for worker in self.workers], dtype=np.float64)
        distances_m = np.sqrt(np.square(positions_m[:, None] - positions_m).sum(axis=2))
        distances_m[distances_m == 0] = math.inf
        closest = distances_m.min(axis=1)
        return np.where(np.isfinite(closest), closest, 1.0)

    def capacities(self, limit_s: float) -> Int[ndarray, "m"]:
        """Views that each worker finishes within so many seconds."""
        return np.array([np.searchsorted(row, limit_s, side="right") - 1 for row in self.times_s])

    def seconds(self, counts: Int[ndarray, "m"]) -> Float[ndarray, "m"]:
        """Completion time of each worker with so many views."""
        return self.times_s[np.arange(len(counts)), counts]


@dataclass(frozen=True, eq=False)
class Partition:
    """Who owns each camera.

    Args:
        owner: index of a worker for each camera [n].
        counts: cameras of each worker [m].
        times_s: completion time of each worker [m].
        weights_m2: of the power diagram that the cells are, where one is known [m].
        rounds: how often boundaries were moved.
    """

    owner: Int[ndarray, "n"]
    counts: Int[ndarray, "m"]
    times_s: Float[ndarray, "m"]
    weights_m2: Float[ndarray, "m"] | None = None
    rounds: int = 0

    @property
    def makespan_s(self) -> float:
        """When the last worker is done."""
        return float(self.times_s.max())


@dataclass(frozen=True)
class PartitionReport:
    """How good a partition is.

    Args:
        makespan_s: when the last worker is done.
        optimum_s: the least makespan that any partition has.
        ratio: of the two; 1 if both are 0.
        idle_share: of the workers' time until the last is done; 0 if the last never is.
        mean_distance_m: of a camera and its owner.
        border_share: cameras that have another owner's among their four nearest neighbours.
    """

    makespan_s: float
    optimum_s: float
    ratio: float
    idle_share: float
    mean_distance_m: float
    border_share: float


def partition_of(
    problem: Problem, owner: Int[ndarray, "n"], weights_m2: Float[ndarray, "m"] | None = None, rounds: int = 0
) -> Partition:
    """Count and time a choice of owners."""
    counts = np.bincount(owner, minlength=len(problem.workers))
    return Partition(owner, counts, problem.seconds(counts), weights_m2, rounds)


def report(problem: Problem, partition: Partition, optimum_s: float) -> PartitionReport:
    """Judge a partition; `optimum_s` is that of `recon.partition.optimum_s`.

    Raises:
        ImportError: scipy is not installed.
    """
    distances_m = np.sqrt(problem.costs_m2[np.arange(len(problem)), partition.owner])
    makespan_s = partition.makespan_s
    return PartitionReport(
        makespan_s=makespan_s,
        optimum_s=optimum_s,
        ratio=makespan_s / optimum_s if optimum_s else (math.inf if makespan_s else 1.0),
        idle_share=float(1 - partition.times_s.mean() / makespan_s) if 0 < makespan_s < math.inf else 0.0,
        mean_distance_m=float(distances_m.mean()),
        border_share=_border_share(problem.cameras_m, partition.owner),
    )


def _costs(cameras_m: Float[ndarray, "n 2"], workers: Sequence[Worker]) -> Float[ndarray, "n m"]:
    positions_m = np.array([worker.position_m for worker in workers], dtype=np.float64)
    squared = np.square(cameras_m[:, None] - positions_m).sum(axis=2)
    costs = np.where(squared <= np.square([worker.reach_m for worker in workers]), squared, math.inf)
    lost = np.flatnonzero(~np.isfinite(costs).any(axis=1))
    if len(lost):
        nearest = int(squared[lost[0]].argmin())
        raise ValueError(
            f"camera {lost[0]} is out of every worker's reach ({len(lost)} are); the nearest is "
            f"{workers[nearest].name!r}, {math.sqrt(squared[lost[0], nearest]):.1f} m away: raise reach_m or drop it"
        )
    return costs


def _times(cameras: int, workers: Sequence[Worker]) -> Float[ndarray, "m n1"]:
    times_s = np.stack([worker.completion_s(np.arange(cameras + 1)) for worker in workers])
    ahead, behind = times_s[:, :-1], times_s[:, 1:]
    bad = np.flatnonzero(~(ahead <= behind).all(axis=1))  # NaN compares as False
    if len(bad):
        raise ValueError(f"Worker {workers[bad[0]].name!r}: profile must not be NaN or fall as views grow")
    return times_s


def _border_share(cameras_m: Float[ndarray, "n 2"], owner: Int[ndarray, "n"]) -> float:
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ImportError("the share of border cameras needs scipy: pip install scipy") from error
    near = cKDTree(cameras_m).query(cameras_m, k=list(range(1, min(_NEAR + 1, len(owner)) + 1)))[1]
    return float((owner[near] != owner[:, None]).any(axis=1).mean())
