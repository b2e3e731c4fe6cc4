"""The controller (SD-CSC): every second it decides whose features are fused where and hands back what they then know.

Where the fusion runs is an `Executor`, where states come from is an iterator; both are passed in.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from edge.offload.capacity import assignment_of
from edge.offload.fusion import FusedView, FusionJob, fuse_fields, fusion_jobs
from edge.offload.judgement import Judgement, judge
from edge.offload.mobility import Prediction, Predictor
from edge.offload.model import UNASSIGNED, Assignment, OffloadPolicy, Slot, Worker
from edge.offload.recorded import TraceTable
from edge.offload.scenario import ScenarioConfig, Situation, situation
from edge.offload.states import VehicleStates
from edge.offload.value import awareness


@dataclass(frozen=True)
class ControllerConfig:
    """How the controller ticks.

    Args:
        tick_s: time between two decisions; states that come in between only feed the predictor.
        satisfied_share: a user whose region is covered by this share is satisfied, φ of the paper.
        fusion_timeout_s: a cluster that is not fused after this time keeps its members' own views.
        retry_s: a worker whose cluster was not fused is not used again for so long.
        truth_window_s: how far ahead a turn counts when predictions are judged.

    Raises:
        ValueError: a value is out of range.
    """

    tick_s: float = 1.0
    satisfied_share: float = 0.35
    fusion_timeout_s: float = 1.0
    retry_s: float = 5.0
    truth_window_s: float = 4.0

    def __post_init__(self) -> None:
        for name in ("tick_s", "fusion_timeout_s", "retry_s", "truth_window_s"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"ControllerConfig: {name} must be finite and positive, got {getattr(self, name)}")
        if not 0 <= self.satisfied_share <= 1:
            raise ValueError(f"ControllerConfig: satisfied_share is {self.satisfied_share}, want 0 to 1")


@dataclass(frozen=True, eq=False)
class Tick:
    """What one decision brought; rows are the users of the slot.

    Args:
        situation: the slot and its geometry.
        assignment: who offloads where.
        alone: the share of its region that each user sees itself, [n].
        awareness: the share that it knows after the fusion, [n].
        response_s: from the first bit sent to the end of the fusion, NaN for users that are not served, [n].
        views: of the workers that have a cluster.
        lost: workers whose cluster was not fused, and why.
        tick_s, satisfied_share: see `ControllerConfig`.
        geometry_s, decision_s, fusion_s: time spent on prediction and areas, on the assignment, on the fusion.
        judgement: how it served those who truly turned, if that is known.
    """

    situation: Situation
    assignment: Assignment
    alone: Float[ndarray, "n"]
    awareness: Float[ndarray, "n"]
    response_s: Float[ndarray, "n"]
    views: tuple[FusedView, ...]
    lost: tuple[tuple[str, str], ...]
    tick_s: float
    satisfied_share: float
    geometry_s: float
    decision_s: float
    fusion_s: float
    judgement: Judgement | None

    @property
    def served(self) -> Bool[ndarray, "n"]:
        """Who offloads, [n]."""
        return self.assignment.worker != UNASSIGNED

    def metrics(self) -> dict[str, float]:
        """Figures of the tick; means over nobody are NaN.

        Delays and cluster sizes are of those who are served; `late` counts users after their deadline, `overrun` is 1
        where prediction, areas and assignment took longer than a tick.
        """
        sizes = np.unique(self.assignment.worker[self.served], return_counts=True)[1]
        figures = {
            "users": float(len(self.served)),
            "served": float(self.served.sum()),
            "awareness": _mean(self.awareness),
            "awareness-alone": _mean(self.alone),
            "satisfied": _mean(self.awareness >= self.satisfied_share),
            "delay-s": _mean(self.response_s[self.served]),
            "users-per-worker": _mean(sizes),
            "late": float((self.response_s > self.situation.slot.deadline_s).sum()),
            "lost": float(len(self.lost)),
            "overrun": float(self.geometry_s + self.decision_s > self.tick_s),
            "geometry-s": self.geometry_s,
            "decision-s": self.decision_s,
            "fusion-s": self.fusion_s,
        }
        if self.judgement is not None:
            turns = self.judgement.turns
            figures |= {"turn-recall": turns.recall, "turn-precision": turns.precision}
            figures["awareness-turning"] = _mean(self.judgement.awareness)
        return figures


@dataclass
class Controller:
    """Decides tick by tick.

    Args:
        workers: the RSUs' computers.
        policy: assigns.
        predictor: tells who turns.
        executor: runs the fusion, one call for each cluster.
        config: how it ticks.
        scenario: tasks, links and geometry.
        fuse: what a worker does; it and its argument have to reach where the executor runs them.
        refine: a second pass that sees the geometry, too, as one for `Situation.union_coverage` has to.
        truth: the traces that the states come from, if they are recorded, to judge predictions and decisions by.
    """

    workers: tuple[Worker, ...]
    policy: OffloadPolicy
    predictor: Predictor
    executor: Executor
    config: ControllerConfig = field(default_factory=ControllerConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    fuse: Callable[[FusionJob], FusedView] = fuse_fields
    refine: Callable[[Situation, Assignment], Assignment] | None = None
    truth: TraceTable | None = None

    def run(self, source: Iterable[VehicleStates]) -> Iterator[Tick]:
        """A tick for the first states and for the first ones at least `tick_s` after each tick's.

        Raises:
            ValueError: states are not in the order of time.
        """
        due_s, down = -np.inf, dict[str, float]()
        for states in source:
            began = time.perf_counter()
            expected = self.predictor.observe(states)
            if states.time_s >= due_s - 1e-9:
                due_s = states.time_s + self.config.tick_s
                down = {name: until_s for name, until_s in down.items() if until_s > states.time_s}
                seen = situation(states, expected, self.workers, self.scenario, down)
                spent_s = time.perf_counter() - began
                tick = replace(self.decide(seen), geometry_s=spent_s)
                down |= {worker: states.time_s + self.config.retry_s for worker, _ in tick.lost}
                yield replace(tick, judgement=self._judged(tick, expected))

    def decide(self, seen: Situation) -> Tick:
        """Assign, fuse and hand back for one situation, whatever it was made from."""
        began = time.perf_counter()
        assignment = self._assigned(seen)
        decided = time.perf_counter()
        views, lost = self._fused(fusion_jobs(seen, assignment))
        fused = time.perf_counter()
        alone = awareness(seen.roi_m, seen.fov_m, np.full(len(seen.slot), UNASSIGNED))
        return Tick(
            situation=seen,
            assignment=assignment,
            alone=alone,
            awareness=_handed_back(seen.slot, alone, views),
            response_s=response_s(seen.slot, assignment),
            views=views,
            lost=lost,
            tick_s=self.config.tick_s,
            satisfied_share=self.config.satisfied_share,
            geometry_s=0.0,
            decision_s=decided - began,
            fusion_s=fused - decided,
            judgement=None,
        )

    def _assigned(self, seen: Situation) -> Assignment:
        """One user alone has nobody to fuse with, so the policy is not asked."""
        if len(seen.slot) < 2:
            return assignment_of(seen.slot, np.full(len(seen.slot), UNASSIGNED))
        assignment = self.policy.assign(seen.slot)
        return assignment if self.refine is None else self.refine(seen, assignment)

    def _fused(self, jobs: tuple[FusionJob, ...]) -> tuple[tuple[FusedView, ...], tuple[tuple[str, str], ...]]:
        """Run the jobs; one that fails or hangs is lost, and the others count."""
        try:
            running: dict[Future[FusedView], FusionJob] = {self.executor.submit(self.fuse, job): job for job in jobs}
        except BrokenExecutor as down:
            return (), tuple((job.worker, f"{type(down).__name__}: {down}") for job in jobs)
        wait(running, self.config.fusion_timeout_s)
        views, lost = [], []
        for future, job in running.items():
            if not future.done():
                future.cancel()
                lost.append((job.worker, f"no answer in {self.config.fusion_timeout_s:g} s"))
            elif (error := future.exception()) is not None:
                lost.append((job.worker, f"{type(error).__name__}: {error}"))
            else:
                views.append(future.result())
        return tuple(views), tuple(lost)

    def _judged(self, tick: Tick, expected: Prediction) -> Judgement | None:
        if self.truth is None:
            return None
        now = tick.situation.everybody
        truth = self.truth.turns_ahead(now.time_s, now.names, self.config.truth_window_s)
        return judge(tick.situation, tick.assignment, expected, truth, self.scenario)


def response_s(slot: Slot, assignment: Assignment) -> Float[ndarray, "n"]:
    """Transmission plus computation on an evenly shared worker (Q-CPTO eqs. 1-3), NaN for those not served."""
    served = np.flatnonzero(assignment.worker != UNASSIGNED)
    at = assignment.worker[served]
    sharing = np.bincount(at, minlength=len(slot.workers))[at]
    seconds = np.full(len(slot), np.nan)
    seconds[served] = slot.transmission_s[served, at] + sharing * slot.cycles[served] / slot.cycles_per_s[at]
    return seconds


def _handed_back(slot: Slot, alone: Float[ndarray, "n"], views: tuple[FusedView, ...]) -> Float[ndarray, "n"]:
    places = {user.name: place for place, user in enumerate(slot.users)}
    known = alone.copy()
    for view in views:
        known[[places[name] for name in view.users]] = view.awareness
    return known


def _mean(values: ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan
