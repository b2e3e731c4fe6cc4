"""Names that MLflow stores, by its own rule; and no more of them than a database can take."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from fl_app.metric_names import make_storable, select_metrics

ODD = ["v;0", "[/x]", "a//b", "../x", "/x", "x/", ".", "", "x" * 300, "a\nb", "\udc80", "😀", "a:b", "\0", "$x$", "./a"]


def valid(name: str) -> bool:
    _validate_metric_name(name)
    return len(name) <= MAX_ENTITY_KEY_LENGTH


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_becomes_one_that_mlflow_takes(name: str) -> None:
    assert valid(make_storable(name))
    assert make_storable(name) != name


@given(st.text())
def test_every_name_becomes_one_that_mlflow_takes_and_stays_so(name: str) -> None:
    storable = make_storable(name)
    assert valid(storable)
    assert make_storable(storable) == storable


def test_plain_names_stay_and_odd_ones_are_told_apart() -> None:
    assert make_storable("vehicle/vehicle-0/loss-total") == "vehicle/vehicle-0/loss-total"
    assert len({make_storable(name) for name in (*ODD, "v_0", "v:0", "v 0", "x" * 301)}) == len(ODD) + 4


def test_one_vehicle_cannot_crowd_out_the_others() -> None:
    flood = {f"vehicle/a/m{number}": 1.0 for number in range(100_000)}
    others = {f"vehicle/v{number}/loss": 1.0 for number in range(50)} | {"cloud/ap50": 0.5, "zeal/x": 1.0}
    chosen, left_out = select_metrics(flood | others, most=300, most_each=100)
    assert others.keys() <= chosen.keys()
    assert len(chosen) == 100 + 52
    assert left_out == 100_000 - 100


def test_a_round_logs_so_many_figures_and_those_of_all_come_first() -> None:
    values = {f"vehicle/v{number:05}/loss": 1.0 for number in range(5000)} | {"time/wall-s": 2.0}
    chosen, left_out = select_metrics(values, most=1000)
    assert next(iter(chosen)) == "time/wall-s"
    assert (len(chosen), left_out) == (1000, 4001)


def test_what_is_no_number_is_left_out() -> None:
    values = {"huge": 10**400, "text": "x", "none": None, "nan": math.nan, "inf": math.inf, "ok": 1}
    assert select_metrics(values) == ({"ok": 1.0}, 3)
