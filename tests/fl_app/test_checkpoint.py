"""Checkpoints: whole or not at all, and read back as they were."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fl_app.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_model, save_checkpoint, save_model
from strategies.profile import Clock
from strategies.report import Traffic
from strategies.state import RunState
from tests.fl_app import toy


def _checkpoint(round_number: int = 4) -> Checkpoint:
    state = RunState(
        arrays=toy.model(),
        round=round_number,
        optimizer={"m/w": np.ones((4, 3), np.float32)},
        typical_norm={"rsu-0": 1.5},
        clock=Clock({"rsu-0": 12.5}),
        traffic=Traffic(1, 2, 3, 4),
        losses={"v1": {"late": 2}},
        accepted=7,
    )
    return Checkpoint(state, {"vehicles": 6}, "run-id")


@contextmanager
def _disk_with_room_for(size: int) -> Iterator[None]:
    """Files may not grow beyond `size` bytes: the nearest thing to a full disk that needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    saved = _checkpoint()
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert loaded.state.counters() == saved.state.counters()
    assert (loaded.config, loaded.tracking_run_id) == ({"vehicles": 6}, "run-id")
    for name, values in saved.state.arrays.items():
        np.testing.assert_array_equal(loaded.state.arrays[name], values)
        assert loaded.state.arrays[name].dtype == values.dtype
    np.testing.assert_array_equal(loaded.state.optimizer["m/w"], np.ones((4, 3)))


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _checkpoint(round_number=4))
    with _disk_with_room_for(200), pytest.raises(OSError, match=r".+"):
        save_checkpoint(tmp_path, _checkpoint(round_number=6))
    assert load_checkpoint(tmp_path).state.round == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_no_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    save_checkpoint(tmp_path, _checkpoint())
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)


def test_weights_load_from_a_model_file_and_from_a_checkpoint(tmp_path: Path) -> None:
    arrays = toy.model()
    save_checkpoint(tmp_path, _checkpoint())
    for path in (save_model(tmp_path, arrays), tmp_path / "checkpoint.safetensors"):
        np.testing.assert_array_equal(load_model(path, arrays)["w"], arrays["w"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, {"other": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="not those of the detector"):
        load_model(path, toy.model())
