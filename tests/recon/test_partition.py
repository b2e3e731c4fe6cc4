"""Partition: every assignment of tiny problems, another solver, bounds, limits, symmetries, bad input."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linprog

from recon.partition import (
    Partition,
    Problem,
    ShiftConfig,
    Worker,
    exact,
    exact_within,
    nearest,
    optimum_s,
    partition_of,
    report,
    shift_boundaries,
)
from recon.partition.chains import cheapest_assignment, cheapest_path
from recon.partition.voronoi_shift import cells, move_boundaries, repair


def make_problem(cameras: int, workers: int, seed: int = 0, **limits: Any) -> Problem:
    """Cameras in three clumps of a square kilometre; speeds 1 to 4 views a second."""
    rng = np.random.default_rng(seed)
    clumps = rng.uniform(0, 1000, (3, 2))
    cameras_m = clumps[rng.integers(0, 3, cameras)] + rng.normal(0, 60, (cameras, 2))
    team = [make_worker(f"r{k}", rng, **limits) for k in range(workers)]
    return Problem.of(cameras_m, team)


def make_worker(name: str, rng: np.random.Generator, **limits: Any) -> Worker:
    east, north = rng.uniform(0, 1000, 2)
    return Worker(name, (float(east), float(north)), float(4 ** rng.random()), fixed_s=float(rng.random()), **limits)


def cost_m2(problem: Problem, partition: Partition) -> float:
    return float(problem.costs_m2[np.arange(len(problem)), partition.owner].sum())


def all_partitions(problem: Problem) -> list[Partition]:
    owners = itertools.product(range(len(problem.workers)), repeat=len(problem))
    found = [partition_of(problem, np.array(owner)) for owner in owners]
    return [partition for partition in found if math.isfinite(cost_m2(problem, partition))]


@pytest.mark.parametrize(("cameras", "workers"), [(1, 1), (5, 1), (6, 2), (6, 3), (2, 4)])
@pytest.mark.parametrize("limits", [{}, {"reach_m": 1100.0}, {"reach_m": 700.0}, {"max_views": 4}])
def test_exact_is_the_best_of_all_assignments(cameras: int, workers: int, limits: dict[str, Any]) -> None:
    for seed in range(4):
        try:
            problem = make_problem(cameras, workers, seed, **limits)
        except ValueError:
            continue  # a camera that nobody reaches: see test_bad_problems
        options = all_partitions(problem)
        least_s = min(option.makespan_s for option in options)
        if math.isinf(least_s):
            with pytest.raises(ValueError, match="max_views"):
                optimum_s(problem)
            continue
        assert optimum_s(problem) == least_s
        found = exact(problem)
        assert found.makespan_s == least_s
        least_m2 = min(cost_m2(problem, option) for option in options if option.makespan_s == least_s)
        assert cost_m2(problem, found) == pytest.approx(least_m2)
        tight = shift_boundaries(problem, ShiftConfig(threshold=0))
        assert tight.makespan_s == least_s


def by_linear_program(costs: Float[ndarray, "n m"], capacities: ndarray) -> float:
    """Least cost by HiGHS; integral because a transport problem's corners are."""
    cameras, workers = costs.shape
    rows = np.kron(np.eye(cameras), np.ones(workers))
    columns = np.kron(np.ones(cameras), np.eye(workers))
    found = linprog(costs.ravel(), columns, capacities, rows, np.ones(cameras), method="highs")
    return float(found.fun)


@pytest.mark.parametrize("seed", range(5))
def test_cheapest_assignment_agrees_with_a_linear_program(seed: int) -> None:
    problem = make_problem(60, 5, seed)
    rng = np.random.default_rng(seed)
    capacities = rng.multinomial(60 + 5 * (seed % 3), rng.dirichlet(np.ones(5)))
    expected = by_linear_program(problem.costs_m2, capacities)
    for prices in (None, rng.uniform(0, 1e5, 5), np.array([0, 1e6, 0, 1e4, 0])):
        owner = cheapest_assignment(problem.costs_m2, capacities, prices)
        assert (np.bincount(owner, minlength=5) <= capacities).all()
        assert cost_m2(problem, partition_of(problem, owner)) == pytest.approx(expected, rel=1e-9)


