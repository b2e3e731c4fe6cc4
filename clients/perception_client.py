"""A vehicle that trains and judges the detector on its own frames. Flower sees it through `fl_app.client_app` only."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from clients.messages import Arrays, EvaluateReply, Hello, TrainReply, TrainRequest
from perception.datasets import Fleet, FleetRequest, Share, load_fleet, load_own_share, load_share
from perception.detector import Detector, DetectorConfig, build_detector
from perception.targets import Samples, make_samples
from perception.training import TrainConfig, evaluate, train_epochs

T = TypeVar("T")


@dataclass(frozen=True)
class PerceptionTask:
    """What is learned and how, the same for all vehicles of a run.

    Args:
        data: name of the data set.
        request: how it is divided.
        size_px: height and width of the network's input.
        batch_size, learning_rate, final_learning_rate, warmup_steps, proximal_mu: local training; the rate falls along
            a half cosine from the first to the last round.
        num_rounds: RSU rounds in all, for that cosine.
        seed: together with round and vehicle it decides shuffling and augmentation, so that any round can be repeated.
    """

    data: str
    request: FleetRequest
    size_px: tuple[int, int] = (128, 384)
    batch_size: int = 4
    learning_rate: float = 8e-3
    final_learning_rate: float = 4e-4
    warmup_steps: int = 4
    proximal_mu: float = 0.0
    num_rounds: int = 1
    seed: int = 0

    def learning_rate_at(self, round_number: int) -> float:
        """Rate of a round counted from 1."""
        done = min(1.0, (round_number - 1) / max(1, self.num_rounds - 1))
        top, end = self.learning_rate, self.final_learning_rate
        return end + (top - end) * 0.5 * (1 + math.cos(math.pi * done))


class Once:
    """Computes a value per key once, however many threads ask for it at the same time."""

    def __init__(self) -> None:
        self._locks: dict[object, threading.Lock] = {}
        self._values: dict[object, object] = {}
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of `key`, made by `make` if this is the first call for it."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._values:
                self._values[key] = make()
            return self._values[key]  # type: ignore[return-value]


_cache = Once()  # per process: vehicles that share a process share the files that they read


@dataclass(frozen=True)
class VehicleData:
    """Which data are one vehicle's.

    Args:
        index: which share of the fleet, and a part of what decides the vehicle's random numbers.
        path: folder of the vehicle's own frames, all of which are its; None for its share of the fleet.
        vehicle: its name; "" for the share's.
        region: where it drives; "" for what the data say.
    """

    index: int
    path: Path | None = None
    vehicle: str = ""
    region: str = ""


def fleet_of(task: PerceptionTask) -> Fleet:
    """The task's data, read once per process."""
    return _cache.get((task.data, task.request), lambda: load_fleet(task.data, task.request))


def share_of(task: PerceptionTask, data: VehicleData) -> Share:
    """Reads what one vehicle holds, once per process.

    Raises:
        DataError: the data are missing or unreadable, or there is no such share.
    """
    return _cache.get((task.data, task.request, data), lambda: _read_share(task, data))


def _read_share(task: PerceptionTask, data: VehicleData) -> Share:
    if data.path is not None:
        return load_own_share(task.data, data.path, data.vehicle, data.region, task.request.frames_per_vehicle)
    share = load_share(task.data, task.request, data.index)
    return replace(share, vehicle=data.vehicle or share.vehicle, region=data.region or share.region)


class PerceptionClient:
    """One vehicle.

    Args:
        task: what is learned.
        data: which data are its own.

    Raises:
        DataError: the data are missing or unreadable, or there is no such share.
    """

    def __init__(self, task: PerceptionTask, data: VehicleData) -> None:
        self.task, self.data = task, data
        self.share: Share = share_of(task, data)

    def hello(self) -> Hello:
        """Name, region and number of training frames."""
        return Hello(self.share.vehicle, self.share.region, len(self.share.train))

    def fit(self, request: TrainRequest) -> TrainReply:
        """Train the received model on the vehicle's frames. Reads "server-round" and "local-epochs" from the config."""
        task, samples = self.task, self._samples("train")
        round_number = int(request.config.get("server-round", 1))
        model, start = load_model(task, request.arrays)
        config = TrainConfig(
            epochs=int(request.config.get("local-epochs", 1)),
            batch_size=task.batch_size,
            lr=task.learning_rate_at(round_number),
            warmup_steps=task.warmup_steps,
            proximal_mu=task.proximal_mu,
        )
        generator = torch.Generator().manual_seed(hash((task.seed, round_number, self.data.index)) & 0x7FFFFFFF)
        report = train_epochs(model, samples, config, generator, start if task.proximal_mu else None)
        metrics = {f"loss-{name}": float(value) for name, value in report.losses.items()}
        metrics |= {"train-cpu-s": report.cpu_s, "learning-rate": config.lr}
        return TrainReply(arrays_of(model), len(samples), metrics)

    def judge(self, request: TrainRequest) -> EvaluateReply:
        """Measure the received model on the vehicle's test frames."""
        model, _ = load_model(self.task, request.arrays)
        samples = self._samples("test")
        return EvaluateReply(len(samples), flat_metrics(evaluate(model, samples)))

    def _samples(self, part: str) -> Samples:
        key = (self.task.data, self.task.request, self.task.size_px, self.data, part)
        return _cache.get(key, lambda: make_samples(getattr(self.share, part), self.task.size_px))


def load_model(task: PerceptionTask, arrays: Arrays) -> tuple[Detector, Mapping[str, torch.Tensor]]:
    """A detector with a copy of the received weights, and the weights themselves (read-only by agreement)."""
    state = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    model = build_detector(DetectorConfig(size_px=task.size_px), seed=0)
    model.load_state_dict(state)
    return model, state


def arrays_of(model: torch.nn.Module) -> Arrays:
    """The model's state as arrays that share its memory."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def flat_metrics(metrics: object) -> dict[str, float]:
    """Scalars of a metrics dataclass, by name; what was not measured is left out."""
    out: dict[str, float] = {}
    for name, value in vars(metrics).items():
        if isinstance(value, Mapping):
            out |= {f"{name.replace('_', '-')}-{key}": float(v) for key, v in value.items() if v is not None}
        elif value is not None:
            out[name.replace("_", "-")] = float(value)
    return out
