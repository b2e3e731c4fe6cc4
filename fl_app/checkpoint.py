"""One file per run that a killed run goes on from, and the final weights. Both are safetensors, written atomically."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from strategies.arithmetic import Arrays
from strategies.state import RunState

CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"
VERSION = "1"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or belongs to another run; the text names file and remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """State of the strategy, the run config that led there, and the tracking run to go on with."""

    state: RunState
    config: Mapping[str, object]
    tracking_run_id: str


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `folder`/checkpoint.safetensors: all of it or, on any failure, nothing.

    Raises:
        OSError: disk full or folder not writable; the previous checkpoint is still there.
    """
    state = checkpoint.state
    tensors = {f"model/{name}": values for name, values in state.arrays.items()}
    tensors |= {f"optimizer/{name}": values for name, values in state.optimizer.items()}
    metadata = {
        "version": VERSION,
        "counters": json.dumps(state.counters()),
        "config": json.dumps(dict(checkpoint.config)),
        "tracking_run_id": checkpoint.tracking_run_id,
    }
    _write(folder / CHECKPOINT, tensors, metadata)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: no such file, or not readable as a checkpoint.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise CheckpointError(f"{path}: no checkpoint there; name the folder of a run that finished a cloud round")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        state = RunState.restore(
            arrays=_under(tensors, "model/"),
            optimizer=_under(tensors, "optimizer/"),
            counters=json.loads(metadata["counters"]),
        )
        return Checkpoint(state, json.loads(metadata["config"]), metadata["tracking_run_id"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); start the run afresh without `resume`") from error


@dataclass(frozen=True)
class SavedArrays:
    """A state of any strategy, as arrays and JSON values, and what led there."""

    arrays: Arrays
    counters: Mapping[str, Any]
    config: Mapping[str, object]
    tracking_run_id: str


def save_arrays(
    folder: Path,
    arrays: Mapping[str, ndarray],
    counters: Mapping[str, object],
    config: Mapping[str, object],
    tracking_run_id: str,
) -> None:
    """As `save_checkpoint`, of arrays by name and JSON values; raises OSError."""
    metadata = {"version": VERSION, "counters": json.dumps(counters), "config": json.dumps(dict(config))}
    tensors = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    _write(folder / CHECKPOINT, tensors, metadata | {"tracking_run_id": tracking_run_id})


def load_arrays(folder: Path) -> SavedArrays:
    """Read what `save_arrays` wrote; raises CheckpointError."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise CheckpointError(f"{path}: no checkpoint there; name the folder of a run that finished a round")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        counters, config = json.loads(metadata["counters"]), json.loads(metadata["config"])
        return SavedArrays(load_file(path), counters, config, metadata["tracking_run_id"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); start the run afresh") from error


def save_model(folder: Path, arrays: Mapping[str, ndarray]) -> Path:
    """Write the weights alone to `folder`/model.safetensors and return the path; raises OSError."""
    _write(folder / MODEL, dict(arrays), {"version": VERSION})
    return folder / MODEL


def load_model(path: Path, reference: Mapping[str, ndarray]) -> Arrays:
    """Weights of a safetensors file that fit a model's arrays.

    Raises:
        CheckpointError: no such file, not safetensors, or other names or shapes.
    """
    try:
        arrays = _under(load_file(path), "model/") or load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error
    if {n: v.shape for n, v in arrays.items()} != {n: v.shape for n, v in reference.items()}:
        raise CheckpointError(f"{path}: its tensors are not those of the detector of this version")
    return arrays


def _write(path: Path, tensors: dict[str, ndarray], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _under(tensors: Mapping[str, ndarray], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
