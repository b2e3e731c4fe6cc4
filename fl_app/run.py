"""One federated run from config to table: opens what it needs, lets the strategy work, and leaves everything behind."""

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
from clients.perception_client import PerceptionTask, arrays_of, flat_metrics, load_model
from fl_app import checkpoint, console, pictures
from fl_app.client_app import task_of
from fl_app.export import StackedMaps
from fl_app.history import History, evaluate_row, round_row
from fl_app.pretrain import pretrained
from fl_app.resume import check_unchanged
from fl_app.run_config import RunConfig
from fl_app.run_end import closing
from fl_app.run_folder import RunFailed, RunFolder, claim_folder, make_folder
from fl_app.run_start import begin
from fl_app.server_data import ServerData, load_server_data, warn_of_other_division
from fl_app.streaming_grid import stream_replies
from fl_app.tracking import Tracker, check_reachable, default_uri
from perception.detector import DetectorConfig, build_detector
from perception.training import TrainConfig, evaluate, measure_loss, train_epochs
from strategies.hierarchical import Hierarchical
from strategies.report import EvaluateReport, RoundReport
from strategies.state import RunState

logger = logging.getLogger("convoy")
METRICS = "metrics.csv"


@dataclass
class Run:
    """A run under way. Made by `open_run`."""

    config: RunConfig
    folder: Path
    task: PerceptionTask
    data: ServerData
    state: RunState
    history: History
    tracker: Tracker
    began_s: float
    claim: RunFolder | None = None

    def on_round(self, report: RoundReport) -> None:
        """Log a round and, after a cloud round, leave a checkpoint: what is printed is saved."""
        self._log(report.round, round_row(report))
        if report.cloud_moved:
            self._save_checkpoint()
        console.say(console.round_line(report, self.config.num_rounds))

    def on_evaluate(self, report: EvaluateReport) -> None:
        """Log what the vehicles measured, and save it: a resume would not know it otherwise."""
        self._log(report.round, evaluate_row(report))
        self._save_history()

    def judge(self, _: int, record: ArrayRecord) -> MetricRecord | None:
        """Measure the global model on held-out frames, after cloud rounds."""
        if self.data.holdout is None or self.state.round % self.config.hierarchical.rsu_rounds:
            return None
        model, _start = load_model(self.task, from_record(record))
        measured = evaluate(model, self.data.holdout, workers=os.cpu_count() or 1)
        metrics = {f"cloud/{name}": value for name, value in flat_metrics(measured).items()}
        self._log(self.state.round, {"cloud/round": self.state.round // self.config.hierarchical.rsu_rounds, **metrics})
        self._save_history()
        return MetricRecord(dict(metrics))

    def evaluate_missing(self, strategy: Hierarchical, grid: Grid) -> None:
        """Evaluate the last cloud round where the run was broken off before that: at the vehicles, and here."""
        row = self.history.rows.get(self.state.round, {})
        if self.state.round and not any(name.startswith("vehicles/") for name in row):
            strategy.evaluate_again(grid, self.config.reply_timeout_s)
        if self.state.round and "cloud/frames" not in row:
            self.judge(0, to_record(self.state.arrays))

    def train_root(self, arrays: Arrays, round_number: int) -> Arrays:
        """For rule "fltrust": one epoch on the few labelled frames that the tier holds itself."""
        assert self.data.root is not None  # the run config asked for it
        model, _ = load_model(self.task, arrays)
        generator = torch.Generator().manual_seed(self.config.seed + round_number)
        rate = self.task.learning_rate_at(round_number)
        train_epochs(model, self.data.root, TrainConfig(epochs=self.config.local_epochs, lr=rate), generator)
        return arrays_of(model)

    def measure_root_loss(self, arrays: Arrays) -> float:
        """For rule "validated-mean": the loss on the few labelled frames that the tier holds itself."""
        assert self.data.root is not None  # the run config asked for it
        return measure_loss(load_model(self.task, arrays)[0], self.data.root)

    def finish(self, rsu_of: dict[str, str]) -> None:
        """Leave model, pictures and table behind; raise RunFailed when no update ever counted."""
        self.history.write(self.folder / METRICS)
        path = checkpoint.save_model(self.folder, self.state.arrays)
        model, _ = load_model(self.task, self.state.arrays)
        if self.data.holdout is not None:
            frames = self.data.fleet.holdout
            self.tracker.file(pictures.draw_detections(model, frames, self.folder / "detections.png"), "pictures")
        self.tracker.file(pictures.draw_curves(self.history, self.folder / "curves.png"), "pictures")
        self.tracker.file(path, "weights")
        self.tracker.file(self.folder / METRICS)
        self.tracker.model(StackedMaps(model), (1, 3, *self.task.size_px))
        self._print_summary(rsu_of)
        if failure := describe_failure(self.config, self.state):
            raise RunFailed(failure)

    def _print_summary(self, rsu_of: dict[str, str]) -> None:
        out = console.console
        out.print(console.cloud_table(self.history), console.vehicle_table(self.history, rsu_of))
        if self.state.losses:
            out.print(console.losses_table(self.state.losses))
        for note in self.data.fleet.notes:
            console.say(f"note: {note}")
        console.say(f"data: {self.data.fleet.name} ({self.data.fleet.licence})")

    def _log(self, round_number: int, values: dict[str, float]) -> None:
        self.history.add(round_number, values)
        self.tracker.metrics(round_number, values)

    def _save_checkpoint(self) -> None:
        saved = checkpoint.Checkpoint(self.state, self.config.as_flower(), self.tracker.run_id)
        try:
            checkpoint.save_checkpoint(self.folder, saved)
        except OSError as error:
            logger.error(
                "round %d: no checkpoint (%s); the one before is kept, the run goes on", self.state.round, error
            )
            self._log(self.state.round, {"checkpoint/failed": 1.0})
        self._save_history()

    def _save_history(self) -> None:
        """Write metrics.csv; one that cannot be written now is with the next round."""
        try:
            self.history.write(self.folder / METRICS)
        except OSError as error:
            logger.error("round %d: metrics.csv is not written (%s)", self.state.round, error)


def execute(config: RunConfig, grid: Grid) -> Path:
    """Run the whole config on a grid and return the run's folder.

    Raises:
        ConfigError, DataError, CheckpointError, TrackingError, NotEnoughVehicles, RunFailed: one clear message each.
    """
    run = open_run(config)

    def on_round(report: RoundReport) -> None:
        if report.round == 1:
            warn_of_other_division(run.data.fleet, strategy.topology.members)
        run.on_round(report)

    grid = stream_replies(grid)
    strategy = Hierarchical(
        config.hierarchical,
        run.state,
        on_round=on_round,
        on_evaluate=run.on_evaluate,
        train_root=run.train_root,
        root_loss=run.measure_root_loss if run.data.root is not None else None,
    )
    with closing(run):
        if config.resume:
            run.evaluate_missing(strategy, grid)
        rounds_left = config.num_rounds - run.state.round
        if rounds_left > 0:
            strategy.start(
                grid,
                to_record(run.state.arrays),
                num_rounds=rounds_left,
                timeout=config.reply_timeout_s,
                evaluate_fn=run.judge,
            )
        run.finish(dict(strategy.topology.rsu_of))
    return run.folder


def open_run(config: RunConfig) -> Run:
    """Check and open everything a run needs before any work starts; whatever is wrong leaves no run behind."""
    saved = _saved(config) if config.resume else None
    output_dir = Path(config.output_dir)
    uri = config.tracking_uri or default_uri(output_dir)
    check_reachable(uri)
    make_folder(output_dir)
    began_s = time.monotonic()
    tracker = Tracker(uri, config.experiment, output_dir / "artifacts")
    task = task_of(config)
    data = load_server_data(config, task)
    name = f"{config.data}-{config.strategy}-{datetime.now():%m%d-%H%M%S}"
    with claim_folder(output_dir, config.run_name, name, config.resume).opening() as claim:
        folder = claim.path
        claim.write_config(config.as_flower())
        state = saved.state if saved else RunState(_first_arrays(config, folder))
        history = History.read(folder / METRICS, state.round) if saved else History()
        begin(tracker, folder, config, saved.tracking_run_id if saved else "", history)
    return Run(config, folder, task, data, state, history, tracker, began_s, claim)


def _saved(config: RunConfig) -> checkpoint.Checkpoint:
    """The checkpoint to go on with, which is one of these settings.

    Raises:
        CheckpointError, DataError: it is not.
    """
    folder = Path(config.resume)
    saved = checkpoint.load_checkpoint(folder)
    check_unchanged("resume", config.resume, saved.config, config)
    checkpoint.check_model(folder, saved.state.arrays, _untrained(config))
    return saved


def _untrained(config: RunConfig) -> Arrays:
    return arrays_of(build_detector(DetectorConfig(size_px=config.size_px), config.seed))


def describe_failure(config: RunConfig, state: RunState) -> str:
    """Returns why a run that came to its end did not do its job, or "" if it did."""
    cloud_rounds = state.round // config.hierarchical.rsu_rounds
    see = "see the table of updates that did not count"
    if state.accepted == 0:
        return f"not one update was accepted: {see}"
    if state.last_cloud_moved and 2 * state.idle_cloud_rounds <= cloud_rounds:
        return ""
    rate = config.hierarchical.server.learning_rate
    remedy = f"; or lower server-learning-rate (now {rate:g})" if config.strategy in ("fedavgm", "fedadam") else ""
    last = "" if state.last_cloud_moved else ", the last one among them"
    idle = f"{state.idle_cloud_rounds} of {cloud_rounds} cloud rounds did not change the model{last}"
    return f"{idle}: {see}{remedy}"


def _first_arrays(config: RunConfig, folder: Path) -> Arrays:
    arrays = _untrained(config)
    if config.init:
        return checkpoint.load_model(Path(config.init), arrays)
    if config.pretrain_epochs:
        return pretrained(config, folder)
    return arrays
