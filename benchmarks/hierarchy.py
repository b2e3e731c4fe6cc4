"""What the RSU tier saves: HierFAVG beside flat FedAvg, on a small real task with unlike regions.

First, that the two are the same where they should be: our strategy with one RSU and kappa_2 = 1 beside Flower's own
FedAvg, over the same LocalGrid and the same client function; the models must agree in every bit.

Then accuracy against rounds, cloud bytes and simulated time: flat FedAvg (every vehicle talks to the cloud in every
round) beside vehicles under four RSUs that agree in the cloud every kappa_2-th round. All start from the same weights,
hold the same data, train with the same seeds and spend the same local work per round, so that only the hierarchy
differs. The task: a conv-net that names the class at the centre of 16 x 16 pixel patches of the town's images, eleven
classes, with a Dirichlet split of the classes over regions; test patches come from a drive that no vehicle holds. The
target is 95 % of the best smoothed accuracy of flat FedAvg at the same seed. Rare agreement may cost rounds, so runs
with kappa_2 > 1 get half as many again; one that misses the target all the same counts with all that it spent, which is
a lower bound. kappa_2 = 1 under the same RSUs is the stricter reference: it isolates how rare agreement
costs rounds, apart from there being fewer RSUs than vehicles.
"""

import logging
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import _harness as harness
import numpy as np
from _harness import Claim
from _hierarchy_task import RSUS, VEHICLES, Patches, accuracy_of, client_app, initial_arrays, load_patches, split

from fl_app.simulation import quiet_environment

KAPPAS, SMOOTH_ROUNDS, TARGET_SHARE = (1, 2, 5), 5, 0.95


@dataclass(frozen=True)
class Point:
    """The global model after a cloud round: RSU rounds, cloud bytes and simulated seconds so far, test accuracy."""

    round: int
    cloud_bytes: int
    simulated_s: float
    accuracy: float


@dataclass(frozen=True)
class Curve:
    """One run. `kappa` is 0 for flat FedAvg."""

    kappa: int
    seed: int
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """As it appears in tables."""
        return f"HierFAVG kappa_2={self.kappa}" if self.kappa else "flat FedAvg"

    def smoothed(self) -> list[float]:
        """Mean accuracy over the evaluations of the last rounds, one value per point."""
        return [
            statistics.fmean(p.accuracy for p in self.points if point.round - SMOOTH_ROUNDS < p.round <= point.round)
            for point in self.points
        ]

    def reach(self, target: float) -> tuple[Point, bool]:
        """Where the smoothed accuracy first meets the target, or the last point and False."""
        for point, accuracy in zip(self.points, self.smoothed(), strict=True):
            if accuracy >= target:
                return point, True
        return self.points[-1], False


# 1. One RSU is FedAvg.


def differing_elements(train: Patches, rounds: int) -> tuple[int, int]:
    """Elements that differ between our one-RSU run and Flower's FedAvg, and how many there are."""
    from flwr.app import ConfigRecord
    from flwr.serverapp.strategy import FedAvg

    from clients.messages import from_record, to_record
    from strategies import Hierarchical, HierarchicalConfig
    from strategies.state import RunState

    start, app = initial_arrays(0), client_app(split(train, 0), 0)
    config = HierarchicalConfig(vehicles=VEHICLES, rsus=1, rsu_rounds=1, evaluate_every=0)
    ours = Hierarchical(config, RunState(start))
    with _grid(app) as grid:
        ours.start(grid, to_record(start), rounds)
        stock = FedAvg(fraction_evaluate=0.0, min_train_nodes=VEHICLES, min_available_nodes=VEHICLES)
        settings = ConfigRecord({"local-epochs": 1})
        theirs = from_record(stock.start(grid, to_record(start), rounds, train_config=settings).arrays)
    differs = sum(int((values != theirs[name]).sum()) for name, values in ours.state.arrays.items())
    moved = sum(int((values != start[name]).sum()) for name, values in ours.state.arrays.items())
    if set(theirs) != set(ours.state.arrays) or moved == 0:
        raise AssertionError("the two runs do not hold the same tensors, or nothing was learned")
    return differs, sum(values.size for values in start.values())


class _grid:
    """A LocalGrid that hands messages and replies over in the order of the nodes, and is closed at the end.

    Flower's FedAvg shuffles its nodes and sums in the order of arrival; floats must be added in one order to be equal.
    """

    def __init__(self, app: Any) -> None:
        from fl_app.local_grid import LocalGrid

        class InOrder(LocalGrid):
            def send_and_receive(self, messages: Iterable, *, timeout: float | None = None) -> Iterator:
                asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
                replies = super().send_and_receive(asked, timeout=timeout)
                return iter(sorted(replies, key=lambda reply: reply.metadata.src_node_id))

        self._grid = InOrder(app, VEHICLES, {}, workers=2)

    def __enter__(self) -> Any:
        return self._grid

    def __exit__(self, *_: object) -> None:
        self._grid.close()


# 2. Two tiers on unlike regions.


