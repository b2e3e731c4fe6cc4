"""Who drives where along a ring of frames, and what changes hands when somebody falls out or slows down."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from fl_app.survey_split import SLACK, Split, active_vehicles, holders, rsu_of, split, split_again, vehicle_names
from perception.datasets.base import DataError
from recon.partition import Problem, optimum_s


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
def test_no_plan_within_the_slack_moves_frames_less(without: tuple[str, ...], slowed: dict[str, float]) -> None:
    """All divisions of nine frames among at most three vehicles, by squared metres from what each had."""
    before = split(ring(9), vehicles=3, rsus=1, speed_ratio=4.0)
    again = split_again(before, without, slowed)
    rate = {name: slowed.get(name, 1.0) * value for name, value in rates(before).items() if name not in without}
    plans = list(product(rate, repeat=9))
    longest_s = [max(plan.count(name) / value for name, value in rate.items()) for plan in plans]
    limit_s = (1 + SLACK) * min(longest_s) + 1e-9
    fits = [plan for plan, seconds in zip(plans, longest_s, strict=True) if seconds <= limit_s]
    assert moved_m2(before, again.owner) == pytest.approx(min(moved_m2(before, plan) for plan in fits))
    assert again.moved == sum(new != old for new, old in zip(again.owner, before.owner, strict=True))
    assert again.makespan_s <= limit_s


def moved_m2(before: Split, owner: Sequence[str]) -> float:
    """Sum of squared distances of frames from the nearest that their vehicle had before."""
    places_m, had = before.problem.cameras_m, np.array(before.owner)
    away_m = np.linalg.norm(places_m[:, None] - places_m, axis=2)
    return sum(float(away_m[frame, had == name].min()) ** 2 for frame, name in enumerate(owner))


def pieces(owner: Sequence[str]) -> int:
    """Of all stretches, round the ring."""
    return sum(owner[frame] != owner[frame - 1] for frame in range(len(owner)))


@pytest.mark.parametrize("without", [*vehicle_names(6), "rsu-1"])
@pytest.mark.parametrize(("frames", "rsus"), [(24, 2), (60, 3), (240, 3)])
def test_stretches_stay_in_one_piece_whoever_is_missing(frames: int, rsus: int, without: str) -> None:
    before = split(ring(frames), vehicles=6, rsus=rsus, speed_ratio=4.0)
    again = split_again(before, {without}, {})
    left = [worker for team in again.teams.values() for worker in team]
    lost = [name for name in before.owner if without in (name, before.rsu_of[name])]
    assert pieces(before.owner) == 6
    assert pieces(again.owner) == len(set(again.owner)) == len(left)
    assert again.moved >= len(lost)
    assert set(again.owner) <= {worker.name for worker in left}
    flat_s = optimum_s(Problem.of(ring(frames), left))
    assert optimum_s(again.problem) == pytest.approx(flat_s)
    assert again.makespan_s <= (1 + SLACK) * flat_s + 1e-9
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
