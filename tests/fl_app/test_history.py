"""Reports as rows, and the CSV that a resumed run goes on with."""

from pathlib import Path

from fl_app.history import History, evaluate_row, round_row
from strategies.gate import Cause
from strategies.report import EvaluateReport, Loss, RoundReport, RsuReport, Traffic

REPORT = RoundReport(
    round=4,
    cloud_round=2,
    cloud_moved=True,
    wall_s=1.5,
    simulated_s=40.0,
    traffic=Traffic(10, 20, 3, 4),
    rsus=(RsuReport("rsu-0", 3, 2, 50, True, {"loss-total": 0.5}),),
    vehicle_metrics={"v0": {"loss-total": 0.4}},
    losses=(Loss("v1", Cause.LATE), Loss("v2", Cause.LATE)),
)


def test_a_round_becomes_numbers_by_tier() -> None:
    row = round_row(REPORT)
    assert row["rsu/rsu-0/loss-total"] == 0.5
    assert row["vehicle/v0/loss-total"] == 0.4
    assert (row["bytes/cloud-up"], row["bytes/vehicle-down"]) == (3, 20)
    assert (row["lost/late"], row["replies/lost"], row["replies/accepted"]) == (2, 2, 2)
    assert row["time/simulated-s"] == 40.0


def test_an_evaluation_becomes_numbers_by_tier() -> None:
    report = EvaluateReport(4, 2, {"v0": {"miou": 0.3}}, {"rsu-0": {"miou": 0.3}}, {"miou": 0.3}, ())
    assert evaluate_row(report) == {"vehicles/miou": 0.3, "rsu/rsu-0/miou": 0.3, "vehicle/v0/miou": 0.3}


def test_the_csv_is_read_back_up_to_a_round(tmp_path: Path) -> None:
    history = History()
    history.add(1, {"a": 1.0})
    history.add(2, {"a": 2.0, "b": 0.25})
    history.add(3, {"a": 3.0})
    history.write(tmp_path / "metrics.csv")
    again = History.read(tmp_path / "metrics.csv", up_to=2)
    assert again.rows == {1: {"a": 1.0}, 2: {"a": 2.0, "b": 0.25}}
    assert again.series("b") == [(2, 0.25)]
    assert History.read(tmp_path / "none.csv", up_to=9).rows == {}
