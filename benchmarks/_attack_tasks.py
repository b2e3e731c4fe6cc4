"""The tasks of `attacks.py`: a small network on patches of the town, and the detector on the town itself."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from _attack_federation import VEHICLES, Task
from _hierarchy_task import CLASSES, load_patches
from numpy import ndarray

from clients.messages import Arrays

TRAIN_PATCHES, TEST_PATCHES, ROOT_PATCHES = 3300, 2200, 110
HIDDEN, RATE, BATCH, EPOCHS = 48, 0.1, 32, 2


# The toy: two layers on patches of 8 x 8 cells, in numpy.


def toy_task(folder: Path, seed: int, rounds: int, concentration: float) -> Task:
    """Ten vehicles whose shares of the eleven classes differ."""
    train, test = load_patches(folder, TRAIN_PATCHES, TEST_PATCHES)
    inputs, tests = _standardised(_cells(train.images), _cells(test.images))
    rng = np.random.default_rng([seed, 11])
    order = rng.permutation(len(test.labels))
    root, judged = order[:ROOT_PATCHES], order[ROOT_PATCHES:]
    shares = split_by_class(train.labels, concentration, rng)

    def fit(arrays: Arrays, vehicle: int, flipped: bool, round_number: int) -> Arrays:
        labels = train.labels[shares[vehicle]]
        labels = CLASSES - 1 - labels if flipped else labels
        return _descend(arrays, inputs[shares[vehicle]], labels, [seed, round_number, vehicle])

    return Task(
        start=_initial(inputs.shape[1], seed),
        fit=fit,
        sizes=tuple(len(share) for share in shares),
        loss=lambda arrays: _cross_entropy(arrays, tests[root], test.labels[root]),
        score=lambda arrays: {"accuracy": 100 * _accuracy(arrays, tests[judged], test.labels[judged])},
        rounds=rounds,
    )


def split_by_class(labels: ndarray, concentration: float, rng: np.random.Generator) -> list[ndarray]:
    """Indices of each vehicle: every class is dealt out by a Dirichlet draw of its own."""
    parts: list[list[ndarray]] = [[] for _ in range(VEHICLES)]
    for label in np.unique(labels):
        index = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(VEHICLES, concentration)) * len(index)).astype(int)[:-1]
        for part, dealt in zip(parts, np.split(index, ends), strict=True):
            part.append(dealt)
    return [np.concatenate(part) for part in parts]


def _cells(images: ndarray) -> ndarray:
    halves = images.astype(np.float32).reshape(len(images), images.shape[1], 8, 2, 8, 2) / 255 - 0.5
    return halves.mean(axis=(3, 5)).reshape(len(images), -1)


def _standardised(train: ndarray, test: ndarray) -> tuple[ndarray, ndarray]:
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-3
    return (train - mean) / spread, (test - mean) / spread


def _initial(width: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    first, second = (rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in ((width, HIDDEN), (HIDDEN, CLASSES)))
    arrays = {"w1": first, "b1": np.zeros(HIDDEN), "w2": second, "b2": np.zeros(CLASSES)}
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def _logits(arrays: Mapping[str, ndarray], inputs: ndarray) -> tuple[ndarray, ndarray]:
    hidden = np.maximum(inputs @ arrays["w1"] + arrays["b1"], 0)
    logits = hidden @ arrays["w2"] + arrays["b2"]
    return hidden, logits - logits.max(axis=1, keepdims=True)


def _descend(arrays: Arrays, inputs: ndarray, labels: ndarray, seed: list[int]) -> Arrays:
    model, rng = {name: values.copy() for name, values in arrays.items()}, np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for index in np.array_split(rng.permutation(len(labels)), max(1, len(labels) // BATCH)):
            x, y = inputs[index], labels[index]
            hidden, logits = _logits(model, x)
            error = np.exp(logits)
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(y)), y] -= 1
            error *= RATE / max(1, len(y))
            back = (error @ model["w2"].T) * (hidden > 0)
            for name, step in (("w1", x.T @ back), ("b1", back.sum(0)), ("w2", hidden.T @ error), ("b2", error.sum(0))):
                model[name] -= step
    return model


def _cross_entropy(arrays: Arrays, inputs: ndarray, labels: ndarray) -> float:
    logits = _logits(arrays, inputs)[1]
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean())


def _accuracy(arrays: Arrays, inputs: ndarray, labels: ndarray) -> float:
    return float((_logits(arrays, inputs)[1].argmax(axis=1) == labels).mean())


# The town: the vehicles' own detector, each on its own drive.

TOWN_SIZE_PX, TOWN_FRAMES = (96, 288), 16


def town_task(seed: int, rounds: int) -> Task:
    """Ten vehicles on ten drives under two RSUs of the town, which hold eight labelled frames themselves."""
    import torch

    from clients.messages import TrainRequest
    from clients.perception_client import PerceptionTask, arrays_of, fleet_of, load_model
    from perception.datasets import FleetRequest
    from perception.detector import DetectorConfig, build_detector
    from perception.targets import make_samples
    from perception.training import evaluate, measure_loss

    torch.set_num_threads(1)
    request = FleetRequest(
        vehicles=VEHICLES, seed=seed, size_px=TOWN_SIZE_PX, frames_per_vehicle=TOWN_FRAMES, root_frames=8
    )
    task = PerceptionTask("town", request, TOWN_SIZE_PX, batch_size=2, num_rounds=rounds, seed=seed)
    fleet = fleet_of(task)
    root, judged = make_samples(fleet.root, TOWN_SIZE_PX), make_samples(fleet.holdout, TOWN_SIZE_PX)

    @lru_cache
    def client(vehicle: int, flipped: bool) -> Any:
        return _flipping_client(task, vehicle) if flipped else _client(task, vehicle)

    def fit(arrays: Arrays, vehicle: int, flipped: bool, round_number: int) -> Arrays:
        settings = {"server-round": round_number, "local-epochs": 1}
        return client(vehicle, flipped).fit(TrainRequest(arrays, settings)).arrays

    def score(arrays: Arrays) -> dict[str, float]:
        found = evaluate(load_model(task, arrays)[0], judged)
        return {"accuracy": 100 * float(found.miou or 0.0), "ap50": 100 * float(found.ap50 or 0.0)}

    return Task(
        start=arrays_of(build_detector(DetectorConfig(size_px=TOWN_SIZE_PX), seed)),
        fit=fit,
        sizes=tuple(len(share.train) for share in fleet.shares),
        loss=lambda arrays: measure_loss(load_model(task, arrays)[0], root),
        score=score,
        rounds=rounds,
    )


def _client(task: Any, vehicle: int) -> Any:
    from clients.perception_client import PerceptionClient, VehicleData

    return PerceptionClient(task, VehicleData(vehicle))


def _flipping_client(task: Any, vehicle: int) -> Any:
    """A vehicle whose every object and pixel has the class at the other end of the list."""
    from clients.perception_client import PerceptionClient, VehicleData
    from perception.labels import IGNORE, OBJECTS, SEGMENTS
    from perception.targets import NO_BOX, Samples

    class Flipping(PerceptionClient):
        def _samples(self, part: str) -> Samples:
            honest = super()._samples(part)
            masks, labels = honest.masks, honest.labels
            flipped = (len(SEGMENTS) - 1 - masks).where(masks != IGNORE, masks)
            boxes = (len(OBJECTS) - 1 - labels).where(labels != NO_BOX, labels)
            return replace(honest, masks=flipped, labels=boxes)

    return Flipping(task, VehicleData(vehicle))
