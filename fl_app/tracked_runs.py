"""Runs as they stand in a tracking store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_app.tracking import RESUMED
from fl_app.tracking_store import TrackingError, check_reachable, open_client, sqlite_file


@dataclass(frozen=True)
class TrackedRun:
    """A run as it stands in a tracking store; metrics are (round, value) by name, one value a round."""

    name: str
    run_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, list[tuple[int, float]]]


def tracked_runs(uri: str, experiment: str, wanted: list[str], metrics: list[str]) -> list[TrackedRun]:
    """Returns runs of an experiment, newest first, with the named metrics.

    Args:
        uri: tracking URI.
        experiment: its name.
        wanted: names or ids; empty for all.
        metrics: which histories to read.

    Raises:
        TrackingError: the store does not exist or answer, or it has no such experiment or run.
    """
    check_reachable(uri)
    path = sqlite_file(uri)
    if path is not None and not path.exists():
        raise TrackingError(f"tracking-uri {uri}: no such file; run `make demo` first or pass --tracking-uri")
    try:
        return _read_runs(open_client(uri), uri, experiment, wanted, metrics)
    except TrackingError:
        raise
    except Exception as error:  # of MLflow, sqlalchemy or a connection: all mean that the store cannot be read
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrackingError(f"tracking-uri {uri}: cannot be read: {what}") from error


def _read_runs(client: Any, uri: str, experiment: str, wanted: list[str], metrics: list[str]) -> list[TrackedRun]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise TrackingError(f"tracking-uri {uri}: no experiment {experiment!r}")
    runs = _all_runs(client, found.experiment_id)
    known = {key for run in runs for key in (run.info.run_id, run.info.run_name)}
    if missing := [name for name in wanted if name not in known]:
        raise TrackingError(f"experiment {experiment!r} has no run {', '.join(missing)}")
    chosen = [run for run in runs if not wanted or run.info.run_id in wanted or run.info.run_name in wanted]
    return [_tracked(client, run, metrics) for run in chosen]


def _all_runs(client: Any, experiment_id: str) -> list[Any]:
    runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], page_token=token)
        runs += page
        if not (token := page.token):
            return runs


def _tracked(client: Any, run: Any, metrics: list[str]) -> TrackedRun:
    series = {
        name: _last_of_each_round(client.get_metric_history(run.info.run_id, name))
        for name in metrics
        if name in run.data.metrics
    }
    changed = {key.removeprefix(RESUMED): value for key, value in run.data.tags.items() if key.startswith(RESUMED)}
    return TrackedRun(run.info.run_name, run.info.run_id, run.info.status, {**run.data.params, **changed}, series)


def _last_of_each_round(points: Any) -> list[tuple[int, float]]:
    """(round, value): a resumed run may do a round again, and what it logged last counts."""
    by_round = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
    return sorted(by_round.items())
