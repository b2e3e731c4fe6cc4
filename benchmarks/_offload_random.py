"""Slots of random traffic for the offloading benchmark: 40, 200 and 1000 users, and what each method makes of them."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean

import _harness as harness
from _offload_crossing import has_shapely

from edge.offload.algorithm1 import Algorithm1
from edge.offload.anytime import LadderConfig, last
from edge.offload.capacity import places
from edge.offload.evaluate import evaluate
from edge.offload.exact import ExactConfig, solve_exact
from edge.offload.heuristic import Heuristic
from edge.offload.model import Assignment, OffloadPolicy, Slot
from edge.offload.policies import POLICIES
from edge.offload.scenario import ScenarioConfig
from edge.offload.scenario_random import random_scenario

FIRST_SEED = 100  # settings were chosen on other slots
HEURISTIC_SEEDS = 5
REPEATS = 3  # the least time counts: others use the machine, too
PRINTED = "algorithm1, eq. 10"
RIVALS = ("algorithm1", "go", "cpto")
LIMIT_S = 20.0
SHORT_S, LONG_S = 0.1, 4.0  # the last rung of a long ladder may end up to a second later


def random_slot(users: int, workers: int, seed: int) -> Slot:
    """Vehicles about crossings that all take part; c is 1 and 2 GHz in turn."""
    config = ScenarioConfig(participants="all", area="exact" if has_shapely() else "raster")
    return random_scenario(users, workers, seed, config, base_cycles_per_s=(1 + seed % 2) * 1e9).slot


def timed(policy: OffloadPolicy, slot: Slot, repeats: int = 1) -> tuple[Assignment, float]:
    """An assignment, and the least time that it took."""
    seconds = []
    for _ in range(repeats):
        places.cache_clear()
        begun = time.perf_counter()
        assignment = policy.assign(slot)
        seconds.append(time.perf_counter() - begun)
    return assignment, min(seconds)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collection, as `timeit` does: it takes 30 to 50 ms among all that lives here."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def broken(slot: Slot, assignment: Assignment) -> int:
    return len(evaluate(slot, assignment).violations)


def small_rows(count: int) -> list[harness.Row]:
    """A row for each slot of 40 users, and method and seed."""
    rows: list[harness.Row] = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        slot = random_slot(40, 8, seed)
        proof = solve_exact(slot, ExactConfig(limit_s=LIMIT_S, seed=seed))
        runs = [("exact", proof.assignment, proof.seconds)]
        runs += [("ours", *timed(Heuristic(seed=k), slot, REPEATS)) for k in range(HEURISTIC_SEEDS)]
        runs += [(name, *timed(POLICIES[name](seed), slot, REPEATS)) for name in RIVALS]
        runs.append(("algorithm1, best worker", *timed(Algorithm1(placement="gain", seed=seed), slot)))
        runs.append((PRINTED, *timed(Algorithm1(capacity="printed", seed=seed), slot)))
        for name, assignment, seconds in runs:
            judged = evaluate(slot, assignment)
            gap = max(0.0, 1 - judged.value / proof.bound)
            late = len(judged.violations)
            rows.append({"slot": seed, "method": name, "gap": gap, "ms": 1000 * seconds, "violations": late})
    return rows


def middle_rows(count: int, limit_s: float) -> list[harness.Row]:
    """Slots of 200 users, proven."""
    rows: list[harness.Row] = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        slot = random_slot(200, 40, seed)
        found = solve_exact(slot, ExactConfig(limit_s=limit_s, gap=0.003, seed=seed))
        quick, seconds = timed(Heuristic(seed=seed), slot)
        late = broken(slot, found.assignment) + broken(slot, quick)
        gap = max(0.0, 1 - evaluate(slot, quick).value / found.bound)
        row = {"slot": seed, "certified gap, %": 100 * found.gap, "seconds": found.seconds, "violations": late}
        rows.append(row | {"heuristic gap, %": 100 * gap, "heuristic ms": 1000 * seconds})
    return rows


def large_rows(count: int, best_known_s: float) -> list[harness.Row]:
    """Slots of 1000 users: what 100 ms, with several seeds, and 5 s are good for, beside the best that is known."""
    rows: list[harness.Row] = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        slot = random_slot(1000, 100, seed)
        with uncollected():
            short = [last(slot, LadderConfig(budget_s=SHORT_S, seed=k)) for k in range(HEURISTIC_SEEDS)]
        long = last(slot, LadderConfig(budget_s=LONG_S, seed=seed))
        best = solve_exact(slot, ExactConfig(limit_s=best_known_s, seed=seed))
        known = max(one.value for one in (best, long, *short))
        go = POLICIES["go"](seed).assign(slot)
        assigned = (go, *(one.assignment for one in (long, best, *short)))
        rows.append(
            {
                "slot": seed,
                "best known": known,
                "its gap, %": 100 * (1 - known / best.bound),
                "found in, s": best.seconds,
                "0.1 s: mean below, %": 100 * (1 - fmean(one.value for one in short) / known),
                "worst, %": 100 * (1 - min(one.value for one in short) / known),
                "slowest, ms": 1000 * max(one.seconds for one in short),
                "5 s: below, %": 100 * (1 - long.value / known),
                "took, s": long.seconds,
                "GO: below, %": 100 * (1 - evaluate(slot, go).value / known),
                "violations": sum(broken(slot, one) for one in assigned),
            }
        )
    return rows
