"""Opens the tracked run of a run that is new, or gone on with."""

from pathlib import Path

from fl_app.history import History
from fl_app.run_config import RunConfig
from fl_app.tracking import Tracker


def begin(tracker: Tracker, folder: Path, config: RunConfig, earlier_id: str, history: History) -> None:
    """Goes on with the tracked run of an earlier id; where that is gone, a new one gets what metrics.csv holds.

    Raises:
        TrackingError: the store cannot be used.
    """
    if not tracker.begin(folder.name, config.as_flower(), earlier_id):
        for number, row in sorted(history.rows.items()):
            tracker.metrics(number, row)
