"""A reconstruction under way: planned again, ended without anything new, gone on with when all is done."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fl_app.scene_run as scene_run
from fl_app.checkpoint import save_arrays
from fl_app.history import History
from fl_app.holdings import survey_of
from fl_app.run_config import RunConfig, parse
from fl_app.run_folder import RunFailed
from fl_app.scene_run import SceneRun, execute_scene, open_run
from recon.gaussians import Gaussians
from strategies.gaussian_fusion import GaussianFusion
from strategies.gaussian_report import FusionReport
from strategies.gaussian_state import FusionState
from strategies.report import EvaluateReport, Traffic

TINY: dict[str, Any] = {
    "task": "reconstruction",
    "image-height": 32,
    "image-width": 64,
    "scene-frames": 24,
    "vehicles": 4,
    "rsus": 2,
}


class Untracked:
    """A tracker that forgets."""

    uri, run_id, failures, busy_s = "nowhere", "run-id", 0, 0.0

    def __init__(self, *_: object) -> None:
        self.rows: list[dict[str, float]] = []

    def begin(self, *_: object) -> None: ...

    def metrics(self, _: int, values: dict[str, float]) -> None:
        self.rows.append(values)

    def file(self, *_: object) -> None: ...

    def finish(self, _: str) -> None: ...


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Frames are rendered once, into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed, line by line; nothing is tracked."""
    lines: list[str] = []
    monkeypatch.setattr(scene_run.console, "say", lines.append)
    monkeypatch.setattr(scene_run, "Tracker", Untracked)
    monkeypatch.setattr(scene_run, "check_reachable", lambda _: None)
    return lines


def config_of(folder: Path, **more: Any) -> RunConfig:
    return parse({**TINY, "output-dir": str(folder), **{key.replace("_", "-"): value for key, value in more.items()}})


def dots(count: int) -> Gaussians:
    return Gaussians.from_points(np.zeros((count, 3)), np.full((count, 3), 0.5))


def run_of(folder: Path, state: FusionState, **more: Any) -> SceneRun:
    config, tracker = config_of(folder, **more), Untracked()
    return SceneRun(config, folder, survey_of(config.survey), state, History(), tracker, 0.0)  # type: ignore[arg-type]


def test_planning_again_says_what_it_took(tmp_path: Path, said: list[str]) -> None:
    run = run_of(tmp_path, FusionState())
    before = run.survey.plan
    plan = run.replan(["vehicle-1"])
    assert "vehicle-1" not in plan
    assert plan is not before
    assert [stretch.vehicle for stretch in run.survey.plan.stretches] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    moved = int(re.match(r"planned again because of vehicle-1: (\d+) of 24 frames change hands", said[0])[1])  # type: ignore[index]
    assert before["vehicle-1"].views <= moved < 24


def test_a_run_without_some_says_so_as_it_opens(tmp_path: Path, said: list[str]) -> None:
    run = open_run(config_of(tmp_path, without="vehicle-1", slowed="vehicle-0:0.5"))
    assert [vehicle.vehicle for vehicle in run.survey.vehicles] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    assert said[0].endswith("24 frames, 3 vehicles take part")
    assert said[1].startswith("planned again because of vehicle-1, vehicle-0 (speed x 0.5): ")


def test_a_run_that_is_gone_on_with_keeps_its_second_plan(tmp_path: Path, said: list[str]) -> None:
    state = FusionState(round=1, missing=["vehicle-1"])
    config = config_of(tmp_path, resume=str(tmp_path / "run"))
    save_arrays(tmp_path / "run", state.arrays(), state.counters(), config.as_flower(), "tracked")
    run = open_run(config)
    assert [stretch.vehicle for stretch in run.survey.plan.stretches] == ["vehicle-0", "vehicle-2", "vehicle-3"]
    assert said[-1].startswith("planned again because of vehicle-1: ")


@pytest.mark.parametrize("scene", [{}, {"rsu-0": dots(3)}, {"rsu-0": dots(3), "rsu-1": dots(0)}])
def test_a_run_that_brought_nothing_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scene: dict[str, Gaussians]
) -> None:
    base = {"rsu-0": dots(3)} if scene else {}
    state = FusionState(round=9, scene=scene, base=base, losses={"vehicle-2": {"late": 1}})
    run = run_of(tmp_path, state, regions="rsu-1", add_to="runs/west")
    with pytest.raises(RunFailed, match="not one vehicle's Gaussians were accepted") as raised:
        run.finish()
    assert ("the scene is still that of runs/west" in str(raised.value)) == bool(scene)
    assert "vehicle-2" in capsys.readouterr().out
    assert not (tmp_path / "scene.ply").exists()


