"""What `convoy offload` does: decide a slot, run a scene, sum up ticks, log to MLflow."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge.offload.controller import Controller, ControllerConfig, Tick
from edge.offload.model import Worker
from edge.offload.scenario import ScenarioConfig, situation
from edge.offload.scenario_random import random_scenario
from edge.offload.scenes import Scene, SceneRequest
from edge.offload.states import noisy
from fl_app import interrupts
from fl_app.offload_families import RANDOM, Decider, open_any, predictor_of
from fl_app.tracking import Tracker, check_reachable, default_uri

WARMUP_S: Final = 5.0  # of states that a predictor gets before the one slot that is decided
FUSION_TIMEOUT_S: Final = 60.0
LARGEST: Final = 1e12  # number in a size, of any unit


@dataclass(frozen=True)
class Wish:
    """What is asked for on the command line; its fields are the options and what is logged."""

    scene: str
    predictor: str = "indicator"
    start: float | None = None
    seconds: float = 60.0
    vehicles: int = 0
    who: str = "turners"
    deadline_ms: float = 400.0
    size: str = "200kbit"
    ghz: float = 2.0
    rsus: int = 0
    rsu_at: tuple[str, ...] = ()
    reach: float = 200.0
    area: str = "exact"
    gps_noise: float = 0.0
    seed: int = 0

    def request(self) -> SceneRequest:
        """Of the scene.

        Raises:
            ValueError: a place is no pair of numbers, or a number is out of range.
        """
        return SceneRequest(
            seconds=self.seconds,
            start_s=self.start,
            seed=self.seed,
            rsus=self.rsus,
            sites_m=tuple(_place(text) for text in self.rsu_at),
            base_cycles_per_s=self.ghz * 1e9,
            reach_m=self.reach,
        )

    def scenario(self) -> ScenarioConfig:
        """Of the slots.

        Raises:
            ValueError: a value is out of range.
        """
        number, unit = _size(self.size)
        return ScenarioConfig(
            deadline_s=self.deadline_ms / 1000,
            feature_size=number,
            size_unit=unit,
            participants=self.who,
            max_vehicles=self.vehicles,
            area=self.area,
            seed=self.seed,
        )


def solve(wish: Wish, decider: Decider, executor: Executor) -> tuple[Tick, Scene | None]:
    """Decide one slot, that at `wish.start`, and the scene that it is of; a random slot is of none.

    Raises:
        ValueError: a name is unknown, or a value is out of range.
    """
    kind, _, count = wish.scene.partition(":")
    if kind == RANDOM:
        if not count.isdecimal():
            raise ValueError(f"{wish.scene}: want {RANDOM}:VEHICLES with a whole number, such as {RANDOM}:40")
        places = wish.ghz * 1e9, wish.reach
        seen = random_scenario(int(count), wish.rsus or 8, wish.seed, wish.scenario(), *places)
        return controller_of(wish, seen.slot.workers, None, decider, executor).decide(seen), None
    scene = open_any(wish.scene, _before(wish.request()))
    predictor = predictor_of(wish.predictor, scene, wish.gps_noise)
    for states in noisy(scene.states(), wish.gps_noise, seed=wish.seed):
        expected = predictor.observe(states)
    seen = situation(states, expected, scene.workers, wish.scenario())
    return controller_of(wish, scene.workers, scene, decider, executor).decide(seen), scene


def _before(request: SceneRequest) -> SceneRequest:
    """So much of a scene that a predictor can warm up before the slot, which comes last."""
    start_s = None if request.start_s is None else max(0.0, request.start_s - WARMUP_S)
    seconds = WARMUP_S if request.start_s is None or start_s is None else request.start_s - start_s
    return replace(request, start_s=start_s, seconds=seconds + request.step_s)


def controller_of(
    wish: Wish, workers: tuple[Worker, ...], scene: Scene | None, decider: Decider, executor: Executor
) -> Controller:
    """A controller with a predictor of its own.

    Raises:
        ValueError: the predictor is unknown or needs a recorded scene, or a value is out of range.
    """
    return Controller(
        workers,
        decider.policy,
        predictor_of(wish.predictor, scene, wish.gps_noise),
        executor,
        config=ControllerConfig(fusion_timeout_s=FUSION_TIMEOUT_S),
        scenario=wish.scenario(),
        refine=decider.refine,
        truth=scene.table if scene else None,
    )


def simulate(wish: Wish, scene: Scene, decider: Decider, executor: Executor) -> Iterator[Tick]:
    """A tick a second of a scene.

    Raises:
        ValueError: as `controller_of`.
    """
    controller = controller_of(wish, scene.workers, scene, decider, executor)
    _warm_up(decider, wish)
    return controller.run(noisy(scene.states(), wish.gps_noise, seed=wish.seed))


def _warm_up(decider: Decider, wish: Wish) -> None:
    """Load libraries and compile the search before the first slot, which would take a second longer than the others."""
    seen = random_scenario(8, 2, config=replace(wish.scenario(), participants="all"))
    assignment = decider.policy.assign(seen.slot)
    if decider.refine is not None:
        decider.refine(seen, assignment)


def means(ticks: Sequence[Tick]) -> dict[str, float]:
    """Figures of a run: means over its ticks, sums of what must not happen, the slowest decision.

    Turn recall and precision are over all turns, not means of ticks. NaN where there is nothing to average.
    """
    rows = [tick.metrics() for tick in ticks]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: np.array([row[name] for row in rows if not math.isnan(row[name])]) for name in names}
    figures = {name: float(column.mean()) if len(column) else math.nan for name, column in columns.items()}
    figures |= {name: float(columns[name].sum()) for name in ("late", "lost", "overrun") if name in columns}
    figures["slowest-decision-s"] = max((row["geometry-s"] + row["decision-s"] for row in rows), default=math.nan)
    counts = [tick.judgement.turns for tick in ticks if tick.judgement is not None]
    if counts:
        total = sum(counts[1:], counts[0])
        figures |= {"turn-recall": total.recall, "turn-precision": total.precision}
    return figures


def interval95(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t; NaN for fewer than two values."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table; columns are all names that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def tracked(uri: str, experiment: str, name: str, params: Mapping[str, Any], folder: Path) -> Iterator[Tracker | None]:
    """An MLflow run around a block: FINISHED, KILLED by Ctrl-C, or FAILED.

    Args:
        uri: tracking URI; "" for a sqlite file beside the folder, "none" for no tracking.
        experiment: created if it does not exist.
        name: of the run.
        params: what it was asked for.
        folder: of the results.

    Raises:
        TrackingError: the store cannot be used.
    """
    if uri == "none":
        yield None
        return
    uri = uri or default_uri(folder.parent)
    check_reachable(uri)
    tracker, status = Tracker(uri, experiment, folder.parent / "artifacts"), "FAILED"
    try:
        tracker.begin(name, params)
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        interrupts.close_unbroken(lambda: tracker.finish(status))


def _size(text: str) -> tuple[float, str]:
    """A number above 0 and a unit.

    Raises:
        ValueError: it is something else; an unknown unit is the scenario's to refuse.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *([A-Za-z]+)", text.strip())
    if found is None or not 0 < float(found[1]) <= LARGEST:
        raise ValueError(f"size is {text!r}: want a number above 0 and a unit, such as 200kbit or 200kbyte")
    return float(found[1]), found[2]


def _place(text: str) -> tuple[float, float]:
    with suppress(ValueError):
        east, north = map(float, text.split(","))
        if math.isfinite(east) and math.isfinite(north):
            return east, north
    raise ValueError(f"rsu-at is {text!r}: want EAST,NORTH in metres, such as 25,-4.5")
