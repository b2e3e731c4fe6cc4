"""A whole reconstruction through the command line: broken off and gone on with, then grown by a region."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from fl_app import checkpoint
from strategies.gaussian_state import FusionState
from tests.simulation.conftest import Simulation

SCENE = (
    "vehicles=4 rsus=2 image-height=32 image-width=64 scene-frames=80 gaussians-per-view=8 fit-steps=1.0 "
    'align-rounds=1 refine-rounds=1 refine-steps=0.5 regions="rsu-0"'
)
ROUNDS = 3  # fit, align, refine


def _config(name: str) -> str:
    return f'{SCENE} run-name="{name}"'


def _state(folder: Path) -> FusionState:
    saved = checkpoint.load_arrays(folder)
    return FusionState.restore(saved.arrays, saved.counters)


def _rounds(printed: str) -> list[str]:
    return [line.split(" ")[1] for line in printed.splitlines() if line.startswith("round ")]


def _kill_after_round(simulation: Simulation, number: int, name: str) -> None:
    """Kill -9 as soon as a round is told of, which is when it is saved."""
    process = simulation.start("--task", "reconstruction", config=_config(name))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"round {number}/"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def _grown(simulation: Simulation, base: str) -> tuple[Path, str]:
    """The folder and the output of a run that adds the other region to a finished one."""
    before = set(simulation.folder.iterdir())
    done = simulation.run("--resume", str(simulation.folder / base), "--add-region", "rsu-1", config=SCENE)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (path for path in set(simulation.folder.iterdir()) - before if (path / "config.json").exists())
    return folder, done.stdout


def test_a_reconstruction_is_killed_resumed_and_grown(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))

    # 1. A region, without interruption.
    straight = simulation.run("--task", "reconstruction", config=_config("straight"))
    assert straight.returncode == 0, straight.stdout + straight.stderr
    assert _rounds(straight.stdout) == [f"{number}/{ROUNDS}" for number in range(1, ROUNDS + 1)]
    whole = simulation.folder / "straight"
    assert {"scene.ply", "metrics.csv", "checkpoint.safetensors", "config.json"} <= {p.name for p in whole.iterdir()}
    assert [path.name for path in (whole / "regions").iterdir()] == ["rsu-0.ply"]

    # 2. The same, killed between rounds and gone on with, ends in the same bytes.
    _kill_after_round(simulation, 2, "killed")
    killed = simulation.folder / "killed"
    assert _state(killed).round == 2
    assert not (killed / "scene.ply").exists()
    resumed = simulation.run("--resume", str(killed), config=_config("killed"))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert _rounds(resumed.stdout) == [f"3/{ROUNDS}"]
    assert (killed / "scene.ply").read_bytes() == (whole / "scene.ply").read_bytes()
    assert _state(killed).traffic == _state(whole).traffic

    # 3. The other region joins; the interior of the first keeps every bit.
    folder, printed = _grown(simulation, "killed")
    assert json.loads((folder / "config.json").read_text())["regions"] == "rsu-1"
    assert _rounds(printed)[-1] == f"{ROUNDS}/{ROUNDS}"
    old, grown = _state(killed).scene["rsu-0"], _state(folder)
    assert sorted(grown.scene) == ["rsu-0", "rsu-1"]
    assert sorted(path.name for path in (folder / "regions").iterdir()) == ["rsu-0.ply", "rsu-1.ply"]
    assert sorted(grown.parts) == ["vehicle-2", "vehicle-3"]  # those of the first region were not asked
    kept = grown.scene["rsu-0"].select(~grown.free["rsu-0"])
    assert len(kept) > len(old) / 2
    places = {row: index for index, row in enumerate(map(tuple, old.means.tolist()))}
    rows = torch.tensor([places[tuple(row)] for row in kept.means.tolist()])
    assert (rows.diff() > 0).all()
    for name, tensor in old.tensors().items():
        assert torch.equal(kept.tensors()[name], tensor[rows])
    assert grown.free["rsu-1"].all()
    assert len(grown.scene["rsu-1"]) > 0
