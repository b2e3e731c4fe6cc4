"""The controller: ticks, what is fused where, what is handed back, and what happens if an RSU is lost."""

import math
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from edge.offload.capacity import assignment_of
from edge.offload.controller import Controller, ControllerConfig, Tick, response_s
from edge.offload.fusion import FusedView, FusionJob, fuse_fields
from edge.offload.mobility import IndicatorPredictor
from edge.offload.model import Assignment, Reason, Slot, Worker
from edge.offload.recorded import TraceTable, record
from edge.offload.scenario import ScenarioConfig, Situation
from edge.offload.states import VehicleStates

pytest.importorskip("shapely", reason="areas of views need shapely: pip install shapely")

WORKERS = (Worker("slow", (0.0, 0.0), 1e9), Worker("fast", (5.0, 0.0), 4e9))


class Inline(Executor):
    """Runs a call where it is submitted."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Pairs:
    """First two users to the first worker, next two to the second; others are left out."""

    def assign(self, slot: Slot) -> Assignment:
        worker = np.full(len(slot), -1)
        worker[:4] = [0, 0, 1, 1][: len(slot)]
        return Assignment(worker, tuple(Reason.ASSIGNED if w >= 0 else Reason.NO_PLACE for w in worker))


def states(time_s: float = 0.0) -> VehicleStates:
    """`a` turns left into what `b` sees; `c` and `d` stand far from each other; `e` is one too many."""
    position_m = np.array([[0.0, 0.0], [7.0, 25.0], [100.0, 0.0], [300.0, 0.0], [500.0, 0.0], [900.0, 0.0]])
    heading_rad = np.array([0.0, -math.pi / 2, 0.0, 0.0, 0.0, 0.0])
    indicator = np.array([1, -1, 1, 1, 1, 0], np.int8)
    return VehicleStates(time_s, tuple("abcdef"), position_m, heading_rad, np.full(6, 3.0), indicator)


def controller(executor: Executor | None = None, **changes: object) -> Controller:
    made = Controller(WORKERS, Pairs(), IndicatorPredictor(), executor or Inline())
    return replace(made, **changes)  # type: ignore[arg-type]


def one_tick(made: Controller) -> Tick:
    (tick,) = made.run([states()])
    return tick


def test_a_tick_hands_back_what_each_knows() -> None:
    tick = one_tick(controller())
    own = 2 - math.sqrt(3)
    assert [user.name for user in tick.situation.slot.users] == list("abcde"), "f goes straight on"
    assert tick.alone == pytest.approx([own] * 5)
    gained = tick.situation.slot.value[:2, :2].sum(axis=1)
    assert gained[0] > 0.3
    assert tick.awareness == pytest.approx([own + gained[0], own + gained[1], own, own, own])
    assert tick.served.tolist() == [True, True, True, True, False]
    assert [view.worker for view in tick.views] == ["slow", "fast"]
    assert tick.views[1].area_m2 == pytest.approx(2 * 400 / math.sqrt(3)), "two fields of view apart from each other"
    assert len(tick.views[1].outlines_m) == 2


def test_delay_is_sending_and_sharing() -> None:
    tick = one_tick(controller(scenario=ScenarioConfig(uplink_bps=(16e6, 16e6))))
    assert tick.response_s[:4] == pytest.approx([0.0125 + 0.4, 0.0125 + 0.4, 0.0125 + 0.1, 0.0125 + 0.1])
    assert math.isnan(tick.response_s[4])
    figures = tick.metrics()
    assert figures["late"] == 2, "the policy of this test does not look at deadlines"
    assert figures["delay-s"] == pytest.approx(0.0125 + 0.25)
    assert (figures["users"], figures["served"], figures["users-per-worker"]) == (5, 4, 2)
    assert figures["awareness"] == pytest.approx(tick.awareness.mean())
    assert figures["satisfied"] == pytest.approx((tick.awareness >= 0.35).mean())
    assert np.array_equal(response_s(tick.situation.slot, tick.assignment), tick.response_s, equal_nan=True)


def test_a_tick_a_second_though_states_come_more_often() -> None:
    ticks = list(controller().run(states(t) for t in np.arange(0, 3.05, 0.1).tolist()))
    assert [tick.situation.slot.time_s for tick in ticks] == pytest.approx([0, 1, 2, 3])


def test_states_are_taken_as_they_come() -> None:
    """The source is not read ahead: a live simulation stays live."""
    read: list[float] = []

    def source() -> Iterator[VehicleStates]:
        for second in range(5):
            read.append(float(second))
            yield states(float(second))

    ticks = controller().run(source())
    next(ticks)
    assert read == [0]


def test_threads_and_inline_agree() -> None:
    with ThreadPoolExecutor(2) as pool:
        tick = one_tick(controller(pool, config=ControllerConfig(fusion_timeout_s=30.0)))
    assert tick.awareness.tolist() == one_tick(controller()).awareness.tolist()


def test_an_rsu_that_fails_costs_its_own_cluster_only() -> None:
    def fuse(job: FusionJob) -> FusedView:
        if job.worker == "slow":
            raise ConnectionError("link lost")
        return fuse_fields(job)

    tick = one_tick(controller(fuse=fuse))
    assert tick.lost == (("slow", "ConnectionError: link lost"),)
    assert [view.worker for view in tick.views] == ["fast"]
    assert tick.awareness.tolist() == tick.alone.tolist()
    assert tick.metrics()["lost"] == 1


def test_an_rsu_that_failed_is_left_alone_for_a_while() -> None:
    class Nearest:
        def assign(self, slot: Slot) -> Assignment:
            return assignment_of(slot, np.where(slot.allowed.any(axis=1), slot.allowed.argmax(axis=1), -1))

    def fuse(job: FusionJob) -> FusedView:
        tried.append(job.worker)
        if job.worker == "slow":
            raise ConnectionError("link lost")
        return fuse_fields(job)

    tried: list[str] = []
    made = controller(policy=Nearest(), fuse=fuse, config=ControllerConfig(retry_s=2.5))
    list(made.run(states(float(second)) for second in range(5)))
    assert tried == ["slow", "fast", "fast", "slow", "fast"]


def test_without_any_rsu_everybody_keeps_its_own_view() -> None:
    class Broken(Inline):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenExecutor("the tier is down")

    tick = one_tick(controller(Broken()))
    assert tick.lost == (("slow", "BrokenExecutor: the tier is down"), ("fast", "BrokenExecutor: the tier is down"))
    assert tick.awareness.tolist() == tick.alone.tolist()


def test_jobs_and_views_can_be_sent_to_another_machine() -> None:
    sent: list[FusionJob] = []

    def fuse(job: FusionJob) -> FusedView:
        sent.append(pickle.loads(pickle.dumps(job)))
        return pickle.loads(pickle.dumps(fuse_fields(sent[-1])))

    assert one_tick(controller(fuse=fuse)).awareness.tolist() == one_tick(controller()).awareness.tolist()
    assert [job.users for job in sent] == [("a", "b"), ("c", "d")]


def test_a_second_pass_sees_the_geometry() -> None:
    def refine(seen: Situation, before: Assignment) -> Assignment:
        better = seen.union_coverage()([np.array([0, 1]), np.array([2, 3])])
        worker = np.where(np.repeat(better > 0, 2), before.worker[:4], -1)
        return assignment_of(seen.slot, np.append(worker, -1))

    assert one_tick(controller(refine=refine)).assignment.worker.tolist() == [0, 0, -1, -1, -1], "c and d gain nothing"


def test_an_rsu_that_hangs_is_not_waited_for() -> None:
    def fuse(job: FusionJob) -> FusedView:
        time.sleep(0.4 if job.worker == "slow" else 0)
        return fuse_fields(job)

    with ThreadPoolExecutor(2) as pool:
        tick = one_tick(controller(pool, fuse=fuse, config=ControllerConfig(fusion_timeout_s=0.1)))
    assert tick.lost == (("slow", "no answer in 0.1 s"),)
    assert tick.fusion_s < 0.35


def test_decisions_are_judged_by_who_truly_turns() -> None:
    """`a` turns left as indicated; `f` turns right and said nothing, so it knows no more than it sees itself."""
    rate_radps = np.array([1, 0, 0, 0, 0, -1])
    turning = [
        replace(states(t), heading_rad=states().heading_rad + t * rate_radps) for t in np.arange(0, 5, 0.5).tolist()
    ]
    truth = TraceTable.of(record(turning))
    first, *_ = controller(truth=truth).run(turning)
    assert first.judgement is not None
    turns = first.judgement.turns
    assert (turns.turning, turns.predicted, turns.hits) == (2, 5, 1)
    assert first.judgement.awareness == pytest.approx([first.awareness[0], 2 - math.sqrt(3)])
    figures = first.metrics()
    assert (figures["turn-recall"], figures["turn-precision"]) == (0.5, 0.2)
    assert figures["awareness-turning"] == pytest.approx(first.judgement.awareness.mean())
    assert "turn-recall" not in one_tick(controller()).metrics()


def test_nobody_on_the_road_is_no_error() -> None:
    nobody = states().pick(np.array([], int))
    (tick,) = controller().run([nobody])
    assert tick.metrics()["users"] == 0
    assert math.isnan(tick.metrics()["awareness"])


def test_who_is_alone_keeps_its_own_view() -> None:
    (tick,) = controller().run([states().pick(np.array([0, 5]))])
    assert (tick.metrics()["users"], tick.metrics()["served"]) == (1, 0)
    assert tick.awareness.tolist() == tick.alone.tolist()


def test_bad_settings_are_one_error() -> None:
    with pytest.raises(ValueError, match="tick_s must be finite and positive, got 0"):
        ControllerConfig(tick_s=0.0)
    with pytest.raises(ValueError, match="satisfied_share is 35"):
        ControllerConfig(satisfied_share=35)
    with pytest.raises(ValueError, match="not after"):
        list(controller().run([states(1.0), states(0.0)]))
