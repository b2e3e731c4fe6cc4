"""How a run ends: finished, failed or killed, each with one line on how to go on and a tracked run that says so too."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fl_app import console, interrupts
from fl_app.checkpoint import CHECKPOINT
from fl_app.run_folder import RunFailed, RunFolder
from fl_app.tracking import Tracker


class OpenRun(Protocol):
    """A run of any task, as far as its end needs to know it."""

    folder: Path
    tracker: Tracker
    began_s: float
    claim: RunFolder | None


@contextmanager
def closing(run: OpenRun) -> Iterator[None]:
    """Closes the run after the block, whatever ends it; a signal cannot break that off.

    Raises:
        RunFailed: in place of OSError: a file could not be read or written, most often for want of space.
    """
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        console.say(f"interrupted; {_how_to_go_on(run.folder)}")
        raise
    except OSError as error:
        what = str(error) or type(error).__name__
        raise RunFailed(f"{run.folder}: {what}; free space or mend it: {_how_to_go_on(run.folder)}") from error
    finally:
        interrupts.close_unbroken(lambda: _close(run, status))


def _how_to_go_on(folder: Path) -> str:
    kept = (folder / CHECKPOINT).exists()
    return f"go on with: flower-simulation --resume {shlex.quote(str(folder))}" if kept else "no round was saved yet"


def _close(run: OpenRun, status: str) -> None:
    """Ends the tracked run and says where everything is."""
    wall_s = time.monotonic() - run.began_s
    if run.claim is not None:
        run.claim.free_reserve()
    try:
        console.say(f"{status.lower()} after {wall_s:.0f} s; everything is in {run.folder}")
    finally:
        run.tracker.finish(status)
        if run.claim is not None:
            run.claim.release()
    tracker = run.tracker
    if tracker.failures:
        console.say(f"tracking: {tracker.failures} writes failed, see the log; metrics.csv is complete")
    share = 100 * tracker.busy_s / max(wall_s, 1e-9)
    console.say(f"tracking: {tracker.uri} · {tracker.busy_s:.1f} CPU-s ({share:.1f} % of the run)")
