"""Real engines and real processes. Everything here runs outside `make check`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    'preset="hamlet" vehicles=2 rsus=2 rsu-rounds=1 local-epochs=1 image-height=64 image-width=192 cloud-rounds=3 '
    "frames-per-vehicle=4"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.simulation)


class Simulation:
    """Starts `flower-simulation` on the tiny town with its output in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *flags: str, config: str = "") -> list[str]:
        pairs = f'{TINY} output-dir="{self.folder}" run-name="run" {config}'
        return [sys.executable, "-m", "fl_app.simulation", *flags, "--run-config", pairs]

    def run(self, *flags: str, config: str = "", timeout_s: float = 240) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*flags, config=config), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )

    def start(self, *flags: str, config: str = "") -> subprocess.Popen:
        """A run to be broken off: it heeds Ctrl-C also where a shell started the tests in the background."""
        return subprocess.Popen(
            self.command(*flags, config=config),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path)
