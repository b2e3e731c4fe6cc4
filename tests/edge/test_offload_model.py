"""What is decided and what a decision is: checks of the input, units, derived matrices, reasons."""

import math
from typing import Any

import numpy as np
import pytest

from edge.offload.capacity import assignment_of, feasible, places, value_of
from edge.offload.model import UNASSIGNED, Assignment, Reason, Slot, Solution, Task, User, Worker

TASK = Task(bits=2e5, cycles=2e8, deadline_s=0.4)


def user(name: str, east_m: float = 0.0, **fields: Any) -> User:
    return User(name, (east_m, 0.0), **{"heading_rad": 0.0, **fields})


def worker(name: str, east_m: float = 0.0, **fields: Any) -> Worker:
    return Worker(name, (east_m, 0.0), **{"cycles_per_s": 3e9, **fields})


def slot(count: int = 2, **fields: Any) -> Slot:
    value = np.zeros((count, count))
    if count > 1:
        value[0, 1], value[1, 0] = 0.5, 0.25
    users = [user(f"u{i}", 10.0 * i) for i in range(count)]
    given = {"users": users, "workers": [worker("w")], "tasks": TASK, "value": value, "uplink_bps": 1.6e7, **fields}
    return Slot.of(given.pop("users"), given.pop("workers"), given.pop("tasks"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: user("a", heading_rad=math.nan), "User 'a': heading_rad"),
        (lambda: user("a", math.inf), "User 'a': position_m"),
        (lambda: user("a", speed_mps=-1.0), "User 'a': speed_mps"),
        (lambda: worker("r", cycles_per_s=0.0), "Worker 'r': cycles_per_s"),
        (lambda: worker("r", reach_m=0.0), "Worker 'r': reach_m"),
        (lambda: worker("r", math.nan), "Worker 'r': position_m"),
        (lambda: Task(2e5, 2e8, 0.0), "Task: deadline_s"),
        (lambda: Task(-1.0, 2e8, 0.4), "Task: bits"),
        (lambda: Task.of_size(200, "Kb", cycles=2e8, deadline_s=0.4), "unit is 'Kb'"),
        (lambda: slot(users=[user("a"), user("a")]), "'a' comes twice"),
        (lambda: slot(workers=[]), "workers is empty"),
        (lambda: slot(workers=[worker("w"), worker("w")]), "'w' comes twice"),
        (lambda: slot(tasks=[TASK]), "tasks has 1 entries for 2 users"),
        (lambda: slot(uplink_bps=-1.0), "uplink_bps must be finite, 0 or more"),
        (lambda: slot(uplink_bps=np.full((2, 2), 1.0)), r"uplink_bps has shape \(2, 2\)"),
        (lambda: slot(value=np.full((2, 2), math.nan)), "value must be finite"),
        (lambda: slot(value=np.eye(2)), "value of user 'u0' for itself"),
        (lambda: slot(allowed=np.ones((1, 1), dtype=bool)), "allowed has shape"),
        (lambda: Assignment(np.array([-2]), (Reason.NO_GAIN,)), "worker holds -2"),
        (lambda: Assignment(np.array([0]), (Reason.NO_GAIN,)), "user 0 has worker 0"),
        (lambda: Assignment(np.array([0]), ()), "reasons has 0 entries"),
    ],
)
def test_bad_input_is_one_clear_error(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_units_of_size() -> None:
    """200 kbit take 12.5 ms at 16 Mbit/s, 200 kByte eight times as long."""
    kbit, kbyte = (Task.of_size(200, unit, cycles=2e8, deadline_s=0.4) for unit in ("kbit", "kbyte"))
    assert slot(tasks=kbit).transmission_s[0, 0] == pytest.approx(0.0125)
    assert slot(tasks=kbyte).transmission_s[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize(("gigahertz", "kbit", "kbyte"), [(2, 3, 2), (3, 5, 4), (4, 7, 5), (5, 9, 7), (6, 11, 8)])
def test_head_count_is_what_fits_after_the_transmission(gigahertz: int, kbit: int, kbyte: int) -> None:
    """At 3 GHz (400 - 13.3) ms / 66.7 ms = 5.8 tasks; equation 10 of the paper says 6."""
    for unit, count in (("kbit", kbit), ("kbyte", kbyte)):
        task = Task.of_size(200, unit, cycles=2e8, deadline_s=0.4)
        one = slot(20, tasks=task, workers=[worker("w", cycles_per_s=gigahertz * 1e9)], uplink_bps=1.5e7)
        assert places(one).tolist() == [[count]] * 20


def test_head_count_of_a_tie_and_of_few_users() -> None:
    """Without transmission six tasks of a fifteenth of 1 s end at 0.4 s sharp; there are never more than users."""
    instant = slot(8, uplink_bps=1e30)
    assert places(instant).tolist() == [[6]] * 8
    assert places(slot(2)).tolist() == [[2]] * 2


def test_each_user_has_a_head_count_of_its_own() -> None:
    tasks = [Task(2e5, 2e8, 0.4), Task(2e5, 2e8, 0.2), Task(2e5, 4e8, 0.4), Task(2e5, 2e8, 0.01)]
    assert places(slot(4, tasks=tasks)).T.tolist() == [[4, 2, 2, 0]]
    assert feasible(slot(4, tasks=tasks), np.array([0, 0, -1, -1]))
    assert not feasible(slot(4, tasks=tasks), np.array([0, 0, 0, -1]))


def test_reach_and_links_say_who_may_offload_where() -> None:
    near = slot(workers=[worker("w", reach_m=5.0), worker("v", 10.0, reach_m=5.0), worker("x", reach_m=10.0)])
    assert near.allowed.tolist() == [[True, False, True], [False, True, True]]
    rates_bps = np.array([[0.0], [1e7]])
    assert slot(uplink_bps=rates_bps).allowed.tolist() == [[False], [True]]
    assert math.isinf(slot(uplink_bps=rates_bps).transmission_s[0, 0])


def test_value_counts_both_directions_of_a_pair_once() -> None:
    both = slot()
    assert value_of(both.pair_value, np.array([0, 0])) == 0.75
    assert value_of(both.pair_value, np.array([0, UNASSIGNED])) == 0
    assert value_of(both.pair_value, np.array([UNASSIGNED, UNASSIGNED])) == 0


def test_everybody_left_out_has_a_reason() -> None:
    value = np.zeros((6, 6))
    value[0, 1] = value[0, 5] = 1.0
    users = [user("a"), user("b"), user("far", 900.0), user("late"), user("alone"), user("extra")]
    tasks = [TASK, TASK, TASK, Task(2e5, 2e8, 0.1), TASK, TASK]
    given = slot(6, users=users, tasks=tasks, value=value, workers=[worker("w", reach_m=200.0)])
    found = assignment_of(given, np.array([0, 0, -1, -1, -1, -1]))
    expected = ("ASSIGNED", "ASSIGNED", "OUT_OF_REACH", "TOO_LATE", "NO_GAIN", "NO_PLACE")
    assert [reason.name for reason in found.reasons] == list(expected)
    assert found.members(0).tolist() == [0, 1]


def test_gap_of_a_solution() -> None:
    nobody = Assignment(np.zeros(0, dtype=np.int64), ())
    assert Solution(nobody, 9.0, 10.0).gap == pytest.approx(0.1)
    assert Solution(nobody, 0.0, 0.0).gap == 0
    assert math.isnan(Solution(nobody, 9.0).gap)
