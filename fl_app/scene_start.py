"""Where a reconstruction starts: afresh, where it was broken off, or beside the scene of an earlier one."""

from pathlib import Path
from typing import Final

import numpy as np

from fl_app import checkpoint
from fl_app.checkpoint import CheckpointError, SavedArrays
from fl_app.resume import MAY_CHANGE, check_unchanged
from fl_app.run_config import RunConfig
from perception.datasets.base import DataError
from strategies.arithmetic import Arrays
from strategies.gaussian_state import FusionState

STREET: Final = (
    "data-path",
    "scene-frames",
    "scene-apart-m",
    "image-height",
    "image-width",
    "vehicles",
    "rsus",
    "overlap-m",
    "speed-ratio",
    "gaussians-per-view",
    "misplaced",
    "anchors",
    "seed",
    "without",
    "slowed",
)
"""What says which street is rebuilt and who covers what, as `SurveyRequest` has it, but for the regions."""
FITTED: Final = ("fit-steps", "margin-m", "landmarks")
"""What decided over uploads that are there already."""
ALWAYS: Final = ("round", "traffic", "losses", "accepted")  # counters; older checkpoints lack others


def resumed(config: RunConfig) -> tuple[FusionState, str]:
    """A run as it was broken off, and the tracking run to go on with.

    Raises:
        CheckpointError: there is no such run, or it is damaged or none of a reconstruction.
        DataError: it rebuilds another street or other regions, or has fitted or aligned in another way.
    """
    saved, state = read_state(Path(config.resume))
    free = MAY_CHANGE | (set() if state.round else set(FITTED)) | (set() if state.round > 1 else {"align-rounds"})
    keys = [key for key in config.as_flower() if key not in free]
    check_unchanged("resume", config.resume, saved.config, config, keys)
    return state, saved.tracking_run_id


def begun(config: RunConfig) -> FusionState:
    """Before the first round: with the scene of an earlier run and its landmarks, if this one adds to one.

    Raises:
        CheckpointError: there is no such run, or it is damaged or none of a reconstruction.
        DataError: it has no scene, has the regions already, or rebuilds another street.
    """
    if not config.add_to:
        return FusionState()
    saved, earlier = read_state(Path(config.add_to))
    check_unchanged("add-to", config.add_to, saved.config, config, STREET)
    scene = earlier.scene
    there = sorted(set(scene) & set(config.regions_wanted)) if config.regions_wanted else sorted(scene)
    if not scene or there:
        raise DataError(f"add-to: {config.add_to} {'has ' + ', '.join(there) if scene else 'has no scene yet'}")
    if earlier.missing:
        gone = ", ".join(earlier.missing)
        raise DataError(f"add-to: in {config.add_to} others made up for {gone}: its regions are not those of the plan")
    return earlier.added_to()


def read_state(folder: Path) -> tuple[SavedArrays, FusionState]:
    """The checkpoint of a reconstruction.

    Raises:
        CheckpointError: there is none, it is one of perception, damaged, or of a version that kept other things.
    """
    saved, path = checkpoint.load_arrays(folder), folder / checkpoint.CHECKPOINT
    task = saved.config.get("task", "perception")
    if task != "reconstruction":
        raise CheckpointError(f"{path}: of a run with task {task!r}; name the folder of a reconstruction")
    try:
        checkpoint.check_counters(saved.counters, FusionState, ALWAYS, {})
        state = FusionState.restore(saved.arrays, saved.counters)
        _check_arrays(saved.arrays, state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.damaged(path, error) from error
    return saved, state


def _check_arrays(arrays: Arrays, state: FusionState) -> None:
    """Raises where a restored state does not hold all that was saved, or holds no numbers."""
    restored = state.arrays()
    if strange := sorted({*arrays} ^ {*restored}):
        raise KeyError(f"tensor {strange[0]!r} is unknown or in part")
    for name, values in arrays.items():
        if values.shape != restored[name].shape or values.dtype != restored[name].dtype:
            raise ValueError(f"tensor {name!r} is {values.dtype} {list(values.shape)}")
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ValueError(f"tensor {name!r} holds NaN")
