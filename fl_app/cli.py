"""The `convoy` command: looking at data, streets in 3D, who fuses with whom, comparing runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fl_app import interrupts
from fl_app.simulation import INTERRUPTED, quiet_environment

quiet_environment()

from fl_app.cli_data import data_app  # noqa: E402  torch must see the environment
from fl_app.cli_offload import offload_app  # noqa: E402
from fl_app.cli_recon import recon_app  # noqa: E402

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(recon_app, name="recon")
app.add_typer(offload_app, name="offload")


@app.command()
def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Names or ids of runs; none for all of the experiment.")
    ] = None,
    tracking_uri: Annotated[str, typer.Option(help="Where the runs were tracked.")] = "sqlite:///runs/mlflow.db",
    experiment: Annotated[str, typer.Option(help="MLflow experiment.")] = "convoy",
    out: Annotated[Path, typer.Option(help="Picture: accuracy against rounds, bytes and time.")] = Path("compare.png"),
) -> None:
    """Print a table of runs and draw their accuracy against rounds, bytes and time."""
    from fl_app.compare import compare_runs
    from fl_app.tracking import TrackingError

    try:
        compare_runs(tracking_uri, experiment, runs or [], out)
    except (TrackingError, OSError, ValueError) as error:  # the last two: the picture cannot be written
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def main() -> None:
    """Entry point; SIGTERM ends a command as Ctrl-C does, with a code of its own."""
    interrupts.install()
    try:
        app()
    except SystemExit as end:
        sys.exit(interrupts.exit_code(INTERRUPTED) if end.code == INTERRUPTED else end.code)
