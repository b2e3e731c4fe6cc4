"""Vehicles that fail or lie cost their own update: the strategy on the local engine, fault by fault."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest

from clients.messages import to_record
from fl_app.local_grid import LocalGrid
from strategies import Hierarchical, HierarchicalConfig
from strategies.gate import Cause
from strategies.report import RoundReport
from strategies.rsu_round import Participation
from strategies.state import RunState
from tests.fl_app import toy

FAULTS = {
    "raises": Cause.CLIENT_ERROR,
    "hangs": Cause.LATE,
    "nan": Cause.NOT_FINITE,
    "shape": Cause.SHAPE,
    "extra-key": Cause.KEYS,
    "scaled": Cause.NORM,
    "heavy": Cause.WEIGHT,
    "negative": Cause.WEIGHT,
}


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    log = logging.getLogger("convoy")
    before = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(before)


def _run(faults: dict[int, str], rounds: int = 1, **settings) -> tuple[RunState, list[RoundReport]]:
    reports: list[RoundReport] = []
    participation = Participation(deadline_s=1.0, quorum=settings.pop("quorum", 0.5))
    config = HierarchicalConfig(
        **{"vehicles": 4, "rsus": 1, "rsu_rounds": 1, "participation": participation, **settings}
    )
    strategy = Hierarchical(config, RunState(toy.model()), on_round=reports.append)
    grid = LocalGrid(toy.client_app(faults), config.vehicles, {}, workers=2)
    strategy.start(grid, to_record(strategy.state.arrays), num_rounds=rounds, timeout=participation.deadline_s)
    return strategy.state, reports


@pytest.mark.parametrize(("fault", "cause"), FAULTS.items())
def test_a_fault_is_counted_and_the_others_decide(fault: str, cause: Cause) -> None:
    # Vehicle 1 is out. The others add 1, 3, 4 with weights 1, 3, 4: (1 + 9 + 16) / 8 = 26 / 8.
    state, reports = _run({1: fault})
    assert state.losses == {"v1": {str(cause): 1}}
    assert reports[0].accepted == 3
    np.testing.assert_allclose(state.arrays["w"], 10 + 26 / 8, rtol=1e-6)
    assert state.arrays["steps"].dtype == np.int64
    assert int(state.arrays["steps"]) == 10  # 7 + 3.25, rounded


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_round_does_not_end_the_run(fault: str) -> None:
    state, reports = _run({1: fault}, rounds=3)
    assert [report.accepted for report in reports] == [3, 3, 3]
    assert sum(state.losses["v1"].values()) == 3
    assert np.isfinite(state.arrays["w"]).all()


def test_an_rsu_that_loses_all_its_vehicles_keeps_its_model_and_the_cloud_goes_on() -> None:
    # Regions 0 = {v0, v2}, 1 = {v1, v3}. RSU of region 1 gets nothing; the cloud takes RSU 0: (1 + 9) / 4 = 2.5.
    state, reports = _run({1: "raises", 3: "nan"}, rsus=2)
    assert [rsu.moved for rsu in reports[0].rsus] == [True, False]
    assert reports[0].cloud_moved
    np.testing.assert_allclose(state.arrays["w"], 12.5, rtol=1e-6)


def test_without_quorum_nothing_moves() -> None:
    state, reports = _run({0: "raises", 1: "raises", 2: "raises"}, quorum=0.5)
    assert reports[0].cloud_moved is False
    assert (state.arrays["w"] == 10).all()


def test_when_all_fail_the_run_ends_with_nothing_accepted() -> None:
    state, reports = _run(dict.fromkeys(range(4), "raises"), rounds=2)
    assert state.accepted == 0
    assert [report.cloud_moved for report in reports] == [False, False]
