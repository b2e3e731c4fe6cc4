"""The paper's algorithm and what it is compared with, the referee, the second objective, parts of the exact solver."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, Int
from numpy import ndarray

from edge.offload.algorithm1 import Algorithm1, density, printed_places
from edge.offload.baselines import GreedyOffloading, LeastDelay, RandomOffloading
from edge.offload.capacity import assignment_of, places, value_of
from edge.offload.clusters import Packing, Pool, all_clusters
from edge.offload.evaluate import evaluate
from edge.offload.knapsack import Budget, connected_sets
from edge.offload.master import pack, relax
from edge.offload.model import UNASSIGNED, Assignment, Reason, Slot, Task, User, Worker
from edge.offload.post import rematch, spread, without_idle
from edge.offload.pricing import all_priced
from edge.offload.union import UnionPolicy, raise_value, without_gain
from tests.edge.offload_slots import changed, make_slot

TASK = Task(bits=2e5, cycles=2e8, deadline_s=0.4)


def plain_slot(users: int, gigahertz: Sequence[float], value: ndarray | None = None, **fields: Any) -> Slot:
    """All at one place, rates of 16 Mbit/s: a transmission takes 12.5 ms."""
    people = [User(f"u{i}", (0.0, 0.0), 0.0) for i in range(users)]
    team = [Worker(f"w{j}", (0.0, 0.0), speed * 1e9) for j, speed in enumerate(gigahertz)]
    value = np.ones((users, users)) - np.eye(users) if value is None else value
    return Slot.of(people, team, TASK, **{"value": value, "uplink_bps": 1.6e7, **fields})


def delays_s(slot: Slot, worker: Sequence[int]) -> list[float]:
    """Sending, then cycles times users over speed."""
    eta = [list(worker).count(j) for j in range(len(slot.workers))]
    pairs = [(i, j) for i, j in enumerate(worker) if j >= 0]
    return [slot.transmission_s[i, j] + eta[j] * slot.cycles[i] / slot.cycles_per_s[j] for i, j in pairs]


def test_printed_capacity_breaks_deadlines_and_ours_does_not() -> None:
    """Six tasks at 3 GHz: 6 * 66.7 + 12.5 = 412.5 ms, 12.5 ms late."""
    slot = plain_slot(8, [3.0])
    assert printed_places(slot).tolist() == [[6]] * 8
    printed = evaluate(slot, Algorithm1(rounds=0, capacity="printed").assign(slot))
    assert printed.served == 6
    assert len(printed.violations) == 6
    assert "0.0125 s late at worker 'w0'" in printed.violations[0]
    exact = evaluate(slot, Algorithm1(rounds=0).assign(slot))
    assert (exact.served, exact.violations) == (5, ())


def test_algorithm1_takes_the_densest_first_to_the_largest_worker() -> None:
    value = np.zeros((4, 4))
    value[0, 1:] = 0.1, 0.1, 0.1
    value[3, :3] = 0.3, 0.3, 0.3
    value[1, 3], value[2, 0] = 0.5, 0.2
    slot = plain_slot(4, [1.5, 2.0], value)
    assert places(slot)[0].tolist() == [2, 3]
    assert density(slot) == pytest.approx(value.sum(axis=1) / 0.1125)
    assert Algorithm1(rounds=0).assign(slot).worker.tolist() == [1, 1, 0, 1]
    more = Algorithm1(rounds=50).assign(slot).worker
    assert value_of(slot.pair_value, more) >= value_of(slot.pair_value, np.array([1, 1, 0, 1]))


def test_greedy_offloading_fills_the_largest_worker_in_order_of_arrival() -> None:
    slot = plain_slot(7, [1.5, 2.0])
    found = GreedyOffloading().assign(slot)
    assert found.worker.tolist() == [1, 1, 1, 0, 0, -1, -1]
    assert found.reasons[-1] is Reason.NO_PLACE
    shuffled = GreedyOffloading(shuffle_seed=1).assign(slot).worker
    assert sorted(shuffled.tolist()) == sorted(found.worker.tolist())


def test_least_delay_is_the_best_of_all_assignments_that_serve_as_many() -> None:
    rng = np.random.default_rng(0)
    for seed in range(6):
        slot = changed(make_slot(5, 3, seed), tasks=[TASK] * 5, uplink_bps=rng.uniform(2e6, 2e7, (5, 3)))
        found = LeastDelay().assign(slot).worker
        options = [
            (-sum(j >= 0 for j in worker), sum(delays_s(slot, worker)))
            for worker in itertools.product(range(-1, 3), repeat=5)
            if all(delay <= 0.4 for delay in delays_s(slot, worker))
        ]
        served, delay_s = min(options)
        assert (found >= 0).sum() == -served
        assert sum(delays_s(slot, found.tolist())) == pytest.approx(delay_s)


def test_random_offloading_serves_whom_it_can() -> None:
    slot = plain_slot(7, [1.5, 2.0])
    assert (RandomOffloading(4).assign(slot).worker >= 0).sum() == 5


def test_referee_adds_up_by_hand() -> None:
    """Two users at 4 GHz: 12.5 + 2 * 50 ms; values 0.5 and 0.25 between them, 1 with one who is elsewhere."""
    value = np.zeros((3, 3))
    value[0, 1], value[1, 0], value[0, 2] = 0.5, 0.25, 1.0
    slot = plain_slot(3, [4.0, 2.0], value)
    found = evaluate(slot, assignment_of(slot, np.array([0, 0, -1])), seen=lambda worker: np.array([0.2, 0.4, 0.5]))
    assert found.value == pytest.approx(0.75)
    assert found.delay_s[:2] == pytest.approx([0.1125, 0.1125])
    assert np.isnan(found.delay_s[2])
    figures = found.figures()
    assert figures["satisfied"] == pytest.approx(2 / 3)
    assert figures["awareness"] == pytest.approx(1.1 / 3)
    assert figures["served"] == 2


def test_referee_sees_broken_promises_and_foreign_assignments() -> None:
    allowed = np.array([[True], [False], [True]])
    slot = plain_slot(3, [1.0], allowed=allowed)
    found = evaluate(slot, assignment_of(slot, np.array([0, 0, 0])))
    assert found.violations[1] == "user 'u1' may not offload to worker 'w0'"
    assert len(found.violations) == 4  # all three are late, too: 12.5 + 3 * 200 ms
    with pytest.raises(ValueError, match="is at worker 1, and the slot has 1"):
        evaluate(slot, Assignment(np.array([1, -1, -1]), (Reason.ASSIGNED, Reason.NO_GAIN, Reason.NO_GAIN)))
    with pytest.raises(ValueError, match="the assignment is of 0 users"):
        evaluate(slot, Assignment(np.zeros(0, dtype=np.int64), ()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": -1}, "rounds is -1"),
        ({"capacity": "x"}, "capacity is 'x'"),
        ({"placement": "x"}, "placement is 'x'"),
    ],
)
def test_algorithm1_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Algorithm1(**fields)


def covers(seen: list[set[str]]) -> Any:
    """What the members of a cluster see together, for each member, beyond its own."""

    def value(clusters: Sequence[Int[ndarray, "k"]]) -> Float[ndarray, "c"]:
        return np.array(
            [
                float(sum(len(set().union(*(seen[k] for k in members)) - seen[i]) for i in members))
                for members in clusters
            ]
        )

    return value


def test_union_counts_once_what_two_see() -> None:
    """In pairs, three who see much of the same beat two who see little but different; in the union they do not."""
    seen = [{"a", "b", "c"}, {"a", "b", "d"}, {"a", "b", "d"}, {"e", "f"}]
    value = np.array([[len(seen[k] - seen[i]) if i != k else 0.0 for k in range(4)] for i in range(4)])
    slot = plain_slot(4, [2.0, 1.0], value)
    start = np.array([0, 0, 0, UNASSIGNED])
    found = raise_value(slot, start, covers(seen))
    together = covers(seen)
    assert sum(together([np.flatnonzero(found == 0)])) > sum(together([np.flatnonzero(start == 0)]))
    assert found[3] == 0
    best = UnionPolicy(covers(seen)).assign(slot)
    assert not evaluate(slot, best).violations


def test_union_search_never_lowers_the_value_and_keeps_head_counts() -> None:
    rng = np.random.default_rng(3)
    for seed in range(5):
        slot = make_slot(12, 3, seed, mixed=seed % 2 == 1)
        seen = [set(rng.choice(list("abcdefghij"), 4)) for _ in range(12)]
        start = RandomOffloading(seed).assign(slot).worker
        found = raise_value(slot, start, covers(seen))
        totals = [sum(covers(seen)([np.flatnonzero(w == j) for j in range(3)])) for w in (start, found)]
        assert totals[1] >= totals[0] - 1e-9
        assert not evaluate(slot, assignment_of(slot, found)).violations
        pruned = without_gain(slot, found, covers(seen))
        assert sum(covers(seen)([np.flatnonzero(pruned == j) for j in range(3)])) == pytest.approx(totals[1])


def test_post_steps_by_hand() -> None:
    value = np.zeros((5, 5))
    value[0, 1] = value[2, 3] = 1.0
    slot = plain_slot(5, [4.0, 3.0], value)
    assert without_idle(slot, np.array([0, 0, 0, 0, 0])).tolist() == [0, 0, 0, 0, -1]
    assert spread(slot, np.array([0, 0, 0, 0, -1])).tolist() in ([1, 1, 0, 0, -1], [0, 0, 1, 1, -1])
    value[1, 4] = 1.0
    assert rematch(plain_slot(5, [3.0, 4.0], value), np.array([0, 0, 1, 1, 0])).tolist() == [1, 1, 0, 0, 1]


@pytest.mark.parametrize("sparse", [0.2, 0.6])
def test_connected_sets_are_all_that_there_are(sparse: float) -> None:
    rng = np.random.default_rng(int(10 * sparse))
    for _ in range(12):
        weights = np.triu(rng.random((8, 8)) * (rng.random((8, 8)) < sparse), 1)
        weights, prices, size = weights + weights.T, rng.random(8), int(rng.integers(2, 6))
        worth = {
            members: weights[np.ix_(members, members)].sum() / 2 - prices[list(members)].sum()
            for count in range(2, size + 1)
            for members in itertools.combinations(range(8), count)
            if is_connected(weights, members)
        }
        floors = np.full(size + 1, float(rng.uniform(-1, 0.3)))
        found = connected_sets(weights, prices, floors)
        sets = [tuple(np.flatnonzero(row).tolist()) for row in found.members]
        assert sorted(sets) == sorted(members for members, value in worth.items() if value > floors[0])
        assert found.worth == pytest.approx([worth[members] for members in sets])
        short = connected_sets(weights, prices, floors, budget=Budget(sets=1))
        for members, value in worth.items():
            assert short.bounds[len(members)] >= value - 1e-9


def is_connected(weights: ndarray, members: tuple[int, ...]) -> bool:
    reached = {members[0]}
    for _ in members:
        reached |= {k for k in members if any(weights[i, k] > 0 for i in reached)}
    return reached == set(members)


@pytest.mark.parametrize("mixed", [False, True])
def test_priced_clusters_are_all_above_the_floor(mixed: bool) -> None:
    """Also those that fall apart into sets that have nothing to do with each other."""
    for seed in range(6):
        packing = Packing.of(make_slot(9, 3, seed, density=0.12, mixed=mixed))
        prices = np.random.default_rng(seed).uniform(0, 0.4, 9)
        floors = np.full(len(packing.workers), 0.05)
        priced = all_priced(packing, prices, floors, Budget(until_s=time.perf_counter() + 60))
        every = Pool.of(packing, all_clusters(packing, 10_000))
        worth = every.values - every.members @ prices
        for kind, one in enumerate(priced):
            fits = every.fits[:, kind]
            assert one.complete
            assert one.bound == pytest.approx(max(0.05, worth[fits].max(initial=0)))
            want = {row.tobytes() for row in every.members[fits & (worth > 0.05)]}
            assert want == {row.tobytes() for row in one.members}


def test_relaxation_bounds_the_choice() -> None:
    slot = make_slot(9, 3, 2, mixed=True)
    packing = Packing.of(slot)
    pool = Pool.of(packing, all_clusters(packing, 10_000))
    relaxation = relax(packing, pool)
    choice = pack(packing, pool, relaxation, 0.0, gap=1e-9, limit_s=10)
    value = pool.values[choice.rows].sum()
    assert choice.proven
    assert 0 < value <= relaxation.value + 1e-9
    assert pool.members[choice.rows].sum(axis=0).max() == 1
    assert (np.bincount(choice.kinds, minlength=len(packing.workers)) <= packing.workers).all()
    assert not len(pack(packing, pool, relaxation, value, gap=1e-9, limit_s=10).rows)
