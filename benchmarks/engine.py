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
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import _harness as harness
from _engine_runs import RESULT_MARK, Setup, child_main
from _harness import Claim

from fl_app.simulation import quiet_environment

RUN_FLAG = "--run"
ROOT = Path(__file__).resolve().parent.parent
RAY_GB_PER_MODEL_GB = 2.6  # peak memory of the Ray engine per client, in models; measured at 8 and 32 x 100 MB


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