def test_the_makespan_by_hand() -> None:
    """1 and 3 views/s, 1 s to start: of 8 views 2 and 6 take 3 s each."""
    cameras_m = np.stack([np.arange(8.0), np.zeros(8)], axis=1)
    problem = Problem.of(cameras_m, [Worker("a", (7, 0), 1, fixed_s=1), Worker("b", (0, 0), 3, fixed_s=1)])
    found = exact(problem)
    assert (found.counts.tolist(), found.times_s.tolist(), optimum_s(problem)) == ([2, 6], [3, 3], 3)
    assert found.owner.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert nearest(problem).makespan_s == 5  # four each
    judged = report(problem, nearest(problem), 3.0)
    assert judged.ratio == pytest.approx(5 / 3)
    assert judged.mean_distance_m == 1.5
    assert judged.idle_share == pytest.approx(1 - (5 + 7 / 3) / 2 / 5)
    assert judged.border_share == 1  # cameras 0 and 7 see four neighbours on one side, so none is inside


def test_border_share_by_hand() -> None:
    """20 in a row, cut in the middle: of the four nearest, 8 to 11 see some across the cut."""
    cameras_m = np.stack([np.arange(20.0), np.zeros(20)], axis=1)
    problem = Problem.of(cameras_m, [Worker("a", (0, 0), 1), Worker("b", (19, 0), 1)])
    assert report(problem, nearest(problem), 10.0).border_share == 0.2


def test_completion_time_by_hand() -> None:
    worker = Worker("a", (0, 0), 2, 8e6, 1, max_views=4, upload_bytes=1e6, upload_bytes_per_view=2e6)
    assert worker.completion_s(np.array([0, 1, 4, 5])).tolist() == [0, 1 + 0.5 + 3, 1 + 2 + 9, math.inf]


def test_any_profile_that_does_not_fall() -> None:
    stairs = Worker("a", (0, 0), 1, profile=lambda counts: np.ceil(counts / 4) * 10.0)
    problem = Problem.of(np.zeros((10, 2)), [stairs, Worker("b", (1, 0), 0.4)])
    found = exact(problem)  # the 10th smallest of 10 x4, 20 x4, ... and 2.5, 5, 7.5, 10, 12.5, 15, ...
    assert found.makespan_s == 15
    assert found.counts.tolist() == [4, 6]


@pytest.mark.parametrize(("cameras", "workers"), [(300, 4), (800, 12)])
@pytest.mark.parametrize("limits", [{}, {"reach_m": 1000.0}, {"max_views": 250}])
def test_exact_then_shifted_then_voronoi(cameras: int, workers: int, limits: dict[str, Any]) -> None:
    for seed in range(3):
        problem = make_problem(cameras, workers, seed, **limits)
        least_s, voronoi, shifted = optimum_s(problem), nearest(problem), shift_boundaries(problem)
        assert exact(problem).makespan_s == least_s
        assert least_s <= shifted.makespan_s <= voronoi.makespan_s
        assert shifted.makespan_s <= 1.05 * least_s
        assert cost_m2(problem, voronoi) <= cost_m2(problem, shifted)


def test_as_printed_one_boundary_moves_at_a_time() -> None:
    problem = make_problem(300, 4)
    config = ShiftConfig(one_at_a_time=True, repair=False, rounds=240, patience=240)
    found = shift_boundaries(problem, config)
    assert 0 < found.rounds <= 240
    assert optimum_s(problem) <= found.makespan_s < 0.7 * nearest(problem).makespan_s
    assert shift_boundaries(problem, ShiftConfig(rounds=0, repair=False)).makespan_s == nearest(problem).makespan_s


def test_a_boundary_moves_along_its_normal_by_what_is_asked() -> None:
    """Midway between 0 and 100 it is at 50; 10 m outwards from the left worker it is at 60."""
    cameras_m = np.stack([np.arange(0.5, 100), np.zeros(100)], axis=1)
    problem = Problem.of(cameras_m, [Worker("a", (0, 0), 1), Worker("b", (100, 0), 1)])
    assert nearest(problem).counts.tolist() == [50, 50]
    moved = cells(problem, move_boundaries(problem, np.zeros(2), np.array([10.0, 0])))
    assert moved.counts.tolist() == [60, 40]


