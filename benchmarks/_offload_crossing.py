"""SUMO's crossing for the offloading benchmark: recorded slots, what each policy makes of them, the paper's figures."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import _harness as harness
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from edge.offload.baselines import GreedyOffloading
from edge.offload.evaluate import Seen, evaluate
from edge.offload.heuristic import Heuristic
from edge.offload.mobility import IndicatorPredictor, Prediction
from edge.offload.model import UNASSIGNED, Assignment
from edge.offload.policies import POLICIES
from edge.offload.refine import refine_by_union
from edge.offload.scenario import ScenarioConfig, Situation, situation
from edge.offload.scenes import Scene, SceneRequest, open_scene
from edge.offload.states import VehicleStates
from edge.offload.value import awareness
from fl_app.offload_run import interval95

Decide = Callable[[Situation], Assignment]
Figures = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """A point of the paper's figures: c in GHz, deadline, most vehicles."""

    gigahertz: float = 2.0
    deadline_s: float = 0.4
    vehicles: int = 40


@dataclass(frozen=True, eq=False)
class Drive:
    """States of a seed's traffic with the turns that indicators announce."""

    seed: int
    scene: Scene
    ticks: list[tuple[VehicleStates, Prediction]] = field(default_factory=list)

    @classmethod
    def record(cls, seed: int, slots: int) -> "Drive":
        """`slots` ticks, 2 s apart, after a minute of traffic."""
        scene = open_scene("crossing", SceneRequest(seconds=2.0 * slots, step_s=0.5, seed=seed))
        drive, predictor = cls(seed, scene), IndicatorPredictor()
        for index, states in enumerate(scene.states()):
            expected = predictor.observe(states)
            if index % 4 == 3:
                drive.ticks.append((states, expected))
        return drive

    def situations(self, setting: Setting) -> Iterator[Situation]:
        """Slots of the setting with two users at least."""
        config = ScenarioConfig(
            deadline_s=setting.deadline_s, max_vehicles=setting.vehicles, area="exact" if has_shapely() else "raster"
        )
        # Workers are c + 1, 2 or 3 GHz; recorded with c = 2 GHz.
        more = (setting.gigahertz - 2.0) * 1e9
        workers = tuple(replace(one, cycles_per_s=one.cycles_per_s + more) for one in self.scene.workers)
        for states, expected in self.ticks:
            found = situation(states, expected, workers, config)
            if len(found.slot) > 1:
                yield found


def has_shapely() -> bool:
    """Whether areas can be exact."""
    return importlib.util.find_spec("shapely") is not None


def seen_by(found: Situation) -> Seen:
    """Awareness of the users of a slot: exact areas, or 1024 points in each region where shapely is missing."""
    if has_shapely():
        return lambda worker: awareness(found.roi_m, found.fov_m, worker)
    union = found.union_coverage()
    users = np.arange(len(found.slot))
    alone = np.bitwise_count(union.seen[users, users]).sum(axis=1) / union.parts

    def seen(worker: Int[ndarray, "n"]) -> Float[ndarray, "n"]:
        known = alone.copy()
        for one in np.unique(worker[worker != UNASSIGNED]):
            members = np.flatnonzero(worker == one)
            known[members] += union.gains(members)
        return known

    return seen


def judge(found: Situation, decide: Decide) -> Figures:
    """What the referee says of a decision, with the time that it took."""
    begun = time.perf_counter()
    assignment = decide(found)
    seconds = time.perf_counter() - begun
    figures = evaluate(found.slot, assignment, seen=seen_by(found)).figures()
    used = assignment.worker[assignment.worker != UNASSIGNED]
    sizes = np.unique(used, return_counts=True)[1]
    return figures | {"users_a_worker": float(sizes.mean()) if len(sizes) else 0.0, "seconds": seconds}


def over_slots(slots: Sequence[Situation], decide: Decide) -> Figures:
    """Means over the slots of a seed; violations are summed."""
    rows = [judge(found, decide) for found in slots]
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
    return means | {"violations": sum(row["violations"] for row in rows)}


