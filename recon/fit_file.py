"""A fit that was broken off, as a file: whoever goes on from it ends with the same bits."""

import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch

from recon.densify import DensifyState
from recon.fit import FitConfig, FitState
from recon.optimizer import exposure_optimizer, new_optimizer

VERSION: Final = 1
UNREADABLE: Final = (
    *(OSError, RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, EOFError),
    *(UnpicklingError, zipfile.BadZipFile, zlib.error),
)


def save_fit(path: Path, state: FitState, config: FitConfig, data: str) -> None:
    """Write the state; the file is there in full or not at all.

    Args:
        path: of the file.
        state: between two steps.
        config: of the fit.
        data: what it is fitted to, in words; must be the same for whoever goes on.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    content = {
        "version": VERSION,
        "config": asdict(config),
        "data": data,
        "step": state.step,
        "scale_m": state.scale_m,
        "start_count": state.start_count,
        "names": [group["name"] for group in state.optimizer.param_groups],
        "parameters": [group["params"][0].detach() for group in state.optimizer.param_groups],
        "optimizer": state.optimizer.state_dict(),
        "log_gains": state.exposures.param_groups[0]["params"][0].detach(),
        "exposures": state.exposures.state_dict(),
    }
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
        os.replace(part, path)
    except RuntimeError as error:  # how torch reports a full disk
        raise OSError(f"{path}: cannot be written ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def load_fit(path: Path, config: FitConfig, data: str) -> FitState:
    """Read what `save_fit` wrote.

    Raises:
        ValueError: the file cannot be read, or was written with other settings or for other data; the message names
            the first that differs.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no saved fit to go on with; start afresh without --resume")
    try:
        content = _read(path)
        restored = _restored(content, config)
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged or no saved fit ({type(error).__name__}); start without --resume") from None
    _check_same(path, content, config, data)
    return restored


def _read(path: Path) -> dict[str, Any]:
    """What the file holds, after a look at its checksums, which torch does not check."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
    content = torch.load(path, weights_only=True)
    if not isinstance(content, dict) or not {"version", "data", "config"} <= content.keys():
        raise KeyError("version")
    return content


def _check_same(path: Path, content: dict[str, Any], config: FitConfig, data: str) -> None:
    written = {"version": content["version"], "data": content["data"], **content["config"]}
    for name, value in {"version": VERSION, "data": data, **asdict(config)}.items():
        if written.get(name) != value:
            raise ValueError(
                f"{path}: was fitted with {name} {written.get(name)!r}, now it is {value!r}; give the same, or start "
                "afresh without --resume"
            )


def _restored(content: dict[str, Any], config: FitConfig) -> FitState:
    groups = [
        {"name": name, "params": [torch.nn.Parameter(values)]}
        for name, values in zip(content["names"], content["parameters"], strict=True)
    ]
    optimizer = new_optimizer(groups, config)
    optimizer.load_state_dict(content["optimizer"])
    exposures = exposure_optimizer(len(content["log_gains"]), config, content["log_gains"].device)
    exposures.param_groups[0]["params"][0].data.copy_(content["log_gains"])
    exposures.load_state_dict(content["exposures"])
    count = content["start_count"]
    draws = DensifyState.start(config.densify_config(count), config.seed)
    return FitState(optimizer, exposures, content["step"], content["scale_m"], count, draws)
