"""Failures that a user can mend: they end a run with their message and no traceback."""

from fl_app.checkpoint import CheckpointError
from fl_app.run_config import ConfigError
from fl_app.run_folder import RunFailed
from fl_app.tracking import TrackingError
from perception.datasets import DataError
from strategies.membership import NotEnoughVehicles

EXPECTED = (CheckpointError, ConfigError, DataError, NotEnoughVehicles, RunFailed, TrackingError)