def verdict(number: int) -> EvaluateReport:
    return EvaluateReport(number, number, {}, {}, {"psnr-db": 21.0}, ())


def test_what_was_judged_is_saved_at_once(tmp_path: Path) -> None:
    run = run_of(tmp_path, FusionState(round=3, scene={"rsu-0": dots(3)}))
    assert run.lacks_judgement
    run.on_evaluate(verdict(3))
    assert not run.lacks_judgement
    assert History.read(tmp_path / "metrics.csv", 3).series("vehicles/psnr-db") == [(3, 21.0)]


@pytest.mark.parametrize("judged", [True, False])
def test_a_scene_that_was_not_judged_is_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: bool
) -> None:
    run, done = run_of(tmp_path, FusionState(round=8, scene={"rsu-0": dots(3)})), list[str]()
    if judged:
        run.on_evaluate(verdict(8))
    monkeypatch.setattr(scene_run, "open_run", lambda _: run)
    monkeypatch.setattr(SceneRun, "finish", lambda _: None)
    monkeypatch.setattr(GaussianFusion, "judge", lambda *_: done.append("judge"))
    monkeypatch.setattr(GaussianFusion, "start", lambda *_, **__: done.append("start"))
    execute_scene(run.config, None)  # type: ignore[arg-type]
    assert done == (["start"] if judged else ["judge", "start"])


@pytest.mark.parametrize(
    ("kept", "words"), [(True, "go on with: flower-simulation --resume "), (False, "no round was")]
)
def test_who_breaks_a_run_off_is_told_how_to_go_on_if_that_is_possible(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, kept: bool, words: str
) -> None:
    run = run_of(tmp_path, FusionState())

    def broken_off(*_: object, **__: object) -> None:
        if kept:
            run.on_round(report(1, ()))
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_run, "open_run", lambda _: run)
    monkeypatch.setattr(GaussianFusion, "start", broken_off)
    with pytest.raises(KeyboardInterrupt):
        execute_scene(run.config, None)  # type: ignore[arg-type]
    assert any(line.startswith(f"interrupted; {words}") for line in said)


def test_a_new_run_does_not_mix_with_an_old_one_of_its_name(tmp_path: Path) -> None:
    state, config = FusionState(round=1), config_of(tmp_path, run_name="street")
    save_arrays(tmp_path / "street", state.arrays(), state.counters(), config.as_flower(), "tracked")
    with pytest.raises(RunFailed, match=r"run-name: .*street holds a run; go on with it by --resume"):
        open_run(config)
    assert open_run(config_of(tmp_path, run_name="another")).folder == tmp_path / "another"


def test_a_name_that_a_stranger_chose_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"x[/b]": {"stranger": 1}, "[red]mallory": {"stranger": 2}}
    run = run_of(tmp_path, FusionState(round=9, losses=losses))
    with pytest.raises(RunFailed):
        run.finish()
    out = capsys.readouterr().out
    assert "x[/b]" in out
    assert "[red]mallory" in out


@pytest.mark.parametrize(("refine_rounds", "asked"), [(6, 9), (2, 5)])
def test_a_run_with_nothing_left_to_do_says_so(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, refine_rounds: int, asked: int
) -> None:
    run = run_of(tmp_path, FusionState(round=9, scene={"rsu-0": dots(3)}), refine_rounds=refine_rounds)
    run.history.add(9, {"vehicles/psnr-db": 21.0})
    monkeypatch.setattr(scene_run, "open_run", lambda _: run)
    monkeypatch.setattr(SceneRun, "finish", lambda _: None)
    assert execute_scene(run.config, None) == tmp_path  # type: ignore[arg-type]
    assert said[0].startswith(f"nothing is left to do: 9 rounds are done, {asked} were asked for")
    assert said[1].startswith("finished")


def report(number: int, unplaced: tuple[str, ...]) -> FusionReport:
    return FusionReport(number, "align", 1.0, 4, 4, {}, Traffic(), {}, (), unplaced=unplaced)


def test_who_is_tied_to_no_known_place_is_noted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    monkeypatch.setattr(scene_run.console, "say", said.append)
    run = run_of(tmp_path, FusionState(round=2))
    run.on_round(report(2, ("vehicle-1", "vehicle-3")))
    noted = [name for name in run.history.rows[2] if name.endswith("unplaced")]
    assert noted == ["vehicle/vehicle-1/unplaced", "vehicle/vehicle-3/unplaced"]
    assert said[-1].endswith("left as positioned: vehicle-1, vehicle-3")
    run.on_round(report(3, ()))
    assert not [name for name in run.history.rows[3] if name.endswith("unplaced")]
    assert sum("left as positioned" in line for line in said) == 1
