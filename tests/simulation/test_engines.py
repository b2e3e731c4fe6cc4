"""One strategy and one client code on every engine, and what a dying process costs."""

import json
import subprocess
import sys

from tests.simulation.conftest import ROOT


def _run(engine: str) -> dict:
    command = [sys.executable, "-m", "tests.simulation.toy_ray", engine]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


def test_local_and_ray_agree_bit_for_bit_and_with_arithmetic() -> None:
    # Regions {v0, v2} and {v1, v3}: an RSU round moves by (1 + 9) / 4 = 2.5 and (4 + 16) / 6 = 10 / 3. The cloud
    # weighs them 4 : 6, so a cloud round of two RSU rounds moves by (4 * 5 + 6 * 20 / 3) / 10 = 6; two of them by 12.
    local, ray = _run("local"), _run("ray")
    assert local["w"] == ray["w"]
    assert all(abs(value - 22) < 1e-5 for value in local["w"])
    assert local["losses"] == ray["losses"] == {}


def test_a_process_that_dies_costs_its_update_and_not_the_later_rounds() -> None:
    result = _run("ray-deadly")
    assert result["accepted"] == [4, 3, 4, 4]
    assert list(result["losses"]) == ["v1"]
