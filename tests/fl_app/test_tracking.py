"""Tracking into a real sqlite store, and what is said when there is none."""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fl_app.compare import compare_runs
from fl_app.tracked_runs import tracked_runs
from fl_app.tracking import Tracker, TrackingError, check_reachable, default_uri

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's and sqlalchemy's own deprecations


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two finished runs and a failed one."""
    folder = tmp_path_factory.mktemp("tracking")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, gain, status in (("slow", 0.1, "FINISHED"), ("fast", 0.2, "FINISHED"), ("broken", 0.0, "FAILED")):
            tracker = Tracker(default_uri(folder), "test", folder / "artifacts")
            tracker.begin(name, {"strategy": name, "rsus": 2})
            for step in range(3):
                tracker.metrics(step, {"cloud/ap50": gain * step, "bytes/cloud-up": 1e6 * step, "bad": float("nan")})
            tracker.finish(status)
            assert tracker.failures == 0
    return default_uri(folder)


def test_runs_are_read_back_as_they_were_logged(store: str) -> None:
    runs = {run.name: run for run in tracked_runs(store, "test", [], ["cloud/ap50", "bad"])}
    assert set(runs) == {"slow", "fast", "broken"}
    assert runs["fast"].metrics == {"cloud/ap50": [(0, 0.0), (1, 0.2), (2, 0.4)]}
    assert (runs["slow"].params["strategy"], runs["broken"].status) == ("slow", "FAILED")


def test_compare_prints_a_table_and_draws(store: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    compare_runs(store, "test", ["slow", "fast"], tmp_path / "compare.png")
    printed = capsys.readouterr().out
    assert "slow" in printed
    assert "broken" not in printed
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def test_a_run_can_be_gone_on_with(store: str, tmp_path: Path) -> None:
    first = tracked_runs(store, "test", ["slow"], [])[0]
    tracker = Tracker(store, "test", tmp_path)
    tracker.begin("ignored", {}, first.run_id)
    tracker.metrics(3, {"cloud/ap50": 0.9})
    tracker.finish("FINISHED")
    assert tracked_runs(store, "test", ["slow"], ["cloud/ap50"])[0].metrics["cloud/ap50"][-1] == (3, 0.9)


def test_names_that_are_not_there_are_named(store: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no run nobody"):
        tracked_runs(store, "test", ["nobody"], [])
    with pytest.raises(TrackingError, match="no experiment 'other'"):
        tracked_runs(store, "other", [], [])
    with pytest.raises(TrackingError, match="no such file"):
        tracked_runs(f"sqlite:///{tmp_path}/none.db", "test", [], [])


def test_an_unreachable_server_is_one_clear_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        check_reachable(f"http://127.0.0.1:{port}")
    with pytest.raises(TrackingError, match="use http"):
        check_reachable("ftp://example")


def test_a_server_that_answers_is_reachable() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_reachable(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


def test_a_store_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    tracker = Tracker(f"sqlite:///{tmp_path}/file/x.db", "test", tmp_path)
    with pytest.raises(TrackingError, match="cannot open a run"):
        tracker.begin("x", {})


RACE = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from fl_app.tracking import Tracker, default_uri
folder = Path(sys.argv[1])
tracker = Tracker(default_uri(folder), "convoy", folder / "artifacts")
tracker.begin("run", {"a": 1})
for step in range(5):
    tracker.metrics(step, {f"m{number}": 1.0 for number in range(50)})
tracker.finish("FINISHED")
print("dropped", tracker.failures)
"""


def _race(folder: Path, count: int) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]


@pytest.mark.slow
def test_runs_that_start_together_in_a_new_folder_are_all_tracked(tmp_path: Path) -> None:
    for process in _race(tmp_path, 3):
        out, complaint = process.communicate(timeout=240)
        assert out == "dropped 0\n", complaint
    runs = tracked_runs(default_uri(tmp_path), "convoy", [], ["m0"])
    assert [len(run.metrics["m0"]) for run in runs] == [5, 5, 5]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_makes_the_database_breaks_nobody_elses(tmp_path: Path) -> None:
    (killed,) = _race(tmp_path, 1)
    for _ in range(1200):
        if any(path.suffix == ".part" for path in tmp_path.iterdir()):
            break
        time.sleep(0.05)
    time.sleep(0.5)
    killed.kill()
    killed.communicate(timeout=20)
    assert not (tmp_path / "mlflow.db").exists()
    (process,) = _race(tmp_path, 1)
    out, complaint = process.communicate(timeout=240)
    assert out == "dropped 0\n", complaint


