"""Fits as files: whoever goes on ends with the same bits; what does not fit, and what is damaged, is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recon.fit import FitConfig, FitState, fit, start
from recon.fit_file import load_fit, save_fit
from recon.objective import LossWeights
from tests.recon.test_fit import SMALL, bits, guess, views, whole_fit

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = "a cube, 9 photos"


def begun(steps: int, config: FitConfig = SMALL) -> FitState:
    """A fit that was broken off after so many steps."""
    state = start(guess(), config, views())
    fit(state, config, views(), interrupted=lambda: state.step == steps)
    return state


@pytest.mark.parametrize("steps", [0, 1, 28, 40])
def test_a_fit_goes_on_with_the_same_bits(tmp_path: Path, steps: int) -> None:
    goes_on(tmp_path, steps)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_goes_on_with_the_same_bits_on_one_and_two_threads(tmp_path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    goes_on(tmp_path, 17)


def goes_on(tmp_path: Path, steps: int) -> None:
    """So many steps, a file, the rest: as in one go."""
    state = begun(steps)
    save_fit(tmp_path / "scene.fit", state, SMALL, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.fit"]
    loaded = load_fit(tmp_path / "scene.fit", SMALL, DATA)
    assert bits(loaded) == bits(state)
    fit(loaded, SMALL, views())
    assert bits(loaded) == whole_fit()


def test_a_fit_that_is_saved_and_read_again_and_again(tmp_path: Path) -> None:
    state, path = start(guess(), SMALL, views()), tmp_path / "scene.fit"
    for stop in range(2, SMALL.steps + 1, 2):
        fit(state, SMALL, views(), interrupted=lambda state=state, stop=stop: state.step == stop)  # type: ignore[misc]
        save_fit(path, state, SMALL, DATA)
        state = load_fit(path, SMALL, DATA)
    assert bits(state) == whole_fit()


def test_saving_changes_nothing(tmp_path: Path) -> None:
    state = begun(17)
    before = bits(state)
    save_fit(tmp_path / "scene.fit", state, SMALL, DATA)
    assert bits(state) == before
    fit(state, SMALL, views())
    assert bits(state) == whole_fit()


def test_another_seed_ends_elsewhere(tmp_path: Path) -> None:
    other = replace(SMALL, seed=1)
    save_fit(tmp_path / "scene.fit", begun(17, other), other, DATA)
    loaded = load_fit(tmp_path / "scene.fit", other, DATA)
    fit(loaded, other, views())
    assert bits(loaded)["means"] != whole_fit()["means"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "scene.fit"
    save_fit(path, begun(1), SMALL, DATA)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cap": 400}, "cap 300, now it is 400"),
        ({"steps": 41}, "steps 40, now it is 41"),
        ({"degree": 0}, "degree 1, now it is 0"),
        ({"seed": 3}, "seed 0, now it is 3"),
        ({"densify_every": 8}, "densify_every 7, now it is 8"),
        ({"weights": LossWeights(0.3)}, "weights {'dssim': 0.2, .*}, now it is {'dssim': 0.3, .*}"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, saved: bytes, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "scene.fit"
    path.write_bytes(saved)
    with pytest.raises(ValueError, match=rf"scene\.fit: was fitted with {message}; give the same, or start afresh"):
        load_fit(path, replace(SMALL, **fields), DATA)


def test_other_data_are_refused(tmp_path: Path, saved: bytes) -> None:
    path = tmp_path / "scene.fit"
    path.write_bytes(saved)
    with pytest.raises(
        ValueError, match=r"scene\.fit: was fitted with data 'a cube, 9 photos', now it is 'a ball'; give"
    ):
        load_fit(path, SMALL, "a ball")


def refused(path: Path) -> str:
    """The complaint about a file."""
    with pytest.raises(ValueError, match=r"scene\.fit: ") as caught:
        load_fit(path, SMALL, DATA)
    return str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "start afresh without --resume" in refused(tmp_path / "scene.fit")
    (tmp_path / "scene.fit").mkdir()
    assert "start afresh without --resume" in refused(tmp_path / "scene.fit")


@pytest.mark.parametrize("content", [[1, 2], {"version": 1}, None, "text", {"version": 2}, torch.zeros(3)])
def test_another_file_of_torch_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "scene.fit")
    refused(tmp_path / "scene.fit")


@given(share=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, saved: bytes, share: float) -> None:
    (tmp_path / "scene.fit").write_bytes(saved[: int(share * len(saved))])
    refused(tmp_path / "scene.fit")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        save_fit(tmp_path / "missing" / "scene.fit", begun(0), SMALL, DATA)
    (tmp_path / "scene.fit").mkdir()
    with pytest.raises(OSError, match=r"scene\.fit"):
        save_fit(tmp_path / "scene.fit", begun(0), SMALL, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.fit"]


def test_a_file_is_replaced_not_written_over(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "scene.fit").write_bytes(saved)
    (tmp_path / "same.fit").hardlink_to(tmp_path / "scene.fit")
    save_fit(tmp_path / "scene.fit", begun(2), SMALL, DATA)
    assert (tmp_path / "same.fit").read_bytes() == saved
    assert (tmp_path / "scene.fit").read_bytes() != saved


def test_a_full_disk_leaves_the_file_before(tmp_path: Path, saved: bytes) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    path = tmp_path / "scene.fit"
    path.write_bytes(saved)
    (tmp_path / "scene.fit.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"scene\.fit: cannot be written|No space left"):
        save_fit(path, begun(2), SMALL, DATA)
    assert path.read_bytes() == saved