def spread_of(rows: Sequence[Figures], name: str) -> tuple[float, float]:
    """Mean of a figure, and half the width of its 95 % interval."""
    values = [row[name] for row in rows]
    return fmean(values), interval95(values)


def by_policy(name: str, found: Situation) -> Assignment:
    return POLICIES[name](0).assign(found.slot)


def by_union(found: Situation) -> Assignment:
    return refine_by_union(found, Heuristic().assign(found.slot))


DECIDERS: dict[str, Decide] = {
    "ours": partial(by_policy, "ours"),
    "ours, union": by_union,
    "exact": partial(by_policy, "exact"),
    "algorithm1": partial(by_policy, "algorithm1"),
    "go": partial(by_policy, "go"),
    "go, shuffled": lambda found: GreedyOffloading(shuffle_seed=0).assign(found.slot),
    "cpto": partial(by_policy, "cpto"),
}
BASE = Setting()
SWEEPS = {
    "c, GHz": [Setting(gigahertz=c) for c in (1.0, 2.0, 3.0)],
    "deadline, s": [Setting(deadline_s=s) for s in (0.4, 0.5, 0.6, 0.7)],
    "vehicles": [Setting(vehicles=n) for n in (10, 20, 30, 40)],
}
PLACE = {"c, GHz": "gigahertz", "deadline, s": "deadline_s", "vehicles": "vehicles"}
SHOWN = {"awareness": "awareness", "delay_s": "delay, s", "satisfied": "satisfied", "users_a_worker": "users a worker"}
Swept = dict[tuple[Setting, str], list[Figures]]


def sweep(drives: list[Drive], settings: Sequence[Setting]) -> Swept:
    """Figures of every seed by setting and policy."""
    swept: Swept = {}
    for setting in dict.fromkeys(settings):
        slots = [list(drive.situations(setting)) for drive in drives]
        swept |= {(setting, name): [over_slots(each, decide) for each in slots] for name, decide in DECIDERS.items()}
    return swept


def crossing_table(swept: Swept, setting: Setting) -> list[harness.Row]:
    return [
        {
            "policy": name,
            "awareness, %": plus_minus(swept[setting, name], "awareness", 100),
            "satisfied, %": plus_minus(swept[setting, name], "satisfied", 100),
            "delay, ms": plus_minus(swept[setting, name], "delay_s", 1000),
            "users a worker": plus_minus(swept[setting, name], "users_a_worker", 1),
            "decision, ms": 1000 * fmean(row["seconds"] for row in swept[setting, name]),
            "violations": sum(row["violations"] for row in swept[setting, name]),
        }
        for name in DECIDERS
    ]


def plus_minus(rows: Sequence[Figures], name: str, factor: float) -> str:
    mean, half = spread_of(rows, name)
    return f"{factor * mean:.1f} ± {factor * half:.1f}"


def mean_of(swept: Swept, setting: Setting, policy: str, name: str) -> float:
    return fmean(row[name] for row in swept[setting, policy])


def draw(swept: Swept, folder: Path) -> None:
    """Figures 2 to 4 of the paper, and the time of a decision by users (figure 5)."""
    names = {**SHOWN, "seconds": "decision, s"}
    for name, label in names.items():
        harness.save_figure(folder / f"offload_{name}.png", len(SWEEPS), partial(_panels, swept, name, label))


def _panels(swept: Swept, name: str, label: str, axes: Sequence) -> None:
    for axis, (title, settings) in zip(axes, SWEEPS.items(), strict=True):
        shown = [setting for setting in settings if (setting, "ours") in swept]
        for policy in DECIDERS:
            spread = [spread_of(swept[setting, policy], name) for setting in shown]
            places_ = [getattr(setting, PLACE[title]) for setting in shown]
            axis.errorbar(places_, [m for m, _ in spread], [h for _, h in spread], marker=".", capsize=2, label=policy)
        axis.set(xlabel=title, ylabel=label, yscale="log" if name == "seconds" else "linear")
    axes[0].legend(fontsize=6)
