"""MLflow, in the background: what happens in a run is queued in batches, so that training hardly waits for it."""

import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from fl_app.background_writer import BackgroundWriter
from fl_app.metric_names import select_metrics
from fl_app.tracking_store import ADDRESSES, TrackingError, check_reachable, default_uri, open_client

__all__ = ["Tracker", "TrackingError", "check_reachable", "default_uri"]

logger = logging.getLogger("convoy")
BATCH: Final = 900  # MLflow takes at most 1000 metrics in one request
PARAMS, LONGEST_PARAM = 100, 6000  # that MLflow takes in one request, and of each
BEGIN_S, END_S = 120.0, 20.0  # for a store to open a run, and to take what is left at its end
RESUMED: Final = "resumed/"  # prefix of tags: settings that a resumed run changed, for MLflow keeps the first
REFUSED: Final = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
BUSY, BUSY_TRIES = "TEMPORARILY_UNAVAILABLE", 5


class Tracker:
    """One MLflow run. The store is opened in the background from the start, the run by `begin`.

    Args:
        uri: tracking URI; see `default_uri`.
        experiment: created if it does not exist.
        artifacts: where a new experiment in a local database keeps its files.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri, self.run_id = uri, ""
        self.left_out, self._refused = 0, 0
        self._writer = BackgroundWriter("tracking")
        self._client: Any = None
        self._experiment_id: str | None = None
        self._open_error: Exception | None = None
        self._writer.submit(partial(self._open, experiment, artifacts))

    @property
    def failures(self) -> int:
        """How many writes were dropped: the store refused them, or did not answer."""
        return self._writer.dropped + self._refused

    @property
    def busy_s(self) -> float:
        """CPU time of the background thread."""
        return self._writer.busy_s

    def begin(self, run_name: str, params: Mapping[str, Any], run_id: str = "") -> bool:
        """Start a run, or go on with the one of `run_id`; True if that one is there.

        Raises:
            TrackingError: the store cannot be opened.
        """
        try:
            begun = self._writer.ask(partial(self._begin, run_name, dict(params), run_id), BEGIN_S)
        except TimeoutError:
            raise TrackingError(f"tracking-uri {self.uri!r}: no answer in {BEGIN_S:.0f} s; {ADDRESSES}") from None
        except Exception as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrackingError(f"tracking-uri {self.uri!r}: cannot open a run there: {what}") from error
        self.run_id = begun
        if run_id and begun != run_id:
            logger.warning("tracking: %s has no run %s; going on in a new one, %s", self.uri, run_id, begun)
        return begun == run_id

    def metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Log numbers at an RSU round; NaN and infinity are left out, which some stores refuse."""
        chosen, left_out = select_metrics(values)
        if left_out and not self.left_out:
            logger.warning("tracking: %d metrics of round %d are left out; metrics.csv has all", left_out, step)
        self.left_out += left_out
        self._writer.submit(partial(self._log_metrics, chosen, int(time.time() * 1000), step), max(1, len(chosen)))

    def file(self, path: Path, folder: str = "") -> None:
        """Attach a file."""
        self._writer.submit(lambda: self._client.log_artifact(self.run_id, str(path), folder or None))

    def model(self, module: Any, input_shape: tuple[int, ...]) -> None:
        """Log a torch module with one input and one output tensor in MLflow's PyTorch flavour, as a traced graph."""
        self._writer.submit(partial(self._log_model, module, input_shape))

    def finish(self, status: str, patience_s: float = END_S) -> None:
        """Write everything out and close the run with FINISHED, FAILED or KILLED; in bounded time, and never raises."""
        self._writer.close(partial(self._terminate, status), patience_s)
        if self.failures:
            logger.warning("tracking: %d writes to %s were dropped", self.failures, self.uri)

    def _terminate(self, status: str) -> None:
        if self.run_id:
            self._client.set_terminated(self.run_id, status)

    def _open(self, experiment: str, artifacts: Path) -> None:
        try:
            self._client = open_client(self.uri)
            self._experiment_id = self._find_experiment(experiment, artifacts)
        except Exception as error:
            self._open_error = error  # `begin` raises it

    def _find_experiment(self, experiment: str, artifacts: Path) -> str:
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(experiment)) is not None:
            return found.experiment_id
        location = artifacts.resolve().as_uri() if self.uri.startswith("sqlite") else None
        try:
            return self._client.create_experiment(experiment, location)
        except MlflowException:
            if (found := self._client.get_experiment_by_name(experiment)) is None:
                raise
            return found.experiment_id  # another process was faster

    def _begin(self, run_name: str, params: dict[str, Any], run_id: str) -> str:
        from mlflow.entities import Param

        if self._open_error is not None:
            raise self._open_error
        if run_id and (run := self._find_run(run_id)) is not None:
            self._client.update_run(run_id, status="RUNNING")
            for key, value in params.items():
                if run.data.tags.get(f"{RESUMED}{key}", run.data.params.get(key)) != _param_text(value):
                    self._client.set_tag(run_id, f"{RESUMED}{key}", _param_text(value))
            return run_id
        run_id = self._client.create_run(self._experiment_id, run_name=run_name).info.run_id
        rows = [Param(key, _param_text(value)) for key, value in params.items()]
        for begin in range(0, len(rows), PARAMS):
            self._client.log_batch(run_id, params=rows[begin : begin + PARAMS])
        return run_id

    def _find_run(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", *REFUSED):
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _log_metrics(self, values: Mapping[str, float], now_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        rows = [Metric(name, value, now_ms, step) for name, value in values.items()]
        for begin in range(0, len(rows), BATCH):
            self._log_rows(rows[begin : begin + BATCH])

    def _log_rows(self, rows: list[Any]) -> None:
        """Logs a batch; where the store refuses one for what is in it, its halves, so that a bad row costs itself."""
        from mlflow.exceptions import MlflowException

        for attempt in range(1, BUSY_TRIES + 1):
            began_s = time.monotonic()
            try:
                self._client.log_batch(self.run_id, metrics=rows)
                return
            except MlflowException as error:
                code, at_once = error.error_code, time.monotonic() - began_s < 1
                if code == BUSY and at_once and attempt < BUSY_TRIES:
                    time.sleep(0.1 * attempt)  # another process was at the database just then
                    continue
                if code not in REFUSED:
                    raise
            break
        if len(rows) == 1:
            self._refused += 1
            return
        self._log_rows(rows[: len(rows) // 2])
        self._log_rows(rows[len(rows) // 2 :])

    def _log_model(self, module: Any, input_shape: tuple[int, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            _save_flavour(module, input_shape, path)
            self._client.log_artifacts(self.run_id, str(path), "model")


def _param_text(value: object) -> str:
    """Returns a setting as MLflow stores it; one that is too long ends in what tells it from others."""
    import hashlib

    text = str(value)
    if len(text) <= LONGEST_PARAM:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{text[: LONGEST_PARAM - 20]}...{digest}"


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
