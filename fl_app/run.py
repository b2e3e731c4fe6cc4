"""One federated run from config to table: opens what it needs, lets the strategy work, and leaves everything behind."""

import json
import logging
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from clients.messages import Arrays, from_record, to_record
from clients.perception_client import PerceptionTask, arrays_of, flat_metrics, fleet_of, load_model
from fl_app import checkpoint, console, pictures
from fl_app.client_app import task_of
from fl_app.export import StackedMaps
from fl_app.history import History, evaluate_row, round_row
from fl_app.pretrain import pretrained
from fl_app.run_config import RunConfig
from fl_app.tracking import Tracker, check_reachable, default_uri
from perception.datasets import Fleet
from perception.detector import DetectorConfig, build_detector
from perception.targets import Samples, make_samples
from perception.training import TrainConfig, evaluate, train_epochs
from strategies.hierarchical import Hierarchical
from strategies.report import EvaluateReport, RoundReport
from strategies.state import RunState

logger = logging.getLogger("convoy")
ROOT_FRAMES = 8  # frames that a tier holds itself, for rule "fltrust"


class RunFailed(RuntimeError):
    """The run ended without having done its job."""


@dataclass
class Run:
    """A run under way. Made by `open_run`."""

    config: RunConfig
    folder: Path
    task: PerceptionTask
    fleet: Fleet
    holdout: Samples
    state: RunState
    history: History
    tracker: Tracker
    began_s: float

    def on_round(self, report: RoundReport) -> None:
        """Log a round and, after a cloud round, leave a checkpoint: what is printed is saved."""
        self._log(report.round, round_row(report))
        if report.cloud_moved:
            self._save_checkpoint()
        console.console.print(console.round_line(report, self.config.num_rounds))

    def on_evaluate(self, report: EvaluateReport) -> None:
        """Log what the vehicles measured."""
        self._log(report.round, evaluate_row(report))

    def judge(self, _: int, record: ArrayRecord) -> MetricRecord | None:
        """Measure the global model on held-out frames, after cloud rounds."""
        if self.state.round % self.config.hierarchical.rsu_rounds:
            return None
        model, _start = load_model(self.task, from_record(record))
        measured = evaluate(model, self.holdout, workers=os.cpu_count() or 1)
        metrics = {f"cloud/{name}": value for name, value in flat_metrics(measured).items()}
        self._log(self.state.round, {"cloud/round": self.state.round // self.config.hierarchical.rsu_rounds, **metrics})
        return MetricRecord(dict(metrics))

    def train_root(self, arrays: Arrays, round_number: int) -> Arrays:
        """For rule "fltrust": one epoch on the few labelled frames that the tier holds itself."""
        model, _ = load_model(self.task, arrays)
        samples = self.holdout.select(torch.arange(min(ROOT_FRAMES, len(self.holdout))))
        generator = torch.Generator().manual_seed(self.config.seed + round_number)
        rate = self.task.learning_rate_at(round_number)
        train_epochs(model, samples, TrainConfig(epochs=self.config.local_epochs, lr=rate), generator)
        return arrays_of(model)

    def finish(self, rsu_of: dict[str, str]) -> None:
        """Leave model, pictures and table behind; raise RunFailed when no update ever counted."""
        self.history.write(self.folder / "metrics.csv")
        path = checkpoint.save_model(self.folder, self.state.arrays)
        model, _ = load_model(self.task, self.state.arrays)
        for file in (
            pictures.draw_detections(model, self.fleet.holdout, self.folder / "detections.png"),
            pictures.draw_curves(self.history, self.folder / "curves.png"),
        ):
            self.tracker.file(file, "pictures")
        self.tracker.file(path, "weights")
        self.tracker.file(self.folder / "metrics.csv")
        self.tracker.model(StackedMaps(model), (1, 3, *self.task.size_px))
        self._print_summary(rsu_of)
        if self.state.accepted == 0:
            raise RunFailed("not one update was accepted: see the table of updates that did not count")

    def _print_summary(self, rsu_of: dict[str, str]) -> None:
        out = console.console
        out.print(console.cloud_table(self.history), console.vehicle_table(self.history, rsu_of))
        if self.state.losses:
            out.print(console.losses_table(self.state.losses))
        for note in self.fleet.notes:
            out.print(f"note: {note}")
        out.print(f"data: {self.fleet.name} ({self.fleet.licence})")

    def _log(self, round_number: int, values: dict[str, float]) -> None:
        self.history.add(round_number, values)
        self.tracker.metrics(round_number, values)

    def _save_checkpoint(self) -> None:
        saved = checkpoint.Checkpoint(self.state, self.config.as_flower(), self.tracker.run_id)
        try:
            checkpoint.save_checkpoint(self.folder, saved)
            self.history.write(self.folder / "metrics.csv")
        except OSError as error:
            logger.error(
                "round %d: no checkpoint (%s); the one before is kept, the run goes on", self.state.round, error
            )
            self._log(self.state.round, {"checkpoint/failed": 1.0})


def execute(config: RunConfig, grid: Grid) -> Path:
    """Run the whole config on a grid and return the run's folder.

    Raises:
        ConfigError, DataError, CheckpointError, TrackingError, NotEnoughVehicles, RunFailed: one clear message each.
    """
    run = open_run(config)
    strategy = Hierarchical(
        config.hierarchical, run.state, on_round=run.on_round, on_evaluate=run.on_evaluate, train_root=run.train_root
    )
    status = "FAILED"
    try:
        rounds_left = config.num_rounds - run.state.round
        if rounds_left:
            strategy.start(
                grid,
                to_record(run.state.arrays),
                num_rounds=rounds_left,
                timeout=config.deadline_s,
                evaluate_fn=run.judge,
            )
        run.finish(dict(strategy.topology.rsu_of))
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        kept = (run.folder / checkpoint.CHECKPOINT).exists()
        how = f"go on with: flower-simulation --resume {run.folder}" if kept else "no cloud round was saved yet"
        console.console.print(f"interrupted; {how}")
        raise
    finally:
        _close(run, status)
    return run.folder


def open_run(config: RunConfig) -> Run:
    """Check and open everything a run needs before any work starts; whatever is wrong leaves no run behind."""
    saved = checkpoint.load_checkpoint(Path(config.resume)) if config.resume else None
    output_dir = Path(config.output_dir)
    uri = config.tracking_uri or default_uri(output_dir)
    check_reachable(uri)
    make_folder(output_dir)
    began_s = time.monotonic()
    tracker = Tracker(uri, config.experiment, output_dir / "artifacts")
    task = task_of(config)
    fleet = fleet_of(task)
    name = f"{config.data}-{config.strategy}-{datetime.now():%m%d-%H%M%S}"
    folder = run_folder(config, name)
    (folder / "config.json").write_text(json.dumps(config.as_flower(), indent=1))
    holdout = make_samples(fleet.holdout, task.size_px)
    tracker.begin(folder.name, config.as_flower(), saved.tracking_run_id if saved else "")
    state = saved.state if saved else RunState(_first_arrays(config, folder))
    history = History.read(folder / "metrics.csv", state.round) if saved else History()
    return Run(config, folder, task, fleet, holdout, state, history, tracker, began_s)


def run_folder(config: RunConfig, name: str) -> Path:
    """That of the run to go on with; else a new one, of this name if the config has none.

    Raises:
        RunFailed: it cannot be used, or holds a run that would be mixed up with this one.
    """
    if config.resume:
        return make_folder(Path(config.resume))
    folder = Path(config.output_dir) / (config.run_name or name)
    if (folder / checkpoint.CHECKPOINT).exists():
        raise RunFailed(f"run-name: {folder} holds a run; go on with it by --resume {folder}, or take another name")
    return make_folder(folder)


def make_folder(folder: Path) -> Path:
    """The folder, there and writable.

    Raises:
        RunFailed: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise RunFailed(f"output-dir: {folder} cannot be used ({error})") from error
    return folder


def _first_arrays(config: RunConfig, folder: Path) -> Arrays:
    arrays = arrays_of(build_detector(DetectorConfig(size_px=config.size_px), config.seed))
    if config.init:
        return checkpoint.load_model(Path(config.init), arrays)
    if config.pretrain_epochs:
        return pretrained(config, folder)
    return arrays


def _close(run: Run, status: str) -> None:
    out, tracker, wall_s = console.console, run.tracker, time.monotonic() - run.began_s
    out.print(f"{status.lower()} after {wall_s:.0f} s; everything is in {run.folder}")
    tracker.finish(status)
    if tracker.failures:
        out.print(f"tracking: {tracker.failures} writes failed, see the log; metrics.csv is complete")
    out.print(
        f"tracking: {tracker.uri} · {tracker.busy_s:.1f} CPU-s ({100 * tracker.busy_s / wall_s:.1f} % of the run)"
    )
