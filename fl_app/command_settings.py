"""What the command line of `flower-simulation` says: run config, app, earlier run, engine."""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAIR = re.compile(r"""([\w.-]+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"']+)""")
MOST_WORKERS = 1024
FROM_CHECKPOINT = "put the run's settings there again, as another run's config.json has them, or start the run afresh"


class UsageError(ValueError):
    """The command line or the app folder is wrong."""


def parse_pairs(text: str) -> dict[str, Any]:
    """Run config from `key=value key="text"` or from the path of a TOML file.

    Raises:
        UsageError: text that is neither.
    """
    if text.endswith(".toml"):
        try:
            return flatten(tomllib.loads(Path(text).read_text()))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"--run-config {text}: {error}") from error
    rest = PAIR.sub("", text).replace(",", " ").strip()
    if rest:
        raise UsageError(f"--run-config: cannot read {rest!r}; write key=value pairs, text in quotes")
    try:
        tables = [tomllib.loads(f"{key} = {value}") for key, value in PAIR.findall(text)]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f'--run-config {text!r}: {error} (text needs quotes: data="town")') from error
    return {key: value for table in tables for key, value in flatten(table).items()}


def app_settings(app_dir: Path) -> dict[str, Any]:
    """`[tool.flwr.app]` of an app folder.

    Raises:
        UsageError: no pyproject.toml, or one without a Flower app.
    """
    path = app_dir / "pyproject.toml"
    try:
        settings = tomllib.loads(path.read_text())["tool"]["flwr"]["app"]
        settings["components"]["serverapp"], settings["components"]["clientapp"]
    except OSError as error:
        raise UsageError(f"--app {app_dir}: no Flower app there ({error.strerror}: {path})") from error
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: [tool.flwr.app.components] needs serverapp and clientapp ({error})") from error
    return settings


def read_resumed_config(folder: Path, data: str, task: str) -> dict[str, Any]:
    """Reads the run config of an earlier run, whose data and task nobody may ask to change; raises UsageError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"--resume {folder}: no run to go on with ({path}: {error.strerror})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--resume {folder}: {path} is damaged ({error}); {FROM_CHECKPOINT}") from error
    if not isinstance(config, dict):
        what = type(config).__name__
        raise UsageError(f"--resume {folder}: {path} is damaged (a {what}, no object); {FROM_CHECKPOINT}")
    for option, value, there in (("--data", data, config.get("data")), ("--task", task, config.get("task"))):
        if value and value != there:
            raise UsageError(f"{option} {value}: {folder} was run with {there}; leave it out, or start another run")
    return config


def read_backend_settings(text: str, ray_address: str) -> dict[str, Any]:
    """Reads an engine's settings from JSON, with the address of a cluster; raises UsageError."""
    try:
        settings = json.loads(text.replace("'", '"'))
        if not isinstance(settings, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--backend-config {text!r} is not a JSON object: {error}") from error
    _check_resources(settings)
    if ray_address:
        settings.setdefault("init_args", {})["address"] = ray_address
    return settings


def check_workers(settings: Mapping[str, Any]) -> None:
    """Checks how many vehicles the local engine lets work at a time; raises UsageError."""
    workers = settings.get("workers", 1)
    if type(workers) is not int or not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--backend-config: workers = {workers!r}: must be a whole number from 1 to {MOST_WORKERS}")


def _check_resources(settings: Mapping[str, Any]) -> None:
    for part in ("client_resources", "init_args"):
        if not isinstance(settings.get(part, {}), dict):
            raise UsageError(f"--backend-config: {part} = {settings[part]!r}: must be an object")
        for key in ("num_cpus", "num_gpus"):
            value = settings.get(part, {}).get(key, 1)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise UsageError(f"--backend-config: {part}.{key} = {value!r}: must be a number, 0 or more")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested tables as dotted keys, as Flower does."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