@pytest.mark.slow
@pytest.mark.parametrize("name", ['a b%20?x=1#1"', "ä&b"])
def test_an_output_folder_may_be_called_anything(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    tracker = Tracker(default_uri(folder), "test", folder / "artifacts")
    tracker.begin("run", {})
    tracker.metrics(1, {"cloud/ap50": 0.5})
    (tmp_path / "file.txt").write_text("there")
    tracker.file(tmp_path / "file.txt", "pictures")
    tracker.finish("FINISHED")
    assert tracker.failures == 0
    assert tracked_runs(default_uri(folder), "test", [], ["cloud/ap50"])[0].metrics == {"cloud/ap50": [(1, 0.5)]}
    assert len(list(folder.rglob("file.txt"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "file.txt"]), "and no folder beside it"


@pytest.mark.parametrize(
    "uri", ["file:/tmp/x", "file:///tmp/x", "runs/mlruns", "/tmp/x", "ftp://example", "sqlite:x.db", "sqlite", ":", " "]
)
def test_only_addresses_that_work_are_offered(uri: str) -> None:
    with pytest.raises(
        TrackingError, match=r"use http\(s\)://HOST:PORT or sqlite:///FILE, or leave it empty"
    ) as raised:
        check_reachable(uri)
    assert "file:/," not in str(raised.value).replace(uri, "")


def test_a_bad_name_costs_nobody_elses_figures(store: str, tmp_path: Path) -> None:
    tracker = Tracker(store, "odd", tmp_path)
    tracker.begin("odd", {})
    odd = {f"vehicle/{name}/loss": 1.0 for name in ("v;0", "[/x]", "x" * 300, "..", "a\nb", "\udc80")}
    tracker.metrics(1, {**odd, "vehicle/v1/loss": 2.0, "huge": 10**400})
    tracker.finish("FINISHED")
    assert tracker.failures == 0
    assert tracked_runs(store, "odd", [], ["vehicle/v1/loss"])[0].metrics == {"vehicle/v1/loss": [(1, 2.0)]}
    assert len(tracker._client.get_run(tracker.run_id).data.metrics) == 7


def test_a_row_that_the_store_refuses_costs_itself(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a name to pass that the store does not take, the other 99 of its batch are logged all the same."""
    monkeypatch.setattr("fl_app.tracking.select_metrics", lambda values: (values, 0))
    tracker = Tracker(store, "refused", tmp_path)
    tracker.begin("refused", {})
    tracker.metrics(1, {**{f"m{number}": 1.0 for number in range(99)}, "v;0": 1.0})
    tracker.finish("FINISHED")
    assert tracker.failures == 1
    assert len(tracker._client.get_run(tracker.run_id).data.metrics) == 99


def test_a_flood_of_figures_is_bounded(store: str, tmp_path: Path) -> None:
    tracker = Tracker(store, "flood", tmp_path)
    tracker.begin("flood", {})
    began_s = time.process_time()
    for step in range(3):
        tracker.metrics(step, {f"vehicle/v{number % 100}/m{number}": 1.0 for number in range(100_000)})
    tracker.finish("FINISHED")
    assert time.process_time() - began_s < 15
    assert (tracker.failures, tracker.left_out) == (0, 3 * 97_000)


@pytest.mark.parametrize("run_id", ["0" * 32, "../x", "no such run"])
def test_a_run_that_the_store_does_not_know_goes_on_in_a_new_one(store: str, tmp_path: Path, run_id: str) -> None:
    tracker = Tracker(store, "new", tmp_path)
    assert not tracker.begin("again", {"seed": 3}, run_id)
    tracker.finish("FINISHED")
    assert tracker.run_id not in ("", run_id)


def test_a_locked_database_does_not_hold_the_end(tmp_path: Path) -> None:
    tracker = Tracker(default_uri(tmp_path), "test", tmp_path / "artifacts")
    tracker.begin("run", {})
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    for step in range(20):
        tracker.metrics(step, {"a": 1.0})
    began_s = time.monotonic()
    tracker.finish("FINISHED", patience_s=8)
    database.close()
    assert time.monotonic() - began_s < 10
    assert tracker.failures >= 20
