"""How much an engine adds to a round: LocalGrid beside Flower's Ray engine and beside a plain torch loop.

All three run the same federation: every client copies the global tensors, applies the same `train` function to the
copy, and the server takes the float32 mean; the result is checked in each run. LocalGrid and Ray run the same
ServerApp, ClientApp and strategy with two workers each, and the Ray engine is Flower's own, also with Flower's own
FedAvg in place of ours. The plain loop is the physical floor: one thread, no messages, no checks of what clients send,
two passes over memory per client (copy and train, then add to the sum).

Training is either "empty" (add 1 to every weight: what remains is the engine) or "real" (a few steps of SGD on a small
conv-net: what matters to a user). Every run is a process of its own, so that peak memory is its own; the first round,
in which processes start and pages are touched, is kept apart. Ratios to the plain loop are medians over pairs of runs
taken in turn, because other work on the machine disturbs neighbours alike.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import _harness as harness
from _harness import Claim

from fl_app.simulation import quiet_environment

WORKERS, TENSORS = 2, 20
RUN_FLAG, RESULT_MARK = "--run", "RESULT "
ROOT = Path(__file__).resolve().parent.parent
RAY_GB_PER_MODEL_GB = 2.6  # peak memory of the Ray engine per client, in models; measured at 8 and 32 x 100 MB


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


@dataclass(frozen=True)
class Result:
    """What one run cost: seconds of each round, processor seconds per later round, and peak memory."""

    setup: Setup
    rounds_s: tuple[float, ...]
    peak_gb: float
    cpu_s: float = field(default=float("nan"))

    @property
    def round_s(self) -> float:
        """Median over all rounds but the first."""
        return median(self.rounds_s[1:])

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        setup = self.setup
        return {
            "engine": setup.engine,
            "fit": setup.fit,
            "size": setup.size,
            "rounds": setup.rounds,
            "s/round": self.round_s,
            "min s": min(self.rounds_s[1:]),
            "cpu-s/round": self.cpu_s,
            "first s": self.rounds_s[0],
            "peak GB": self.peak_gb,
        }


# The federation itself. Imports are inside: the parent process stays small, for children inherit its peak memory.


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


def measure(setup: Setup) -> Result:
    """Run a setup in a fresh process.

    Raises:
        RuntimeError: the run failed; the message holds the end of what it printed.
    """
    command = [sys.executable, str(Path(__file__).resolve()), RUN_FLAG, json.dumps(asdict(setup))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    tree_gb: list[float] = []
    if setup.engine.startswith("ray"):
        threading.Thread(target=_watch_memory, args=(process, tree_gb), daemon=True).start()
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{setup}: exit code {process.returncode}\n{err[-3000:]}")
    values = json.loads(out.rpartition(RESULT_MARK)[2].splitlines()[0])
    peak_gb = max([values["peak_gb"], *tree_gb])
    result = Result(setup, tuple(values["rounds_s"]), peak_gb, values["cpu_s"])
    harness.console.print(
        f"{setup.engine:11s}{setup.fit:6s}{setup.size:>10s}  {result.round_s:.4f} s  {peak_gb:.2f} GB"
    )
    return result


def _watch_memory(process: subprocess.Popen, tree_gb: list[float]) -> None:
    """Proportional set size of a process and all below it, shared pages counted once, until it ends."""
    import psutil

    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for part in [root, *_children(root)]:
            try:
                total += part.memory_full_info().pss
            except psutil.Error:
                continue
        tree_gb.append(total / 1e9)
        time.sleep(0.3)


def _children(root: Any) -> list:
    import psutil

    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


# The whole comparison.


@dataclass
class Book:
    """All results so far."""

    results: list[Result] = field(default_factory=list)

    def run(self, setup: Setup) -> Result:
        """Measure and remember."""
        self.results.append(measure(setup))
        return self.results[-1]

    def of(self, engine: str, size: str, fit: str = "empty") -> list[Result]:
        """Runs of an engine at a size and kind of training."""
        return [r for r in self.results if (r.setup.engine, r.setup.size, r.setup.fit) == (engine, size, fit)]


def vs_plain(book: Book, setup: Setup, repeats: int) -> Claim:
    """Seconds per round over those of the plain loop, in pairs of runs."""
    pairs = [(book.run(setup), book.run(replace(setup, engine="plain"))) for _ in range(repeats)]
    ratio = median(ours.round_s / floor.round_s for ours, floor in pairs)
    ours_s, floor_s = (median(pair[i].round_s for pair in pairs) for i in (0, 1))
    return Claim(f"engine.vs_plain.{setup.size}", ours_s, floor_s, ratio, "s/round", repeats)


def vs_ray(book: Book, setup: Setup, ray_rounds: int) -> Claim:
    """The Ray engine's seconds per round over ours."""
    ours = book.of("local", setup.size) or [book.run(setup)]
    ray = book.run(replace(setup, engine="ray", rounds=ray_rounds))
    ours_s = median(result.round_s for result in ours)
    return Claim(f"engine.vs_ray.{setup.size}", ours_s, ray.round_s, ray.round_s / ours_s, "s/round", ray_rounds - 1)


