"""Cooperative perception offloading: ours beside the paper's Algorithm 1, GO, CPTO and proven optima.

- `offload.mean_gap`: share of the proven bound that our heuristic misses, 40 users and 8 workers, mean over slots and
  seeds. The reference is Algorithm 1 as printed.
- `offload.p95_ms`: time of one assignment by our heuristic, the least of three repeats, 95th percentile over slots and
  seeds. The reference is Algorithm 1.
- `offload.certified_gap.n200`: what may be missing by the exact solver's own bound, 200 users and 40 workers, the worst
  slot. The reference is the paper's integer program in HiGHS on one such slot, with as much time as ours took for the
  slowest, at least 5 s.
- `offload.n1000.100ms`, `offload.n1000.5s`: share of the best known value that is missing after 0.1 s and 5 s, 1000
  users and 100 workers, the worst slot and seed. The reference is GO.
- `offload.n1000.ms`: what the answer in 0.1 s took, the slowest. The reference is the time that was given.
- `offload.cold_s`: a new process from its start to its end, with one decision for 40 users, the slowest of three. The
  reference is a process that imports numpy and scipy.optimize.
- `offload.awareness_vs_go`: mean awareness of our heuristic with its second pass over unions, over GO's, at the paper's
  setting (SUMO's crossing, at most 40 vehicles, c = 2 GHz, 0.4 s). The reference is GO's awareness.
- `offload.violations`: deadlines and reaches broken in all assignments above by any policy that plans with exact
  head-counts, as the referee counts them. The reference is Algorithm 1 with the capacity of equation 10.

The figures of the paper are drawn with 95 % intervals over seeds of the traffic. GO serves users in the order in which
vehicles came on the road. Areas are exact with shapely, else by raster; the crossing needs libsumo.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

import _harness as harness
import numpy as np
from _harness import Claim
from _offload_crossing import BASE, SWEEPS, Drive, Setting, crossing_table, draw, has_shapely, mean_of, sweep
from _offload_paper import paper_program_gap, paper_table
from _offload_random import (
    FIRST_SEED,
    HEURISTIC_SEEDS,
    PRINTED,
    SHORT_S,
    large_rows,
    middle_rows,
    random_slot,
    small_rows,
    timed,
)

from edge.offload.compiled import unavailable
from edge.offload.heuristic import Heuristic

LIBRARIES = "import numpy, scipy.optimize"
COLD = """
from edge.offload.heuristic import Heuristic
from edge.offload.scenario_random import random_scenario
Heuristic().assign(random_scenario(40, 8).slot)
"""


@dataclass(frozen=True)
class Size:
    """How much is run: slots of 40, 200 and 1000 users, seeds of the crossing and slots of each, seconds for proofs."""

    small: int
    middle: int
    large: int
    drives: int
    slots: int
    proof_s: float
    best_known_s: float


QUICK, FULL = Size(8, 2, 1, 3, 6, 20.0, 10.0), Size(24, 6, 3, 10, 15, 30.0, 120.0)


def small_table(rows: list[harness.Row]) -> list[harness.Row]:
    methods = dict.fromkeys(str(row["method"]) for row in rows)
    return [
        {
            "method": name,
            "mean gap, %": 100 * fmean(column(rows, name, "gap")),
            "worst, %": 100 * max(column(rows, name, "gap")),
            "median ms": median(column(rows, name, "ms")),
            "p95 ms": percentile95(column(rows, name, "ms")),
            "violations": sum(column(rows, name, "violations")),
        }
        for name in methods
    ]


def column(rows: Sequence[harness.Row], method: str | None, name: str) -> list[float]:
    """A figure of all rows, or of those of a method."""
    return [float(row[name] or 0) for row in rows if method is None or row["method"] == method]


def percentile95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def process_s(program: str, repeats: int = 3) -> float:
    """The slowest of new Python processes, from start to end."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        seconds.append(time.perf_counter() - begun)
    return max(seconds)


