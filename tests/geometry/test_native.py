"""A kernel of one line: compiled once, anew when it changes, with errors that name what to do."""

import shutil
import tempfile
from pathlib import Path

import pytest

from geometry.native import BASE_FLAGS, KernelUnavailableError, Source, build, find_compiler

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return ANSWER; }')
    return Source(path, "answer", "to know", (*BASE_FLAGS, "-O0"))


def libraries(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "kernels").glob("*.so")]


@needs_compiler
def test_it_is_compiled_once_and_anew_when_anything_changes(source: Source, tmp_path: Path) -> None:
    for _ in range(2):
        assert build(source, lambda macros: ("-DANSWER=42",)).answer() == 42
    assert len(libraries(tmp_path)) == 1
    assert build(source, lambda macros: ("-DANSWER=43",)).answer() == 43
    (tmp_path / "part.hpp").write_text("// a part")
    build(source, lambda macros: ("-DANSWER=43",))
    assert len(libraries(tmp_path)) == 3
    assert all(name.startswith("answer-") for name in libraries(tmp_path))


@needs_compiler
def test_what_lies_in_the_cache_and_cannot_be_loaded_is_done_without(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, lambda macros: ("-DANSWER=42",))
    spoilt, scratch = tmp_path / "other" / "kernels", tmp_path / "scratch"
    spoilt.mkdir(parents=True)
    scratch.mkdir()
    (spoilt / libraries(tmp_path)[0]).write_text("no library")
    monkeypatch.setenv("CONVOY_CACHE", str(spoilt.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert build(source, lambda macros: ("-DANSWER=42",)).answer() == 42
    assert not list(scratch.iterdir()), "nothing is left behind"


@needs_compiler
def test_flags_follow_the_macros_of_the_machine(source: Source) -> None:
    def flags(macros: str) -> tuple[str, ...]:
        assert "#define __cplusplus" in macros
        return ("-DANSWER=7",)

    assert build(source, flags).answer() == 7


@needs_compiler
def test_extras_are_tried_until_one_compiles(source: Source) -> None:
    extras = (("-DANSWER=%",), ("-DANSWER=2",), ("-DANSWER=3",))
    assert build(Source(source.path, source.name, source.purpose, source.flags, extras)).answer() == 2


@needs_compiler
def test_what_the_compiler_says_is_passed_on(source: Source, tmp_path: Path) -> None:
    with pytest.raises(KernelUnavailableError, match=r"(?s)cannot compile answer\.cpp: .*ANSWER"):
        build(source)
    assert not libraries(tmp_path)


def test_without_a_compiler_the_purpose_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelUnavailableError, match=r"no C\+\+ compiler .* apt install g\+\+.* to know"):
        find_compiler("to know")


def test_without_the_source_nothing_is_tried(source: Source) -> None:
    source.path.unlink()
    with pytest.raises(KernelUnavailableError, match=r"answer\.cpp is not beside the package"):
        build(source)