def memory(book: Book, setup: Setup) -> Claim:
    """Peak memory of our engine's process, which is the ratio, beside the plain loop's."""
    plain = replace(setup, engine="plain")
    ours = [result.peak_gb for result in book.of("local", setup.size) or [book.run(setup)]]
    floor = [result.peak_gb for result in book.of("plain", setup.size) or [book.run(plain)]]
    return Claim(f"engine.memory_gb.{setup.size}", max(ours), max(floor), max(ours), "GB", len(ours))


def real_fit_vs_ray(book: Book, clients: int, rounds: int) -> Claim:
    """Seconds per round of real training over those of the Ray engine, which has a process per worker."""
    setup = Setup("local", clients, 1, rounds, "real")
    ours, ray = book.run(setup), book.run(replace(setup, engine="ray"))
    book.run(replace(setup, engine="plain"))
    ratio = ours.round_s / ray.round_s
    return Claim("engine.real_fit_vs_ray", ours.round_s, ray.round_s, ratio, "s/round", rounds - 1)


def quick_claims(book: Book) -> list[Claim]:
    """Few rounds, Ray once."""
    return [
        vs_plain(book, Setup("local", 100, 1, 30), repeats=2),
        vs_ray(book, Setup("local", 32, 1, 20), ray_rounds=4),
        memory(book, Setup("local", 100, 100, 2)),
    ]


def full_claims(book: Book) -> list[Claim]:
    """Every size, three pairs each; Ray where it fits."""
    small, large = (8, 32, 100), (8, 32, 100)
    claims = [vs_plain(book, Setup("local", clients, 1, 40), repeats=3) for clients in small]
    claims += [vs_plain(book, Setup("local", clients, 100, 5), repeats=3) for clients in large]
    claims += [vs_ray(book, Setup("local", clients, 1, 40), ray_rounds=6) for clients in small]
    claims += [
        vs_ray(book, Setup("local", clients, 100, 5), ray_rounds=4) for clients in large if _ray_fits(clients, 0.1)
    ]
    claims += [memory(book, Setup("local", clients, 100, 5)) for clients in large]
    claims += [real_fit_vs_ray(book, clients=32, rounds=6)]
    book.run(Setup("ray-fedavg", 32, 1, 6))
    return claims


def _ray_fits(clients: int, model_gb: float) -> bool:
    import psutil

    fits = clients * model_gb * RAY_GB_PER_MODEL_GB + 3 < psutil.virtual_memory().available / 1e9
    if not fits:
        harness.console.print(f"ray: {clients} models of {model_gb} GB do not fit in this machine's memory, left out")
    return fits


def draw(axes: Sequence[Any], results: list[Result]) -> None:
    """Seconds per round, and peak memory, against the number of clients."""
    styles = {"plain": "k--", "local": "C0-o", "ray": "C3-s", "ray-fedavg": "C1-^"}
    sizes = [("empty", 1), ("empty", 100)]
    for (engine, style), (fit, megabytes) in product(styles.items(), sizes):
        chosen = [r for r in results if (r.setup.engine, r.setup.fit, r.setup.megabytes) == (engine, fit, megabytes)]
        clients = sorted({r.setup.clients for r in chosen})
        if not clients:
            continue
        by_clients = [[r for r in chosen if r.setup.clients == n] for n in clients]
        column = sizes.index((fit, megabytes))
        axes[column].loglog(clients, [median(r.round_s for r in rs) for rs in by_clients], style, label=engine)
        if megabytes == 100:
            axes[2].plot(clients, [max(r.peak_gb for r in rs) for rs in by_clients], style, label=engine)
    titles = ("1 MB models, empty training", "100 MB models, empty training", "peak memory, 100 MB models")
    for axis, title, unit in zip(axes, titles, ("s per round", "s per round", "GB"), strict=True):
        axis.set(title=title, xlabel="clients", ylabel=unit)
        if axis.lines:
            axis.legend()


def main() -> None:
    quiet_environment()
    arguments = harness.parse_arguments(__doc__ or "")
    book = Book()
    claims = quick_claims(book) if arguments.quick else full_claims(book)
    rows = [result.row() for result in book.results]
    harness.write_csv(arguments.out / "engine.csv", rows)
    harness.save_figure(arguments.out / "engine.png", 3, lambda axes: draw(axes, book.results))
    harness.print_table("Engines: seconds per round after the first, and peak memory", rows)
    harness.print_table("Claims", [asdict(claim) for claim in claims])
    harness.print_claims(claims)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == RUN_FLAG:
        child_main(sys.argv[2])
    else:
        main()
