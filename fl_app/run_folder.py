"""The folder of a run: a name that is one, claimed by one process, and some space kept back for the end."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from fl_app.atomic_files import write_text_file
from fl_app.checkpoint import CHECKPOINT

CONFIG, LOCK, RESERVE = "config.json", ".lock", ".reserve"
RESERVE_BYTES: Final = 256 << 10
LONGEST_NAME: Final = 100
ODD: Final = re.compile(r"[^\w.-]", re.ASCII)
TAKEN: Final = ("artifacts", "mlflow.db")  # what tracking keeps in output-dir


class RunFailed(RuntimeError):
    """The run ended without having done its job."""


def check_run_name(name: str) -> str:
    """Returns a name that is one folder's, in the folder that runs go to; "" stands for an automatic one.

    Raises:
        ValueError: it is a path, hidden, too long, taken by tracking, or holds characters that cannot be seen.
    """
    odd = not name.isprintable() or any(character in name for character in "/\\") or name != name.strip()
    if odd or name.startswith((".", "-")) or name in TAKEN or len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"must name one new folder in output-dir: at most {LONGEST_NAME} bytes, no slash, no control character, no "
            f"dot, dash or space first, and not {' or '.join(TAKEN)}"
        )
    return name


def file_name_of(name: str) -> str:
    """Returns a name from outside as that of a file; where they differ, with a hash that tells it from others."""
    plain = ODD.sub("_", name)[:LONGEST_NAME]
    if plain == name and not name.startswith("."):
        return name
    return f"{plain.lstrip('.')}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


@dataclass
class RunFolder:
    """A folder that this process alone writes to, until it lets go of it or ends."""

    path: Path
    lock: FileLock
    new: bool

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json and keep some space back; raises OSError."""
        write_text_file(self.path / CONFIG, lambda file: json.dump(dict(config), file, indent=1))
        (self.path / RESERVE).write_bytes(b"\0" * RESERVE_BYTES)

    def free_reserve(self) -> None:
        """Give back the space that was kept for a database and a log that must still say how the run ended."""
        with suppress(OSError):
            (self.path / RESERVE).unlink(missing_ok=True)

    def release(self) -> None:
        """Let others have the folder."""
        self.free_reserve()
        self.lock.release()

    @contextmanager
    def opening(self) -> Iterator["RunFolder"]:
        """Undoes the claim if the block, which opens a run in the folder, does not come to its end.

        Raises:
            RunFailed: in place of OSError.
        """
        try:
            yield self
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise RunFailed(f"output-dir: {self.path}: {error}") from error
            raise

    def abandon(self) -> None:
        """Undo a claim of a run that did not come to start; what an earlier run left stays."""
        self.release()
        if self.new:
            with suppress(OSError):
                for name in (CONFIG, LOCK):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()


def claim_folder(output_dir: Path, run_name: str, automatic: str, resume: str = "") -> RunFolder:
    """Claims the folder of the run to go on with; else a new one, of an automatic name if the config has none.

    Raises:
        RunFailed: it cannot be used, holds a run that would be mixed up with this one, or a run is at work in it.
    """
    if resume:
        return RunFolder(make_folder(Path(resume)), _lock(Path(resume), "resume"), new=False)
    make_folder(output_dir)
    if run_name:
        folder = make_folder(output_dir / run_name)
        lock = _lock(folder, "run-name")
        _check_empty(folder, lock)
        return RunFolder(folder, lock, new=True)
    for number in count(1):
        folder = output_dir / (automatic if number == 1 else f"{automatic}-{number}")
        with suppress(FileExistsError):
            _make(folder)
            return RunFolder(folder, _lock(folder, "output-dir"), new=True)
    raise AssertionError("there are more numbers than folders")


def make_folder(folder: Path) -> Path:
    """Returns the folder, there and writable.

    Raises:
        RunFailed: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise RunFailed(f"output-dir: {folder} cannot be used ({error})") from error
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        raise
    except OSError as error:
        raise RunFailed(f"output-dir: {folder} cannot be used ({error})") from error


def _check_empty(folder: Path, lock: FileLock) -> None:
    if any(path.name != LOCK for path in folder.iterdir()):
        lock.release()
        kept = (folder / CHECKPOINT).exists()
        how = (
            f"holds a run; go on with it by --resume {shlex.quote(str(folder))}" if kept else "is not empty; remove it"
        )
        raise RunFailed(f"run-name: {folder} {how}, or take another name")


def _lock(folder: Path, key: str) -> FileLock:
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunFailed(f"{key}: a run is at work in {folder}; wait for its end, or take another name") from None
    except OSError as error:
        raise RunFailed(f"{key}: {folder} cannot be used ({error})") from error
    return lock
