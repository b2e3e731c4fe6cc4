"""`convoy offload solve`, `simulate` and `compare` on a hand-written recording, run in process."""

import csv
import importlib.util
import logging
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import jaxtyping
import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageSequence
from typer.testing import CliRunner

import fl_app.cli_offload
import fl_app.offload_run
from edge.offload import heuristic
from fl_app.cli_offload import offload_app
from fl_app.offload_report import comparison_table
from fl_app.offload_run import Wish, interval95, means, simulate
from fl_app.tracking import default_uri

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")

SECONDS = 6
# SUMO's bearing (clockwise from north), start and direction; all indicate a turn but the last.
CARS = [
    ("a", 90.0, (-10.0, -2.0), 2),
    ("b", 180.0, (2.0, 25.0), 1),
    ("c", 270.0, (12.0, 2.0), 2),
    ("d", 0.0, (-2.0, -20.0), 2),
    ("e", 90.0, (-30.0, -2.0), 0),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without the checks of types, for times are taken here."""
    monkeypatch.chdir(tmp_path)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Five cars that crawl ahead at 1 m/s."""
    lines = ["<fcd-export>"]
    for second in range(SECONDS + 1):
        lines.append(f'<timestep time="{second}">')
        for name, bearing, (x, y), signals in CARS:
            ahead = math.radians(90 - bearing)
            at = f'x="{x + second * math.cos(ahead)}" y="{y + second * math.sin(ahead)}"'
            lines.append(f'<vehicle id="{name}" {at} angle="{bearing}" speed="1" type="car" signals="{signals}"/>')
        lines.append("</timestep>")
    path = tmp_path / "day.xml"
    path.write_text("\n".join([*lines, "</fcd-export>"]))
    return str(path)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(offload_app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    """What a command printed that went well, in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return " ".join(result.stdout.split())


def refused(*arguments: str | Path) -> str:
    """The one line that a user's mistake ends with."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip().removeprefix("error: ")


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_slot_of_a_recording_is_decided_written_and_drawn(recording: str) -> None:
    words = done("solve", recording, "--start", "4", "--table", "users.csv", "--picture", "slot.png")
    assert "day.xml at 4 s, ours: 4 of 4 users served" in words
    rows = rows_of("users.csv")
    assert [row["user"] for row in rows] == ["a", "b", "c", "d"], "e does not turn"
    assert float(rows[0]["east-m"]) == pytest.approx(-10 + 4 - 2.25), "the centre, half a length behind the front"
    mean = sum(float(row["awareness"]) for row in rows) / 4
    assert f"awareness {mean:.1%} (alone 26.8%)" in words
    assert all(float(row["awareness"]) >= float(row["awareness-alone"]) - 1e-9 for row in rows)
    with Image.open("slot.png") as picture:
        assert picture.size == (840, 840)


def test_a_random_slot_is_its_seeds() -> None:
    first, again, other = (
        done("solve", "random:30", "--seed", seed, "--policy", "exact").partition(" late")[0] for seed in "112"
    )
    assert first == again != other
    assert "awareness" in first


def test_a_slower_search_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristic, "unavailable", lambda: "no compiler in this test")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
    heuristic._warn.cache_clear()
    result = invoke("solve", "random:20")
    heuristic._warn.cache_clear()
    assert "searched in numpy, slower and further from the optimum: no compiler in this test" in result.stderr


def test_the_best_assignment_is_proven_best() -> None:
    words = done("solve", "random:20", "--policy", "exact", "--bound", "5")
    assert re.search(r"value ([\d.]+) of at most \1 \(sum of pairs\): 0\.00% may be missing", words), words
    assert "at most" not in done("solve", "random:20", "--bound", "0")


def test_users_out_of_reach_are_left_out_with_the_reason(recording: str) -> None:
    options = ("--rsu-at", "0,0", "--reach", "15", "--start", "0", "--table", "users.csv")
    done("solve", recording, *options)
    reasons = {row["user"]: row["reason"] for row in rows_of("users.csv")}
    assert reasons["b"] == "no worker in reach", "27.3 m away"
    done("solve", recording, "--deadline-ms", "10", "--table", "users.csv")
    assert {row["rsu"] for row in rows_of("users.csv")} == {""}
    assert {row["delay-s"] for row in rows_of("users.csv")} == {""}


def test_a_run_has_a_line_a_second_a_picture_and_an_animation(recording: str) -> None:
    words = done("simulate", recording, "--seconds", "4", "--animation", "--out", "out", "--tracking-uri", "none")
    assert sorted(path.name for path in Path("out").iterdir()) == ["run.gif", "slot.png", "ticks.csv"]
    rows = rows_of("out/ticks.csv")
    assert [float(row["time-s"]) for row in rows] == [0, 1, 2, 3]
    assert "4 slots: 4 of 4 users served" in words
    assert f"awareness {np.mean([float(row['awareness']) for row in rows]):.1%}" in words
    assert "0 late" in words
    with Image.open("out/run.gif") as movie:
        assert len(list(ImageSequence.Iterator(movie))) == 4
    assert not Path("mlflow.db").exists()


class FakeTracker:
    """Keeps what a run logs instead of writing it to MLflow."""

    runs: ClassVar[list["FakeTracker"]] = []

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri, self.experiment, self.artifacts = uri, experiment, artifacts
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.files: list[str] = []
        self.runs.append(self)

    def begin(self, run_name: str, params: dict[str, Any]) -> None:
        self.name, self.params = run_name, params

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values))

    def file(self, path: Path) -> None:
        self.files.append(path.name)

    def finish(self, status: str) -> None:
        self.status = status


