"""Run every benchmark in quick mode and write what they claim to docs/benchmarks.md."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from _harness import console

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`: every script in `benchmarks/` in quick mode. Each runs ours and a reference in one run, because
machines are noisy; the ratio is the figure to look at. A script without `--quick` measures more sizes and seeds.

Machine: {machine}

Instructions decide more than clock rates do: where there is bfloat16 the detector trains in it, elsewhere in float32.

| claim | ours | reference | ratio | unit | n |
|---|---|---|---|---|---|
"""


INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe_machine() -> str:
    """Number and model of the processors, which vector instructions they have, what torch makes of them, and Python."""
    fields = _cpu_fields()
    model, flags = (
        fields.get("model name", platform.processor() or "unknown processor"),
        fields.get("flags", "").split(),
    )
    has = [name for name in INSTRUCTIONS if name in flags]
    lacks = [name for name in INSTRUCTIONS if name not in flags]
    sets = (f"with {', '.join(has)}" if has else "") + (f" without {', '.join(lacks)}" if lacks else "")
    used = torch.backends.cpu.get_cpu_capability()
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} CPUs, {model} ({platform.machine()}), {sets.strip()}; torch uses {used}; {python}"


def _cpu_fields(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What the system says of the first processor; nothing where it says it elsewhere."""
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def main() -> int:
    """Exit code 1 when a script failed; the page then says which."""
    rows, failed = [], []
    for script in sorted(path for path in FOLDER.glob("[a-z]*.py") if path.name != Path(__file__).name):
        console.print(f"[bold]{script.name}[/bold]")
        claims = _claims(script)
        failed += [script.name] * (not claims)
        rows += [_row(claim) for claim in claims]
    page = HEAD.format(machine=describe_machine())
    page += "\n".join(rows) + "\n" + "".join(f"\n`{name}` failed.\n" for name in failed)
    PAGE.write_text(page)
    console.print(f"written: {PAGE}")
    return 1 if failed else 0


def _claims(script: Path) -> list[dict]:
    done = subprocess.run(
        [sys.executable, script, "--quick", "--out", f"runs/benchmarks/{script.stem}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    print(done.stdout)
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH ")]
    return json.loads(lines[-1].removeprefix("BENCH ")) if lines and done.returncode == 0 else []


def _row(claim: dict) -> str:
    figures = (f"{claim[name]:.4g}" for name in ("ours", "reference", "ratio"))
    return f"| `{claim['claim']}` | {' | '.join(figures)} | {claim['unit']} | {claim.get('n', 1)} |"


if __name__ == "__main__":
    sys.exit(main())
