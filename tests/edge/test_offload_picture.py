"""Pictures of slots and animations of runs."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from edge.offload.capacity import assignment_of
from edge.offload.controller import Controller, ControllerConfig, Tick
from edge.offload.mobility import IndicatorPredictor
from edge.offload.model import Assignment, Slot
from edge.offload.picture import extent_of, save_animation, save_picture
from edge.offload.scenario_random import random_scenario
from geometry.sumo import Edge, Lane, RoadNetwork

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")

ROADS = RoadNetwork(
    {"e": Edge("e", "a", "b", (Lane("e_0", 10.0, 3.2, np.array([[-100.0, 0.0], [100.0, 50.0]])),))},
    {"a": np.array([-100.0, 0.0]), "b": np.array([100.0, 50.0])},
    (),
    np.zeros(2),
    "!",
)


class FirstFour:
    """Two RSUs with two users each."""

    def assign(self, slot: Slot) -> Assignment:
        worker = np.full(len(slot), -1)
        worker[:4] = [0, 0, 1, 1]
        return assignment_of(slot, worker)


@pytest.fixture(scope="module")
def ticks() -> list[Tick]:
    with ThreadPoolExecutor(1) as executor:
        config = ControllerConfig(fusion_timeout_s=30.0)
        controller = Controller((), FirstFour(), IndicatorPredictor(), executor, config)
        return [controller.decide(random_scenario(20, 4, seed)) for seed in range(3)]


def test_a_slot_as_a_picture(ticks: list[Tick], tmp_path: Path) -> None:
    for roads in (None, ROADS):
        save_picture(tmp_path / "slot.png", ticks[0], roads)
        with Image.open(tmp_path / "slot.png") as picture:
            assert picture.size == (840, 840)
            colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 50
        for red, green, blue in ((31, 119, 180), (255, 127, 14)):  # of the first two RSUs
            assert (colours == np.array([red, green, blue])).all(axis=1).any()
    save_picture(tmp_path / "slot.svg", ticks[0])
    assert "<svg" in (tmp_path / "slot.svg").read_text()[:1000]


def test_an_animation_has_a_frame_for_each_tick(ticks: list[Tick], tmp_path: Path) -> None:
    save_animation(tmp_path / "run.gif", ticks, frames_per_s=2)
    with Image.open(tmp_path / "run.gif") as movie:
        assert movie.info["duration"] == 500
        frames = [np.asarray(frame.convert("RGB")).copy() for frame in ImageSequence.Iterator(movie)]
    assert len(frames) == 3
    assert (frames[0] != frames[1]).any()
    assert (frames[1] != frames[2]).any()


def test_what_is_shown_is_the_roads_or_else_everybody(ticks: list[Tick]) -> None:
    assert extent_of(ticks, ROADS) == (-112, -12, 112, 62)
    west, south, east, north = extent_of(ticks, None)
    for tick in ticks:
        shown = tick.situation.everybody.position_m
        assert (shown > [west, south]).all()
        assert (shown < [east, north]).all()


def test_nobody_on_the_road_is_a_picture_too(ticks: list[Tick], tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        empty = Controller((), FirstFour(), IndicatorPredictor(), executor).decide(random_scenario(0, 2))
    save_picture(tmp_path / "empty.png", empty)
    assert (tmp_path / "empty.png").exists()


def test_bad_wishes_are_one_error(ticks: list[Tick], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"ends in \.gif"):
        save_animation(tmp_path / "run.mp4", ticks)
    with pytest.raises(ValueError, match="no ticks to show"):
        save_animation(tmp_path / "run.gif", [])
    assert not (tmp_path / "run.gif").exists()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        save_picture(tmp_path / "slot.png", ticks[0])