@pytest.mark.parametrize("solve", [exact, shift_boundaries])
def test_cells_are_convex(solve: Callable[[Problem], Partition]) -> None:
    """No two owners gain by an exchange of cameras, nor a ring of them: then the cells are a power diagram's."""
    problem = make_problem(200, 6, 3)
    found = solve(problem)
    equal = cheapest_assignment(problem.costs_m2, found.counts)
    assert cost_m2(problem, found) == pytest.approx(cost_m2(problem, partition_of(problem, equal)), rel=1e-9)


def test_two_islands_out_of_reach_of_each_other() -> None:
    """40 cameras and 4: one island's worker wants more for ever, and can have none."""
    cameras_m = np.random.default_rng(0).uniform(0, 100, (44, 2)) + np.array([[0.0, 0]] * 40 + [[9000.0, 0]] * 4)
    places: list[tuple[float, float]] = [(10, 50), (50, 50), (90, 50), (9050, 50)]
    problem = Problem.of(cameras_m, [Worker(f"r{k}", place, 1, reach_m=500) for k, place in enumerate(places)])
    assert exact(problem).counts[3] == 4
    assert exact(problem).makespan_s == shift_boundaries(problem).makespan_s == 14


def test_repair_alone_reaches_the_optimum() -> None:
    problem = make_problem(120, 5, 1, reach_m=900.0)
    assert repair(problem, nearest(problem)).makespan_s == optimum_s(problem)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_order_does_not_matter(seed: int, cameras: int, workers: int) -> None:
    problem = make_problem(cameras, workers, seed)
    rng = np.random.default_rng(seed)
    order, team = rng.permutation(cameras), rng.permutation(workers)
    mixed = Problem.of(problem.cameras_m[order], [problem.workers[k] for k in team])
    for solve in (exact, nearest):
        first, second = solve(problem), solve(mixed)
        assert team[second.owner].tolist() == first.owner[order].tolist()
    assert shift_boundaries(mixed).makespan_s == pytest.approx(shift_boundaries(problem).makespan_s)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 5), st.floats(1, 5))
