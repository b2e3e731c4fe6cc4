"""Who drives where along a ring of frames, and what changes hands when somebody falls out or slows down."""

from itertools import product

import numpy as np
import pytest

from fl_app.survey_split import SLACK, Split, active_vehicles, holders, rsu_of, split, split_again, vehicle_names
from perception.datasets.base import DataError
from recon.partition import Problem, optimum_s, replan


def ring(frames: int) -> np.ndarray:
    """Places on a circle of 100 m."""
    angles = 2 * np.pi * np.arange(frames) / frames
    return 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rates(divided: Split) -> dict[str, float]:
    return {worker.name: worker.views_per_s for team in divided.teams.values() for worker in team}


def test_names_and_numbers() -> None:
    assert vehicle_names(3) == ["vehicle-0", "vehicle-1", "vehicle-2"]
    assert vehicle_names(11)[0] == "vehicle-00"
    assert [rsu_of(number, 5, 2) for number in range(5)] == ["rsu-0", "rsu-0", "rsu-0", "rsu-1", "rsu-1"]
    assert rsu_of(0, 12, 12) == "rsu-00"
    assert active_vehicles(4, 2, ()) == vehicle_names(4)
    assert active_vehicles(4, 2, ("rsu-1",)) == ["vehicle-2", "vehicle-3"]
    assert active_vehicles(4, 2, (), ("rsu-0", "vehicle-3")) == ["vehicle-2"]


@pytest.mark.parametrize(
    ("without", "slowed"),
    [
        (("vehicle-0",), {}),
        (("vehicle-1",), {}),
        (("vehicle-2",), {}),
        (("vehicle-1", "vehicle-2"), {}),
        ((), {"vehicle-0": 0.3}),
        ((), {"vehicle-2": 3.0}),
        (("vehicle-1",), {"vehicle-0": 0.5, "vehicle-1": 9.0}),
    ],
)
def test_no_plan_within_the_slack_moves_fewer_frames(without: tuple[str, ...], slowed: dict[str, float]) -> None:
    """All divisions of nine frames among at most three vehicles."""
    before = split(ring(9), vehicles=3, rsus=1, speed_ratio=4.0)
    again = split_again(before, without, slowed)
    rate = {name: slowed.get(name, 1.0) * value for name, value in rates(before).items() if name not in without}
    plans = list(product(rate, repeat=9))
    longest_s = [max(plan.count(name) / value for name, value in rate.items()) for plan in plans]
    limit_s = (1 + SLACK) * min(longest_s)
    fewest = min(
        sum(new != old for new, old in zip(plan, before.owner, strict=True))
        for plan, seconds in zip(plans, longest_s, strict=True)
        if seconds <= limit_s + 1e-9
    )
    assert again.moved == fewest
    assert again.moved == sum(new != old for new, old in zip(again.owner, before.owner, strict=True))
    assert again.makespan_s <= limit_s + 1e-9


@pytest.mark.parametrize("without", [*vehicle_names(6), "rsu-1"])
@pytest.mark.parametrize(("frames", "rsus"), [(24, 2), (60, 3)])
def test_who_is_left_keeps_what_it_has(frames: int, rsus: int, without: str) -> None:
    """With no vehicle slower than before, only what the missing had changes hands, as if there were no RSUs."""
    before = split(ring(frames), vehicles=6, rsus=rsus, speed_ratio=4.0)
    again = split_again(before, {without}, {})
    left = [worker for team in again.teams.values() for worker in team]
    flat = replan(Problem.of(ring(frames), left), before.owner, SLACK)
    lost = [name for name in before.owner if without in (name, before.rsu_of[name])]
    assert again.moved == len(lost) == int(flat.moved.sum())
    assert set(again.owner) <= {worker.name for worker in left}
    assert optimum_s(again.problem) == pytest.approx(flat.optimum_s)
    assert again.makespan_s <= (1 + SLACK) * flat.optimum_s + 1e-9
    rsu = {worker.name: name for name, team in again.teams.items() for worker in team}
    names = [worker.name for worker in again.problem.workers]
    assert [rsu[name] for name in again.owner] == [names[row] for row in again.partitions["HWP"].owner]


def test_a_slower_vehicle_gives_frames_up_and_a_faster_one_takes_some() -> None:
    before = split(ring(48), vehicles=6, rsus=3, speed_ratio=4.0)
    for factor, sign in ((0.5, -1), (2.0, 1)):
        again = split_again(before, (), {"vehicle-3": factor})
        assert rates(again)["vehicle-3"] == pytest.approx(factor * rates(before)["vehicle-3"])
        assert sign * (again.owner.count("vehicle-3") - before.owner.count("vehicle-3")) > 0
        assert again.makespan_s <= (1 + SLACK) * optimum_s(again.problem) + 1e-9
    assert split_again(before, (), {"vehicle-3": 1.0}).moved == 0


def test_nobody_is_left() -> None:
    before = split(ring(24), vehicles=4, rsus=2, speed_ratio=4.0)
    with pytest.raises(DataError, match="no vehicle is left"):
        split_again(before, ("rsu-0", "vehicle-2", "vehicle-3"), {})


WAY_M = np.stack([np.arange(12.0), np.zeros(12), np.zeros(12)], axis=1)  # a metre apart, straight on


@pytest.mark.parametrize(
    ("overlap_m", "judged", "wanted"),
    [
        (0.0, (), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]),
        (1.0, (), [0, 0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 2]),  # both are near to 3 and 4, and to 7 and 8
        (2.0, (), [0, 0, 1, 0, 1, 0, 2, 1, 2, 1, 2, 2]),  # near to 2 to 5, and to 6 to 9
        (99.0, (), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]),
        (2.0, (2, 7), [0, 0, -1, 1, 0, 1, 2, -1, 1, 2, 2, 2]),  # whose turn it was takes the next
    ],
)
def test_frames_near_to_several_are_taken_in_turn(overlap_m: float, judged: tuple[int, ...], wanted: list[int]) -> None:
    assert holders(WAY_M, np.arange(12) // 4, overlap_m, judged).tolist() == wanted


def test_whoever_has_one_frame_takes_one() -> None:
    owner = np.array([0] * 5 + [1] + [2] * 6)
    for judged in ((), (6,), (4,), (3, 4, 6)):
        assert 1 in holders(WAY_M, owner, 2.0, judged)
