"""Cameras among roadside units (RSUs): moved boundaries beside the exact optimum, plain Voronoi, and the printed rule.

- `partition.hwp_over_optimum`: makespan of `shift_boundaries` over the least that any partition has, the worst of all
  sizes and seeds. The reference is that of plain Voronoi cells in the worst case of its own.
- `partition.exact_s`: seconds for the least makespan and the cheapest partition that has it, 5000 cameras and 32 RSUs,
  the slowest seed. The reference is HiGHS (scipy) on the same minimum-cost flow as a linear program, one
  seed; with `--quick` it is given up after 8 s.
- `partition.latency_reduction`: one minus the completion time of vehicles, RSUs and cloud with moved boundaries over
  that of sending all images to the cloud and training there; the least of the seeds. The reference is the same share
  with plain Voronoi cells. It is a model, not a run: the assumptions are printed, and so is the effect of more GPUs.

Cameras and RSUs stand along roads of unlike traffic; speeds are 1 to 4. "as printed" moves the boundary of
the worst outlier alone, its step halved when it overshoots, 60 rounds for each RSU, no repair.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

import _harness as harness
import numpy as np
from _harness import Claim
from jaxtyping import Float, Int
from numpy import ndarray

from recon.partition import (
    Assumptions,
    Latencies,
    Partition,
    Problem,
    ShiftConfig,
    Worker,
    exact,
    latencies,
    nearest,
    optimum_s,
    report,
    save_picture,
    shift_boundaries,
)

SIZES = [(500, 4), (2000, 8), (2000, 16), (5000, 32)]
SIDE_M, ROAD_M, LANE_M = 2000.0, (400.0, 1200.0), 8.0
TRAFFIC = 1.0  # of a Dirichlet distribution: any way to share the cameras among the roads is as likely as any other
VEHICLES, FASTEST_STEPS_PER_S, SPREAD = 4, 3.2, 4.0  # an embedded GPU: an eighth of an A100 by memory bandwidth
GPUS = (1, 2, 4, 8, 16)
FIRST_SEED = 100  # settings were chosen on the towns of seeds 0 to 5
QUICK_HIGHS_S = 8.0


@dataclass(frozen=True, eq=False)
class Roads:
    """Straight roads: middle [k, 2] and unit direction [k, 2], length [k]; metres."""

    middle_m: Float[ndarray, "k 2"]
    direction: Float[ndarray, "k 2"]
    length_m: Float[ndarray, "k"]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> "Roads":
        angle = rng.uniform(0, np.pi, count)
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return cls(rng.uniform(0, SIDE_M, (count, 2)), direction, rng.uniform(*ROAD_M, count))

    def places(self, road: Int[ndarray, "n"], rng: np.random.Generator) -> Float[ndarray, "n 2"]:
        """A place anywhere on each of the given roads, some metres beside its middle line."""
        along_m = (rng.random(len(road)) - 0.5) * self.length_m[road]
        beside_m = rng.normal(0, LANE_M, (len(road), 2))
        return self.middle_m[road] + self.direction[road] * along_m[:, None] + beside_m


def make_town(cameras: int, rsus: int, seed: int) -> tuple[Float[ndarray, "n 2"], list[Worker]]:
    """Cameras and RSUs of speeds 1 to 4 with 5 s to start."""
    rng = np.random.default_rng(seed)
    roads = Roads.draw(max(3, rsus // 2), rng)
    count = len(roads.length_m)
    cameras_m = roads.places(rng.choice(count, size=cameras, p=rng.dirichlet(np.full(count, TRAFFIC))), rng)
    rsus_m = roads.places(np.arange(rsus) % count, rng).tolist()
    speeds = (SPREAD ** rng.random(rsus)).tolist()
    return cameras_m, [Worker(f"rsu{k}", (x, y), speeds[k], fixed_s=5.0) for k, (x, y) in enumerate(rsus_m)]


def as_printed(problem: Problem) -> Partition:
    """The worst outlier alone, no repair."""
    rounds = 60 * len(problem.workers)
    config = ShiftConfig(0.0, rounds, rounds, first_step=0.1, shrink=0.5, one_at_a_time=True, repair=False)
    return shift_boundaries(problem, config)


METHODS: dict[str, Callable[[Problem], Partition]] = {
    "voronoi": nearest,
    "as printed": as_printed,
    "boundaries only": lambda problem: shift_boundaries(problem, ShiftConfig(repair=False)),
    "hwp": shift_boundaries,
    "exact": exact,
}


def measure(cameras: int, rsus: int, seeds: int) -> list[harness.Row]:
    """A row per method and seed."""
    rows: list[harness.Row] = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        problem = Problem.of(*make_town(cameras, rsus, seed))
        least_s = optimum_s(problem)
        for name, solve in METHODS.items():
            start = time.perf_counter()
            found = solve(problem)
            seconds = time.perf_counter() - start
            judged = report(problem, found, least_s)
            rows.append(
                {
                    "case": f"{cameras} cameras, {rsus} RSUs",
                    "method": name,
                    "seed": seed,
                    "ratio": judged.ratio,
                    "distance_m": judged.mean_distance_m,
                    "border": judged.border_share,
                    "idle": judged.idle_share,
                    "seconds": seconds,
                }
            )
    return rows


def summarise(rows: list[harness.Row]) -> list[harness.Row]:
    """Mean over the seeds and, for what is claimed, the worst."""
    groups: dict[tuple[str, str], list[harness.Row]] = {}
    for row in rows:
        groups.setdefault((str(row["case"]), str(row["method"])), []).append(row)
    return [
        {
            "case": case,
            "method": method,
            "over optimum": fmean(values(group, "ratio")),
            "worst": max(values(group, "ratio")),
            "distance (m)": fmean(values(group, "distance_m")),
            "at borders": fmean(values(group, "border")),
            "idle": fmean(values(group, "idle")),
            "seconds": fmean(values(group, "seconds")),
        }
        for (case, method), group in groups.items()
    ]


def values(rows: list[harness.Row], name: str) -> list[float]:
    return [float(row[name] or 0) for row in rows]


def highs_seconds(problem: Problem, limit_s: float) -> float:
    """Minimum-cost flow at the least makespan by scipy's linear program; the makespan is not timed.

    Its cost is compared with ours, unless it was given up at the limit.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron

    cameras, rsus = problem.costs_m2.shape
    capacities = problem.capacities(optimum_s(problem))
    one_owner = kron(eye_array(cameras), np.ones((1, rsus)), format="csr")
    places = kron(np.ones((1, cameras)), eye_array(rsus), format="csr")
    start = time.perf_counter()
    limits = (places, capacities, one_owner, np.ones(cameras))
    found = linprog(problem.costs_m2.ravel(), *limits, method="highs", options={"time_limit": limit_s})
    seconds = time.perf_counter() - start
    ours = exact(problem)
    ours_m2 = problem.costs_m2[np.arange(cameras), ours.owner].sum()
    assert found.fun is None or abs(found.fun - ours_m2) <= 1e-6 * ours_m2, (found.fun, ours_m2)
    return seconds


