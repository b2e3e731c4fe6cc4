"""Small files written in one piece: whoever is killed, or out of space, leaves the file of before."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def staged_path(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file beside `path`, which replaces it once the block is done.

    Raises:
        OSError: disk full or folder not writable; what was at `path` is still there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text_file(path: Path, write: Callable[[TextIO], object]) -> None:
    """Has `write` fill a text file, which is there as a whole or not at all; raises OSError."""
    with staged_path(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write(file)
