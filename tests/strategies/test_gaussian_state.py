"""State of a reconstruction and its way through a checkpoint: the same bits, whatever it holds."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.messages import MessageError
from fl_app import checkpoint
from geometry import Sim3
from recon.gaussians import Gaussians
from strategies.gaussian_state import BASE, FusionState
from strategies.report import Traffic

SETS = ("parts", "scene", "base", "teacher")
NAMES = st.text("ab/:é-0", min_size=1, max_size=5)


POINTS_M = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)


def gaussians(count: int, degree: int = 0, seed: int = 0) -> Gaussians:
    """Any numbers."""
    rng = np.random.default_rng(seed)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3)]
    return Gaussians(*[torch.tensor(rng.normal(size=shape)).float() for shape in shapes])


def full() -> FusionState:
    turn = Sim3(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, -2, 0.5]), 1.03)
    return FusionState(
        round=4,
        parts={"a": gaussians(3), "b": gaussians(2, 1)},
        landmarks={"a": POINTS_M, BASE: POINTS_M[:1]},
        world_from={"a": Sim3.identity(), "b": turn},
        tied=["a"],
        scene={"north": gaussians(4, 0, 1), "south": gaussians(2, 0, 2)},
        base={"north": gaussians(3, 0, 3)},
        free={"north": torch.tensor([False, True, True, False]), "south": torch.ones(2, dtype=torch.bool)},
        teacher={"north": gaussians(4, 0, 4), "south": gaussians(2, 0, 5)},
        traffic=Traffic(1, 2, 3, 4),
        losses={"c": {"late": 2, "budget": 1}},
        accepted=11,
    )


def through_json(state: FusionState) -> FusionState:
    return FusionState.restore(state.arrays(), json.loads(json.dumps(state.counters())))


def same(found: Any, wanted: Any) -> None:
    """Bit by bit; similarities to rounding."""
    if isinstance(wanted, Gaussians):
        assert {n: t.numpy().tobytes() for n, t in found.tensors().items()} == {
            n: t.numpy().tobytes() for n, t in wanted.tensors().items()
        }
        assert found.sh.shape == wanted.sh.shape
    elif isinstance(wanted, Sim3):
        np.testing.assert_allclose(found.matrix, wanted.matrix, atol=1e-12)
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)
    elif isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            same(found[name], wanted[name])
    else:
        assert found == wanted


def all_same(found: FusionState, wanted: FusionState) -> None:
    for each in fields(FusionState):
        same(getattr(found, each.name), getattr(wanted, each.name))


@pytest.mark.parametrize("state", [FusionState(), full(), FusionState(round=1, parts={"a": Gaussians.empty()})])
def test_there_and_back(state: FusionState) -> None:
    all_same(through_json(state), state)


def test_there_and_back_through_a_file(tmp_path: Path) -> None:
    state = full()
    checkpoint.save_arrays(tmp_path, state.arrays(), state.counters(), {"seed": 3}, "run-7")
    saved = checkpoint.load_arrays(tmp_path)
    assert (saved.config, saved.tracking_run_id) == ({"seed": 3}, "run-7")
    all_same(FusionState.restore(saved.arrays, saved.counters), state)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.integers(0, 3), max_size=4), st.sampled_from(SETS))
def test_any_names_come_back(counts: dict[str, int], kind: str) -> None:
    state = FusionState(world_from={name: Sim3.identity() for name in counts})
    state.free = {name: torch.ones(count, dtype=torch.bool) for name, count in counts.items()}
    setattr(state, kind, {name: gaussians(count, 0, k) for k, (name, count) in enumerate(counts.items())})
    all_same(through_json(state), state)


def test_similarities_do_not_drift_from_resume_to_resume() -> None:
    state = full()
    once = through_json(state)
    often = once
    for _ in range(5):
        often = through_json(often)
    for name in state.world_from:
        np.testing.assert_allclose(often.world_from[name].matrix, once.world_from[name].matrix, atol=1e-14)


def test_restoring_leaves_arrays_and_counters_alone() -> None:
    state = full()
    arrays, counters = state.arrays(), state.counters()
    before = {name: values.tobytes() for name, values in arrays.items()}
    restored = FusionState.restore(arrays, counters)
    restored.scene["north"].means[:] = 7
    restored.free["north"][:] = True
    restored.losses["d"] = {"late": 1}
    assert {name: values.tobytes() for name, values in arrays.items()} == before
    assert counters["losses"] == full().losses


@pytest.mark.parametrize("name", ["round", "traffic", "losses", "accepted"])
def test_a_missing_counter_is_an_error(name: str) -> None:
    counters = full().counters()
    del counters[name]
    with pytest.raises(KeyError, match=name):
        FusionState.restore(full().arrays(), counters)


def test_a_damaged_set_is_an_error() -> None:
    arrays = full().arrays()
    del arrays["scene:north/sh"]
    with pytest.raises(KeyError, match="scene:north/sh"):
        FusionState.restore(arrays, full().counters())


@pytest.mark.parametrize("damage", [lambda values: values[:-1], lambda values: values * np.float32("nan")])
def test_damaged_values_are_an_error(damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    arrays = full().arrays()
    arrays["scene:north/means"] = damage(arrays["scene:north/means"])
    with pytest.raises(ValueError, match="Gaussians"):
        FusionState.restore(arrays, full().counters())


def test_a_damaged_similarity_is_an_error() -> None:
    with pytest.raises(MessageError, match="a similarity takes a unit quaternion"):
        FusionState.restore({**full().arrays(), "world/b": np.zeros(8)}, full().counters())


def test_numbers_between_the_steps_of_what_travels_are_kept() -> None:
    """A checkpoint does not round: halfway between two millimetres stays there, as does a rotation of length 3."""
    state = FusionState(scene={"north": gaussians(3)}, teacher={"north": gaussians(3, 0, 1)})
    for kind in (state.scene, state.teacher):
        kind["north"].means.fill_(1 + 2**-20)
        kind["north"].quats.mul_(3)
    all_same(through_json(through_json(state)), state)


def test_a_set_of_an_unknown_kind_is_an_error() -> None:
    arrays = {name.replace("teacher:", "tutor:"): values for name, values in full().arrays().items()}
    with pytest.raises(KeyError, match="tutor"):
        FusionState.restore(arrays, full().counters())


def test_landmarks_for_a_later_run_are_those_whose_place_is_known() -> None:
    """b's world is turned by a quarter, stretched by 3 % and shifted; c is tied to nobody."""
    state = full()
    state.tied, state.landmarks["b"], state.landmarks["c"] = ["a", "b"], POINTS_M[:1], POINTS_M + 100
    assert np.allclose(state.all_landmarks(), [[1, 2, 3], [1, 2, 3], [4, 5, 6], [1 - 2.06, -2 + 1.03, 0.5 + 3.09]])
    assert FusionState().all_landmarks().shape == (0, 3)
