"""Where a reconstruction starts: afresh, where it was broken off, or beside the scene of an earlier one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fl_app import checkpoint
from fl_app.checkpoint import CheckpointError, SavedArrays
from fl_app.run_config import RunConfig, parse
from perception.datasets.base import DataError
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


def resumed(config: RunConfig) -> tuple[FusionState, str]:
    """A run as it was broken off, and the tracking run to go on with.

    Raises:
        CheckpointError: there is no such run, or it is damaged or none of a reconstruction.
        DataError: it rebuilds another street or other regions, or has fitted or aligned in another way.
    """
    saved, state = read_state(Path(config.resume))
    _check_same("resume", config.resume, saved.config, config, (*STREET, "regions", "add-to"))
    if state.round:
        _check_same("resume", config.resume, saved.config, config, FITTED)
    if state.round > 1:
        _check_same("resume", config.resume, saved.config, config, ("align-rounds",))
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
    _check_same("add-to", config.add_to, saved.config, config, STREET)
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
    try:
        task = saved.config.get("task", "perception")
        if task == "reconstruction":
            return saved, FusionState.restore(saved.arrays, saved.counters)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: damaged, or of another version ({what}); start the run afresh") from error
    raise CheckpointError(f"{path}: of a run with task {task!r}; name the folder of a reconstruction")


def _check_same(option: str, folder: str, before: Mapping[str, object], config: RunConfig, keys: Sequence[str]) -> None:
    """Raise DataError that names the settings that differ; what an older run did not know has its default."""
    defaults, now = parse({}).as_flower(), config.as_flower()
    pairs = {key: (now[key], before.get(key, defaults[key])) for key in keys}
    if differ := [f"{key} = {new!r}, there {old!r}" for key, (new, old) in pairs.items() if new != old]:
        raise DataError(
            f"{option}: {folder} was run with other settings: {'; '.join(differ)}. Leave them out"
            + ", and --num-supernodes" * any(text.startswith("vehicles =") for text in differ)
        )
