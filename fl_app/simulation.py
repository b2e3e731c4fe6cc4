"""`flower-simulation`: runs a Flower app on one machine, in this process or on Flower's Ray engine.

Upstream dropped the command after 1.26; its flags are kept and ours are added. Any app with a pyproject.toml runs.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_app import interrupts
from fl_app.command_settings import (
    UsageError,
    app_settings,
    check_workers,
    flatten,
    parse_pairs,
    read_backend_settings,
    read_resumed_config,
)

# What perception needs on a data set other than the app's own defaults; whatever the user says wins.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "town": {},
    "camvid": {"vehicles": 3, "cloud-rounds": 10, "local-epochs": 8, "batch-size": 4},
    "kitti": {
        "vehicles": 3,
        "cloud-rounds": 4,
        "local-epochs": 2,
        "batch-size": 4,
        "learning-rate": 1e-3,
        "final-learning-rate": 1e-4,
        "pretrain-epochs": 8,
    },
    "cityscapes": {},
    "bdd100k": {},
    "nuscenes": {},
    "argoverse2": {},
    "waymo": {},
}
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "perception": {},
    "reconstruction": {"task": "reconstruction", "vehicles": 12, "rsus": 4, "image-height": 128, "image-width": 192},
}
USAGE_ERROR, INTERRUPTED = 2, 130


class Engine(StrEnum):
    """Where vehicles run."""

    LOCAL = "local"
    RAY = "ray"


def quiet_environment() -> None:
    """One thread per worker, no calls home. Must run before torch and flwr are imported."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def simulate(
    app_dir: Path,
    run_config: dict[str, Any],
    num_supernodes: int,
    engine: Engine,
    backend_config: dict[str, Any],
    verbose: bool = False,
) -> None:
    """Run an app to its end; whatever its ServerApp raises comes out here.

    Args:
        app_dir: folder with pyproject.toml.
        run_config: overrides of the app's defaults.
        num_supernodes: vehicles.
        engine: where they run.
        backend_config: {"workers": n} for the local engine; Flower's backend config for Ray.
        verbose: show Flower's own log too.
    """
    from fl_app import engines

    flower_log = logging.getLogger("flwr")
    flower_log.setLevel(logging.DEBUG if verbose else logging.ERROR)
    flower_log.propagate = False

    settings = app_settings(app_dir)
    config = {**flatten(settings.get("config", {})), **run_config}
    sys.path.insert(0, str(app_dir.resolve()))
    components = settings["components"]
    server_app, client_app = engines.load(components["serverapp"]), engines.load(components["clientapp"])
    run = engines.run_local if engine is Engine.LOCAL else engines.run_ray
    run(server_app, client_app, num_supernodes, config, backend_config)


def command(
    app: Annotated[Path, typer.Option(help="Folder of the Flower app.")] = Path("."),
    num_supernodes: Annotated[int, typer.Option(help="Vehicles; 0 takes the run config's `vehicles`.")] = 0,
    run_config: Annotated[list[str], typer.Option(help="key=value pairs, or a TOML file; may be repeated.")] = [],  # noqa: B006
    engine: Annotated[
        Engine, typer.Option(help="local: threads of this process; ray: Flower's engine.")
    ] = Engine.LOCAL,
    backend: Annotated[str, typer.Option(help="Upstream's name for --engine.")] = "",
    backend_config: Annotated[str, typer.Option(help="JSON: {'workers': 2}, or Flower's Ray settings.")] = "{}",
    ray_address: Annotated[str, typer.Option(help="Address of a running Ray cluster; implies --engine ray.")] = "",
    data: Annotated[str, typer.Option(help="A data set (docs/data.md), with settings that suit it.")] = "",
    task: Annotated[str, typer.Option(help="perception or reconstruction, with settings that suit it.")] = "",
    resume: Annotated[str, typer.Option(help="Folder of a run to go on with.")] = "",
    add_region: Annotated[
        str, typer.Option(help="With --resume: RSUs whose regions a reconstruction gets as well, in a run of its own.")
    ] = "",
    verbose: Annotated[bool, typer.Option(help="Show Flower's own log.")] = False,
) -> None:
    """Run a Flower app with many vehicles on this machine."""
    _show_own_log()
    overrides = _overrides(run_config, data, task, resume, add_region)
    settings = read_backend_settings(backend_config, ray_address)
    if backend and backend not in list(Engine):
        raise UsageError(f"--backend {backend!r}: known are {', '.join(Engine)}")
    engine = Engine.RAY if ray_address else Engine(backend or engine)
    if engine is Engine.LOCAL:
        check_workers(settings)
    defaults = flatten(app_settings(app).get("config", {}))
    if num_supernodes and "vehicles" in defaults:
        overrides["vehicles"] = num_supernodes
    of_config = _vehicles({**defaults, **overrides})
    vehicles = of_config if "vehicles" in defaults else num_supernodes or of_config
    if vehicles is None:
        raise UsageError("--num-supernodes: say how many; this app's run config has no `vehicles`")
    if type(vehicles) is not int or vehicles < 1:
        raise UsageError(f"run config: vehicles = {vehicles!r}: must be a whole number, at least 1")
    simulate(app, overrides, vehicles, engine, settings, verbose)


