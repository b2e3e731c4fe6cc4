"""Traces as states of a time, states as traces, and turns that the record knows."""

from dataclasses import replace

import numpy as np
import pytest

from edge.offload.recorded import TraceTable, record
from edge.offload.states import VehicleStates
from geometry.trace import Trace


def trace(name: str, times_s: list[float], xy_m: list[tuple[float, float]], yaw_rad: list[float]) -> Trace:
    count = len(times_s)
    positions_m = np.column_stack([np.array(xy_m), np.zeros(count)])
    still = np.zeros(count, np.int8)
    times, yaw = np.array(times_s, float), np.array(yaw_rad, float)
    return Trace(name, "car", (4.5, 1.8, 1.5), times, positions_m, yaw, np.ones(count), still)


STRAIGHT = trace("straight", [0, 1, 2, 3], [(0, 0), (1, 0), (2, 0), (3, 0)], [0, 0, 0, 0])
LEFT = trace("left", [1, 2, 4], [(0, 9), (1, 9), (2, 10)], [0, 0, np.pi / 2])
RIGHT = trace("right", [0, 4], [(5, 5), (9, 5)], [3.1, -3.1])  # by 0.08 to the left, past ±π
TABLE = TraceTable.of([STRAIGHT, LEFT, RIGHT])


def test_half_way_between_two_samples() -> None:
    states = TABLE.at(2.5)
    assert states.names == ("straight", "left", "right")
    assert states.position_m[0].tolist() == [2.5, 0]
    assert states.position_m[1] == pytest.approx([1.25, 9.25]), "a quarter of the way from (1, 9) to (2, 10)"
    assert states.heading_rad[1] == pytest.approx(np.pi / 8)


def test_who_has_left_or_not_yet_come_is_not_on_the_road() -> None:
    assert TABLE.at(0.5).names == ("straight", "right")
    assert TABLE.at(3.5).names == ("left", "right")
    assert len(TABLE.at(99.0)) == 0
    assert TABLE.span_s == (0, 4)


@pytest.mark.parametrize("time_s", [0.0, 0.3, 1.0, 1.7, 3.0, 4.0])
def test_all_at_once_is_what_each_trace_says(time_s: float) -> None:
    traces = {found.name: found.at(np.array([time_s])) for found in (STRAIGHT, LEFT, RIGHT)}
    states = TABLE.at(time_s)
    for i, name in enumerate(states.names):
        assert states.position_m[i] == pytest.approx(traces[name].positions_m[0, :2])
        assert np.exp(1j * states.heading_rad[i]) == pytest.approx(np.exp(1j * traces[name].yaw_rad[0]))
        assert states.indicator[i] == traces[name].indicator[0]


def test_states_recorded_and_read_again_are_the_same() -> None:
    before = list(TABLE.ticks(0.0, 4.5, 0.5))
    after = list(TraceTable.of(record(before)).ticks(0.0, 4.5, 0.5))
    assert [len(states) for states in before] == [2, 2, 3, 3, 3, 3, 3, 2, 2]
    for one, two in zip(before, after, strict=True):
        order = [two.names.index(name) for name in one.names]
        assert two.position_m[order] == pytest.approx(one.position_m)
        assert two.heading_rad[order] == pytest.approx(one.heading_rad)


def test_the_record_knows_who_turns() -> None:
    names = ("left", "right", "straight")
    assert TABLE.turns_ahead(2.0, names, window_s=2.0).tolist() == [1, 0, 0]
    assert TABLE.turns_ahead(2.0, names, window_s=0.5).tolist() == [0, 0, 0], "by then it turned by π/8, less than π/6"
    quarter = replace(LEFT, name="quarter", yaw_rad=-LEFT.yaw_rad)
    assert TraceTable.of([quarter]).turns_ahead(1.0, ["quarter"]).tolist() == [-1]


@pytest.mark.parametrize("kind", ["pedestrian", "bicycle", "motorcycle"])
def test_who_walks_or_rides_has_no_sensors(kind: str) -> None:
    assert TraceTable.of([STRAIGHT, replace(STRAIGHT, name="other", kind=kind)]).names == ("straight",)


def test_bad_traces_are_one_error() -> None:
    with pytest.raises(ValueError, match="no vehicle"):
        TraceTable.of([])
    with pytest.raises(ValueError, match="'left' is there twice"):
        TraceTable.of([LEFT, LEFT])
    with pytest.raises(ValueError, match="'ghost' is not in the traces"):
        TABLE.turns_ahead(0.0, ["ghost"])
    with pytest.raises(ValueError, match="step_s is 0"):
        next(TABLE.ticks(0, 1, 0))


def test_states_that_go_back_in_time_are_refused() -> None:
    later = VehicleStates(2.0, ("a",), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1, np.int8))
    with pytest.raises(ValueError, match="times_s must increase"):
        record([later, replace(later, time_s=1.0)])
