"""Where a reconstruction starts, and what is no place to start from."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fl_app.checkpoint import CHECKPOINT, Checkpoint, CheckpointError, save_arrays, save_checkpoint
from fl_app.run_config import RunConfig, parse
from fl_app.scene_start import STREET, begun, read_state, resumed
from perception.datasets.base import DataError
from recon.gaussians import Gaussians
from strategies.gaussian_state import BASE, FusionState
from strategies.state import RunState

OTHERS: dict[str, Any] = {
    "data-path": "elsewhere",
    "scene-frames": 99,
    "scene-apart-m": 2.0,
    "image-height": 64,
    "image-width": 64,
    "vehicles": 8,
    "rsus": 3,
    "overlap-m": 1.0,
    "speed-ratio": 2.0,
    "gaussians-per-view": 10,
    "misplaced": 0.0,
    "anchors": "first",
    "seed": 5,
}


def config_of(**more: Any) -> RunConfig:
    return parse({"task": "reconstruction", **{name.replace("_", "-"): value for name, value in more.items()}})


def dots(count: int) -> Gaussians:
    return Gaussians.from_points(np.arange(3.0 * count).reshape(count, 3), np.full((count, 3), 0.5))


def saved(folder: Path, state: FusionState, config: RunConfig | None = None) -> Path:
    save_arrays(folder, state.arrays(), state.counters(), (config or config_of()).as_flower(), "tracked")
    return folder


def merged() -> FusionState:
    marks = {"vehicle-0": np.ones((4, 3), np.float32), BASE: np.zeros((2, 3), np.float32)}
    return FusionState(round=4, scene={"rsu-0": dots(3)}, parts={"vehicle-0": dots(5)}, landmarks=marks)


def made_up_for() -> FusionState:
    return FusionState(round=4, scene={"rsu-0": dots(3)}, missing=["vehicle-5"])


def test_the_street_is_all_that_a_survey_is_asked_for() -> None:
    """Every setting that changes the request, but for regions, is compared."""
    before, changes = vars(config_of().survey), {**OTHERS, "without": "vehicle-0", "slowed": "vehicle-1:2"}
    assert sorted(changes) == sorted(STREET)
    fields = set()
    for key, value in changes.items():
        fields |= {name for name, now in vars(config_of(**{key: value}).survey).items() if now != before[name]}
    assert set(before) - fields == {"part", "holdout", "rsu_names"}  # no setting changes the first two


def test_a_fresh_run_starts_with_nothing() -> None:
    assert begun(config_of()).counters() == FusionState().counters()


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    state, tracking_run_id = resumed(config_of(resume=str(saved(tmp_path, merged()))))
    assert (state.round, tracking_run_id) == (4, "tracked")
    assert len(state.scene["rsu-0"]) == 3


def test_an_added_region_starts_beside_the_scene(tmp_path: Path) -> None:
    saved(tmp_path, merged(), config_of(regions="rsu-0"))
    state = begun(config_of(add_to=str(tmp_path), regions="rsu-1"))
    assert (state.round, sorted(state.base), sorted(state.scene)) == (0, ["rsu-0"], [])
    assert len(state.landmarks[BASE]) == 2


@pytest.mark.parametrize(("key", "value"), OTHERS.items())
@pytest.mark.parametrize("option", ["resume", "add-to"])
def test_another_street_is_refused(tmp_path: Path, option: str, key: str, value: object) -> None:
    saved(tmp_path, merged())
    there = config_of().as_flower()[key]
    config = config_of(**{key: value, option: str(tmp_path), "regions": "rsu-1" if option == "add-to" else ""})
    with pytest.raises(DataError, match=re.escape(f"{key} = {value!r}, there {there!r}")) as raised:
        resumed(config) if option == "resume" else begun(config)
    assert str(raised.value).startswith(f"{option}: {tmp_path} was run with other settings:\n")
    assert ("--num-supernodes" in str(raised.value)) == (key == "vehicles")


def test_all_settings_that_differ_are_named_at_once(tmp_path: Path) -> None:
    saved(tmp_path, merged())
    with pytest.raises(DataError) as raised:
        resumed(config_of(resume=str(tmp_path), seed=1, without="vehicle-0", slowed="vehicle-1:2", regions=""))
    for words in ("seed = 1", "without = 'vehicle-0', there ''", "slowed = 'vehicle-1:2'"):
        assert words in str(raised.value)


def test_other_regions_are_no_reason_not_to_add_some_but_to_go_on(tmp_path: Path) -> None:
    saved(tmp_path, merged(), config_of(regions="rsu-0"))
    assert begun(config_of(add_to=str(tmp_path), regions="rsu-1")).base
    with pytest.raises(DataError, match="regions = 'rsu-1', there 'rsu-0'"):
        resumed(config_of(resume=str(tmp_path), regions="rsu-1"))


@pytest.mark.parametrize("done", [1, 2, 4])
def test_rounds_of_alignment_cannot_change_once_there_was_one(tmp_path: Path, done: int) -> None:
    state = merged()
    state.round = done
    saved(tmp_path, state)
    config = config_of(resume=str(tmp_path), align_rounds=3, refine_rounds=1)
    if done == 1:
        assert resumed(config)[0].round == 1
    else:
        with pytest.raises(DataError, match="align-rounds = 3, there 2"):
            resumed(config)
    assert resumed(config_of(resume=str(tmp_path), refine_rounds=9))[0].round == done


@pytest.mark.parametrize(
    ("key", "value", "there"), [("fit-steps", 5.0, 22.0), ("margin-m", 5.0, 1000.0), ("landmarks", 0, 2000)]
)
def test_what_decided_over_uploads_cannot_change_once_they_are_there(
    tmp_path: Path, key: str, value: float, there: float
) -> None:
    """The report would name a margin that nobody kept to."""
    saved(tmp_path, merged())
    with pytest.raises(DataError, match=f"{key} = {value}, there {there}"):
        resumed(config_of(resume=str(tmp_path), **{key: value}))
    saved(tmp_path, FusionState())
    assert resumed(config_of(resume=str(tmp_path), **{key: value}))[0].round == 0


def test_what_an_older_run_did_not_know_has_its_default(tmp_path: Path) -> None:
    state, config = merged(), config_of().as_flower()
    del config["without"]
    save_arrays(tmp_path, state.arrays(), state.counters(), config, "tracked")
    assert resumed(config_of(resume=str(tmp_path)))[0].round == 4


@pytest.mark.parametrize(
    ("earlier", "regions", "words"),
    [
        (FusionState(round=1), "rsu-1", "has no scene yet"),
        (merged(), "rsu-0,rsu-1", "has rsu-0"),
        (merged(), "", "has rsu-0"),
        (made_up_for(), "rsu-1", "others made up for vehicle-5"),
    ],
)
def test_there_must_be_a_scene_to_add_to(tmp_path: Path, earlier: FusionState, regions: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        begun(config_of(add_to=str(saved(tmp_path, earlier)), regions=regions))


def test_a_checkpoint_of_perception_is_refused(tmp_path: Path) -> None:
    state = RunState(arrays={"w": np.ones(3, np.float32)}, round=2)
    save_checkpoint(tmp_path, Checkpoint(state, parse({}).as_flower(), "tracked"))
    for start, key in ((resumed, "resume"), (begun, "add-to")):
        with pytest.raises(CheckpointError, match="task 'perception'; name the folder of a reconstruction"):
            start(config_of(**{key: str(tmp_path)}))


@pytest.mark.parametrize(
    ("broken", "config"),
    [
        ({"round": None}, {}),
        ({"traffic": None}, {}),
        ({"traffic": {"vehicle_up": 1, "by_post": 2}}, {}),
        ({"losses": 3}, {}),
        ({"losses": {"v": None}}, {}),
        ({"round": "4"}, {}),
        ({"round": -1}, {}),
        ({"accepted": 1.5}, {}),
        ({"tied": [3]}, {}),
        ({"missing": "vehicle-5"}, {}),
        ({"more": 1}, {}),
        ({"nan": "scene:rsu-0/means"}, {}),
        ({"arrays": "elsewhere"}, {}),
        ({"arrays": "scene:rsu-0/more"}, {}),
        ({"arrays": "scene:rsu-0/quats"}, {}),
        ({"arrays": "world/vehicle-0"}, {}),
        ({}, {"config": ["no", "object"]}),
    ],
)
def test_a_damaged_checkpoint_names_file_and_remedy(tmp_path: Path, broken: dict, config: dict) -> None:
    state = merged()
    arrays, counters = state.arrays(), state.counters()
    for key, value in broken.items():
        if key == "nan":
            arrays[value] = np.full_like(arrays[value], np.nan)
        elif key == "arrays":
            arrays = {name: values for name, values in arrays.items() if name != value}
            arrays |= {value: np.zeros(5)} if value not in state.arrays() else {}
        elif value is None:
            del counters[key]
        else:
            counters[key] = value
    save_arrays(tmp_path, arrays, counters, config_of().as_flower(), "tracked")
    if config:
        _with_config(tmp_path, config["config"])
    with pytest.raises(CheckpointError, match="damaged, or of another version") as raised:
        read_state(tmp_path)
    assert str(tmp_path / CHECKPOINT) in str(raised.value)
    assert "start the run afresh" in str(raised.value)


def _with_config(folder: Path, config: Any) -> None:
    """The same checkpoint, whose config is some other JSON value."""
    path = folder / CHECKPOINT
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "config": json.dumps(config)})
