"""Folders of runs: named, claimed by one, given back, written in one piece."""

import multiprocessing
import resource
from pathlib import Path

import pytest

from fl_app.atomic_files import write_text_file
from fl_app.run_config import ConfigError, parse
from fl_app.run_folder import CONFIG, RESERVE, RESERVE_BYTES, RunFailed, claim_folder, file_name_of


@pytest.mark.parametrize(
    "name",
    ["../../evil", "..", ".", "/abs", "a/b", "a\\b", ".hidden", "-rf", "a\nb", "a\x1b[2J", "x" * 101, " ", "a ",
     "artifacts", "mlflow.db", "\0"],
)  # fmt: skip
def test_a_run_name_that_is_no_folders_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run-name = .*must name one new folder in output-dir"):
        parse({"run-name": name})


@pytest.mark.parametrize("name", ["", "a", "_a", "two words", "$x$", "[bold]", "lauf-1.2", "Münster", "100%"])
def test_a_run_name_that_is_one_is_taken(name: str) -> None:
    assert parse({"run-name": name}).run_name == name


def test_a_name_from_outside_is_a_file_in_its_folder(tmp_path: Path) -> None:
    names = [
        "../../evil",
        "/abs",
        "..",
        ".",
        "",
        "a/b",
        "a\nb",
        "a\0b",
        "x" * 300,
        "x" * 301,
        "a b",
        "a_b",
        "ä",
        "\udc80",
    ]
    paths = {(tmp_path / f"{file_name_of(name)}.ply") for name in names}
    assert len(paths) == len(names)
    for path in paths:
        assert path.resolve().parent == tmp_path
        path.write_text("there")
    assert file_name_of("rsu-0") == "rsu-0"


def _claim(folder: str, name: str, results: "multiprocessing.Queue[str]", go_on: "multiprocessing.Event") -> None:  # type: ignore[valid-type]
    try:
        claimed = claim_folder(Path(folder), name, "run-0101-120000")
        claimed.write_config({})
        results.put(claimed.path.name)
        go_on.wait(60)  # type: ignore[attr-defined]
    except RunFailed as error:
        results.put(str(error))


def _claims(folder: Path, name: str, count: int) -> list[str]:
    context = multiprocessing.get_context("spawn")
    results, go_on = context.Queue(), context.Event()
    processes = [context.Process(target=_claim, args=(str(folder), name, results, go_on)) for _ in range(count)]
    for process in processes:
        process.start()
    said = [results.get(timeout=120) for _ in processes]
    go_on.set()
    for process in processes:
        process.join(60)
    return sorted(said)


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert _claims(tmp_path, "", 3) == ["run-0101-120000", "run-0101-120000-2", "run-0101-120000-3"]


def test_of_two_runs_of_one_name_one_goes_on(tmp_path: Path) -> None:
    said = _claims(tmp_path, "mine", 2)
    assert "mine" in said
    assert sum("a run is at work in" in words or "is not empty" in words for words in said) == 1


def test_a_folder_that_a_run_is_at_work_in_is_not_gone_on_with(tmp_path: Path) -> None:
    claim = claim_folder(tmp_path, "mine", "")
    with pytest.raises(RunFailed, match="resume: a run is at work in"):
        claim_folder(tmp_path, "", "", resume=str(tmp_path / "mine"))
    claim.release()
    claim_folder(tmp_path, "", "", resume=str(tmp_path / "mine")).release()


def test_a_run_that_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    claim = claim_folder(tmp_path, "mine", "")
    claim.write_config({"seed": 0})
    with pytest.raises(ValueError, match="no data"), claim.opening():
        raise ValueError("no data")
    assert not (tmp_path / "mine").exists()


def test_space_is_kept_back_and_given_back(tmp_path: Path) -> None:
    claim = claim_folder(tmp_path, "mine", "")
    claim.write_config({})
    assert (claim.path / RESERVE).stat().st_size == RESERVE_BYTES
    claim.release()
    assert sorted(path.name for path in claim.path.iterdir() if path.name != ".lock") == [CONFIG]


def test_a_text_file_is_whole_or_that_of_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_text_file(path, lambda file: file.write("old"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r".+"):
            write_text_file(path, lambda file: file.write("n" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    with pytest.raises(KeyError):
        write_text_file(path, lambda file: file.write("half") and {}["killed"])  # type: ignore[index]
    assert path.read_text() == "old"