@pytest.fixture
def tracked_runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeTracker]:
    monkeypatch.setattr(fl_app.offload_run, "Tracker", FakeTracker)
    monkeypatch.setattr(FakeTracker, "runs", [])
    return FakeTracker.runs


def test_a_run_is_tracked(recording: str, tracked_runs: list[FakeTracker]) -> None:
    done("simulate", recording, "--seconds", "3", "--out", "runs/one", "--vehicles", "3")
    (run,) = tracked_runs
    assert (run.uri, run.experiment, run.status) == (default_uri(Path("runs")), "convoy-offload", "FINISHED")
    assert (run.params["policy"], run.params["vehicles"], run.params["predictor"]) == ("ours", 3, "indicator")
    assert [step for step, _ in run.logged] == [1, 2, 3]
    logged = [values["offload/awareness"] for _, values in run.logged]
    assert logged == pytest.approx([float(row["awareness"]) for row in rows_of("runs/one/ticks.csv")])
    assert run.files == ["ticks.csv", "slot.png"]


def test_a_comparison_is_a_run_for_each_policy(recording: str, tracked_runs: list[FakeTracker]) -> None:
    done("compare", recording, "--policies", "ours,exact", "--seeds", "2", "--seconds", "1", "--out", "runs/two")
    assert [run.params["policy"] for run in tracked_runs] == ["ours", "exact"]
    assert [[step for step, _ in run.logged] for run in tracked_runs] == [[0, 1], [0, 1]]


