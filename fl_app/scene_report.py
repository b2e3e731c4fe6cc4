"""The page that a reconstruction leaves behind."""

from pathlib import Path

from fl_app.history import History
from fl_app.run_config import RunConfig
from fl_app.survey import Survey
from recon.partition import save_picture
from strategies.gaussian_state import FusionState


def write_report(folder: Path, survey: Survey, state: FusionState, history: History, config: RunConfig) -> list[Path]:
    """Write it; returns its files."""
    save_picture(folder / "partition.png", survey.problem, survey.partitions)
    return [folder / "partition.png"]
