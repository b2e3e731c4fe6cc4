"""What is built on the partition: re-plan, the level of vehicles, latency and the picture."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from recon.partition import (
    Assumptions,
    Latencies,
    Partition,
    Problem,
    Worker,
    exact,
    latencies,
    nearest,
    optimum_s,
    owner_names,
    partition_of,
    replan,
    save_picture,
    shift_boundaries,
    split_among_vehicles,
    with_vehicles,
)
from recon.partition.latency import central_s, flat_s, rsu_worker
from tests.recon.test_partition import make_problem


@pytest.mark.parametrize("solve", [exact, shift_boundaries])
def test_nothing_changed_nothing_moves(solve: Callable[[Problem], Partition]) -> None:
    problem = make_problem(300, 6)
    found = solve(problem)
    again = replan(problem, owner_names(problem, found))
    assert not again.moved.any()
    assert again.partition.owner.tolist() == found.owner.tolist()


def changes(workers: tuple[Worker, ...]) -> dict[str, list[Worker]]:
    new = Worker("new", (500.0, 500.0), 3)
    slow = replace(workers[1], views_per_s=workers[1].views_per_s / 3)
    return {
        "joins": [new, *workers],
        "leaves": [*workers[:2], *workers[3:]],
        "slows": [workers[0], slow, *workers[2:]],
    }


@pytest.mark.parametrize("change", ["joins", "leaves", "slows"])
def test_fewer_cameras_move_than_in_a_fresh_plan(change: str) -> None:
    old = make_problem(300, 6)
    before = owner_names(old, exact(old))
    new = Problem.of(old.cameras_m, changes(old.workers)[change])
    again = replan(new, before, slack=0.05)
    fresh = owner_names(new, exact(new))
    assert again.partition.makespan_s <= 1.05 * optimum_s(new)
    assert again.optimum_s == optimum_s(new)
    moved = [a != b for a, b in zip(before, owner_names(new, again.partition), strict=True)]
    assert again.moved.tolist() == moved
    assert 0 < sum(moved) < sum(a != b for a, b in zip(before, fresh, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_moves_fewer(seed: int) -> None:
    """All assignments of six cameras to three workers; the first camera is new."""
    problem = make_problem(6, 3, seed)
    before = [None, *np.random.default_rng(seed).choice(["r0", "r1", "gone"], 5).tolist()]
    limit_s = 1.1 * optimum_s(problem)
    best = (99, np.inf)
    for owner in itertools.product(range(3), repeat=6):
        option = partition_of(problem, np.array(owner))
        if option.makespan_s <= limit_s:
            moved = sum(a != b for a, b in zip(before, owner_names(problem, option), strict=True))
            best = min(best, (moved, float(problem.costs_m2[np.arange(6), option.owner].sum())))
    found = replan(problem, before, slack=0.1)
    cost = float(problem.costs_m2[np.arange(6), found.partition.owner].sum())
    assert (int(found.moved.sum()), cost) == (best[0], pytest.approx(best[1]))


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_moves_cameras_less(seed: int) -> None:
    """All assignments of six cameras to three workers, by squared metres from the nearest camera that each had."""
    problem = make_problem(6, 3, seed)
    before = np.array([None, *np.random.default_rng(seed).choice(["r0", "r1", "gone"], 5).tolist()])
    costs_m2 = problem.costs_m2.copy()  # of a worker that had none
    for column, worker in enumerate(problem.workers):
        if (had := problem.cameras_m[before == worker.name]).size:
            costs_m2[:, column] = np.square(problem.cameras_m[:, None] - had).sum(axis=2).min(axis=1)
    limit_s = 1.1 * optimum_s(problem)
    owners = (np.array(owner) for owner in itertools.product(range(3), repeat=6))
    least = min(
        costs_m2[range(6), owner].sum() for owner in owners if partition_of(problem, owner).makespan_s <= limit_s
    )
    found = replan(problem, before.tolist(), slack=0.1, few="metres")
    assert costs_m2[range(6), found.partition.owner].sum() == pytest.approx(least)
    assert found.partition.makespan_s <= limit_s


def test_what_a_missing_worker_had_is_passed_on_along_a_row() -> None:
    """Four workers of like speed along a row of 24 cameras; the first is gone, and each of the others ends with 8."""
    cameras_m = np.stack([np.arange(24.0), np.zeros(24)], axis=1)
    workers = [Worker(name, (6.0 * k + 2.5, 0), 1) for k, name in enumerate("abcd")]
    before = [name for name in "abcd" for _ in range(6)]
    problem = Problem.of(cameras_m, workers[1:])
    along = replan(problem, before, slack=0.0, few="metres")
    assert owner_names(problem, along.partition) == [name for name in "bcd" for _ in range(8)]
    assert replan(problem, before, slack=0.0).moved.sum() == 6 < along.moved.sum() == 12


def test_a_camera_out_of_its_owners_reach_moves() -> None:
    cameras_m = np.array([[0.0, 0], [10, 0], [90, 0]])
    problem = Problem.of(cameras_m, [Worker("a", (0, 0), 1, reach_m=50), Worker("b", (100, 0), 1, reach_m=95)])
    found = replan(problem, ["a", "a", "a"], slack=1.0)
    assert found.moved.tolist() == [False, False, True]


def test_bad_replans() -> None:
    problem = make_problem(5, 2)
    with pytest.raises(ValueError, match="owners of 1 cameras, want one for each of 5"):
        replan(problem, ["r0"])
    with pytest.raises(ValueError, match="slack"):
        replan(problem, ["r0"] * 5, slack=-0.1)


def vehicles_of(rsu: Worker, speeds: list[float]) -> list[Worker]:
    return [Worker(f"{rsu.name}/{k}", rsu.position_m, speed) for k, speed in enumerate(speeds)]


def test_two_levels_by_hand() -> None:
    """Vehicles of 1 and 2 views/s end 2 and 4 views at 2 s; fusing 6 at 6 views/s takes 1 s, sending 1 s."""
    rsu = Worker("r", (0, 0), 6, uplink_bps=8e6, upload_bytes=1e6)
    team = with_vehicles(rsu, vehicles_of(rsu, [1, 2]))
    assert team.completion_s(np.array([0, 1, 2, 6])).tolist() == pytest.approx(
        [0, 0.5 + 1 / 6 + 1, 1 + 2 / 6 + 1, 2 + 1 + 1]
    )
    cameras_m = np.stack([np.arange(6.0), np.zeros(6)], axis=1)
    problem = Problem.of(cameras_m, [team])
    shares = split_among_vehicles(problem, exact(problem), {"r": vehicles_of(rsu, [1, 2])})
    assert shares["r"].cameras.tolist() == list(range(6))
    assert shares["r"].partition.counts.tolist() == [2, 4]
    assert shares["r"].partition.makespan_s == 2


def test_every_camera_has_one_vehicle_and_the_profile_holds() -> None:
    base = make_problem(200, 4, 5)
    vehicles = {rsu.name: vehicles_of(rsu, [1.0, 1.5, 4.0][: 1 + k % 3]) for k, rsu in enumerate(base.workers)}
    free = [replace(rsu, views_per_s=np.inf, fixed_s=0.0) for rsu in base.workers]
    problem = Problem.of(base.cameras_m, [with_vehicles(rsu, vehicles[rsu.name]) for rsu in free])
    found = exact(problem)
    shares = split_among_vehicles(problem, found, vehicles)
    assert sorted(np.concatenate([share.cameras for share in shares.values()]).tolist()) == list(range(200))
    for rsu, seconds in zip(problem.workers, found.times_s, strict=True):
        assert shares[rsu.name].partition.makespan_s == pytest.approx(seconds)


def test_an_rsu_without_cameras_is_left_out_and_one_without_vehicles_is_refused() -> None:
    problem = Problem.of(np.zeros((3, 2)), [Worker("a", (0, 0), 1), Worker("b", (9, 0), 1)])
    shares = split_among_vehicles(problem, nearest(problem), {"a": vehicles_of(problem.workers[0], [1])})
    assert list(shares) == ["a"]
    with pytest.raises(ValueError, match="'a' owns 3 cameras and has no vehicles"):
        split_among_vehicles(problem, nearest(problem), {})
    with pytest.raises(ValueError, match="'a' has no vehicles"):
        with_vehicles(problem.workers[0], [])


ROUND = Assumptions(
    steps_per_view=100,
    gpu_steps_per_s=50,
    image_bytes=1e6,
    model_bytes_per_view=1e5,
    vehicle_bps=1e6,
    radio_bps=4e6,
    backhaul_bps=8e6,
    ingress_bps=16e6,
    merge_s_per_view=0.1,
    border_share=0.5,
    start_s=5,
)


def test_latency_by_hand() -> None:
    """Ten views at the first RSU, none at the second; one vehicle each, 10 steps/s."""
    rsus = [Worker("a", (0, 0), 1), Worker("b", (1000, 0), 1)]
    vehicles = {rsu.name: [ROUND.vehicle(f"{rsu.name}/0", rsu.position_m, 10)] for rsu in rsus}
    found = latencies(np.zeros((10, 2)), rsus, vehicles, ROUND)
    assert found.central_s == pytest.approx(80e6 / 4e6 + 5 + 1000 / 50)  # radio, start, training
    trained_s = 5 + 100 + 8e6 / 1e6  # ten views and their upload by the vehicle
    assert found.flat_s == pytest.approx(trained_s + 8e6 / 4e6 + 1)
    assert found.voronoi_s == pytest.approx(trained_s + 1 + 8e6 / 4e6 + 8e6 / 8e6 + 0.5)
    assert found.balanced_s == pytest.approx(5 + 50 + 4 + 0.5 + 1 + 0.5 + 0.5)  # five views each
    assert found.saved == pytest.approx(1 - found.balanced_s / found.central_s)


def test_the_slowest_link_decides_and_more_gpus_help() -> None:
    counts = np.array([10, 10, 10])
    assert central_s(counts, ROUND) == pytest.approx(20 + 5 + 60)
    assert central_s(counts, replace(ROUND, ingress_bps=8e6)) == pytest.approx(30 + 5 + 60)
    assert central_s(counts, replace(ROUND, gpus=3, gpu_efficiency=0.5)) == pytest.approx(20 + 5 + 30)


def test_flat_waits_for_the_slowest_vehicle() -> None:
    vehicles = {"a": [ROUND.vehicle("x", (0, 0), 100), ROUND.vehicle("y", (0, 0), 10)], "b": []}
    each_s = 5 + 5 * 10 + 5 * 0.8  # five of nine, rounded up, by the slow one
    assert flat_s({"a": 9, "b": 0}, vehicles, ROUND) == pytest.approx(each_s + 7.2e6 / 4e6 + 0.9)


def test_assumptions_print_and_are_checked() -> None:
    lines = str(ROUND).splitlines()
    assert [line.split()[0] for line in lines] == list(asdict(ROUND))
    with pytest.raises(ValueError, match=r"Assumptions\.radio_bps"):
        replace(ROUND, radio_bps=0.0)
    with pytest.raises(ValueError, match="no vehicles"):
        rsu_worker(Worker("a", (0, 0), 1), [], ROUND)
    assert Latencies(10, 5, 3, 2).saved == pytest.approx(0.8)


def test_picture(tmp_path: Path) -> None:
    problem = make_problem(60, 7)
    save_picture(tmp_path / "map.png", problem, {"Voronoi": nearest(problem), "HWP": shift_boundaries(problem)})
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="must not be empty"):
        save_picture(tmp_path / "none.png", problem, {})