def test_ctrl_c_ends_a_run_and_its_tracking(
    recording: str, tracked_runs: list[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:

    def interrupted(*arguments: Any) -> Any:
        yield next(simulate(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(fl_app.cli_offload, "simulate", interrupted)
    assert invoke("simulate", recording, "--out", "runs/one").exit_code == 130
    (run,) = tracked_runs
    assert run.status == "KILLED"
    assert len(run.logged) == 1


def test_policies_side_by_side(recording: str) -> None:
    options = ("--policies", "ours, exact", "--seeds", "2", "--seconds", "2", "--tracking-uri", "none")
    words = done("compare", recording, *options, "--out", "out")
    rows = rows_of("out/compare.csv")
    assert [(row["policy"], row["seed"]) for row in rows] == [
        ("ours", "0"),
        ("exact", "0"),
        ("ours", "1"),
        ("exact", "1"),
    ]
    assert float(rows[1]["awareness"]) == pytest.approx(float(rows[0]["awareness"]), abs=0.05)
    assert "ours" in words
    assert Path("out/compare.png").stat().st_size > 5000


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("libsumo", "sumo")),
    reason="SUMO is not installed: pip install 'convoy[sumo]'",
)
def test_the_crossing_recorded_and_live() -> None:
    """The same traffic; only the recording tells who truly turned."""
    options = ("simulate", "crossing", "--seconds", "2", "--tracking-uri", "none", "--out", "out")
    figures = []
    for live in ((), ("--live",)):
        assert ("turn recall" in done(*options, *live)) == (not live)
        figures.append([(row["users"], row["served"], row["delay-s"]) for row in rows_of("out/ticks.csv")])
    assert figures[0] == figures[1]


def test_the_generated_town() -> None:
    words = done("solve", "town:hamlet", "--start", "20")
    assert "town:hamlet at 20 s" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("solve", "nowhere"), "no scene of that name; scenes are crossing, bologna"),
        (("solve", "random:many"), "want random:VEHICLES with a whole number"),
        (("solve", "random:9", "--policy", "best"), "there is no policy 'best'; want one of ours, anytime, exact"),
        (("solve", "random:9", "--size", "200Kb"), "unit is 'Kb', want one of bit, kbit"),
        (("solve", "random:9", "--size", "much"), "size is 'much': want a number above 0 and a unit"),
        (("solve", "random:9", "--size", "0kbit"), "size is '0kbit': want a number above 0 and a unit"),
        (("solve", "random:9", "--size", "1..2kbit"), "size is '1..2kbit': want a number above 0 and a unit"),
        (("solve", "random:9", "--who", "some"), "participants is 'some'"),
        (("solve", "FILE", "--predictor", "magic"), "there is no predictor 'magic'; want one of kalman, yaw-rate"),
        (("solve", "FILE", "--rsu-at", "3"), "rsu-at is '3': want EAST,NORTH"),
        (("solve", "FILE", "--rsu-at", "nan,0"), "rsu-at is 'nan,0': want EAST,NORTH"),
        (("solve", "FILE", "--rsu-at", "0,900"), "m from the nearest road and reaches 200 m"),
        (("solve", "FILE", "--start", "99"), "the traces end at 6 s"),
        (("solve", "random:9", "--size", "9e99kbit"), "size is '9e99kbit': want a number above 0 and a unit"),
        (("solve", "random:9", "--size", "9" * 40 + "kbit"), "want a number above 0 and a unit"),
        (("simulate", "FILE", "--live"), "a recorded file is not live"),
        (("simulate", "FILE", "--tracking-uri", "ftp://x"), "use http(s)://HOST:PORT or sqlite:///FILE"),
        (("solve", "town:metropolis"), "the town has no preset 'metropolis'"),
        (("solve", "random:9", "--picture", "slot.xyz"), "xyz"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments: tuple[str, ...], words: str, recording: str) -> None:
    assert words in refused(*(recording if word == "FILE" else word for word in arguments))


@pytest.mark.parametrize(
    ("option", "values", "want"),
    [
        ("--ghz", ("-1", "nan", "inf"), "a finite number, 0 or more, 1e+06 at most"),
        ("--start-s", ("-0.5", "nan", "inf"), "a finite number, 0 or more, 1e+09 at most"),
        ("--gps-noise-m", ("-1", "nan", "inf"), "a finite number, 0 or more, 100000 at most"),
        ("--deadline-ms", ("-1", "0", "nan", "inf", "400000"), "a finite number, more than 0, 60000 at most"),
        ("--reach-m", ("-5", "0", "nan"), "a number or inf, more than 0, 100000 at most"),
        ("--bound-s", ("-1", "nan"), "a number or inf, 0 or more, 3600 at most"),
    ],
)
def test_a_bad_number_is_told_with_its_option_and_what_is_wanted(
    option: str, values: tuple[str, ...], want: str
) -> None:
    for value in values:
        result = invoke("solve", "random:9", option, value)
        assert result.exit_code == 2
        assert f"Invalid value for '{option}': {value}: want {want}." in result.stderr


@pytest.mark.parametrize("flag", ["--deadline", "--deadline=400", "--deadline-s"])
def test_a_deadline_says_its_unit(flag: str) -> None:
    result = invoke("solve", "random:9", flag, "0.4")
    assert result.exit_code == 2
    assert "say --deadline-ms, in milliseconds: 400 for 0.4 s" in " ".join(result.stderr.split())


def test_the_deadline_is_in_milliseconds() -> None:
    wish = Wish("random:9", deadline_ms=400.0)
    assert wish.scenario().deadline_s == 0.4


def test_old_names_of_flags_that_never_meant_anything_else_are_still_read() -> None:
    old = done("solve", "random:20", "--policy", "exact", "--reach", "50", "--bound=0", "--gps-noise", "0")
    new = done("solve", "random:20", "--policy", "exact", "--reach-m", "50", "--bound-s", "0", "--gps-noise-m", "0")
    assert old.partition("decided in")[0] == new.partition("decided in")[0]
    assert "--reach " not in invoke("solve", "--help").stdout


def test_the_least_numbers_are_taken() -> None:
    done(
        "solve", "random:9", "--ghz", "0", "--gps-noise-m", "0", "--bound-s", "0", "--start-s", "0", "--reach-m", "inf"
    )
    for seconds in ("0.9", "nan", "inf"):
        stderr = invoke("simulate", "nowhere", "--seconds", seconds).stderr
        assert f"Invalid value for '--seconds': {seconds}: want a finite number, 1 or more, 86400 at most." in stderr


def test_help_says_which_scenes_there_are() -> None:
    for command in ("solve", "simulate", "compare"):
        words = done(command, "--help")
        assert "crossing, bologna, town:PRESET" in words
        assert "200kbit" in words


def test_an_interval_of_three_values() -> None:
    """Standard deviation 1, three values, t of 2 degrees of freedom at 97.5 % is 4.3027."""
    assert interval95([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert math.isnan(interval95([1.0, math.nan]))


def test_means_leave_out_what_is_not_known() -> None:
    class Fake:
        judgement = None

        def __init__(self, **figures: float) -> None:
            self.figures = figures

        def metrics(self) -> dict[str, float]:
            return {"geometry-s": 0.1, "decision-s": 0.2} | self.figures

    total = means([Fake(awareness=0.5, late=1.0), Fake(awareness=math.nan, late=2.0)])  # type: ignore[list-item]
    assert (total["awareness"], total["late"]) == (0.5, 3.0)
    assert total["slowest-decision-s"] == pytest.approx(0.3)


def test_a_table_of_policies_has_an_interval_from_two_seeds_on() -> None:
    base = {"satisfied": 0.5, "delay-s": 0.3, "users": 4.0, "served": 4.0, "users-per-worker": 2.0, "decision-s": 0.0}
    rows = [base | {"policy": "ours", "awareness": 0.5 + seed / 10, "late": 0.0} for seed in range(2)]
    two, one = (comparison_table(some, "") for some in (rows, rows[:1]))
    assert [str(column.header) for column in two.columns][:2] == ["policy", "awareness, %"]
    assert list(two.columns[1].cells) == ["55.0 ± 63.5"], "half of 10 % times 12.706"
    assert list(one.columns[1].cells) == ["50.0"]
    assert list(one.columns[5].cells) == ["–"], "who truly turns is not known"


def test_a_comparison_fits_a_terminal(recording: str) -> None:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(
        offload_app, ["compare", recording, "--seeds", "2", "--seconds", "1", "--tracking-uri", "none", "--out", "out"]
    )
    assert "…" not in result.stdout
    assert [name in result.stdout for name in ("ours", "union", "algorithm1", "go", "cpto", "random")] == [True] * 6
