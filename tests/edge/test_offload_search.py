"""The compiled search and those in numpy that take its place: against all assignments, each other and head-counts."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int
from numpy import ndarray

from edge.offload import heuristic
from edge.offload.batch import BatchSearch
from edge.offload.capacity import feasible, places, value_of
from edge.offload.compiled import CompiledSearch, unavailable
from edge.offload.descent import descend
from edge.offload.evaluate import evaluate
from edge.offload.exact import ExactConfig, solve_exact
from edge.offload.heuristic import Heuristic, Search, solve
from edge.offload.model import UNASSIGNED, Slot
from edge.offload.patches import PatchSearch
from tests.edge.offload_slots import best_value, make_slot

Make = Callable[[Slot, int], Search]


def compiled(slot: Slot, seed: int) -> Search:
    return CompiledSearch(slot.pair_value, places(slot), 8, seed)


def batch(slot: Slot, seed: int) -> Search:
    return BatchSearch(slot.pair_value, places(slot), seed)


def patches(slot: Slot, seed: int) -> Search:
    return PatchSearch(slot.pair_value, places(slot), seed)


needs_compiler = pytest.mark.skipif(unavailable() is not None, reason="needs a C++ compiler")
SEARCHES = [pytest.param(compiled, marks=needs_compiler), batch, patches]
PATHS = [pytest.param("compiled", marks=needs_compiler), "numpy"]


@pytest.fixture
def numpy_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(heuristic, "unavailable", lambda: "no compiler in this test")
    heuristic._warn.cache_clear()
    yield
    heuristic._warn.cache_clear()


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "numpy":
        request.getfixturevalue("numpy_alone")
    return request.param


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("density", [0.3, 0.9])
def test_few_users_get_the_best_of_all_assignments(path: str, density: float, mixed: bool) -> None:
    for seed in range(8):
        slot = make_slot(3 + seed % 6, 1 + seed % 3, seed, density=density, mixed=mixed)
        found = solve(slot, seed=seed)
        assert feasible(slot, found)
        assert value_of(slot.pair_value, found) == pytest.approx(best_value(slot))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_few_dozen_users_are_decided_near_the_optimum(path: str, mixed: bool) -> None:
    for seed in range(4):
        slot = make_slot(24, 4, seed, density=0.2, mixed=mixed)
        worker = solve(slot, seed=seed)
        best = solve_exact(slot, ExactConfig(limit_s=10, most_clusters=0))
        assert feasible(slot, worker)
        assert best.gap < 1e-4
        least = 0.98 if path == "compiled" and not mixed else 0.9
        assert least * best.value <= value_of(slot.pair_value, worker) <= best.value * (1 + 1e-9)


@pytest.mark.parametrize("make", SEARCHES)
@pytest.mark.parametrize("mixed", [False, True])
def test_rounds_keep_head_counts_and_never_get_worse(make: Make, mixed: bool) -> None:
    slot = make_slot(120, 20, 1, density=0.03, mixed=mixed)
    search, values = make(slot, 0), []
    for _ in range(6):
        values.append(value_of(slot.pair_value, search.worker()))
        assert feasible(slot, search.worker())
        search.round()
    assert np.all(np.diff(values) > -1e-6)
    assert values[-1] > values[0]
    assert all((search.clusters() == one).all(axis=1).any() for one in clusters_of(search.worker(), 20))


def clusters_of(worker: Int[ndarray, "n"], workers: int) -> list[ndarray]:
    return [worker == one for one in range(workers) if (worker == one).any()]


@pytest.mark.parametrize("make", SEARCHES)
def test_a_seed_decides_everything(make: Make) -> None:
    slot = make_slot(90, 15, 4, density=0.05, mixed=True)

    def found(seed: int) -> Int[ndarray, "n"]:
        search = make(slot, seed)
        search.round()
        return search.worker()

    np.testing.assert_array_equal(found(1), found(1))
    assert (found(1) != found(2)).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 6), st.floats(0, 1), st.booleans(), st.booleans())
def test_head_counts_hold_in_any_slot(
    seed: int, users: int, workers: int, density: float, mixed: bool, native: bool
) -> None:
    slot = make_slot(users, workers, seed, density=density, mixed=mixed)
    if not slot.pair_value.any():
        return
    makes = [compiled] if native and unavailable() is None else [batch, patches]
    for make in makes:
        search = make(slot, seed)
        assert feasible(slot, search.worker())
        search.round()
        assert feasible(slot, search.worker())


@needs_compiler
@pytest.mark.parametrize("mixed", [False, True])
def test_values_are_those_of_the_objective(mixed: bool) -> None:
    """In single precision, divided by the largest worth of a pair."""
    slot = make_slot(40, 6, 3, density=0.1, mixed=mixed)
    search = CompiledSearch(slot.pair_value, places(slot), 8, 0)
    for _ in range(20):
        search.round()
    assert len(search.labels) == 8
    largest = slot.pair_value.max()
    for labels, value in zip(search.labels, search.values, strict=True):
        worker = np.where(labels == 6, UNASSIGNED, labels)
        assert value * largest == pytest.approx(value_of(slot.pair_value, worker), rel=1e-4)


@needs_compiler
def test_numpy_finds_no_move_that_gains_after_the_compiled_search() -> None:
    for seed in range(5):
        slot = make_slot(40, 6, seed, density=0.15)
        most, worker = places(slot), solve(slot, seed=seed)
        labels = np.where(worker == UNASSIGNED, 6, worker)[None]
        weights = (slot.pair_value / slot.pair_value.max()).astype(np.float32)
        moved, _ = descend(weights, labels, most.max(axis=0, keepdims=True))
        np.testing.assert_array_equal(moved, labels)


@pytest.mark.usefixtures("numpy_alone")
def test_what_takes_its_place_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "convoy"):
        for users in (12, 100):
            slot = make_slot(users, 10, 0, density=0.05)
            assert not evaluate(slot, Heuristic().assign(slot)).violations
    assert [record.getMessage() for record in caplog.records] == [
        "offloading is searched in numpy, slower and further from the optimum: no compiler in this test"
    ]
