"""One file per run that a killed run goes on from, and the final weights. Both are safetensors, written atomically."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy import ndarray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from fl_app.atomic_files import staged_path
from strategies.arithmetic import Arrays
from strategies.state import RunState, upgrade_counters

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
        CheckpointError: no such file, of another version, or damaged.
    """
    saved, path = load_arrays(folder), folder / CHECKPOINT
    if (task := saved.config.get("task", "perception")) != "perception":
        raise CheckpointError(f"{path}: of a run with task {task!r}; name the folder of one of perception")
    arrays, optimizer = _under(saved.arrays, "model/"), _under(saved.arrays, "optimizer/")
    try:
        _check_names(saved.arrays, ("model/", "optimizer/"))
        _check_finite(saved.arrays)
        _check_optimizer(optimizer, arrays)
        counters = upgrade_counters(saved.counters) if isinstance(saved.counters, dict) else saved.counters
        check_counters(counters, RunState, RunState({}).counters(), {"clock": dict[str, float]})
        state = RunState.restore(arrays, optimizer, counters)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error
    return Checkpoint(state, saved.config, saved.tracking_run_id)


def check_model(folder: Path, arrays: Mapping[str, ndarray], reference: Mapping[str, ndarray]) -> None:
    """Compares a saved model with the one that a run trains.

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape or type.
    """
    there, wanted = _described(arrays), _described(reference)
    if differ := [name for name in sorted({*there, *wanted}) if there.get(name) != wanted.get(name)]:
        name = differ[0]
        what = f"{name} is {there.get(name, 'missing')}, want {wanted.get(name, 'none')}"
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise CheckpointError(
            f"{folder / CHECKPOINT}: not a model of this version and these settings ({what}{more}); go on with the "
            "settings and the version that made it, or start the run afresh"
        )


def check_counters(counters: object, state: type, wanted: Collection[str], types: Mapping[str, Any]) -> None:
    """Checks counters against the annotations of the state that they are of.

    Args:
        counters: as a checkpoint holds them.
        state: a dataclass with a field for each.
        wanted: which must be there; older checkpoints may lack others.
        types: of counters that have another type than the field.

    Raises:
        KeyError, TypeError, ValueError: one is missing, of another type, negative or not finite.
    """
    if not isinstance(counters, dict):
        raise TypeError(f"counters are {type(counters).__name__}, no object")
    hints = {**get_type_hints(state), **types}
    for key, value in counters.items():
        if key not in hints:
            raise KeyError(f"counter {key!r} is unknown")
        try:
            TypeAdapter(hints[key]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise TypeError(f"counter {key!r}: {error.errors()[0]['msg'].lower()}") from None
        if not all(0 <= number < math.inf for number in _numbers(value)):
            raise ValueError(f"counter {key!r} is negative or not finite")
    if missing := [key for key in wanted if key not in counters]:
        raise KeyError(f"counter {missing[0]!r} is missing")


def damaged(path: Path, error: Exception) -> CheckpointError:
    """Returns the error of a checkpoint that cannot be made sense of."""
    what = f"{type(error).__name__}: {error}"
    return CheckpointError(f"{path}: damaged, or of another version ({what}); start the run afresh, without `resume`")


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
    """Read what `save_arrays` wrote.

    Raises:
        CheckpointError: no such file, of another version, or damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise CheckpointError(f"{path}: no checkpoint there; name the folder of a run that finished a round")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        if (version := metadata.get("version")) != VERSION:
            known = f"this version of Convoy reads version {VERSION}"
            raise CheckpointError(f"{path}: of version {version}, and {known}; go on with the Convoy that wrote it")
        counters, config = json.loads(metadata["counters"]), json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise TypeError(f"config is {type(config).__name__}, no object")
        return SavedArrays(load_file(path), counters, config, metadata.get("tracking_run_id", ""))
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def save_model(folder: Path, arrays: Mapping[str, ndarray]) -> Path:
    """Write the weights alone to `folder`/model.safetensors and return the path; raises OSError."""
    _write(folder / MODEL, dict(arrays), {"version": VERSION})
    return folder / MODEL


def load_model(path: Path, reference: Mapping[str, ndarray]) -> Arrays:
    """Weights of a safetensors file that fit a model's arrays.

    Raises:
        CheckpointError: no such file, not safetensors, other names or shapes, or NaN.
    """
    try:
        arrays = _under(load_file(path), "model/") or load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error
    if {n: v.shape for n, v in arrays.items()} != {n: v.shape for n, v in reference.items()}:
        raise CheckpointError(f"{path}: its tensors are not those of the detector of this version")
    try:
        _check_finite(arrays)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; take other weights") from None
    return arrays


def _write(path: Path, tensors: dict[str, ndarray], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_path(path) as part:
        try:
            save_file(tensors, part, metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"{path}: {error}") from error


def _under(tensors: Mapping[str, ndarray], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _described(arrays: Mapping[str, ndarray]) -> dict[str, str]:
    return {name: f"{values.dtype} {list(values.shape)}" for name, values in arrays.items()}


def _check_names(arrays: Mapping[str, ndarray], prefixes: tuple[str, ...]) -> None:
    if strange := [name for name in arrays if not name.startswith(prefixes)]:
        raise KeyError(f"tensor {strange[0]!r} is unknown")


def _check_finite(arrays: Mapping[str, ndarray]) -> None:
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"tensor {name!r} is not finite")


def _check_optimizer(optimizer: Mapping[str, ndarray], arrays: Mapping[str, ndarray]) -> None:
    """Whatever an optimizer keeps is named by a tensor of the model, or by a moment of one, and has its shape."""
    for name, values in optimizer.items():
        of = arrays.get(name, arrays.get(name.partition("/")[2]))
        if of is None or of.shape != values.shape:
            raise ValueError(f"tensor 'optimizer/{name}' fits none of the model")


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value
