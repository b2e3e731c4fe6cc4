"""MLflow, in the background: what happens in a run is queued in batches, so that training hardly waits for it."""

import logging
import math
import os
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger("convoy")
BATCH = 900  # MLflow takes at most 1000 metrics in one request


class TrackingError(RuntimeError):
    """The tracking server or database cannot be used; the text names the URI and the remedy."""


def default_uri(output_dir: Path) -> str:
    """A sqlite file beside the runs."""
    return f"sqlite:///{(output_dir / 'mlflow.db').resolve()}"


def check_reachable(uri: str, timeout_s: float = 5.0) -> None:
    """Ask a tracking server whether it is there, before any work starts.

    Raises:
        TrackingError: no answer, or a scheme that is not known.
    """
    scheme = uri.split(":", 1)[0]
    if scheme in ("sqlite", "file", "postgresql", "mysql", "databricks"):
        return
    if scheme not in ("http", "https"):
        raise TrackingError(f"tracking-uri {uri!r}: use http(s)://, sqlite:/// or file:/, or leave it empty")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_s):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TrackingError(f"tracking-uri {uri!r}: no MLflow server answers there ({error})") from error


class Tracker:
    """One MLflow run. The store is opened in the background from the start, the run by `begin`.

    Args:
        uri: tracking URI; see `default_uri`.
        experiment: created if it does not exist.
        artifacts: where a new experiment in a local database keeps its files.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri, self.run_id = uri, ""
        self.busy_s, self.failures = 0.0, 0
        self._worker = ThreadPoolExecutor(1, "tracking")
        self._pending: list[Future] = []
        self._opened = self._worker.submit(self._open, experiment, artifacts)

    def begin(self, run_name: str, params: Mapping[str, Any], run_id: str = "") -> None:
        """Start a run, or go on with the one of `run_id`.

        Raises:
            TrackingError: the store cannot be opened or has no such run.
        """
        try:
            self.run_id = self._worker.submit(self._begin, run_name, dict(params), run_id).result()
        except Exception as error:
            raise TrackingError(f"tracking-uri {self.uri!r}: cannot open a run there: {error}") from error

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at an RSU round; NaN and infinity are left out, which some stores refuse."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        now_ms = int(time.time() * 1000)
        self._later(self._log_metrics, finite, now_ms, step)

    def file(self, path: Path, folder: str = "") -> None:
        """Attach a file."""
        self._later(lambda: self._client.log_artifact(self.run_id, str(path), folder or None))

    def model(self, module: Any, input_shape: tuple[int, ...]) -> None:
        """Log a torch module with one input and one output tensor in MLflow's PyTorch flavour, as a traced graph."""
        self._later(self._log_model, module, input_shape)

    def finish(self, status: str) -> None:
        """Write everything out and close the run with FINISHED, FAILED or KILLED. Never raises."""
        self._later(lambda: self._client.set_terminated(self.run_id, status))
        self._worker.shutdown(wait=True)
        self.failures += sum(future.exception() is not None for future in self._pending)
        for future in self._pending:
            if (error := future.exception()) is not None:
                logger.warning("tracking: %s: %s", type(error).__name__, error)

    def _later(self, call: Callable, *args: Any) -> None:
        self._pending.append(self._worker.submit(self._timed, call, *args))

    def _timed(self, call: Callable, *args: Any) -> None:
        began = time.thread_time()
        try:
            call(*args)
        finally:
            self.busy_s += time.thread_time() - began

    def _open(self, experiment: str, artifacts: Path) -> str:
        self._client = _mlflow_client(self.uri)
        if (found := self._client.get_experiment_by_name(experiment)) is not None:
            return found.experiment_id
        location = artifacts.resolve().as_uri() if self.uri.startswith("sqlite") else None
        return self._client.create_experiment(experiment, location)

    def _begin(self, run_name: str, params: dict[str, Any], run_id: str) -> str:
        from mlflow.entities import Param

        experiment_id = self._opened.result()
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run_id = self._client.create_run(experiment_id, run_name=run_name).info.run_id
        self._client.log_batch(run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()])
        return run_id

    def _log_metrics(self, values: Mapping[str, float], now_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        rows = [Metric(name, value, now_ms, step) for name, value in values.items()]
        for begin in range(0, len(rows), BATCH):
            self._client.log_batch(self.run_id, metrics=rows[begin : begin + BATCH])

    def _log_model(self, module: Any, input_shape: tuple[int, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            _save_flavour(module, input_shape, path)
            self._client.log_artifacts(self.run_id, str(path), "model")


def _save_flavour(module: Any, input_shape: tuple[int, ...], path: Path) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            module.eval(),
            path,
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            signature=ModelSignature(Schema([TensorSpec(np.dtype("float32"), input_shape)])),
            input_example=np.zeros(input_shape, np.float32),
            serialization_format="pt2",
        )


@dataclass(frozen=True)
class TrackedRun:
    """A run as it stands in a tracking store; metrics are (round, value) by name."""

    name: str
    run_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, list[tuple[int, float]]]


def tracked_runs(uri: str, experiment: str, wanted: list[str], metrics: list[str]) -> list[TrackedRun]:
    """Runs of an experiment, newest first, with the named metrics.

    Args:
        uri: tracking URI.
        experiment: its name.
        wanted: names or ids; empty for all.
        metrics: which histories to read.

    Raises:
        TrackingError: the store does not exist or answer, or it has no such experiment or run.
    """
    check_reachable(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise TrackingError(f"tracking-uri {uri}: no such file; run `make demo` first or pass --tracking-uri")
    client = _mlflow_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise TrackingError(f"tracking-uri {uri}: no experiment {experiment!r}")
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])
    known = {key for run in runs for key in (run.info.run_id, run.info.run_name)}
    if missing := [name for name in wanted if name not in known]:
        raise TrackingError(f"experiment {experiment!r} has no run {', '.join(missing)}")
    chosen = [run for run in runs if not wanted or run.info.run_id in wanted or run.info.run_name in wanted]
    return [_tracked(client, run, metrics) for run in chosen]


def _tracked(client: Any, run: Any, metrics: list[str]) -> TrackedRun:
    series = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in metrics
        if name in run.data.metrics
    }
    return TrackedRun(run.info.run_name, run.info.run_id, run.info.status, run.data.params, series)


def _mlflow_client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