def main() -> None:
    """Entry point: maps every expected failure to one message and an exit code."""
    quiet_environment()
    interrupts.install()
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(command)
    try:
        code = cli(standalone_mode=False)  # what typer makes of an interrupt, 130, comes back as a value
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = _explain(error)
    code = code if isinstance(code, int) else 0
    _leave(interrupts.exit_code(code) if code == INTERRUPTED else code)


def _explain(error: Exception) -> int:
    """Print what went wrong; a traceback only for what nobody foresaw. Returns the exit code."""
    import click

    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    from fl_app.expected import EXPECTED

    if isinstance(error, (UsageError, *EXPECTED)):
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, UsageError | ValueError) else 1
    logging.getLogger("convoy").exception("the run failed")
    return 1


def _leave(code: int) -> None:
    """End the process without waiting for vehicles that hang in their threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more, or there is no space
            stream.flush()
    os._exit(code)


def _show_own_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own = logging.getLogger("convoy")
    own.setLevel(logging.INFO)
    own.handlers, own.propagate = [handler], False


def _overrides(run_config: list[str], data: str, task: str, resume: str, add_region: str) -> dict[str, Any]:
    given = {key: value for text in run_config for key, value in parse_pairs(text).items()}
    for option, value, known in (("--data", data, DATA_DEFAULTS), ("--task", task, TASK_DEFAULTS)):
        if value and value not in known:
            raise UsageError(f"{option} {value!r}: known are {', '.join(known)}")
    if add_region:
        if not resume:
            raise UsageError("--add-region: say with --resume which reconstruction is to get it")
        before = read_resumed_config(Path(resume), data, task)
        if before.get("task") != "reconstruction":
            raise UsageError(f"--add-region: {resume} is no reconstruction; name the folder of one with --resume")
        return {**before, "run-name": "", **given, "resume": "", "add-to": resume, "regions": add_region}
    if resume:
        return {**read_resumed_config(Path(resume), data, task), **given, "resume": resume}
    chosen = TASK_DEFAULTS[task] if task else {}
    if data:
        suited = {} if given.get("task", task) == "reconstruction" else DATA_DEFAULTS[data]
        chosen = {**chosen, **suited, "data": data}
    return {**chosen, **given}


def _vehicles(config: Mapping[str, Any]) -> Any:
    """How many take part: of a reconstruction of some regions, those of these alone; of any, those who are there."""
    count, rsus = config.get("vehicles"), config.get("rsus")
    some = config.get("regions") or config.get("without")
    if config.get("task") != "reconstruction" or not some or type(count) is not int:
        return count
    from fl_app.run_config import parse

    return parse({**config, "vehicles": count, "rsus": rsus}).fusion.vehicles


if __name__ == "__main__":
    main()