def test_a_faster_or_a_further_worker_never_costs_time(seed: int, cameras: int, workers: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    cameras_m, team = rng.uniform(0, 1000, (cameras, 2)), [make_worker(f"r{k}", rng) for k in range(workers)]
    before_s = optimum_s(Problem.of(cameras_m, team))
    first = team[0]
    faster = Worker(first.name, first.position_m, factor * first.views_per_s, fixed_s=first.fixed_s)
    assert optimum_s(Problem.of(cameras_m, [faster, *team[1:]])) <= before_s
    assert optimum_s(Problem.of(cameras_m, [*team, make_worker("new", rng)])) <= before_s


def test_reach_is_kept_and_costs_time() -> None:
    """The fast worker reaches 2 of 8 cameras; the slow one needs 6 s for the others."""
    cameras_m = np.stack([10.0 * np.arange(8), np.zeros(8)], axis=1)
    team = [Worker("fast", (0, 0), 100, reach_m=10), Worker("slow", (70, 0), 1)]
    problem = Problem.of(cameras_m, team)
    for found in (exact(problem), shift_boundaries(problem)):
        assert found.owner.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
        assert found.makespan_s == 6


def test_all_cameras_and_workers_at_one_place() -> None:
    problem = Problem.of(np.zeros((12, 2)), [Worker(name, (0, 0), 1) for name in "abc"])
    assert sorted(exact(problem).counts) == [4, 4, 4]
    assert shift_boundaries(problem).makespan_s == 4


def test_more_workers_than_cameras_leaves_some_idle() -> None:
    problem = make_problem(3, 9)
    found = exact(problem)
    assert found.counts.sum() == 3
    assert found.times_s[found.counts == 0].tolist() == [0] * int((found.counts == 0).sum())
    assert found.makespan_s == optimum_s(problem) <= shift_boundaries(problem).makespan_s


def test_a_looser_limit_makes_cells_more_compact() -> None:
    problem = make_problem(300, 6, 2)
    least_s = optimum_s(problem)
    costs = [cost_m2(problem, exact_within(problem, factor * least_s)) for factor in (1, 1.1, 1.5, 100)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(cost_m2(problem, nearest(problem)))
    with pytest.raises(ValueError, match="do not fit"):
        exact_within(problem, 0.9 * least_s)


def test_voronoi_may_ask_too_much_of_a_worker() -> None:
    problem = Problem.of(np.zeros((6, 2)), [Worker("near", (0, 0), 1, max_views=2), Worker("far", (9, 0), 1)])
    assert math.isinf(nearest(problem).makespan_s)
    assert math.isinf(report(problem, nearest(problem), 4.0).ratio)
    assert shift_boundaries(problem).makespan_s == exact(problem).makespan_s == 4


def test_paths() -> None:
    inf = math.inf
    prices = np.array([[inf, 5, 1], [inf, inf, inf], [inf, 1, inf]])
    start, end = np.array([True, False, False]), np.array([False, True, False])
    assert cheapest_path(prices, start, end, 0.0) == [0, 2, 1]
    assert cheapest_path(prices, end, start, 0.0) is None
    with pytest.raises(RuntimeError, match="less than nothing"):
        cheapest_path(np.array([[inf, -1], [-1, inf]]), np.array([True, False]), np.array([False, True]), 0.0)


CAMERAS_M = np.array([[0.0, 0], [10, 0], [500, 0]])


@pytest.mark.parametrize(
    ("cameras_m", "workers", "message"),
    [
        (np.zeros((0, 2)), [Worker("a", (0, 0), 1)], "must not be empty"),
        (CAMERAS_M, [], "must not be empty"),
        (np.array([[0, 0], [np.nan, 1]]), [Worker("a", (0, 0), 1)], "camera 1 is at"),
        (CAMERAS_M, [Worker("a", (0, 0), 1), Worker("a", (1, 0), 1)], "'a' comes twice"),
        (CAMERAS_M, [Worker("a", (0, 0), 1, reach_m=50)], "camera 2 is out of .* 'a', 500.0 m away"),
        (CAMERAS_M, [Worker("a", (0, 0), 1, profile=lambda n: -1.0 * n)], "'a': profile must not"),
        (CAMERAS_M, [Worker("a", (0, 0), 1, profile=lambda n: n * np.nan)], "'a': profile must not"),
        (CAMERAS_M, [Worker("a", (0, 0), 1, profile=lambda n: np.ones(2))], "'a': profile gave shape"),
    ],
)
def test_bad_problems(cameras_m: Float[ndarray, "n 2"], workers: list[Worker], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem.of(cameras_m, workers)


@pytest.mark.parametrize(
    "field",
    [
        {"position_m": (math.nan, 0.0)},
        {"views_per_s": 0.0},
        {"views_per_s": math.nan},
        {"uplink_bps": -1.0},
        {"reach_m": 0.0},
        {"fixed_s": math.inf},
        {"upload_bytes": -1.0},
        {"max_views": -1},
    ],
)
def test_bad_workers(field: dict) -> None:
    with pytest.raises(ValueError, match=f"'a': {next(iter(field))}"):
        Worker(**{"name": "a", "position_m": (0.0, 0.0), "views_per_s": 1.0, **field})


def test_no_place_left() -> None:
    with pytest.raises(ValueError, match="take 2 of 3 cameras"):
        optimum_s(Problem.of(CAMERAS_M, [Worker("a", (0, 0), 1, max_views=2)]))
    far = Worker("far", (500, 0), 1, reach_m=100)
    with pytest.raises(ValueError, match="camera 0 finds no place: a in its reach"):
        optimum_s(Problem.of(CAMERAS_M, [Worker("a", (0, 0), 1, reach_m=100, max_views=1), far]))


@pytest.mark.parametrize("field", [{"threshold": -1.0}, {"rounds": -1}, {"grow": 0.5}, {"shrink": 1.0}])
def test_bad_config(field: dict) -> None:
    with pytest.raises(ValueError, match="ShiftConfig"):
        ShiftConfig(**field)


def test_whoever_needs_time_where_nobody_has_to_is_infinitely_slower() -> None:
    workers = [Worker("a", (0, 0), math.inf), Worker("b", (10, 0), 1)]
    problem = Problem.of(np.array([[9.0, 0], [10.0, 0]]), workers)
    assert report(problem, nearest(problem), optimum_s(problem)).ratio == math.inf  # two seconds at b, none at a
    assert report(problem, exact(problem), optimum_s(problem)).ratio == 1.0
