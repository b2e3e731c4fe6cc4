"""State of a run and its way through a checkpoint."""

import json

import numpy as np
import pytest

from strategies.profile import Clock
from strategies.report import Traffic
from strategies.state import RunState

ARRAYS = {"w": np.ones(2, np.float32)}
FULL = RunState(
    ARRAYS,
    round=7,
    optimizer={"m/w": np.zeros(2, np.float32)},
    rsu_examples={"rsu-0": 12},
    recent_norms={"rsu-0": [0.25, 0.5]},
    clock=Clock({"rsu-0": 1.5, "rsu-1": 2.5}),
    traffic=Traffic(1, 2, 3, 4),
    losses={"v": {"late": 2}},
    accepted=40,
    idle_cloud_rounds=2,
    last_cloud_moved=True,
)


def test_counters_survive_json() -> None:
    counters = json.loads(json.dumps(FULL.counters()))
    restored = RunState.restore(ARRAYS, FULL.optimizer, counters)
    assert restored == FULL
    assert restored.clock.now_s == 2.5
    assert restored.traffic.cloud == 7


def test_a_new_state_survives_json() -> None:
    state = RunState(ARRAYS)
    assert RunState.restore(ARRAYS, {}, json.loads(json.dumps(state.counters()))) == state


def test_restoring_leaves_the_counters_alone() -> None:
    counters = FULL.counters()
    before = json.dumps(counters)
    RunState.restore(ARRAYS, {}, counters)
    assert json.dumps(counters) == before


def test_an_rsu_without_a_model_of_its_own_has_the_global_one() -> None:
    own = {"w": np.zeros(2, np.float32)}
    state = RunState(ARRAYS, rsu_arrays={"rsu-1": own})
    assert state.model_of("rsu-0") is ARRAYS
    assert state.model_of("rsu-1") is own


@pytest.mark.parametrize("name", ["clock", "traffic"])
def test_a_missing_counter_is_an_error(name: str) -> None:
    counters = FULL.counters()
    del counters[name]
    with pytest.raises(KeyError, match="counters are"):
        RunState.restore(ARRAYS, {}, counters)


@pytest.mark.parametrize("name", ["round", "rsu_examples", "recent_norms", "losses", "accepted"])
def test_any_missing_counter_is_an_error(name: str) -> None:
    counters = FULL.counters()
    del counters[name]
    with pytest.raises((KeyError, TypeError)):
        RunState.restore(ARRAYS, {}, counters)


def test_an_unknown_counter_is_an_error() -> None:
    with pytest.raises(KeyError, match="unheard_of"):
        RunState.restore(ARRAYS, {}, {**FULL.counters(), "unheard_of": 1})


def test_counters_of_before_are_read() -> None:
    counters = FULL.counters()
    del counters["recent_norms"], counters["idle_cloud_rounds"], counters["last_cloud_moved"]
    restored = RunState.restore(ARRAYS, {}, {**counters, "typical_norm": {"rsu-0": 0.25}})
    assert (restored.recent_norms, restored.idle_cloud_rounds) == ({"rsu-0": [0.25]}, 0)
