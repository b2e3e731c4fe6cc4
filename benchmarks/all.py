"""Run every benchmark in quick mode and write what they claim to docs/benchmarks.md."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from _harness import console

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`: every script in `benchmarks/` in quick mode. Each runs ours and a reference in one run, because
machines are noisy; the ratio is the figure to look at. A script without `--quick` measures more sizes and seeds.

Machine: {machine}

| claim | ours | reference | ratio | unit | n |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Exit code 1 when a script failed; the page then says which."""
    rows, failed = [], []
    for script in sorted(path for path in FOLDER.glob("[a-z]*.py") if path.name != Path(__file__).name):
        console.print(f"[bold]{script.name}[/bold]")
        claims = _claims(script)
        failed += [script.name] * (not claims)
        rows += [_row(claim) for claim in claims]
    page = HEAD.format(machine=f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
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
