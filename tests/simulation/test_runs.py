"""Whole runs through the command line: success, interruption, resume, failure."""

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.simulation.conftest import Simulation


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "run" / "model.safetensors")


def _same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def _statuses(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return [row[0] for row in database.execute("select status from runs order by start_time")]


def _stop_after(process: subprocess.Popen, words: str, sign: int) -> tuple[int, str]:
    """Send a signal when a line with these words appears; exit code and all that was printed."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if words in line:
            os.kill(process.pid, sign)
            break
    rest, _ = process.communicate(timeout=120)
    return process.returncode, "".join(lines) + rest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = Simulation(folder).run()
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_leaves_weights_pictures_numbers_and_a_tracked_run(uninterrupted: Path) -> None:
    left = {path.name for path in (uninterrupted / "run").iterdir()}
    assert {"model.safetensors", "checkpoint.safetensors", "metrics.csv", "detections.png", "curves.png"} <= left
    assert _statuses(uninterrupted) == ["FINISHED"]
    assert json.loads((uninterrupted / "run" / "config.json").read_text())["seed"] == 0


def test_the_same_seed_gives_the_same_weights_bit_for_bit(uninterrupted: Path, simulation: Simulation) -> None:
    assert simulation.run().returncode == 0
    assert _same(_weights(uninterrupted), _weights(simulation.folder))


def test_resume_after_kill_9_ends_in_the_same_weights(uninterrupted: Path, simulation: Simulation) -> None:
    code, _ = _stop_after(simulation.start(), "round 2/3", signal.SIGKILL)
    assert code == -signal.SIGKILL
    resumed = simulation.run("--resume", str(simulation.folder / "run"))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "round 3/3" in resumed.stdout
    assert "round 1/3" not in resumed.stdout
    assert _same(_weights(uninterrupted), _weights(simulation.folder))
    assert _statuses(simulation.folder) == ["FINISHED"]


def test_ctrl_c_leaves_a_killed_run_that_can_go_on(uninterrupted: Path, simulation: Simulation) -> None:
    code, printed = _stop_after(simulation.start(), "round 1/3", signal.SIGINT)
    assert code == 130, printed
    assert "--resume" in printed
    assert _statuses(simulation.folder) == ["KILLED"]
    assert simulation.run("--resume", str(simulation.folder / "run")).returncode == 0
    assert _same(_weights(uninterrupted), _weights(simulation.folder))


def test_a_damaged_checkpoint_is_one_clear_error(simulation: Simulation) -> None:
    assert simulation.run(config="cloud-rounds=1").returncode == 0
    path = simulation.folder / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    done = simulation.run("--resume", str(simulation.folder / "run"))
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_in_which_nothing_is_accepted_fails(simulation: Simulation) -> None:
    done = simulation.run(config="max-update-ratio=0.000001")
    assert done.returncode == 1
    assert "not one update was accepted" in done.stderr
    assert _statuses(simulation.folder) == ["FAILED"]


def test_ray_gives_the_same_weights_as_the_local_engine(uninterrupted: Path, simulation: Simulation) -> None:
    done = simulation.run("--engine", "ray")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _same(_weights(uninterrupted), _weights(simulation.folder))
