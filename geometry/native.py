"""Compiles small C++ kernels on first use, in seconds, once per source, compiler and kind of CPU.

Libraries lie in `$CONVOY_CACHE/kernels`, else in `~/.cache/convoy/kernels`. `$CXX` names a compiler; without it c++,
g++ and clang++ are tried.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BASE_FLAGS: Final = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TARGETS: Final = (("-march=native",), ("-mcpu=native",), ())
TIMEOUT_S: Final = 300


class KernelUnavailableError(RuntimeError):
    """A kernel cannot be compiled or loaded here; the message says why and what to install."""


@dataclass(frozen=True)
class Source:
    """What is compiled and how.

    Args:
        path: of the .cpp file; a change in any .hpp file beside it makes another library, too.
        name: that the library's name begins with.
        purpose: what it is good for, as in "to render at full speed".
        flags: of the compiler.
        extras: more flags, tried one after the other until one compiles.
    """

    path: Path
    name: str
    purpose: str
    flags: tuple[str, ...] = BASE_FLAGS
    extras: tuple[tuple[str, ...], ...] = ((),)

    def text(self) -> list[str]:
        """The file and its parts."""
        return [self.path.read_text(), *(part.read_text() for part in sorted(self.path.parent.glob("*.hpp")))]


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    root = os.environ.get("CONVOY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "convoy") / "kernels"


def build(source: Source, flags_for: Callable[[str], tuple[str, ...]] = lambda macros: ()) -> ctypes.CDLL:
    """The compiled kernel, built unless it is in the cache.

    Args:
        source: what to build.
        flags_for: from the macros that the compiler defines on this machine, a line each, to more flags.

    Raises:
        KernelUnavailableError: no compiler, no source, or an error of the compiler.
    """
    if not source.path.is_file():
        raise KernelUnavailableError(
            f"{source.path.name} is not beside the package: install convoy with pip on this machine"
        )
    compiler = find_compiler(source.purpose)
    target, macros = _target(compiler)
    version = _run([compiler, "--version"]).stdout
    flags = (*source.flags, *target, *flags_for(macros))
    key = "\0".join([*source.text(), compiler, version, macros, *flags])
    name = f"{source.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    try:
        return _load_or_build(cache_folder(), name, source, [compiler, *flags])
    except OSError:  # the cache cannot be written, or what lies there cannot be loaded
        with tempfile.TemporaryDirectory(prefix="convoy-kernels-") as folder:
            return _load_or_build(Path(folder), name, source, [compiler, *flags])


def find_compiler(purpose: str) -> str:
    """Path of a C++ compiler.

    Raises:
        KernelUnavailableError: there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        raise KernelUnavailableError(
            f"no C++ compiler ({', '.join(names)}) on PATH: install one (Debian, Ubuntu: apt install g++; "
            f"macOS: xcode-select --install) {purpose}"
        )
    return found[0]


def _load_or_build(folder: Path, name: str, source: Source, command: list[str]) -> ctypes.CDLL:
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.is_file():
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _compile(source, command, path)
    return ctypes.CDLL(str(path))


def _compile(source: Source, command: list[str], path: Path) -> None:
    """Into a file beside `path`, then renamed: nobody ever loads half a library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        for extra in source.extras:
            done = _run([*command, *extra, str(source.path), "-o", str(built)])
            if done.returncode == 0:
                built.replace(path)
                return
    raise KernelUnavailableError(f"{command[0]} cannot compile {source.path.name}: {done.stderr.strip()[-1500:]}")


def _target(compiler: str) -> tuple[tuple[str, ...], str]:
    """Flags that select this machine's instructions, and the macros that the compiler then defines."""
    for flags in TARGETS:
        done = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
        if done.returncode == 0:
            return flags, "\n".join(sorted(done.stdout.splitlines()))
    raise KernelUnavailableError(f"{compiler} does not run: {done.stderr.strip()[-1500:]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailableError(f"{command[0]} does not run: {error}") from error
