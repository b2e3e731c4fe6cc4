"""Building the kernel: once, by one process at a time, with errors that say what to do."""

import ctypes
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from geometry.native import find_compiler
from recon.render import build, cpu, photometric

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a compiler in a hurry."""
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "FLAGS", ("-std=c++17", "-O0", "-shared", "-fPIC"))
    return tmp_path / "cache" / "kernels"


def compiler_that(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_two_at_once_build_once(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, real = tmp_path / "log", find_compiler("")
    monkeypatch.setenv(
        "CXX", compiler_that(tmp_path, f'case "$*" in *-shared*) echo x >> {log};; esac; exec {real} "$@"')
    )
    with ThreadPoolExecutor(2) as pool:
        libraries = list(pool.map(lambda _: build.build_kernel(), range(2)))
    assert all(hasattr(library, "convoy_render") for library in libraries)
    assert len(log.read_text().splitlines()) == 1
    assert len(list(kernels.glob("*.so"))) == 1
    assert not [path for path in kernels.iterdir() if path.is_dir()]


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kernels.parent.write_text("a file where the folder should be")
    assert hasattr(build.build_kernel(), "convoy_render")


@needs_compiler
def test_structures_are_mirrored() -> None:
    kernel = build.load_kernel()
    assert kernel.convoy_call_bytes() == ctypes.sizeof(cpu._Call)
    assert kernel.convoy_photometric_bytes() == ctypes.sizeof(photometric._Call)
    assert kernel.convoy_splat_bytes() == cpu.SPLAT_BYTES


@needs_compiler
def test_a_change_in_any_part_is_another_library(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "render"
    folder.mkdir()
    for part in build.SOURCE.parent.glob("*.[ch]pp"):
        shutil.copy(part, folder)
    monkeypatch.setattr(build, "SOURCE", folder / "kernel.cpp")
    build.build_kernel()
    build.build_kernel()
    assert len(list(kernels.glob("*.so"))) == 1
    (folder / "loss.hpp").write_text((folder / "loss.hpp").read_text() + "// another line\n")
    build.build_kernel()
    assert len(list(kernels.glob("*.so"))) == 2


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.KernelUnavailableError, match=r"no C\+\+ compiler .* apt install g\+\+"):
        build.build_kernel()


def test_a_compiler_that_fails(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in *-shared*) echo "out of registers" >&2; exit 1;; esac'
    monkeypatch.setenv("CXX", compiler_that(tmp_path, script))
    with pytest.raises(build.KernelUnavailableError, match=r"cannot compile kernel\.cpp: out of registers"):
        build.build_kernel()
    assert not list(kernels.glob("*.so"))


def test_a_compiler_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler_that(tmp_path, "echo broken >&2; exit 1"))
    with pytest.raises(build.KernelUnavailableError, match=r"does not run: broken"):
        build.build_kernel()


def test_a_package_without_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCE", tmp_path / "kernel.cpp")
    with pytest.raises(build.KernelUnavailableError, match=r"kernel\.cpp is not beside the package"):
        build.build_kernel()


def test_vectors_follow_the_instructions() -> None:
    assert build._vector_floats("#define __AVX512DQ__ 1\n#define __AVX2__ 1") == 16
    assert build._vector_floats("#define __AVX2__ 1") == 8
    assert build._vector_floats("#define __ARM_NEON 1") == 4
