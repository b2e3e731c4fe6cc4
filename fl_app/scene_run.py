"""One reconstruction from config to report: opens what it needs, lets the strategy work, leaves everything behind."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from clients.gaussian_messages import ALIGN
from fl_app import checkpoint, console
from fl_app.history import History, evaluate_row, fusion_row
from fl_app.holdings import replanned, survey_of
from fl_app.placement import placement_errors
from fl_app.run import METRICS
from fl_app.run_config import RunConfig
from fl_app.run_end import closing
from fl_app.run_folder import RunFailed, RunFolder, claim_folder, file_name_of, make_folder
from fl_app.run_start import begin
from fl_app.scene_leakage import leakage_row, leakages
from fl_app.scene_report import write_report
from fl_app.scene_start import begun, resumed
from fl_app.scene_tables import replanned_line
from fl_app.streaming_grid import stream_replies
from fl_app.survey import Survey
from fl_app.tracking import Tracker, check_reachable, default_uri
from recon.plan import Plan
from recon.ply import write_ply
from recon.spz import write_spz
from strategies.gaussian_fusion import GaussianFusion
from strategies.gaussian_report import FusionReport
from strategies.gaussian_scene import whole
from strategies.gaussian_state import FusionState
from strategies.report import EvaluateReport

logger = logging.getLogger("convoy")
SCENE, REGIONS = "scene.ply", "regions"
JUDGED = "vehicles/psnr-db"


@dataclass
class SceneRun:
    """A reconstruction under way. Made by `open_run`."""

    config: RunConfig
    folder: Path
    survey: Survey
    state: FusionState
    history: History
    tracker: Tracker
    began_s: float
    claim: RunFolder | None = None

    def replan(self, missing: Sequence[str]) -> Plan:
        """The street divided again among those who are there.

        Raises:
            DataError: nobody is left.
        """
        self.survey = survey_of(replanned(self.config.survey, missing))
        console.say(replanned_line(self.survey, self.config, missing))
        return self.survey.active_plan()

    def on_round(self, report: FusionReport) -> None:
        """Log a round and leave a checkpoint: what is printed is saved."""
        row = fusion_row(report)
        if report.job == ALIGN:
            row |= placement_errors(self.survey, self.state)
        self._log(report.round, row)
        self._save_checkpoint()
        console.say(console.fusion_line(report, self.config.fusion.num_rounds, row.get("align/error-m")))
        if report.unplaced:
            console.say(f"  no link joins to a known place, and left as positioned: {', '.join(report.unplaced)}")

    def on_evaluate(self, report: EvaluateReport) -> None:
        """Log what the vehicles measured, and save it: a resume would not know it otherwise."""
        self._log(report.round, evaluate_row(report))
        self._save_checkpoint()
        console.say(console.judged_line(report))

    @property
    def lacks_judgement(self) -> bool:
        """Whether there is a scene that nobody has judged: a run was broken off just then."""
        return bool(self.state.scene) and JUDGED not in self.history.rows.get(self.state.round, {})

    def finish(self) -> None:
        """Leave scene, pictures and report behind; raise RunFailed when nothing came to the scene."""
        self.history.write(self.folder / METRICS)
        if self.state.losses:
            console.console.print(console.losses_table(self.state.losses))
        if not any(len(held) for rsu, held in self.state.scene.items() if rsu not in self.state.base):
            old = f", and the scene is still that of {self.config.add_to}" if self.state.base else ""
            raise RunFailed(f"not one vehicle's Gaussians were accepted{old}: see the updates that did not count")
        for path in self._write_scene():
            self.tracker.file(path, "scene")
        leaks = leakages(self.survey, self.state)
        self._log(self.state.round, leakage_row(leaks))
        self.history.write(self.folder / METRICS)
        for path in write_report(self.folder, self.survey, self.state, self.history, self.config, leaks=leaks):
            self.tracker.file(path, "report")
        self.tracker.file(self.folder / METRICS)
        console.say(f"data: {self.survey.name} ({self.survey.licence})")

    def _write_scene(self) -> list[Path]:
        """The whole as .ply and, if its library is there, .spz; and each region by itself."""
        (self.folder / REGIONS).mkdir(exist_ok=True)
        paths, everything = [self.folder / SCENE], whole(self.state.scene)
        write_ply(paths[0], everything)
        for rsu, gaussians in self.state.scene.items():
            write_ply(self.folder / REGIONS / f"{file_name_of(rsu)}.ply", gaussians)
        try:
            write_spz(self.folder / "scene.spz", everything)
            paths.append(self.folder / "scene.spz")
        except (ImportError, ValueError) as error:
            console.say(f"no scene.spz: {error}")
        row = {f"bytes/{path.name.replace('.', '-')}": float(path.stat().st_size) for path in paths}
        self._log(self.state.round, row)
        return paths

    def _log(self, round_number: int, values: dict[str, float]) -> None:
        self.history.add(round_number, values)
        self.tracker.metrics(round_number, values)

    def _save_checkpoint(self) -> None:
        try:
            arrays, counters = self.state.arrays(), self.state.counters()
            checkpoint.save_arrays(self.folder, arrays, counters, self.config.as_flower(), self.tracker.run_id)
            self.history.write(self.folder / METRICS)
        except OSError as error:
            logger.error("round %d: no checkpoint (%s); the one before is kept", self.state.round, error)
            self._log(self.state.round, {"checkpoint/failed": 1.0})


def execute_scene(config: RunConfig, grid: Grid) -> Path:
    """Run the whole config on a grid and return the run's folder.

    Raises:
        ConfigError, DataError, CheckpointError, TrackingError, NotEnoughVehicles, RunFailed: one clear message each.
    """
    run = open_run(config)
    plan = run.survey.active_plan(besides=sorted(run.state.base))
    replan = None if config.regions_wanted or config.add_to else run.replan
    hooks: dict[str, Any] = {"on_round": run.on_round, "on_evaluate": run.on_evaluate}
    strategy = GaussianFusion(config.fusion, plan, run.state, replan=replan, **hooks)
    with closing(run):
        rounds_left = config.fusion.num_rounds - run.state.round
        if run.lacks_judgement:
            strategy.judge(stream_replies(grid), config.deadline_s)
        if rounds_left > 0:
            strategy.start(stream_replies(grid), ArrayRecord(), num_rounds=rounds_left, timeout=config.deadline_s)
        else:
            console.say(
                f"nothing is left to do: {run.state.round} rounds are done, {config.fusion.num_rounds} were asked for; "
                "ask for more refine-rounds to go on; the report is written again"
            )
        run.finish()
    return run.folder


def open_run(config: RunConfig) -> SceneRun:
    """Check and open everything before any work starts; whatever is wrong leaves no run behind."""
    state, tracking_run_id = resumed(config) if config.resume else (begun(config), "")
    output_dir = Path(config.output_dir)
    uri = config.tracking_uri or default_uri(output_dir)
    check_reachable(uri)
    make_folder(output_dir)
    began_s = time.monotonic()
    survey = survey_of(replanned(config.survey, state.missing))
    tracker = Tracker(uri, config.experiment, output_dir / "artifacts")
    name = f"scene-{datetime.now():%m%d-%H%M%S}"
    with claim_folder(output_dir, config.run_name, name, config.resume).opening() as claim:
        folder = claim.path
        claim.write_config(config.as_flower())
        history = History.read(folder / METRICS, state.round) if config.resume else History()
        begin(tracker, folder, config, tracking_run_id, history)
    console.say(f"{survey.name}: {len(survey.frames)} frames, {len(survey.vehicles)} vehicles take part")
    if line := replanned_line(survey, config, state.missing):
        console.say(line)
    return SceneRun(config, folder, survey, state, history, tracker, began_s, claim)
