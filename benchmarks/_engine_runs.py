"""The runs that `engine.py` compares: one federation on each engine, in a process of its own.

Imports of heavy libraries are inside functions: the parent process stays small, for children inherit its peak memory.
"""

import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WORKERS, TENSORS = 2, 20
RESULT_MARK = "RESULT "


@dataclass(frozen=True)
class Setup:
    """One run: engine ("plain", "local", "ray", "ray-fedavg"), size, kind of training and number of rounds."""

    engine: str
    clients: int
    megabytes: int
    rounds: int
    fit: str = "empty"

    @property
    def size(self) -> str:
        """Clients and model size as they appear in identifiers."""
        return f"{self.clients}x{self.megabytes}MB"


def initial_arrays(setup: Setup) -> dict[str, Any]:
    """A model of ones in equal tensors, or the conv-net's own weights."""
    import numpy as np

    if setup.fit == "real":
        return {name: tensor.numpy().copy() for name, tensor in _conv_net().state_dict().items()}
    elements = setup.megabytes * 1_000_000 // 4 // TENSORS
    return {f"t{i}": np.ones(elements, np.float32) for i in range(TENSORS)}


def train(tensors: dict[str, Any], fit: str, client: int) -> None:
    """Train a copy of the global model in place."""
    if fit == "real":
        _sgd_steps(tensors, client)
        return
    for tensor in tensors.values():
        tensor += 1


def _conv_net() -> Any:
    from torch import nn

    widths = (3, 32, 64, 128, 128)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, stride=1 + i % 2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 11))


def _sgd_steps(tensors: dict[str, Any], client: int, steps: int = 2, batch: int = 8, side_px: int = 32) -> None:
    import torch

    with torch.device("meta"):
        net = _conv_net()
    net.load_state_dict(tensors, assign=True)
    generator = torch.Generator().manual_seed(client)
    images = torch.randn(batch, 3, side_px, side_px, generator=generator)
    labels = torch.randint(0, 11, (batch,), generator=generator)
    parameters = list(net.requires_grad_().parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(net(images), labels), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=0.01)
    net.requires_grad_(False)


def client_app(fit: str) -> Any:
    """A Flower ClientApp that trains on request and gives itself a name."""
    import torch
    from flwr.clientapp import ClientApp

    from clients.messages import Hello, TrainReply, decode_request, encode_hello, encode_train_reply

    app = ClientApp()

    @app.query("hello")
    def hello(message: Any, context: Any) -> Any:
        return encode_hello(Hello(f"v{context.node_config['partition-id']:03d}", "here", 10), message)

    @app.train()
    def on_train(message: Any, context: Any) -> Any:
        torch.set_num_threads(1)
        arrays = {name: values.copy() for name, values in decode_request(message).arrays.items()}
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        train(tensors, fit, int(context.node_config["partition-id"]))
        return encode_train_reply(TrainReply(arrays, 10), message)

    return app


def federate(grid: Any, setup: Setup) -> tuple[list[float], list[float]]:
    """Run the strategy; wall and processor time at the start and after every round."""
    from flwr.app import ArrayRecord
    from flwr.serverapp.strategy import FedAvg

    from clients.messages import from_record, to_record
    from strategies import Hierarchical, HierarchicalConfig
    from strategies.state import RunState

    wall_s, cpu_s = [], []
    last: list[ArrayRecord] = []

    def mark(_: int, record: ArrayRecord) -> None:
        wall_s.append(time.perf_counter())
        cpu_s.append(time.process_time())
        last[:] = [record]

    if setup.engine == "ray-fedavg":
        strategy: Any = FedAvg(fraction_evaluate=0.0, min_available_nodes=setup.clients)
        strategy.start(grid, to_record(initial_arrays(setup)), setup.rounds, evaluate_fn=mark)
    else:
        config = HierarchicalConfig(vehicles=setup.clients, rsus=1, flat=True, rsu_rounds=1, evaluate_every=0)
        strategy = Hierarchical(config, RunState(initial_arrays(setup)))
        strategy.start(grid, to_record({}), setup.rounds, evaluate_fn=mark)  # its first model is in its state
    check(from_record(last[0]), setup)
    return wall_s, cpu_s


def check(arrays: dict[str, Any], setup: Setup) -> None:
    """Every engine must arrive at the same model."""
    if setup.fit == "empty":
        error = max(float(abs(values - (1 + setup.rounds)).max()) for values in arrays.values())
        if not (len(arrays) == TENSORS and error < 1e-3):
            raise AssertionError(f"{setup}: the merged model is off by {error}")


# One run in a process of its own.


def run_plain(setup: Setup) -> tuple[list[float], list[float]]:
    """The floor: a loop over clients in one thread, and a running float32 sum."""
    import torch

    start = {name: torch.from_numpy(values) for name, values in initial_arrays(setup).items()}
    share, marks = 1 / setup.clients, ([time.perf_counter()], [time.process_time()])
    for _ in range(setup.rounds):
        total: dict[str, Any] = {}
        for client in range(setup.clients):
            tensors = {name: tensor.clone() for name, tensor in start.items()}
            train(tensors, setup.fit, client)
            if not total:
                total = {name: tensor * share for name, tensor in tensors.items()}
                continue
            for name, tensor in tensors.items():
                total[name].add_(tensor, alpha=share)
        start = total
        marks[0].append(time.perf_counter())
        marks[1].append(time.process_time())
    check({name: tensor.numpy() for name, tensor in start.items()}, setup)
    return marks


def run_local(setup: Setup) -> tuple[list[float], list[float]]:
    """Our engine."""
    from fl_app.local_grid import LocalGrid

    grid = LocalGrid(client_app(setup.fit), setup.clients, {}, workers=WORKERS)
    try:
        return federate(grid, setup)
    finally:
        grid.close()


def run_ray(setup: Setup) -> tuple[list[float], list[float]]:
    """Flower's engine; processor time is that of the driver only, so it is left out."""
    from flwr.serverapp import ServerApp

    from fl_app import engines

    marks: list[list[float]] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Any, context: Any) -> None:
        marks.extend(federate(grid, setup))

    backend = {"init_args": {"num_cpus": WORKERS, "include_dashboard": False, "log_to_driver": False}}
    engines.run_ray(server_app, client_app(setup.fit), setup.clients, {}, backend)
    return marks[0], [float("nan")] * len(marks[0])


RUNNERS: dict[str, Callable[[Setup], tuple[list[float], list[float]]]] = {
    "plain": run_plain,
    "local": run_local,
    "ray": run_ray,
    "ray-fedavg": run_ray,
}


def child_main(text: str) -> None:
    """Do one run and print its result as JSON."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    setup = Setup(**json.loads(text))
    if setup.engine != "plain":
        import logging

        import flwr.app  # noqa: F401  (which sets the level of its log)

        logging.getLogger("flwr").setLevel(logging.ERROR)
    wall_s, cpu_s = RUNNERS[setup.engine](setup)
    rounds_s = [after - before for before, after in pairwise(wall_s)]
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    cpu_round_s = (cpu_s[-1] - cpu_s[1]) / (setup.rounds - 1)
    print(RESULT_MARK + json.dumps({"rounds_s": rounds_s, "peak_gb": peak_gb, "cpu_s": cpu_round_s}), flush=True)
    os._exit(0)
