"""The task of `hierarchy.py`: a conv-net that names the class at the centre of small patches of the town's images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

VEHICLES, RSUS, PATCH_PX = 12, 4, 16
CLASSES, TRAIN_PATCHES, TEST_PATCHES = 11, 2200, 880
CONCENTRATION = 0.3  # of the Dirichlet split of classes over regions: small is more unlike


@dataclass(frozen=True)
class Patches:
    """Red, green, blue and the row in the frame, uint8 [n, 4, 16, 16], and the class at the centre, int64 [n]."""

    images: ndarray
    labels: ndarray

    def pick(self, index: ndarray) -> "Patches":
        """Those of an index."""
        return Patches(self.images[index], self.labels[index])


# Data: patches of the town's images.


def load_patches(
    folder: Path, train_count: int = TRAIN_PATCHES, test_count: int = TEST_PATCHES
) -> tuple[Patches, Patches]:
    """Training and test patches, cut once from the town and kept in a file in `folder`."""
    path = folder / f"town_patches_{train_count}_{test_count}.npz"
    if not path.exists():
        from perception.datasets import FleetRequest, load_fleet

        fleet = load_fleet("town", FleetRequest(vehicles=4, size_px=(64, 192), frames_per_vehicle=12))
        rng = np.random.default_rng(0)
        train = cut_patches((frame for share in fleet.shares for frame in share.train), train_count, rng)
        test = cut_patches(fleet.holdout, test_count, rng)
        np.savez(
            path, **{f"train_{k}": v for k, v in vars(train).items()}, **{f"test_{k}": v for k, v in vars(test).items()}
        )
    with np.load(path) as data:
        train, test = (Patches(data[f"{part}_images"], data[f"{part}_labels"]) for part in ("train", "test"))
    return train, test


def cut_patches(frames: Iterable[Any], count: int, rng: np.random.Generator) -> Patches:
    """About `count` patches with the classes as even as the frames allow; at most 40 of a class from one frame."""
    images: dict[int, list[ndarray]] = {}
    half = PATCH_PX // 2
    for frame in frames:
        height, width = frame.masks.shape
        row = np.broadcast_to(np.linspace(0, 255, height).astype(np.uint8)[:, None, None], (height, width, 1))
        channels = np.concatenate([frame.image, row], axis=2)
        inner = frame.masks[half:-half, half:-half]
        for label in np.unique(inner[inner < CLASSES]):
            tops, lefts = np.nonzero(inner == label)
            chosen = rng.choice(len(tops), min(40, len(tops)), replace=False)
            windows = [channels[tops[i] : tops[i] + PATCH_PX, lefts[i] : lefts[i] + PATCH_PX] for i in chosen]
            images.setdefault(int(label), []).extend(windows)
    each = -(-count // len(images))
    kept = {label: rng.permutation(len(found))[:each] for label, found in images.items()}
    stacked = np.stack([images[label][i] for label, index in kept.items() for i in index])
    labels = np.concatenate([np.full(len(index), label, np.int64) for label, index in kept.items()])
    return Patches(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)), labels)


def split(patches: Patches, seed: int) -> list[Patches]:
    """Shares of the vehicles: classes over regions by a Dirichlet draw, then evenly within a region."""
    rng = np.random.default_rng([seed, 7])
    regions: list[list[ndarray]] = [[] for _ in range(RSUS)]
    for label in np.unique(patches.labels):
        index = rng.permutation(np.flatnonzero(patches.labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(RSUS, CONCENTRATION)) * len(index)).astype(int)[:-1]
        for region, part in zip(regions, np.split(index, ends), strict=True):
            region.append(part)
    parts = [np.array_split(rng.permutation(np.concatenate(region)), VEHICLES // RSUS) for region in regions]
    return [patches.pick(part) for region in parts for part in region]


# The task.


def build_net() -> Any:
    """Two strided convolutions and two layers: 26 thousand weights."""
    from torch import nn

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]

    head = [nn.Flatten(), nn.Linear(32 * 16, 32), nn.ReLU(), nn.Linear(32, CLASSES)]
    return nn.Sequential(*block(4, 16), *block(16, 32), *head)


def initial_arrays(seed: int) -> dict[str, ndarray]:
    """The same start for every run of a seed."""
    import torch

    torch.manual_seed(seed)
    return {name: tensor.numpy().copy() for name, tensor in build_net().state_dict().items()}


def _net_of(arrays: dict[str, ndarray]) -> Any:
    import torch

    with torch.device("meta"):
        net = build_net()
    net.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in arrays.items()}, assign=True)
    return net


def _inputs(images: ndarray) -> Any:
    import torch

    return torch.from_numpy(images).float().div_(255).sub_(0.5)


def fit(arrays: dict[str, ndarray], patches: Patches, epochs: int, seed: Sequence[int]) -> dict[str, ndarray]:
    """Plain SGD over one vehicle's patches."""
    import torch

    net, rng = _net_of(arrays), np.random.default_rng(seed)
    parameters = list(net.requires_grad_().parameters())
    for _ in range(epochs):
        order = rng.permutation(len(patches.labels))
        for index in np.array_split(order, max(1, len(order) // 32)):
            loss = torch.nn.functional.cross_entropy(
                net(_inputs(patches.images[index])), torch.from_numpy(patches.labels[index])
            )
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.2)
    return {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}


def accuracy_of(arrays: dict[str, ndarray], test: Patches) -> float:
    """Share of the test patches that are named rightly; the classes are about even."""
    import torch

    with torch.no_grad():
        named = _net_of(arrays)(_inputs(test.images)).argmax(1).numpy()
    return float((named == test.labels).mean())


def client_app(shares: list[Patches], seed: int) -> Any:
    """Vehicles as a Flower ClientApp."""
    from flwr.clientapp import ClientApp

    from clients.messages import Hello, TrainReply, decode_request, encode_hello, encode_train_reply

    app = ClientApp()

    @app.query("hello")
    def hello(message: Any, context: Any) -> Any:
        index = int(context.node_config["partition-id"])
        region = f"region-{index // (VEHICLES // RSUS)}"
        return encode_hello(Hello(f"vehicle-{index:02d}", region, len(shares[index].labels)), message)

    @app.train()
    def train(message: Any, context: Any) -> Any:
        index, request = int(context.node_config["partition-id"]), decode_request(message)
        at = [seed, int(request.config["server-round"]), index]
        arrays = fit(request.arrays, shares[index], int(request.config.get("local-epochs", 1)), at)
        return encode_train_reply(TrainReply(arrays, len(shares[index].labels)), message)

    return app
