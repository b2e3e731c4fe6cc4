"""Values that say what happened."""

import math

from strategies.gate import Cause
from strategies.report import Loss, RoundReport, RsuReport, Traffic, tally, weighted_metrics


def test_metrics_are_weighted_by_examples_over_those_who_have_them() -> None:
    rows = [({"loss": 1.0, "map": 0.5}, 1), ({"loss": 4.0}, 2), ({"map": 0.2}, 2)]
    assert weighted_metrics(rows) == {"loss": (1 + 2 * 4) / 3, "map": (0.5 + 2 * 0.2) / 3}


def test_metrics_that_are_nan_or_weigh_nothing_are_left_out() -> None:
    assert weighted_metrics([({"loss": math.nan}, 1), ({"loss": 2.0}, 3)]) == {"loss": 2.0}
    assert weighted_metrics([({"loss": math.nan}, 1)]) == {}
    assert weighted_metrics([({"loss": 1.0}, 0)]) == {}
    assert weighted_metrics([]) == {}


def test_tally_counts_by_vehicle_and_cause_and_leaves_the_old_counts_alone() -> None:
    before = {"b": {"late": 1}}
    new = (Loss("b", Cause.LATE), Loss("a", Cause.NORM, "too long"), Loss("b", Cause.LOST))
    assert tally(before, new) == {"a": {"norm": 1}, "b": {"late": 2, "lost": 1}}
    assert before == {"b": {"late": 1}}
    assert list(tally(before, new)) == ["a", "b"]
    assert all(type(cause) is str for causes in tally({}, new).values() for cause in causes)


def test_traffic_adds_up_by_link() -> None:
    start = Traffic(vehicle_up=1, cloud_down=5)
    more = start.plus(vehicle_up=2, cloud_up=10)
    assert more == Traffic(vehicle_up=3, vehicle_down=0, cloud_up=10, cloud_down=5)
    assert more.cloud == 15
    assert start == Traffic(vehicle_up=1, cloud_down=5)


def test_a_round_accepts_what_its_rsus_accept() -> None:
    rsus = (RsuReport("a", 3, 2, 20, True), RsuReport("b", 3, 1, 10, False))
    assert RoundReport(1, 1, None, 0.0, None, Traffic(), rsus, {}, ()).accepted == 3
