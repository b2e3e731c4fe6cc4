"""Reports as rows, and the CSV that a resumed run goes on with."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

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


def _written(path: Path) -> str:
    history = History()
    for number in (1, 2, 3):
        history.add(number, {"cloud/ap50": number / 10, "time/wall-s": 2.0})
    history.write(path)
    return path.read_text()


@pytest.mark.parametrize(
    ("damage", "rounds"),
    [
        (lambda text: text.replace("2,0.2", "2,much"), [1, 3]),
        (lambda text: text.replace("round,", "number,"), []),
        (lambda text: text.replace("3,0.3,2.0", "3,0.3"), [1, 2, 3]),
        (lambda text: text.replace("2,0.2,2.0", "2,0.2,2.0,9,9"), [1, 3]),
        (lambda text: "", []),
        (lambda text: text.replace("2,0.2", "2," + "9" * 200_000), [1]),
    ],
)
def test_a_damaged_table_is_warned_of_and_kept_aside(
    tmp_path: Path,
    damage: Callable[[str], str],
    rounds: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(damage(_written(path)))
    monkeypatch.setattr(logging.getLogger("convoy"), "propagate", True)
    with caplog.at_level(logging.WARNING, "convoy"):
        assert sorted(History.read(path, 9).rows) == rounds
    assert f"{path}: damaged" in caplog.text
    assert (tmp_path / "metrics.csv.damaged").exists()


def test_bytes_that_are_no_text_are_no_end(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00round")
    assert History.read(tmp_path / "metrics.csv", 9).rows == {}


@pytest.mark.parametrize("name", ['v"0', "v,0", "v\n0", "v\r\n0", "\udc80", "=1+1", "[/x]"])
def test_a_name_from_outside_stays_one_column(tmp_path: Path, name: str) -> None:
    history, path = History(), tmp_path / "metrics.csv"
    history.add(1, {f"vehicle/{name}/loss": 2.0, "time/wall-s": 1.0})
    history.write(path)
    row = History.read(path, 1).rows[1]
    assert sorted(row.values()) == [1.0, 2.0]
    assert row["time/wall-s"] == 1.0


def test_a_vehicle_that_names_new_metrics_in_every_round_fills_no_file() -> None:
    history = History()
    for number in range(20):
        history.add(number, {f"vehicle/v0/m{number}-{i}": 1.0 for i in range(100)} | {"cloud/ap50": 0.5})
        history.add(number, {"vehicle/v1/loss": 1.0})
    names = {name for row in history.rows.values() for name in row}
    assert sum(name.startswith("vehicle/v0/") for name in names) == 512
    assert len(history.series("cloud/ap50")) == len(history.series("vehicle/v1/loss")) == 20
