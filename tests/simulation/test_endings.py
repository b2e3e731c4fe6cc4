"""How runs end that are told to, or whose tracking store or disk gives out: whole, in bounded time, with one line."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.simulation.conftest import ROOT, Simulation

SCENE = (
    "vehicles=4 rsus=2 image-height=32 image-width=64 scene-frames=40 gaussians-per-view=8 fit-steps=1.0 "
    "align-rounds=1 refine-rounds=40 refine-steps=0.5"
)
LONG = "cloud-rounds=200 join-timeout-s=400.0"
ENDS_WITHIN_S = 60.0


def _statuses(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return [row[0] for row in database.execute("select status from runs order by start_time")]


def _read_until(process: subprocess.Popen, words: str) -> str:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


@pytest.mark.parametrize(
    ("flags", "config"),
    [((), LONG), (("--engine", "ray"), LONG), (("--task", "reconstruction"), SCENE)],
    ids=["local", "ray", "reconstruction"],
)
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_twice_is_killed_and_can_go_on(
    simulation: Simulation, flags: tuple[str, ...], config: str, first: int
) -> None:
    process = simulation.start(*flags, config=config)
    printed = _read_until(process, "round 2/")
    os.kill(process.pid, first)
    for line in process.stdout or ():
        printed += line
        if line.startswith("interrupted"):
            os.kill(process.pid, signal.SIGINT)  # while the run is being closed
        if line.startswith("killed after"):
            os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 128 + first, printed
    assert "Traceback" not in printed
    assert f"go on with: flower-simulation --resume {simulation.folder / 'run'}" in printed
    assert _statuses(simulation.folder) == ["KILLED"]


SERVER = """
import os, sys, warnings
warnings.simplefilter("ignore")
folder, port = sys.argv[1:]
os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{folder}/server.db"
os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = f"{folder}/files"
from mlflow.server import app
from werkzeug.serving import make_server
make_server("127.0.0.1", int(port), app, threaded=True).serve_forever()
"""


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """MLflow's own server in a process of its own, without its workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-c", SERVER, str(folder), str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}", process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _wait_for(port: int, patience_s: float = 240) -> None:
    until_s = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until_s, "the server did not come up"
            time.sleep(0.5)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_a_tracking_server_that_goes_does_not_hold_the_end(simulation: Simulation, tmp_path: Path, stop: int) -> None:
    with _mlflow_server(tmp_path) as (uri, server):
        process = simulation.start(config=f'cloud-rounds=4 tracking-uri="{uri}"')
        printed = _read_until(process, "round 2/4")
        os.killpg(server.pid, stop)
        printed += _read_until(process, "data: town")
        began_s = time.monotonic()
        rest, _ = process.communicate(timeout=120)
        took_s = time.monotonic() - began_s
    assert process.returncode == 0, printed + rest
    assert took_s < 30
    assert "writes failed, see the log; metrics.csv is complete" in rest
    lines = (simulation.folder / "run" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["round", "0", "1", "2", "3", "4"]


def test_a_database_that_is_locked_does_not_hold_the_end(simulation: Simulation) -> None:
    process = simulation.start()
    printed = _read_until(process, "round 1/3")
    database = sqlite3.connect(simulation.folder / "mlflow.db", timeout=30, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    printed += _read_until(process, "data: town")
    began_s = time.monotonic()
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed + rest
    assert time.monotonic() - began_s < 30
    assert "writes failed" in rest
    database.close()


def test_a_run_goes_on_elsewhere_and_without_its_tracking_database(simulation: Simulation, tmp_path: Path) -> None:
    first = simulation.run(config="cloud-rounds=1")
    assert first.returncode == 0, first.stdout + first.stderr
    elsewhere = tmp_path / "else where%20?#"
    elsewhere.mkdir()
    on = simulation.run(
        "--resume", str(simulation.folder / "run"), config=f'cloud-rounds=2 output-dir="{elsewhere}" experiment="o"'
    )
    assert on.returncode == 0, on.stdout + on.stderr
    assert "has no run" in on.stderr
    assert "going on in a new one" in on.stderr
    assert (elsewhere / "mlflow.db").exists()
    with sqlite3.connect(elsewhere / "mlflow.db") as database:
        steps = database.execute("select distinct step from metrics where key = 'cloud/miou' order by step").fetchall()
    assert steps == [(0,), (1,), (2,)], "the new tracking run has the rounds of before, too"
    assert _statuses(elsewhere) == ["FINISHED"]


def test_a_broken_off_evaluation_is_made_up_for(simulation: Simulation) -> None:
    """Killed between the checkpoint of the last round and its evaluation: a resume does that alone."""
    done = simulation.run(config="cloud-rounds=2")
    assert done.returncode == 0
    table = simulation.folder / "run" / "metrics.csv"
    whole = table.read_text()
    header, *rows = whole.splitlines()
    names = header.split(",")
    cells = rows[-1].split(",")
    lost = [name.startswith(("cloud/", "vehicles/")) or name.endswith(("ap50", "miou")) for name in names]
    cut = ",".join("" if gone else cell for cell, gone in zip(cells, lost, strict=True))
    table.write_text("\n".join([header, *rows[:-1], cut, ""]))
    resumed = simulation.run("--resume", str(simulation.folder / "run"), config="cloud-rounds=2")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "round " not in resumed.stdout.replace("cloud round", "")
    header, *rows = table.read_text().splitlines()
    again = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    before = dict(zip(names, cells, strict=True))
    for name in ("cloud/miou", "vehicles/miou", "vehicle/vehicle-1/miou"):
        assert again[name] == before[name] != ""


def test_what_a_run_is_of_cannot_change(simulation: Simulation) -> None:
    folder = simulation.folder / "run"
    assert simulation.run(config="cloud-rounds=1").returncode == 0
    done = simulation.run("--resume", str(folder), config='cloud-rounds=2 data="camvid" strategy="fedadam"')
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[1:3] == [
        "  data = 'camvid', there 'town'",
        "  strategy = 'fedadam', there 'fedavg'",
    ]
    assert "Traceback" not in done.stderr


def test_a_name_is_a_runs_own(simulation: Simulation) -> None:
    """Of two runs of one name that start together one goes on; a third is told of the first."""
    both = [simulation.start(config="cloud-rounds=1") for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], printed
    assert "at work in" in "".join(printed) or "holds a run" in "".join(printed) or "is not empty" in "".join(printed)
    third = simulation.run(config="cloud-rounds=1")
    assert third.returncode == 1
    assert "holds a run; go on with it by --resume" in third.stderr
    assert _statuses(simulation.folder) == ["FINISHED"]


def test_a_full_disk_at_the_end_is_one_line_and_a_failed_run(simulation: Simulation) -> None:
    """Files may not grow beyond a size that holds the database and the checkpoint of a round, but no model beside."""
    config = simulation.command(config="cloud-rounds=2")
    limited = "import resource,sys,runpy; import fl_app.checkpoint as c; save = c.save_model\n"
    limited += (
        "def full(*args):\n resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); return save(*args)\n"
    )
    limited += (
        "c.save_model = full; sys.argv = sys.argv[1:]; runpy.run_module('fl_app.simulation', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *config[2:]], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "--resume" in errors[0]
    assert _statuses(simulation.folder) == ["FAILED"]
    assert (simulation.folder / "run" / "checkpoint.safetensors").exists()
    assert json.loads((simulation.folder / "run" / "config.json").read_text())["seed"] == 0
