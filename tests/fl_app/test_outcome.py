"""Whether a run that came to its end did its job."""

import numpy as np
import pytest

from fl_app.run import describe_failure
from fl_app.run_config import parse
from strategies.state import RunState


def state(**fields: object) -> RunState:
    return RunState({"w": np.zeros(1, np.float32)}, **fields)


@pytest.mark.parametrize(
    ("rounds", "idle", "last", "accepted", "said"),
    [
        (20, 0, True, 9, ""),
        (20, 5, True, 9, ""),  # half of ten
        (20, 6, True, 9, "6 of 10 cloud rounds did not change the model:"),
        (20, 1, False, 9, "1 of 10 cloud rounds did not change the model, the last one among them"),
        (20, 10, False, 0, "not one update was accepted"),
    ],
)
def test_idle_cloud_rounds(rounds: int, idle: int, last: bool, accepted: int, said: str) -> None:
    ended = state(round=rounds, idle_cloud_rounds=idle, last_cloud_moved=last, accepted=accepted)
    failure = describe_failure(parse({"rsu-rounds": 2}), ended)
    assert failure.startswith(said)
    assert bool(failure) == bool(said)
    assert "server-learning-rate" not in failure


def test_the_right_key_is_named_where_the_server_takes_the_steps() -> None:
    ended = state(round=4, idle_cloud_rounds=2, accepted=9)
    failure = describe_failure(parse({"strategy": "fedadam", "server-learning-rate": 1.0}), ended)
    assert "lower server-learning-rate (now 1)" in failure
