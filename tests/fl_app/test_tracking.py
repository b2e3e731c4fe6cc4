"""Tracking into a real sqlite store, and what is said when there is none."""

import socket
import threading
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