def run_curve(kappa: int, seed: int, rounds: int, data: tuple[Patches, Patches]) -> Curve:
    """Train once; `kappa` 0 is flat FedAvg."""
    from clients.messages import to_record
    from strategies import Hierarchical, HierarchicalConfig
    from strategies.report import RoundReport
    from strategies.state import RunState

    train, test = data
    tiers = {"rsus": RSUS, "rsu_rounds": kappa} if kappa else {"rsus": 1, "rsu_rounds": 1, "flat": True}
    config = HierarchicalConfig(vehicles=VEHICLES, evaluate_every=0, profile="mixed", seed=seed, **tiers)
    points: list[Point] = []

    def on_round(report: RoundReport) -> None:
        if report.cloud_moved:
            accuracy = accuracy_of(strategy.state.arrays, test)
            points.append(Point(report.round, report.traffic.cloud, report.simulated_s or 0.0, accuracy))

    strategy = Hierarchical(config, RunState(initial_arrays(seed)), on_round=on_round)
    with _grid(client_app(split(train, seed), seed)) as grid:
        strategy.start(grid, to_record({}), rounds)
    if strategy.state.losses:
        raise AssertionError(f"updates were lost: {strategy.state.losses}")
    return Curve(kappa, seed, tuple(points))


def rows_at_target(curves: list[Curve]) -> list[dict[str, Any]]:
    """One row per run: what it spent until the target of its seed."""
    targets = {c.seed: TARGET_SHARE * max(c.smoothed()) for c in curves if not c.kappa}
    rows = []
    for curve in curves:
        point, reached = curve.reach(targets[curve.seed])
        rows.append(
            {
                "run": curve.name,
                "kappa": curve.kappa,
                "seed": curve.seed,
                "target": targets[curve.seed],
                "reached": int(reached),
                "rounds": point.round,
                "cloud MB": point.cloud_bytes / 1e6,
                "simulated s": point.simulated_s,
                "best accuracy": max(curve.smoothed()),
            }
        )
    return rows


def byte_claim(name: str, rows: list[dict[str, Any]], kappa: int, reference: int) -> Claim:
    """Cloud bytes to the target over those of the reference at the same seed; median over seeds."""
    mb = {(row["kappa"], row["seed"]): row["cloud MB"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    ratio = statistics.median(mb[kappa, seed] / mb[reference, seed] for seed in seeds)
    ours, theirs = (statistics.median(mb[k, seed] for seed in seeds) for k in (kappa, reference))
    return Claim(f"hierarchy.{name}", ours, theirs, ratio, "MB", len(seeds))


def draw(axes: Sequence[Any], curves: list[Curve]) -> None:
    """Accuracy against rounds, cloud bytes and simulated time: median over seeds, and every seed thinly."""
    columns: list[tuple[str, Callable[[Point], float]]] = [
        ("RSU rounds", lambda p: p.round),
        ("cloud MB", lambda p: p.cloud_bytes / 1e6),
        ("simulated s", lambda p: p.simulated_s),
    ]
    for colour, kappa in enumerate((0, *KAPPAS)):
        runs = [curve for curve in curves if curve.kappa == kappa]
        for axis, (_, value) in zip(axes, columns, strict=True):
            for run in runs:
                axis.plot([value(p) for p in run.points], run.smoothed(), color=f"C{colour}", alpha=0.25, linewidth=0.8)
            x = np.median([[value(p) for p in run.points] for run in runs], axis=0)
            axis.plot(x, np.median([run.smoothed() for run in runs], axis=0), color=f"C{colour}", label=runs[0].name)
    for axis, (label, _) in zip(axes, columns, strict=True):
        axis.set(xlabel=label, ylabel="test accuracy")
    axes[1].set_xscale("log")
    axes[0].legend(fontsize=8)


def main() -> None:
    quiet_environment()
    arguments = harness.parse_arguments(__doc__ or "")
    import flwr.app  # noqa: F401  (which sets the level of its log)
    import torch

    torch.set_num_threads(1)
    random.seed(0)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    data = load_patches(arguments.out)
    differs, elements = differing_elements(data[0], rounds=3 if arguments.quick else 10)
    harness.console.print(f"one RSU beside Flower's FedAvg: {differs} of {elements} weights differ")
    assert differs == 0, "one RSU with kappa_2 = 1 must be FedAvg bit for bit"
    seeds, rounds = (3, 24) if arguments.quick else (5, 100)
    curves = [
        run_curve(kappa, seed, rounds * 3 // 2 if kappa > 1 else rounds, data)
        for seed in range(seeds)
        for kappa in (0, *KAPPAS)
    ]
    rows = rows_at_target(curves)
    harness.write_csv(arguments.out / "hierarchy_target.csv", rows)
    harness.write_csv(
        arguments.out / "hierarchy.csv",
        [{"run": c.name, "kappa": c.kappa, "seed": c.seed, **asdict(p)} for c in curves for p in c.points],
    )
    harness.save_figure(arguments.out / "hierarchy.png", 3, lambda axes: draw(axes, curves))
    harness.print_table("Spent until 95 % of flat FedAvg's best accuracy", rows)
    claims = [Claim("hierarchy.one_rsu_equals_fedavg", differs, 0, differs, "differing weights", elements)]
    claims += [byte_claim(f"cloud_bytes.k2_{kappa}", rows, kappa, 0) for kappa in KAPPAS]
    claims += [byte_claim(f"cloud_bytes_vs_k2_1.k2_{kappa}", rows, kappa, 1) for kappa in KAPPAS[1:]]
    harness.print_table("Claims", [asdict(claim) for claim in claims])
    harness.print_claims(claims)


if __name__ == "__main__":
    main()
