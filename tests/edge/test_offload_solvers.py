"""Exact solver, heuristics and ladder against all assignments, each other, and laws that any best assignment obeys."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.offload.anytime import LadderConfig, ladder, last
from edge.offload.capacity import loose_bound, places
from edge.offload.evaluate import evaluate
from edge.offload.exact import ExactConfig, solve_exact
from edge.offload.heuristic import Heuristic, SearchConfig
from edge.offload.model import UNASSIGNED, Reason, Slot, User, Worker
from edge.offload.policies import POLICIES
from tests.edge.offload_slots import best_value, changed, make_slot, value_by_hand

GENERATE = ExactConfig(most_clusters=0, limit_s=20)  # by column generation however few clusters there are


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("density", [0.2, 0.7])
@pytest.mark.parametrize("config", [ExactConfig(), GENERATE])
def test_exact_is_the_best_of_all_assignments(config: ExactConfig, density: float, mixed: bool) -> None:
    for seed in range(6):
        slot = make_slot(3 + seed, 1 + seed % 3, seed, density=density, mixed=mixed)
        found = solve_exact(slot, config)
        assert found.value == pytest.approx(best_value(slot))
        assert found.bound == pytest.approx(found.value, rel=1e-5)
        assert value_by_hand(slot, found.assignment.worker) == pytest.approx(found.value)
        assert not evaluate(slot, found.assignment).violations


@pytest.mark.parametrize(("users", "density"), [(18, 0.15), (24, 0.3), (11, 0.9)])
def test_column_generation_agrees_with_the_program_of_the_paper(users: int, density: float) -> None:
    """The linearised program: x_ij, and y_ikj at most x_ij and x_kj, head-counts; solved by HiGHS."""
    slot = make_slot(users, 3, users, density=density)
    found = solve_exact(slot, GENERATE)
    assert found.gap <= 1e-5
    assert found.value == pytest.approx(by_integer_program(slot), rel=1e-6)


def by_integer_program(slot: Slot) -> float:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_array

    users, workers = len(slot), len(slot.workers)
    first, second = np.nonzero(np.triu(slot.pair_value))
    pairs, shared = len(first), users * workers
    rows = lil_array((users + workers + 2 * pairs * workers, shared + pairs * workers))
    limits = np.concatenate([np.ones(users), places(slot)[0], np.zeros(2 * pairs * workers)])
    for user in range(users):
        rows[user, user * workers : (user + 1) * workers] = 1
    for worker in range(workers):
        rows[users + worker, [user * workers + worker for user in range(users)]] = 1
        for pair in range(pairs):
            for end, offset in ((first, 0), (second, 1)):
                row = users + workers + 2 * (pair * workers + worker) + offset
                rows[row, shared + pair * workers + worker] = 1
                rows[row, end[pair] * workers + worker] = -1
    cost = np.concatenate([np.zeros(shared), -np.repeat(slot.pair_value[first, second], workers)])
    whole = np.concatenate([np.ones(shared), np.zeros(pairs * workers)])
    found = milp(
        cost, integrality=whole, bounds=Bounds(0, 1), constraints=LinearConstraint(rows.tocsc(), -np.inf, limits)
    )
    assert found.status == 0
    return -float(found.fun)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_keeps_the_contract(name: str) -> None:
    """Feasible, with reasons; the same seed decides the same; the slot is left as it was."""
    for slot in (make_slot(12, 3, 0), make_slot(12, 3, 1, mixed=True), make_slot(1, 1, 0), make_slot(0, 2, 0)):
        before = slot.value.copy(), slot.uplink_bps.copy(), slot.allowed.copy()
        found, again = POLICIES[name](3).assign(slot), POLICIES[name](3).assign(slot)
        assert not evaluate(slot, found).violations
        assert (found.worker == again.worker).all()
        assert found.reasons == again.reasons
        assert all(map(np.array_equal, before, (slot.value, slot.uplink_bps, slot.allowed)))


@pytest.mark.parametrize("name", ["ours", "anytime", "exact"])
def test_users_without_gain_are_left_out(name: str) -> None:
    slot = make_slot(6, 2, 0)
    value = np.zeros((6, 6))
    value[0, 1] = 1.0
    found = POLICIES[name](0).assign(changed(slot, value=value))
    assert found.worker[0] == found.worker[1] != UNASSIGNED
    assert (found.worker[2:] == UNASSIGNED).all()
    assert set(found.reasons[2:]) == {Reason.NO_GAIN}
    nothing = POLICIES[name](0).assign(changed(slot, value=0 * value))
    assert (nothing.worker == UNASSIGNED).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 7), st.booleans())
def test_another_worker_never_lowers_the_optimum(seed: int, users: int, mixed: bool) -> None:
    slot = make_slot(users, 3, seed, mixed=mixed)
    less = changed(slot, workers=slot.workers[:2], uplink_bps=slot.uplink_bps[:, :2], allowed=slot.allowed[:, :2])
    assert solve_exact(slot).value >= solve_exact(less).value - 1e-9


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans())
def test_names_and_order_of_users_do_not_matter(seed: int, users: int, mixed: bool) -> None:
    slot = make_slot(users, 2, seed, mixed=mixed)
    order = np.random.default_rng(seed).permutation(users)
    other = changed(
        slot,
        users=[User(f"other {i}", slot.users[i].position_m, 0.0) for i in order],
        tasks=[slot.tasks[i] for i in order],
        value=slot.value[np.ix_(order, order)],
        uplink_bps=slot.uplink_bps[order],
        allowed=slot.allowed[order],
    )
    assert solve_exact(other).value == pytest.approx(solve_exact(slot).value)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["reach", "deadline"]))
def test_an_infeasible_user_is_left_out_with_its_reason(seed: int, why: str) -> None:
    slot = make_slot(7, 2, seed)
    allowed, tasks = slot.allowed.copy(), list(slot.tasks)
    if why == "reach":
        allowed[3] = False
    else:
        tasks[3] = type(tasks[3])(2e5, 2e8, 0.02)
    found = solve_exact(changed(slot, allowed=allowed, tasks=tasks)).assignment
    assert found.worker[3] == UNASSIGNED
    assert found.reasons[3] is (Reason.OUT_OF_REACH if why == "reach" else Reason.TOO_LATE)


def test_large_clusters_go_to_fast_workers() -> None:
    """Three users and two: all at the fast worker wait 5 * 5 * 25 ms in sum, apart 3 * 3 * 25 + 2 * 2 * 50 ms."""
    users = [User(name, (0.0, 0.0), 0.0) for name in "abcde"]
    workers = [Worker("slow", (0.0, 0.0), 4e9), Worker("fast", (0.0, 0.0), 8e9)]
    value = np.zeros((5, 5))
    value[0, 1] = value[1, 2] = value[3, 4] = 1.0
    slot = Slot.of(users, workers, make_slot(1, 1, 0).tasks[0], value=value, uplink_bps=1e7)
    found = Heuristic().assign(slot)
    assert found.worker.tolist() == [1, 1, 1, 0, 0]


def test_ladder_rises_and_ends_with_a_proof() -> None:
    slot = make_slot(20, 4, 5, density=0.25)
    steps = list(ladder(slot, LadderConfig(budget_s=4.0)))
    values, bounds = [step.value for step in steps], [step.bound for step in steps]
    assert values == sorted(values)
    assert bounds == sorted(bounds, reverse=True)
    assert all(not evaluate(slot, step.assignment).violations for step in steps)
    assert steps[-1].gap < 1e-4
    assert last(changed(slot, value=0 * slot.value)).gap == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_loose_bound_is_a_bound(mixed: bool) -> None:
    for seed in range(8):
        slot = make_slot(7, 2, seed, mixed=mixed)
        assert loose_bound(slot) >= best_value(slot) - 1e-9


def test_bound_holds_when_time_is_short() -> None:
    slot = make_slot(30, 5, 2, density=0.5)
    best = last(slot, LadderConfig(budget_s=1.0)).value
    for limit_s in (0.001, 0.05, 0.2):
        short = solve_exact(slot, ExactConfig(limit_s=limit_s))
        assert not evaluate(slot, short.assignment).violations
        assert short.bound >= best - 1e-9
        assert not math.isnan(short.gap)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchConfig(patience=0), "patience must be at least 1"),
        (lambda: SearchConfig(chains=0), "chains must be at least 1"),
        (lambda: ExactConfig(limit_s=0.0), "limit_s must be positive"),
        (lambda: ExactConfig(gap=1.0), "gap must be in"),
        (lambda: LadderConfig(budget_s=math.inf), "budget_s must be positive and finite"),
        (lambda: LadderConfig(search_share=-0.1), "search_share must be in"),
    ],
)
def test_settings_out_of_range(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
