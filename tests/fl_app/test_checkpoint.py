"""Checkpoints: whole or not at all, and read back as they were."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fl_app.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_model,
    load_checkpoint,
    load_model,
    save_arrays,
    save_checkpoint,
    save_model,
)
from strategies.profile import Clock
from strategies.report import Traffic
from strategies.state import RunState
from tests.fl_app import toy


def _checkpoint(round_number: int = 4) -> Checkpoint:
    state = RunState(
        arrays=toy.model(),
        round=round_number,
        optimizer={"m/w": np.ones((4, 3), np.float32)},
        recent_norms={"rsu-0": [1.5]},
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


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, {**toy.model(), "b": np.full(5, np.nan, np.float32)})
    with pytest.raises(CheckpointError, match="tensor 'b' is not finite"):
        load_model(path, toy.model())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path, {"other": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="not those of the detector"):
        load_model(path, toy.model())


def _rewritten(folder: Path, tensors: dict[str, np.ndarray] | None = None, **metadata: str | None) -> None:
    """The checkpoint with some of its parts replaced; None takes a part away."""
    path = folder / "checkpoint.safetensors"
    with safe_open(path, "np") as file:
        kept = {**file.metadata(), **metadata}
    arrays = {**load_file(path), **(tensors or {})}
    save_file(
        {name: values for name, values in arrays.items() if values.size},
        path,
        {key: value for key, value in kept.items() if value is not None},
    )


@pytest.mark.parametrize("version", ["2", "0", "", None])
def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path: Path, version: str | None) -> None:
    save_checkpoint(tmp_path, _checkpoint())
    _rewritten(tmp_path, version=version)
    with pytest.raises(CheckpointError, match=f"of version {version}, and this version of Convoy reads version 1"):
        load_checkpoint(tmp_path)


COUNTERS = _checkpoint().state.counters()


@pytest.mark.parametrize(
    "counters",
    [
        None,
        [],
        {},
        {**COUNTERS, "round": None},
        {**COUNTERS, "round": "4"},
        {**COUNTERS, "round": 4.5},
        {**COUNTERS, "round": True},
        {**COUNTERS, "round": -1},
        {**COUNTERS, "accepted": None},
        {**COUNTERS, "typical_norm": {"rsu-0": "long"}},
        {**COUNTERS, "typical_norm": {"rsu-0": float("nan")}},
        {**COUNTERS, "typical_norm": []},
        {**COUNTERS, "clock": None},
        {**COUNTERS, "clock": {"rsu-0": float("inf")}},
        {**COUNTERS, "traffic": {"vehicle_up": "many"}},
        {**COUNTERS, "traffic": {"by_post": 1}},
        {**COUNTERS, "losses": {"v1": {"late": "twice"}}},
        {**COUNTERS, "losses": {"v1": 3}},
        {**COUNTERS, "more": 1},
        {key: value for key, value in COUNTERS.items() if key != "accepted"},
    ],
)
def test_counters_that_are_none_are_one_clear_error(tmp_path: Path, counters: object) -> None:
    save_checkpoint(tmp_path, _checkpoint())
    _rewritten(tmp_path, counters=json.dumps(counters))
    with pytest.raises(CheckpointError, match="damaged") as raised:
        load_checkpoint(tmp_path)
    assert str(tmp_path / "checkpoint.safetensors") in str(raised.value)
    assert "start the run afresh" in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", None, "[" * 100_000])
@pytest.mark.parametrize("part", ["counters", "config"])
def test_parts_that_are_no_object_are_one_clear_error(tmp_path: Path, part: str, text: str | None) -> None:
    save_checkpoint(tmp_path, _checkpoint())
    _rewritten(tmp_path, **{part: text})
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"model/w": np.full((4, 3), np.nan, np.float32)},
        {"model/b": np.full(5, np.inf, np.float32)},
        {"optimizer/m/w": np.full((4, 3), np.nan, np.float32)},
        {"optimizer/m/w": np.ones((3, 4), np.float32)},
        {"optimizer/m/other": np.ones((4, 3), np.float32)},
        {"elsewhere": np.ones(3, np.float32)},
    ],
)
def test_tensors_that_cannot_be_gone_on_with_are_one_clear_error(tmp_path: Path, tensors: dict) -> None:
    save_checkpoint(tmp_path, _checkpoint())
    _rewritten(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"w": None}, "w is missing, want float32"),
        ({"extra": np.zeros(2, np.float32)}, r"extra is float32 \[2\], want none"),
        ({"b": np.zeros(6, np.float32)}, r"b is float32 \[6\], want float32 \[5\]"),
        ({"b": np.zeros(5, np.float64)}, r"b is float64 \[5\], want float32 \[5\]"),
        ({"w": None, "b": None}, "and 1 more"),
    ],
)
def test_a_saved_model_is_the_one_that_is_trained(tmp_path: Path, change: dict, words: str) -> None:
    arrays = {name: values for name, values in {**toy.model(), **change}.items() if values is not None}
    check_model(tmp_path, toy.model(), toy.model())
    with pytest.raises(CheckpointError, match=words):
        check_model(tmp_path, arrays, toy.model())


def test_a_reconstruction_is_no_checkpoint_of_perception(tmp_path: Path) -> None:
    save_arrays(tmp_path, {}, {"round": 1}, {"task": "reconstruction"}, "")
    with pytest.raises(CheckpointError, match="of a run with task 'reconstruction'; name the folder of one of percept"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_before_is_read(tmp_path: Path) -> None:
    saved = _checkpoint()
    counters = saved.state.counters()
    del counters["recent_norms"], counters["idle_cloud_rounds"], counters["last_cloud_moved"]
    tensors = {f"model/{name}": values for name, values in saved.state.arrays.items()}
    save_arrays(tmp_path, tensors, {**counters, "typical_norm": {"rsu-0": 1.5}}, {"vehicles": 6}, "run-id")
    assert load_checkpoint(tmp_path).state.recent_norms == {"rsu-0": [1.5]}


@pytest.mark.parametrize("norms", [[float("nan")], [-5.0], [float("inf")]])
def test_numbers_in_lists_are_checked(tmp_path: Path, norms: list[float]) -> None:
    saved = _checkpoint()
    tensors = {f"model/{name}": values for name, values in saved.state.arrays.items()}
    save_arrays(
        tmp_path, tensors, {**saved.state.counters(), "recent_norms": {"rsu-0": norms}}, {"vehicles": 6}, "run-id"
    )
    with pytest.raises(CheckpointError, match="recent_norms"):
        load_checkpoint(tmp_path)
