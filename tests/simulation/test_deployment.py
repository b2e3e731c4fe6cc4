"""A deployment on loopback: one SuperLink, a SuperNode for every vehicle, `flwr run` as a user would type it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fl_app.checkpoint import load_checkpoint
from fl_app.history import History
from fl_app.scene_start import read_state
from tests.fl_app.test_own_data_run import SEQUENCES, TRAIN, write_sequence
from tests.simulation.conftest import ROOT, TINY, Simulation

BIN = Path(sys.executable).parent
SCENE = (
    'task="reconstruction" vehicles=4 rsus=2 image-height=32 image-width=64 scene-frames=40 gaussians-per-view=8 '
    "fit-steps=1.0 align-rounds=1 refine-rounds=1 refine-steps=0.5"
)
SHORT = TINY.replace("cloud-rounds=3", "cloud-rounds=1").replace("rsu-rounds=1", "rsu-rounds=2") + " evaluate-every=0"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


@contextmanager
def _running(*command: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], env=env, stdout=file, stderr=file, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    quiet = {
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    (tmp_path / "flwr").mkdir()
    return {**os.environ, **quiet}


def _partitions(nodes: int, of: int) -> list[str]:
    return [f"partition-id={i} num-partitions={of}" for i in range(nodes)]


def _flwr_run(config: str, nodes: list[str], environment: dict[str, str], tmp_path: Path) -> str:
    """What `flwr run` and the processes of a deployment said whose nodes have these configs."""
    link, health, *ports = _free_ports(2 + len(nodes))
    connection = f'[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    (tmp_path / "flwr" / "config.toml").write_text(connection)
    with ExitStack() as stack:
        start = lambda name, *command: stack.enter_context(  # noqa: E731
            _running(*command, env=environment, log=tmp_path / f"{name}.log")
        )
        where = ("--host", "127.0.0.1", "--port", str(link), "--health-server-address", f"127.0.0.1:{health}")
        start("superlink", "flower-superlink", "--insecure", *where, "--database", str(tmp_path / "link.db"))
        time.sleep(8)
        for i, port in enumerate(ports):
            who = ("--port", str(port), "--node-config", nodes[i])
            start(f"node-{i}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", *who)
        run = [str(BIN / "flwr"), "run", str(ROOT), "here", "--stream", "-c", config]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400)
    return done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.glob("*.log"))


def test_a_superlink_with_supernodes_gives_the_same_weights_as_the_local_engine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config = f'{SHORT} output-dir="{tmp_path}/deployed" run-name="run"'
    said = _flwr_run(config, _partitions(2, 2), environment, tmp_path)
    weights = tmp_path / "deployed" / "run" / "model.safetensors"
    assert weights.exists(), said[-6000:]
    local = Simulation(tmp_path / "local")
    assert local.run(config=SHORT).returncode == 0
    deployed, here = load_file(weights), load_file(tmp_path / "local" / "run" / "model.safetensors")
    assert all((deployed[name] == here[name]).all() for name in here)


def test_vehicles_of_a_deployment_train_on_all_of_their_own_folders(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Two nodes with a sequence each, a third whose folder is not there; the server has no data at all."""
    names = list(SEQUENCES)[:2]
    for name in names:
        write_sequence(tmp_path / name, name, SEQUENCES[name])
    nodes = [f'data-path="{tmp_path / name}" vehicle="car-{name}"' for name in (*names, "gone")]
    config = (
        'data="camvid" holdout-path="none" vehicles=3 cloud-rounds=1 rsu-rounds=1 local-epochs=1 image-height=32 '
        f'image-width=32 output-dir="{tmp_path}/deployed" run-name="run"'
    )
    said = _flwr_run(config, nodes, environment, tmp_path)
    folder = tmp_path / "deployed" / "run"
    assert (folder / "model.safetensors").exists(), said[-6000:]
    row = History.read(folder / "metrics.csv", 1).rows[1]
    assert row["rsu/rsu-0/examples"] + row["rsu/rsu-1/examples"] == sum(TRAIN[name] for name in names)
    assert {f"vehicle/car-{name}/miou" for name in names} <= row.keys()
    assert [*load_checkpoint(folder).state.losses.values()] == [{"client-error": 1}]
    assert "gone: no such folder" in said


def test_a_street_is_rebuilt_by_a_deployment_in_which_a_vehicle_is_missing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Of four vehicles three have a node: once the time is up others make up for the fourth."""
    config = f'{SCENE} join-timeout-s=75.0 output-dir="{tmp_path}/deployed" run-name="run"'
    said = _flwr_run(config, _partitions(3, 4), environment, tmp_path)
    folder = tmp_path / "deployed" / "run"
    assert (folder / "scene.ply").exists(), said[-6000:]
    _, state = read_state(folder)
    assert state.missing == ["vehicle-3"]
    assert sorted(state.parts) == ["vehicle-0", "vehicle-1", "vehicle-2"]
    assert sorted(state.scene) == ["rsu-0", "rsu-1"]
