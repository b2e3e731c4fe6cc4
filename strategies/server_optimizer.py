"""What the cloud makes of the merged model: pure steps on arrays, with the state they need between rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from strategies.arithmetic import Arrays, wide_dtype


@dataclass(frozen=True)
class ServerOptimizerConfig:
    """Settings of the server step.

    Args:
        name: a key of `SERVER_OPTIMIZERS`.
        learning_rate: server step size eta.
        momentum: beta of FedAvgM, beta_1 of FedAdam.
        beta_2: decay of FedAdam's second moment.
        tau: FedAdam's degree of adaptivity.

    Raises:
        ValueError: unknown name or a value outside its range.
    """

    name: str = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in SERVER_OPTIMIZERS:
            raise ValueError(f"unknown server optimizer {self.name!r}; known: {', '.join(SERVER_OPTIMIZERS)}")
        if not (self.learning_rate > 0 and self.tau > 0):
            raise ValueError(f"learning_rate and tau must be positive, got {self}")
        if not (0 <= self.momentum < 1 and 0 <= self.beta_2 < 1):
            raise ValueError(f"momentum and beta_2 must lie in [0, 1), got {self}")


def fedavg(config: ServerOptimizerConfig, state: Arrays, start: Arrays, merged: Arrays) -> tuple[Arrays, Arrays]:
    """The merged model itself at learning rate 1 (McMahan et al. 2017), else a step of that size towards it."""
    if config.learning_rate == 1.0:
        return merged, state
    return _stepped(start, merged, lambda _, delta: config.learning_rate * delta), state


def fedavgm(config: ServerOptimizerConfig, state: Arrays, start: Arrays, merged: Arrays) -> tuple[Arrays, Arrays]:
    """Server momentum (Hsu et al. 2019, section 4.3): v <- beta v + delta, w <- w + eta v, delta = merged - start."""
    velocity = {
        name: np.asarray(config.momentum * state.get(name, np.float32(0)) + _delta(start, merged, name))
        for name in _trainable(start)
    }
    return _stepped(start, merged, lambda name, _: config.learning_rate * velocity[name]), velocity


def fedadam(config: ServerOptimizerConfig, state: Arrays, start: Arrays, merged: Arrays) -> tuple[Arrays, Arrays]:
    """FedAdam (Reddi et al. 2021, algorithm 2): m, v of delta; w <- w + eta m / (sqrt(v) + tau). No bias correction."""
    moments: Arrays = {}
    for name in _trainable(start):
        delta = _delta(start, merged, name)
        m, v = state.get(f"m/{name}", np.float32(0)), state.get(f"v/{name}", np.float32(config.tau**2))
        moments[f"m/{name}"] = np.asarray(config.momentum * m + (1 - config.momentum) * delta)
        moments[f"v/{name}"] = np.asarray(config.beta_2 * v + (1 - config.beta_2) * delta**2)

    def step(name: str, _: ndarray) -> ndarray:
        return np.asarray(config.learning_rate * moments[f"m/{name}"] / (np.sqrt(moments[f"v/{name}"]) + config.tau))

    return _stepped(start, merged, step), moments


SERVER_OPTIMIZERS = {"fedavg": fedavg, "fedavgm": fedavgm, "fedadam": fedadam}


def server_step(
    config: ServerOptimizerConfig, state: Mapping[str, ndarray], start: Arrays, merged: Arrays
) -> tuple[Arrays, Arrays]:
    """New global model and new optimizer state, from the old model `start` and the `merged` one of this round.

    Integer tensors are taken from the merged model as they are.
    """
    return SERVER_OPTIMIZERS[config.name](config, dict(state), start, merged)


def _trainable(arrays: Mapping[str, ndarray]) -> list[str]:
    return [name for name, values in arrays.items() if np.issubdtype(values.dtype, np.inexact)]


def _delta(start: Arrays, merged: Arrays, name: str) -> ndarray:
    """merged - start of one tensor, in float32 at least."""
    dtype = wide_dtype(start[name].dtype)
    return np.asarray(np.subtract(merged[name], start[name], dtype=dtype))


def _stepped(start: Arrays, merged: Arrays, step: Callable[[str, ndarray], ndarray]) -> Arrays:
    out = dict(merged)
    for name in _trainable(start):
        moved = start[name] + step(name, _delta(start, merged, name))
        out[name] = np.asarray(moved, start[name].dtype)
    return out