def decided(size: Size, out: Path) -> tuple[list[Claim], float]:
    """Slots of random traffic: claims, and deadlines broken by policies with exact head-counts."""
    timed(Heuristic(), random_slot(40, 8, 0))  # imports, and compiles the search unless that is done
    searched = "compiled" if unavailable() is None else f"in numpy: {unavailable()}"
    areas = "exact areas" if has_shapely() else "areas by raster and points: shapely is not installed"
    small = small_rows(size.small)
    title = f"40 users, 8 workers: below the proven bound; {size.small} slots, {areas}, search {searched}"
    harness.print_table(title, small_table(small))
    harness.write_csv(out / "offload_40.csv", small)
    cold_s, libraries_s = process_s(COLD), process_s(LIBRARIES)
    harness.console.print(
        f"a cold process decides in {cold_s:.2f} s; numpy and scipy.optimize alone {libraries_s:.2f} s"
    )
    middle = middle_rows(size.middle, size.proof_s)
    harness.print_table("200 users, 40 workers", middle)
    harness.write_csv(out / "offload_200.csv", middle)
    slowest_s = max(5.0, max(column(middle, None, "seconds")))
    highs_gap = paper_program_gap(random_slot(200, 40, FIRST_SEED), slowest_s)
    harness.console.print(f"the paper's program in HiGHS, {slowest_s:.1f} s: gap {highs_gap:.1%}")
    large = large_rows(size.large, size.best_known_s)
    harness.print_table("1000 users, 100 workers", large)
    harness.write_csv(out / "offload_1000.csv", large)

    kept = [row for row in small if row["method"] != PRINTED]
    violations = sum(column([*kept, *middle, *large], None, "violations"))
    ours, theirs = ({name: column(small, one, name) for name in ("gap", "ms")} for one in ("ours", "algorithm1"))
    worst = max(column(middle, None, "certified gap, %")) / 100
    short, long, go = (max(column(large, None, n)) / 100 for n in ("worst, %", "5 s: below, %", "GO: below, %"))
    took_ms, shorts = max(column(large, None, "slowest, ms")), HEURISTIC_SEEDS * len(large)
    mean_gap, p95_ms, runs = fmean(ours["gap"]), percentile95(ours["ms"]), len(ours["gap"])
    printed = sum(column(small, PRINTED, "violations"))
    return [
        Claim("offload.mean_gap", mean_gap, fmean(theirs["gap"]), mean_gap, "share of the bound", runs),
        Claim("offload.p95_ms", p95_ms, percentile95(theirs["ms"]), p95_ms, "ms", runs),
        Claim("offload.cold_s", cold_s, libraries_s, cold_s, "s", 3),
        Claim("offload.certified_gap.n200", worst, highs_gap, worst, "share of the bound", len(middle)),
        Claim("offload.n1000.100ms", short, go, short, "share of the best known", shorts),
        Claim("offload.n1000.ms", took_ms, 1000 * SHORT_S, took_ms, "ms", shorts),
        Claim("offload.n1000.5s", long, go, long, "share of the best known", len(large)),
        Claim("offload.violations", violations, printed, violations, "users", len(kept)),
    ], violations


def driven(size: Size, settings: Sequence[Setting], out: Path) -> tuple[Claim, float]:
    """SUMO's crossing: a claim, and deadlines broken."""
    drives = [Drive.record(seed, size.slots) for seed in range(FIRST_SEED, FIRST_SEED + size.drives)]
    swept = sweep(drives, [BASE, *settings])
    title = f"SUMO's crossing: c = 2 GHz, 0.4 s, at most 40 vehicles; {size.drives} seeds, {size.slots} slots each"
    harness.print_table(title, crossing_table(swept, BASE))
    harness.print_table("beside the paper's figures", paper_table(swept))
    rows = [{**vars(at), "policy": name, **row} for (at, name), rows in swept.items() for row in rows]
    harness.write_csv(out / "offload_crossing.csv", rows)
    draw(swept, out)
    aware, rival = (mean_of(swept, BASE, name, "awareness") for name in ("ours, union", "go"))
    claim = Claim("offload.awareness_vs_go", aware, rival, aware / rival, "share of the regions", len(drives))
    return claim, sum(row["violations"] for rows in swept.values() for row in rows)


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    size = QUICK if arguments.quick else FULL
    claims, late = decided(size, arguments.out)
    settings = SWEEPS["c, GHz"] if arguments.quick else [one for some in SWEEPS.values() for one in some]
    claim, later = driven(size, settings, arguments.out)
    last_one = replace(claims[-1], ours=late + later, ratio=late + later)
    harness.print_claims([*claims[:-1], claim, last_one])


if __name__ == "__main__":
    main()
