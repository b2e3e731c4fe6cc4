"""Compiles `kernel.cpp` and its parts on first use, in seconds, once per source, compiler and kind of CPU.

The library lies in `$CONVOY_CACHE/kernels`, else in `~/.cache/convoy/kernels`. `$CXX` names a compiler; without it
c++, g++ and clang++ are tried.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
TARGETS = (("-march=native",), ("-mcpu=native",), ())
THREADS = (("-fopenmp",), ())
TIMEOUT_S = 300


class KernelUnavailableError(RuntimeError):
    """The kernel cannot be compiled or loaded here; the message says why and what to install."""


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    root = os.environ.get("CONVOY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "convoy") / "kernels"


def load_kernel(vector_floats: int | None = None) -> ctypes.CDLL:
    """`build_kernel`, tried once per process: what came of it, library or error, is remembered."""
    outcome = _outcome(vector_floats)
    if isinstance(outcome, KernelUnavailableError):
        raise outcome
    return outcome


@cache
def _outcome(vector_floats: int | None) -> ctypes.CDLL | KernelUnavailableError:
    try:
        return build_kernel(vector_floats)
    except KernelUnavailableError as error:
        return error


def build_kernel(vector_floats: int | None = None) -> ctypes.CDLL:
    """The compiled kernel, built unless it is in the cache.

    Args:
        vector_floats: floats in a vector: 16, 8 or 4. By default what the machine has.

    Raises:
        KernelUnavailableError: no compiler, no source, or an error of the compiler.
    """
    if not SOURCE.is_file():
        raise KernelUnavailableError(
            f"{SOURCE.name} is not beside the package: install convoy with pip on this machine"
        )
    compiler = find_compiler()
    target, macros = _target(compiler)
    vector = f"-DVL={vector_floats or _vector_floats(macros)}"
    version = _run([compiler, "--version"]).stdout
    key = "\0".join([*_sources(), compiler, version, macros, *FLAGS, *target, vector])
    name = f"render-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    try:
        return _load_or_build(cache_folder(), name, [compiler, *FLAGS, *target, vector])
    except OSError:  # the cache cannot be written, or what lies there cannot be loaded
        return _load_or_build(
            Path(tempfile.mkdtemp(prefix="convoy-kernels-")), name, [compiler, *FLAGS, *target, vector]
        )


def _sources() -> list[str]:
    return [SOURCE.read_text(), *(part.read_text() for part in sorted(SOURCE.parent.glob("*.hpp")))]


def find_compiler() -> str:
    """Path of a C++ compiler.

    Raises:
        KernelUnavailableError: there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        raise KernelUnavailableError(
            f"no C++ compiler ({', '.join(names)}) on PATH: install one (Debian, Ubuntu: apt install g++; "
            "macOS: xcode-select --install) to render 3D Gaussians at full speed"
        )
    return found[0]


def _load_or_build(folder: Path, name: str, command: list[str]) -> ctypes.CDLL:
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.is_file():
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _compile(command, path)
    return ctypes.CDLL(str(path))


def _compile(command: list[str], path: Path) -> None:
    """Into a file beside `path`, then renamed: nobody ever loads half a library."""
    done = None
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        for threads in THREADS:
            done = _run([*command, *threads, str(SOURCE), "-o", str(built)])
            if done.returncode == 0:
                built.replace(path)
                return
    assert done is not None
    raise KernelUnavailableError(f"{command[0]} cannot compile {SOURCE.name}: {done.stderr.strip()[-1500:]}")


def _target(compiler: str) -> tuple[tuple[str, ...], str]:
    """Flags that select this machine's instructions, and the macros that the compiler then defines."""
    for flags in TARGETS:
        done = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
        if done.returncode == 0:
            return flags, "\n".join(sorted(done.stdout.splitlines()))
    raise KernelUnavailableError(f"{compiler} does not run: {done.stderr.strip()[-1500:]}")


def _vector_floats(macros: str) -> int:
    if "__AVX512DQ__" in macros:
        return 16
    return 8 if "__AVX2__" in macros else 4


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailableError(f"{command[0]} does not run: {error}") from error