def measure_latency(seed: int, assumptions: Assumptions) -> Latencies:
    """The largest town with four vehicles at each RSU, speeds 1 to 4."""
    cameras_m, rsus = make_town(*SIZES[-1], seed)
    rng = np.random.default_rng(1000 + seed)
    vehicles = {
        rsu.name: [
            assumptions.vehicle(f"{rsu.name}/{k}", rsu.position_m, float(FASTEST_STEPS_PER_S / SPREAD ** rng.random()))
            for k in range(VEHICLES)
        ]
        for rsu in rsus
    }
    return latencies(cameras_m, rsus, vehicles, assumptions)


def latency_rows(seeds: int) -> list[harness.Row]:
    """Mean seconds of the four ways by number of cloud GPUs, and the least share saved."""
    rows: list[harness.Row] = []
    for gpus in GPUS:
        found = [
            measure_latency(seed, replace(Assumptions(), gpus=gpus)) for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        rows.append(
            {
                "cloud GPUs": gpus,
                "central (s)": fmean(one.central_s for one in found),
                "flat (s)": fmean(one.flat_s for one in found),
                "voronoi (s)": fmean(one.voronoi_s for one in found),
                "hwp (s)": fmean(one.balanced_s for one in found),
                "saved, voronoi": min(1 - one.voronoi_s / one.central_s for one in found),
                "saved, hwp": min(one.saved for one in found),
            }
        )
    return rows


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    seeds = 3 if arguments.quick else 8
    rows = [row for size in SIZES for row in measure(*size, seeds)]
    harness.print_table(f"makespan over the optimum, {seeds} seeds", summarise(rows))
    harness.write_csv(arguments.out / "partition.csv", rows)
    latency = latency_rows(seeds)
    fleet = f"{VEHICLES} vehicles at each of {SIZES[-1][1]} RSUs, fastest {FASTEST_STEPS_PER_S} steps/s, {SPREAD:g}:1"
    harness.console.print(f"[bold]assumptions[/bold]\n{Assumptions()}\n{fleet}; {SIZES[-1][0]} views")
    harness.print_table("completion time; the claim is the row of one GPU", latency)
    harness.write_csv(arguments.out / "partition_latency.csv", latency)
    problem = Problem.of(*make_town(*SIZES[1], FIRST_SEED))
    shown = {"Voronoi": nearest(problem), "HWP": shift_boundaries(problem)}
    save_picture(arguments.out / "partition.png", problem, shown)

    by_method = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    worst, plain = (max(values(by_method[name], "ratio")) for name in ("hwp", "voronoi"))
    exact_s = max(values(by_method["exact"][-seeds:], "seconds"))
    limit_s = QUICK_HIGHS_S if arguments.quick else 600.0
    highs_s = highs_seconds(Problem.of(*make_town(*SIZES[-1], FIRST_SEED)), limit_s)
    saved, saved_plain = float(latency[0]["saved, hwp"] or 0), float(latency[0]["saved, voronoi"] or 0)
    harness.print_claims(
        [
            Claim("partition.hwp_over_optimum", worst, plain, worst, "makespan / optimum", seeds),
            Claim("partition.exact_s", exact_s, highs_s, exact_s, "s", seeds),
            Claim("partition.latency_reduction", saved, saved_plain, saved, "share of the time", seeds),
        ]
    )


if __name__ == "__main__":
    main()
