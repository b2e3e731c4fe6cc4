"""The whole reconstruction through a fake Grid, with vehicles that answer from a drawer: no fitting, all arithmetic."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message

from clients.gaussian_messages import (
    ALIGN,
    ALL,
    FIT,
    IMAGES,
    LIDAR,
    NO_LANDMARKS,
    REFINE,
    AlignReply,
    Found,
    RefineReply,
)
from clients.gaussian_wire import (
    decode_align,
    decode_fit,
    decode_fit_reply,
    decode_refine,
    encode_align,
    encode_align_reply,
    encode_fit_reply,
    encode_refine_reply,
)
from clients.messages import (
    EvaluateReply,
    Hello,
    TrainReply,
    TrainRequest,
    count_bytes,
    decode_request,
    decode_train_reply,
    encode_evaluate_reply,
    encode_hello,
    encode_train_reply,
)
from geometry import Sim3
from recon.compressed import CHANGE_STEPS, STEPS, compress_gaussians, compress_update
from recon.gaussians import Gaussians
from recon.plan import Plan
from recon.refine import Update
from strategies.gate import Cause
from strategies.gaussian_config import FusionConfig
from strategies.gaussian_scene import whole
from strategies.gaussian_state import BASE, FusionState
from strategies.membership import NotEnoughVehicles
from strategies.report import Traffic
from tests.fakes import (
    EVALUATE,
    HELLO,
    NODE_UNAVAILABLE,
    TRAIN,
    Behaviour,
    failing,
    silent,
    train_reply,
    twice,
)
from tests.strategies.street import (
    HALF_M,
    HOUSES,
    PLAN,
    RISE_M,
    RSU_OF,
    Driven,
    Street,
    bits,
    houses,
    only,
    restored,
    stretch,
    with_arrays,
    with_gaussians,
    with_means_times,
    with_metrics,
    with_update,
    world_from_own,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# Rounds


def test_fit_then_align_and_merge_then_refine() -> None:
    driven = Driven().run()
    assert [(report.round, report.job) for report in driven.rounds] == [
        *[(1, FIT), (2, ALIGN), (3, REFINE), (4, REFINE)]
    ]
    assert [report.wanted for report in driven.rounds] == [4, 4, 4, 4]
    assert [report.accepted for report in driven.rounds] == [4, 4, 4, 4]
    assert driven.rounds[0].gaussians == dict.fromkeys("abcd", HOUSES)
    assert driven.rounds[3].gaussians == {"north": 2 * HOUSES, "south": 2 * HOUSES}
    assert driven.rounds[1].vehicle_metrics == {vehicle: {"align-cpu-s": 1.0} for vehicle in "abcd"}
    assert driven.state.round == driven.config.num_rounds == 4
    assert driven.state.accepted == 16
    assert driven.losses() == []
    assert driven.state.losses == {}


def test_everyone_is_asked_hello_once() -> None:
    driven = Driven().run()
    assert [m.metadata.dst_node_id for m in driven.grid.received(HELLO)] == [1, 2, 3, 4]


def test_worlds_are_found_and_the_scene_is_where_it_was() -> None:
    driven = Driven().run(2)
    for vehicle, place in driven.state.world_from.items():
        np.testing.assert_allclose(place.matrix, world_from_own(vehicle).matrix, atol=1e-5)
    wanted = {rsu: torch.cat([houses(v).means for v in RSU_OF if RSU_OF[v] == rsu]) for rsu in ("north", "south")}
    for rsu, part in driven.state.scene.items():
        np.testing.assert_allclose(part.means, wanted[rsu], atol=2 * HALF_M, rtol=0)  # to an RSU, and to the cloud
        np.testing.assert_allclose(part.log_scales, math.log(0.3), atol=STEPS["log_scales"], rtol=0)
        for name, tensor in part.tensors().items():
            assert (tensor % STEPS[name] == 0).all()  # what the cloud holds is what it was sent
    assert len(driven.rounds[1].links) == 6  # a-b, b-c, c-d, each by both


class WithLidar(Street):
    """Those named sense too: their houses are landmarks, and they find those of others."""

    sensing = "abcd"

    def fitted(self, vehicle: str, request: TrainRequest) -> TrainReply:
        reply = decode_fit_reply(super().fitted(vehicle, request))
        marks = np.repeat(reply.gaussians.means.numpy(), 5, axis=0) if vehicle in self.sensing else NO_LANDMARKS
        return encode_fit_reply(replace(reply, landmarks=marks[: decode_fit(request).landmarks]))

    def aligned(self, vehicle: str, request: TrainRequest) -> TrainReply:
        """By LiDAR those who sent landmarks, by images the others."""
        asked, own_from_world = decode_align(request), world_from_own(vehicle).inverse()
        others = {name: other for name, other in asked.others.items() if name not in asked.landmarks}
        reply = super().aligned(vehicle, encode_align(replace(asked, others=others)))
        places = {n: Sim3.identity() if n == BASE else world_from_own(n) for n in asked.landmarks}
        felt = {n: Found(own_from_world @ place, 0.2, 0.01, 500, LIDAR) for n, place in places.items()}
        return TrainReply({**reply.arrays, **encode_align_reply(AlignReply(felt)).arrays}, 1, reply.metrics)


def test_those_who_sense_are_sent_landmarks_beside_gaussians() -> None:
    driven = Driven(WithLidar(), align_rounds=2, refine_rounds=0, felt_near_m=5.0).run()
    first = {name: decode_align(request) for name, request in driven.requests(ALIGN).items()}
    assert {n: set(request.landmarks) for n, request in first.items()} == {
        **{"a": {"b"}, "b": {"a", "c"}},
        **{"c": {"b", "d"}, "d": {"c"}},
    }
    assert all(set(request.others) == set(request.landmarks) for request in first.values())
    assert {link.by for link in driven.rounds[1].links} == {LIDAR}
    assert [report.wanted for report in driven.rounds] == [4, 4, 0]  # nobody is left to settle
    for vehicle, place in driven.state.world_from.items():
        np.testing.assert_allclose(place.matrix, world_from_own(vehicle).matrix, atol=1e-5)
    assert driven.state.tied == list("abcd")
    assert {rsu: len(part) for rsu, part in driven.state.scene.items()} == {"north": 40, "south": 40}


def test_landmarks_reach_farther_than_gaussians() -> None:
    driven = Driven(WithLidar(), refine_rounds=0, felt_near_m=15.0).run()
    assert set(decode_align(driven.requests(ALIGN)["a"]).landmarks) == {"b", "c"}


def test_who_does_not_sense_is_found_by_images_and_looks_again() -> None:
    street = WithLidar()
    street.sensing = "ab"
    driven = Driven(street, align_rounds=2, refine_rounds=0, felt_near_m=5.0).run(2)
    asked = {name: decode_align(request) for name, request in driven.requests(ALIGN).items()}
    assert {n: (set(r.landmarks), set(r.others)) for n, r in asked.items()} == {
        "a": ({"b"}, {"b"}),
        "b": ({"a"}, {"a", "c"}),
        "c": (set(), {"b", "d"}),
        "d": (set(), {"c"}),
    }
    assert driven.state.tied == ["a", "b"]
    driven.run(1)
    assert driven.rounds[-1].wanted == 2
    assert furthest_m(driven) < 2 * HALF_M  # of places that travelled to the RSU and on to who looks


def test_no_landmarks_are_sent_where_none_are_wanted() -> None:
    driven = Driven(WithLidar(), landmarks=0, refine_rounds=0).run()
    assert driven.state.landmarks == {}
    assert {link.by for link in driven.rounds[1].links} == {IMAGES}


def test_vehicles_that_sense_are_tied_to_what_an_earlier_run_sensed() -> None:
    base = Driven(WithLidar(("a", "b")), plan=Plan(PLAN.stretches[:2])).run().state
    unsurveyed = Plan(tuple(replace(stretch(vehicle), surveyed=False) for vehicle in "abcd"))
    state = FusionState(base=base.scene, landmarks={BASE: base.all_landmarks()})
    driven = Driven(WithLidar(("c", "d")), plan=unsurveyed, state=state, near_m=5.0).run(2)
    asked = {name: decode_align(request) for name, request in driven.requests(ALIGN).items()}
    assert all(BASE in request.landmarks for request in asked.values())
    assert {link.by for link in driven.rounds[1].links} == {LIDAR}
    for vehicle in "cd":
        np.testing.assert_allclose(driven.state.world_from[vehicle].matrix, world_from_own(vehicle).matrix, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_what_was_sensed_survives_a_resume(rounds: int) -> None:
    whole_run = Driven(WithLidar(), align_rounds=2).run()
    first = Driven(WithLidar(), align_rounds=2).run(rounds)
    second = Driven(WithLidar(), state=restored(first.state), align_rounds=2).run()
    assert bits(second.state.scene) == bits(whole_run.state.scene)
    assert second.state.counters() == whole_run.state.counters()


def test_refinement_goes_as_far_as_the_steps_add_up_to() -> None:
    # Everyone wants 0.125 m up; the first round goes 1.5 times as far, the last one once: 0.3125 m.
    driven = Driven()
    before = driven.run(2).state.scene
    before = {rsu: part.clone() for rsu, part in before.items()}
    after = driven.run(2).state.scene
    for rsu, part in after.items():
        np.testing.assert_allclose(part.means - before[rsu].means, np.tile([0, 0, 0.3125], (40, 1)), atol=1e-5)
        assert torch.equal(part.sh, before[rsu].sh)


def test_requests_follow_the_plan() -> None:
    uneven = Plan((stretch("a", views=8, max_gaussians=60), *(stretch(v) for v in "bcd")))
    driven = Driven(plan=uneven, fit_steps=2.5, refine_steps=1.5, margin_m=7.0, seed=5).run()
    fits = {vehicle: decode_fit(request) for vehicle, request in driven.requests(FIT).items()}
    assert {v: (fit.steps, fit.max_gaussians) for v, fit in fits.items()} == {
        **dict.fromkeys("bcd", (10, 40)),
        "a": (20, 60),
    }
    assert all((fit.margin_m, fit.seed) == (7.0, 5) for fit in fits.values())
    np.testing.assert_array_equal(fits["b"].own_m, PLAN["b"].waypoints_m)
    assert len(fits["b"].others_m) == 30
    refines = {vehicle: decode_refine(request) for vehicle, request in driven.requests(REFINE).items()}
    assert {v: refine.steps for v, refine in refines.items()} == {"a": 12, "b": 6, "c": 6, "d": 6}
    assert {refine.round_number for refine in refines.values()} == {1}
    for vehicle, refine in refines.items():
        np.testing.assert_allclose(refine.world_from_own.matrix, driven.state.world_from[vehicle].matrix, atol=1e-12)
    assert {name: set(decode_align(r).others) for name, r in driven.requests(ALIGN).items()} == {
        **{"a": {"b"}, "b": {"a", "c"}},
        **{"c": {"b", "d"}, "d": {"c"}},
    }


def test_vehicles_work_on_what_lies_within_sight() -> None:
    # Sight of 5 m reaches 3 m (a 3-4-5 triangle) beyond the last waypoint: three more metres of houses at each border.
    driven = Driven(sight_m=5.1, far_share=1e6, refine_rounds=1).run()
    sizes = {v: len(decode_refine(request).scene) for v, request in driven.requests(REFINE).items()}
    assert sizes == {"a": 26, "b": 32, "c": 32, "d": 26}
    assert driven.evaluations[-1].vehicle_metrics["a"]["gaussians"] == len(whole(driven.state.scene))  # all is judged


class Swelling(Street):
    """All that they see they want ten times as large."""

    def refined(self, vehicle: str, request: TrainRequest) -> TrainReply:
        scene = decode_refine(request).scene
        changes = {name: torch.zeros_like(tensor) for name, tensor in scene.tensors().items()}
        changes["log_scales"] += math.log(10.0)
        reply = RefineReply(torch.arange(len(scene)), Update(changes, torch.ones(len(scene))), 4, {})
        return encode_refine_reply(reply)


def test_nothing_is_larger_than_where_it_is_allows() -> None:
    """Houses are 4 m beside the way and 2 m up, 4.5 m away: a fifth is 0.9 m. They have 0.3 m, and are to have 3 m."""
    driven = Driven(Swelling(), size_m=0.1, refine_rounds=1).run(2)
    assert whole(driven.state.scene).scales.max() == pytest.approx(0.3, rel=0.02)
    driven.run(1)
    allowed_m = 0.2 * math.hypot(4, 2)
    torch.testing.assert_close(whole(driven.state.scene).scales, torch.full((80, 3), allowed_m), rtol=0.02, atol=0)
    large = Driven(size_m=0.1, size_share=0.01).run(2)
    assert whole(large.state.scene).scales.max() == pytest.approx(0.1)


def test_no_request_and_no_reply_holds_a_pose_or_an_image() -> None:
    """All arrays of a run by name: bytes of Gaussians and updates, planned places, similarities between worlds."""
    driven = Driven(momentum=0.5)
    names: set[tuple[str, tuple[int, ...]]] = set()

    def kept(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names.update((key.partition("/")[0].partition(":")[0], values.shape[1:]) for key, values in arrays.items())
        return arrays

    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = with_arrays(kept)
    driven.run()
    assert names == {("part", ()), ("found", ()), ("update", ())}
    sent = {
        key.partition("/")[0].partition(":")[0] for m in driven.grid.received(TRAIN) for key in decode_request(m).arrays
    }
    assert sent == {"own", "others", "limit", "other", "scene", "world-from-own", "teacher"}


# Several rounds of alignment


def off_by(east_m: float) -> Behaviour:
    """Pair by pair it sees its neighbours so much too far east; all together it sees them where they are."""

    def shifted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        wrong = np.array([0, 0, 0, 0, east_m, 0, 0, 0, 0, 0, 0])
        return {name: values + (0 if name == f"found:{ALL}" else wrong) for name, values in arrays.items()}

    return with_arrays(shifted)


def furthest_m(driven: Driven) -> float:
    """How far the middle of a stretch is from where it is."""
    places = driven.state.world_from.items()
    centre = {name: PLAN[name].centre_m[None] for name in "abcd"}
    away = [place.apply(centre[n]) - world_from_own(n).apply(centre[n]) for n, place in places]
    return float(np.linalg.norm(away, axis=2).max())


def test_later_rounds_of_alignment_take_off_what_the_first_left() -> None:
    left_m = []
    for align_rounds in (1, 2):
        driven = Driven(align_rounds=align_rounds, refine_rounds=1)
        for node_id in (2, 3, 4):
            driven.grid.behaviour[node_id, TRAIN] = only(ALIGN, off_by(0.05))
        driven.run()
        assert [report.job for report in driven.rounds] == [FIT, *[ALIGN] * align_rounds, REFINE]
        assert len(whole(driven.state.scene)) == 80
        left_m.append(furthest_m(driven))
    assert left_m[0] > 0.02
    assert left_m[1] < 0.8 * left_m[0]


def test_whose_positioning_is_right_is_not_asked_again() -> None:
    driven = Driven(align_rounds=2).run(3)
    asked = [m.metadata.dst_node_id for m in driven.grid.received(TRAIN)]
    assert asked == [*[1, 2, 3, 4] * 2, 2, 3, 4]
    np.testing.assert_array_equal(driven.state.world_from["a"].matrix, np.eye(4))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_resuming_between_rounds_of_alignment_changes_nothing(rounds: int) -> None:
    straight = Driven(align_rounds=3, refine_rounds=1).run()
    first = Driven(align_rounds=3, refine_rounds=1).run(rounds)
    second = Driven(align_rounds=3, refine_rounds=1, state=restored(first.state)).run()
    for rsu, part in straight.state.scene.items():
        for name, tensor in part.tensors().items():
            np.testing.assert_allclose(second.state.scene[rsu].tensors()[name], tensor, atol=1e-5)
    assert second.state.counters() == straight.state.counters()


# Bytes


def test_traffic_is_what_was_sent() -> None:
    driven = Driven()
    up: list[int] = []

    def counted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        up.append(count_bytes(arrays))
        return arrays

    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = with_arrays(counted)
    driven.run()
    down = sum(count_bytes(decode_request(message).arrays) for message in driven.grid.received(TRAIN))
    traffic = driven.state.traffic
    assert (traffic.vehicle_up, traffic.vehicle_down) == (sum(up), down)
    sent = [houses(vehicle).transformed(world_from_own(vehicle).inverse()) for vehicle in "abcd"]
    fits = sum(len(compress_gaussians(part)) for part in sent)
    places = (10 + 30) * 2 * 8  # waypoints, own and others', and all for the limit; to each RSU once
    assert driven.rounds[0].traffic == Traffic(vehicle_up=fits, vehicle_down=4 * 2 * places, cloud_down=2 * places)


def lift(scene: Gaussians, rows: torch.Tensor, seen_by: torch.Tensor) -> np.ndarray:
    """As an RSU sends it to the cloud when so many of its vehicles want the same."""
    changes = {name: torch.zeros_like(tensor[rows]) for name, tensor in scene.tensors().items()}
    changes["means"][:, 2] = RISE_M
    return compress_update(rows, Update(changes, 5.0 * seen_by[rows]))


def test_traffic_to_the_cloud_is_what_rsus_send_and_are_sent() -> None:
    """Up: their own Gaussians at the merge, then changes of what they saw. Down: once what their vehicles are sent."""
    driven = Driven(sight_m=5.1, far_share=1e6, refine_rounds=1).run(2)
    merged, places = driven.state.scene, 2 * (10 + 30) * 2 * 8
    # Only b and c are neighbours under two RSUs; each is sent what the other has within the margin of alignment.
    asked = driven.requests(ALIGN)
    between = len(asked["b"].arrays["other:c"]) + len(asked["c"].arrays["other:b"])
    up, down = between + sum(len(compress_gaussians(part)) for part in merged.values()), places + between
    assert (driven.state.traffic.cloud_up, driven.state.traffic.cloud_down) == (up, down)
    everything = whole(merged)
    east = everything.means[:, 0]
    # Sight reaches 3 m beyond the last waypoint, 8 m from the middle of a stretch; all of that is lifted.
    shown = [everything.select(east < 23), everything.select(east > 17)]
    assert [len(part) for part in shown] == [46, 46]
    driven.run(1)
    for near in ([5.0, 15.0], [25.0, 35.0]):
        seen_by = torch.stack([(east - middle).abs() < 8 for middle in near]).sum(dim=0)
        up += len(lift(everything, torch.nonzero(seen_by)[:, 0], seen_by))
    down += sum(len(compress_gaussians(part)) for part in shown)
    assert (driven.state.traffic.cloud_up, driven.state.traffic.cloud_down) == (up, down)


def test_an_rsu_sends_the_cloud_no_more_than_its_vehicles_send_it() -> None:
    """Vehicles of one RSU change much the same rows, and two updates of a row become one."""
    driven = Driven(refine_rounds=1).run(2)
    before = driven.state.traffic
    driven.run(1)
    moved = driven.state.traffic
    assert 0 < moved.cloud_up - before.cloud_up < moved.vehicle_up - before.vehicle_up
    assert 0 < moved.cloud_down - before.cloud_down < moved.vehicle_down - before.vehicle_down


def test_what_nobody_sees_keeps_its_bits() -> None:
    """Scenes travel rounded, but what the cloud holds is changed by updates alone: a and b see as far as 27 m."""
    driven = Driven()
    for node_id in (3, 4):
        driven.grid.behaviour[node_id, TRAIN] = only(REFINE, silent)
    before = whole(driven.run(2).state.scene).clone()
    driven.run(2)
    after, seen = whole(driven.state.scene), before.means[:, 0] < 27
    assert int(seen.sum()) == 54
    assert bits({"": after.select(~seen)}) == bits({"": before.select(~seen)})
    assert (after.means[seen, 2] > before.means[seen, 2]).all()


def test_judging_is_no_traffic() -> None:
    driven = Driven().run(2)
    assert len(driven.grid.received(EVALUATE)) == 4
    last = driven.requests(ALIGN)
    before = driven.rounds[0].traffic.vehicle_down
    assert driven.state.traffic.vehicle_down == before + sum(count_bytes(r.arrays) for r in last.values())


# Judging


def test_vehicles_judge_after_the_merge_and_after_each_refinement() -> None:
    driven = Driven().run()
    assert [report.round for report in driven.evaluations] == [2, 3, 4]
    report = driven.evaluations[-1]
    # Images 1, 2, 3, 4 at 20, 21, 22, 23 dB: 220 / 10. Of b and d one border image each, at 11 and 13 dB.
    assert report.metrics["psnr-db"] == pytest.approx(22)
    assert report.metrics["border-psnr-db"] == pytest.approx(12)
    assert report.metrics["border-views"] == 2
    assert report.rsu_metrics["south"]["psnr-db"] == pytest.approx((3 * 22 + 4 * 23) / 7)
    assert report.rsu_metrics["north"]["border-psnr-db"] == 11
    assert report.losses == ()


def test_who_cannot_judge_is_left_out_of_the_means() -> None:
    driven = Driven(refine_rounds=0)
    driven.grid.behaviour[1, EVALUATE] = failing(reason="holds no images back")
    driven.grid.behaviour[2, EVALUATE] = silent
    report = driven.run().evaluations[-1]
    assert report.metrics["psnr-db"] == pytest.approx((3 * 22 + 4 * 23) / 7)
    assert [(loss.vehicle, loss.cause) for loss in report.losses] == [("a", Cause.CLIENT_ERROR), ("b", Cause.LATE)]
    assert driven.state.losses == {"a": {"client-error": 1}, "b": {"late": 1}}


def _damaged_verdict(message: Message, client: Callable[[Message], Message]) -> list[Message]:
    return [train_reply_without_metrics(message)]


def train_reply_without_metrics(message: Message) -> Message:
    return encode_hello(Hello("a", "north", 1), message)


def test_a_verdict_that_cannot_be_read_is_counted_where_it_belongs() -> None:
    driven = Driven(refine_rounds=0)
    driven.grid.behaviour[1, EVALUATE] = _damaged_verdict
    report = driven.run().evaluations[-1]
    assert [(loss.vehicle, loss.cause) for loss in report.losses] == [("a", Cause.MALFORMED)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_verdict_of_nan_ends_nothing(value: float) -> None:
    def behave(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        metrics = {"psnr-db": value, "border-views": value, "border-psnr-db": value}
        return [encode_evaluate_reply(EvaluateReply(3, metrics), message)]

    driven = Driven()
    driven.grid.behaviour[1, EVALUATE] = behave
    driven.run()
    assert driven.evaluations[-1].metrics["psnr-db"] == pytest.approx((2 * 21 + 3 * 22 + 4 * 23) / 9)


# Going on


@pytest.fixture(scope="module")
def uninterrupted() -> Driven:
    return Driven(momentum=0.5, refine_rounds=3).run()


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_a_resumed_run_ends_like_one_that_was_never_interrupted(rounds: int, uninterrupted: Driven) -> None:
    first = Driven(momentum=0.5, refine_rounds=3).run(rounds)
    second = Driven(momentum=0.5, refine_rounds=3, state=restored(first.state)).run()
    assert [report.round for report in second.rounds] == list(range(rounds + 1, 6))
    for name in ("scene", "teacher", "parts"):
        assert bits(getattr(second.state, name)) == bits(getattr(uninterrupted.state, name))
    assert second.state.counters() == uninterrupted.state.counters()


def test_a_resumed_run_counts_losses_on() -> None:
    def run(state: FusionState | None, rounds: int) -> FusionState:
        driven = Driven(state=state)
        driven.grid.behaviour[2, TRAIN] = only(REFINE, silent)
        return driven.run(rounds).state

    assert run(restored(run(None, 3)), 1).losses == run(None, 4).losses == {"b": {"late": 2}}


# Faults


FAULTS: dict[str, tuple[Behaviour, Cause]] = {
    "lost": (failing(3, "lost on the way"), Cause.LOST),
    "gone": (failing(NODE_UNAVAILABLE), Cause.UNAVAILABLE),
    "raises": (failing(reason="out of memory"), Cause.CLIENT_ERROR),
    "late": (silent, Cause.LATE),
    "empty": (with_arrays(lambda arrays: {}), Cause.KEYS),
    "no metrics": (lambda message, client: [train_reply_without_metrics(message)], Cause.MALFORMED),
    "doubles": (with_arrays(lambda arrays: {n: v.astype(np.float64) for n, v in arrays.items()}), Cause.MALFORMED),
    "cut short": (with_arrays(lambda arrays: {n: v[:-1] for n, v in arrays.items()}), Cause.MALFORMED),
    "no bytes": (with_arrays(lambda arrays: {n: v[:0] for n, v in arrays.items()}), Cause.MALFORMED),
    "over budget": (with_gaussians(lambda part: Gaussians.concat([part] * 3)), Cause.BUDGET),
    "stowaway": (with_arrays(lambda arrays: {**arrays, "photo": np.zeros((9, 9, 3), np.uint8)}), Cause.KEYS),
    "huge": (with_gaussians(lambda part: replace(part, log_scales=part.log_scales + 20)), Cause.VALUES),
    "far away": (with_gaussians(lambda part: replace(part, means=part.means + 1e6)), Cause.VALUES),
}


@pytest.mark.parametrize(("behave", "cause"), FAULTS.values(), ids=FAULTS)
def test_who_fails_to_fit_is_counted_and_the_others_go_on(behave: Behaviour, cause: Cause) -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(FIT, behave)
    driven.run()
    assert driven.losses() == [(1, "c", cause)]
    assert driven.state.losses == {"c": {str(cause): 1}}
    assert [report.accepted for report in driven.rounds] == [3, 2, 3, 3]
    assert [report.wanted for report in driven.rounds] == [4, 2, 3, 3]  # nobody is left for d to align
    assert sorted(driven.state.world_from) == ["a", "b", "d"]
    assert {rsu: len(part) for rsu, part in driven.state.scene.items()} == {"north": 40, "south": 20}


REFINE_FAULTS: dict[str, tuple[Behaviour, Cause]] = {
    "late": (silent, Cause.LATE),
    "raises": (failing(), Cause.CLIENT_ERROR),
    "empty": (with_arrays(lambda arrays: {}), Cause.MALFORMED),
    "cut short": (with_arrays(lambda arrays: {n: v[:-1] for n, v in arrays.items()}), Cause.MALFORMED),
    "doubles": (with_arrays(lambda arrays: {n: v.astype(np.float64) for n, v in arrays.items()}), Cause.MALFORMED),
    "stowaway": (with_arrays(lambda arrays: {**arrays, "photo": np.zeros((9, 9, 3), np.uint8)}), Cause.MALFORMED),
    "rows beyond": (with_update(lambda reply: replace(reply, rows=reply.rows + 1000)), Cause.MALFORMED),
    "a Gaussian fit": (with_arrays(lambda arrays: {"part": compress_gaussians(houses("c"))}), Cause.MALFORMED),
    "Gaussians": (with_arrays(lambda arrays: {"update": compress_gaussians(houses("c"))}), Cause.MALFORMED),
    "long": (with_means_times(100), Cause.NORM),
}


@pytest.mark.parametrize(("behave", "cause"), REFINE_FAULTS.values(), ids=REFINE_FAULTS)
def test_who_fails_to_refine_is_counted_and_the_others_decide(behave: Behaviour, cause: Cause) -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(REFINE, behave)
    before = {rsu: part.clone() for rsu, part in driven.run(2).state.scene.items()}
    driven.run(2)
    assert driven.losses() == [(3, "c", cause), (4, "c", cause)]
    assert driven.state.losses == {"c": {str(cause): 2}}
    rise_m = whole(driven.state.scene).means[:, 2] - whole(before).means[:, 2]
    np.testing.assert_allclose(rise_m, 0.3125, atol=1e-5)  # b and d, who agree, see what c sees


def test_who_fails_to_align_stays_where_others_find_it() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(ALIGN, silent)
    driven.run()
    assert driven.losses() == [(2, "c", Cause.LATE)]
    for vehicle, place in driven.state.world_from.items():
        np.testing.assert_allclose(place.matrix, world_from_own(vehicle).matrix, atol=1e-5)
    assert driven.rounds[2].wanted == 4


@pytest.mark.parametrize(("place", "value"), [(4, 9.0), (4, 1e308), (7, 2.0), (7, 1e-300), (10, 0.0)])
def test_alignments_that_cannot_be_right_are_left_out(place: int, value: float) -> None:
    """Nine metres off, beyond all measure, twice or nothing of the size, seen by no image."""

    def far(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = {name: values.copy() for name, values in arrays.items()}
        for values in out.values():
            values[place] = value
        return out

    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(ALIGN, with_arrays(far))
    driven.run()
    believed = {(link.a, link.b) for link in driven.rounds[1].links}
    assert believed == {("a", "b"), ("b", "a"), ("b", "c"), ("d", "c")}
    for vehicle, there in driven.state.world_from.items():
        np.testing.assert_allclose(there.matrix, world_from_own(vehicle).matrix, atol=1e-5)


def test_a_duplicated_answer_counts_once() -> None:
    honest, driven = Driven().run(), Driven()
    driven.grid.behaviour[2, TRAIN] = twice
    driven.run()
    assert driven.losses() == [(number, "b", Cause.STRANGER) for number in (1, 2, 3, 4)]
    assert bits(driven.state.scene) == bits(honest.state.scene)
    assert driven.state.traffic == honest.state.traffic
    assert driven.state.accepted == honest.state.accepted


def test_an_answer_of_a_node_that_was_not_asked_is_counted() -> None:
    driven = Driven()
    stranger = train_reply(99, {"part": compress_gaussians(houses("a"))})
    driven.grid.order = lambda replies: [*replies, *([stranger] if len(replies) == 4 else [])]
    driven.run(1)
    assert (1, "node-99", Cause.STRANGER) in driven.losses()
    assert driven.rounds[0].accepted == 4


def test_a_vehicle_that_is_not_in_the_plan_is_counted_and_never_asked() -> None:
    driven = Driven(Street(("a", "b", "c", "d", "mallory")))
    driven.run()
    assert driven.losses() == [(1, "mallory", Cause.STRANGER)]
    assert {m.metadata.dst_node_id for m in driven.grid.received(TRAIN)} == {1, 2, 3, 4}


def test_a_plan_without_any_of_those_that_are_there_is_an_error() -> None:
    with pytest.raises(NotEnoughVehicles, match=r"0 of 1 planned vehicles are there, want 1: mallory: stranger"):
        Driven(Street(("mallory",))).run()


def test_the_order_of_answers_does_not_matter() -> None:
    straight, mixed = Driven(), Driven()
    mixed.grid.order = lambda replies: replies[::-1]
    assert bits(straight.run().state.scene) == bits(mixed.run().state.scene)
    assert straight.state.counters() == mixed.state.counters()


def test_an_rsu_that_loses_all_its_vehicles_is_not_in_the_scene() -> None:
    driven = Driven()
    for node_id in (3, 4):
        driven.grid.behaviour[node_id, TRAIN] = only(FIT, failing())
    driven.run()
    assert sorted(driven.state.scene) == ["north"]
    assert driven.state.round == 4


def test_when_all_uploads_are_refused_the_run_ends_without_a_scene() -> None:
    driven = Driven()
    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = only(FIT, failing())
    driven.run()
    assert driven.state.scene == {}
    assert driven.state.losses == {vehicle: {"client-error": 1} for vehicle in "abcd"}


def test_a_vehicle_that_goes_away_and_comes_back_refines_again() -> None:
    driven = Driven().run(2)
    driven.grid.nodes = [1, 2, 4]
    driven.run(1)
    driven.grid.nodes = [1, 2, 3, 4]
    driven.run(1)
    assert driven.losses() == [(3, "c", Cause.UNAVAILABLE)]
    assert [report.accepted for report in driven.rounds] == [4, 4, 3, 4]


# One vehicle must not end the run


def themselves(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An alignment that names the vehicle that made it."""
    return {**arrays, "found:c": next(iter(arrays.values()))}


def of_whom_nobody_asked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An alignment with a vehicle that lies out of sight."""
    return {**arrays, "found:a": next(iter(arrays.values()))}


def test_a_vehicle_that_aligns_itself_ends_nothing() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(ALIGN, with_arrays(themselves))
    driven.run()
    assert driven.state.round == 4


def test_only_links_that_were_asked_for_are_believed() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(ALIGN, with_arrays(of_whom_nobody_asked))
    driven.run(2)
    assert ("c", "a") not in {(link.a, link.b) for link in driven.rounds[1].links}


def test_a_scale_at_the_limit_ends_nothing() -> None:
    def big(part: Gaussians) -> Gaussians:
        """Of e^(397 / 64) = 494 m: one step more is 502 m, of which no more than 500 are taken."""
        part.log_scales[0] = 397 / 64
        return part

    driven = Driven(acceptance=FusionConfig().acceptance)
    for node_id in (2, 3):
        driven.grid.behaviour[node_id, TRAIN] = only(FIT, with_gaussians(big))
    driven.run(2)
    assert driven.state.round == 2
    assert driven.losses() == []


def undone(message: Message, client: Callable[[Message], Message]) -> list[Message]:
    """An update that leaves no rotation of what it was sent, and claims to have seen all."""
    scene = decode_refine(decode_request(message)).scene
    changes = {name: torch.zeros_like(tensor) for name, tensor in scene.tensors().items()}
    changes["quats"] = -scene.quats
    update = Update(changes, torch.full((len(scene),), 1e9))
    reply = encode_refine_reply(RefineReply(torch.arange(len(scene)), update, 4))
    return [encode_train_reply(reply, message)]


def test_an_update_that_undoes_rotations_ends_nothing() -> None:
    driven = Driven(Street(("a", "b")), refine_rounds=1, quorum=0.0)
    driven.grid.behaviour[1, TRAIN] = only(REFINE, silent)
    driven.grid.behaviour[2, TRAIN] = only(REFINE, undone)
    driven.run()
    assert driven.state.round == 3


def test_a_huge_update_among_two_ends_nothing() -> None:
    """As far as can be written, and seen as much as can be."""
    driven = Driven(Street(("a", "b")))
    driven.grid.behaviour[2, TRAIN] = only(REFINE, with_means_times(4e5 / RISE_M, 1e37))
    driven.run()
    assert driven.state.round == 4
    assert whole(driven.state.scene).means.abs().max() < 1000


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_quality_of_nan_ends_nothing(value: float) -> None:
    driven = Driven(block_weighting=True)
    driven.grid.behaviour[2, TRAIN] = only(REFINE, with_metrics(**{"psnr-db": value}))
    driven.run()
    assert driven.state.round == 4


def few_in_colour(part: Gaussians) -> Gaussians:
    """Nine Gaussians with harmonics of degree 3: as many numbers as 38 without, which is within the budget of 40."""
    return part.select(torch.arange(9)).with_degree(3)


def test_one_vehicles_harmonics_do_not_swell_the_scene_of_all() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(FIT, with_gaussians(few_in_colour))
    driven.run()
    held = sum(part.nbytes for part in driven.state.scene.values())
    assert held <= 4 * 40 * 14 * 4  # budgets of all four


def test_who_sends_no_gaussian_is_counted() -> None:
    driven = Driven()
    driven.grid.behaviour[3, TRAIN] = only(FIT, with_gaussians(lambda part: Gaussians.empty()))
    driven.run()
    assert "c" in driven.state.losses
    assert driven.state.round == 4


# Who takes part


def test_a_fraction_of_each_rsus_vehicles_refines() -> None:
    driven = Driven(fraction=0.5, refine_rounds=6).run()
    assert [report.wanted for report in driven.rounds] == [4, 4, 2, 2, 2, 2, 2, 2]
    chosen = [sorted(report.vehicle_metrics) for report in driven.rounds[2:]]
    assert all([RSU_OF[name] for name in names] == ["north", "south"] for names in chosen)
    assert len({tuple(names) for names in chosen}) > 1
    again = Driven(fraction=0.5, refine_rounds=6).run()
    assert [sorted(report.vehicle_metrics) for report in again.rounds[2:]] == chosen
    other = Driven(fraction=0.5, refine_rounds=6, seed=1).run()
    assert [sorted(report.vehicle_metrics) for report in other.rounds[2:]] != chosen


@pytest.mark.parametrize(("silent_nodes", "moves"), [([1], True), ([1, 2], True), ([1, 2, 3], False)])
def test_without_quorum_nothing_moves(silent_nodes: list[int], moves: bool) -> None:
    driven = Driven(quorum=0.5).run(2)
    before = bits(driven.state.scene)
    for node_id in silent_nodes:
        driven.grid.behaviour[node_id, TRAIN] = silent
    driven.run(1)
    assert (bits(driven.state.scene) != before) is moves
    assert driven.rounds[2].accepted == (4 - len(silent_nodes) if moves else 0)
    assert driven.state.round == 3


def test_at_a_quorum_of_none_one_still_must_answer() -> None:
    driven = Driven(quorum=0.0).run(2)
    before = bits(driven.state.scene)
    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = silent
    driven.run(1)
    assert bits(driven.state.scene) == before


# Options


def test_the_teacher_follows_the_scene_and_is_sent_from_the_second_round_on() -> None:
    driven = Driven(momentum=0.75, refine_rounds=3)
    scenes = []
    for number in range(5):
        driven.run(1)
        if number >= 2:
            scenes.append({rsu: part.clone() for rsu, part in driven.state.scene.items()})
    teachers = [
        [decode_refine(decode_request(m)).teacher for m in driven.grid.received(TRAIN)[start : start + 4]]
        for start in (8, 12, 16)
    ]
    assert teachers[0] == [None] * 4
    for sent, wanted in zip(teachers[1:], [scenes[0], None], strict=True):
        assert all(teacher is not None for teacher in sent)
        if wanted is not None:
            np.testing.assert_allclose(sent[0].means, whole(wanted).means, atol=HALF_M, rtol=0)  # type: ignore[union-attr]
    # T1 = S1, T2 = 0.75 T1 + 0.25 S2, T3 = 0.75 T2 + 0.25 S3.
    up_m = [whole(scene).means[:, 2].double() for scene in scenes]
    wanted_m = 0.75 * (0.75 * up_m[0] + 0.25 * up_m[1]) + 0.25 * up_m[2]
    np.testing.assert_allclose(whole(driven.state.teacher).means[:, 2], wanted_m, atol=1e-5)


def test_the_teacher_is_counted_and_goes_when_momentum_does() -> None:
    """Both are sent in the second refinement; a run gone on with without momentum forgets it."""
    taught, alone = Driven(momentum=0.5).run(), Driven().run()
    cloud = [(driven.rounds[-1].traffic.cloud_down, driven.rounds[-2].traffic.cloud_down) for driven in (taught, alone)]
    (taught_last, taught_before), (alone_last, alone_before) = cloud
    assert taught_last - taught_before > 1.8 * (alone_last - alone_before)
    resumed = Driven(state=restored(Driven(momentum=0.5).run(3).state)).run()
    assert not any("teacher" in request.arrays for request in resumed.requests(REFINE).values())


def test_without_momentum_there_is_no_teacher() -> None:
    driven = Driven().run()
    assert driven.state.teacher == {}
    assert all(decode_refine(request).teacher is None for request in driven.requests(REFINE).values())


def test_vehicles_whose_images_are_shown_worse_count_more() -> None:
    # a is shown 2 dB better than b: b counts 2 - exp(-2) times. a wants 0.125 m up where both see, b nothing.
    driven = Driven(Street(("a", "b")), block_weighting=True, refine_rounds=1)
    still = with_means_times(0)

    def worse(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        (reply,) = still(message, client)
        return [encode_train_reply(replace(decode_train_reply(reply), metrics={"psnr-db": 18.0, "ssim": 0.5}), message)]

    driven.grid.behaviour[2, TRAIN] = only(REFINE, worse)
    before = whole(driven.run(2).state.scene).means.clone()
    driven.run(1)
    rise_m = (whole(driven.state.scene).means - before)[:, 2]
    both = (before[:, 0] > 5) & (before[:, 0] < 15)
    half_m = CHANGE_STEPS["means"] / 2  # on its way to the cloud
    np.testing.assert_allclose(rise_m[both], RISE_M / (1 + 2 - math.exp(-2)), atol=1.01 * half_m, rtol=0)
    assert all(decode_refine(request).report_quality for request in driven.requests(REFINE).values())


def test_blocks_weigh_alike_when_one_does_not_say_how_it_is_shown() -> None:
    driven, plain = Driven(block_weighting=True), Driven()

    def mute(message: Message, client: Callable[[Message], Message]) -> list[Message]:
        return [encode_train_reply(replace(decode_train_reply(client(message)), metrics={}), message)]

    driven.grid.behaviour[2, TRAIN] = only(REFINE, mute)
    assert bits(driven.run().state.scene) == bits(plain.run().state.scene)


def test_an_rsu_drops_what_nobody_can_see_and_says_so() -> None:
    def sunk(part: Gaussians) -> Gaussians:
        part.means[:5, 2] -= 400
        return part

    driven = Driven(acceptance=FusionConfig().acceptance, refine_rounds=0)
    driven.grid.behaviour[4, TRAIN] = only(FIT, with_gaussians(sunk))
    driven.run()
    assert driven.rounds[1].dropped["unseen"] == 5
    assert driven.rounds[1].gaussians == {"north": 40, "south": 35}


# More regions


def base_of(driven: Driven) -> dict[str, Gaussians]:
    return {rsu: part.clone() for rsu, part in driven.state.scene.items()}


def added(**changed: Any) -> tuple[dict[str, Gaussians], Driven]:
    """The north, and the south that is added to it by c and d alone."""
    base = base_of(Driven(Street(("a", "b")), plan=Plan(PLAN.stretches[:2])).run())
    unsurveyed = Plan(tuple(replace(stretch(vehicle), surveyed=False) for vehicle in "abcd"))
    return base, Driven(Street(("c", "d")), plan=unsurveyed, state=FusionState(base=base), **{"near_m": 5.0, **changed})


def test_a_region_is_added_without_touching_the_others() -> None:
    base, driven = added()
    driven.run()
    region = PLAN.rsu_region("north")(base["north"].means) > driven.config.blend_m / 2
    assert 30 <= int(region.sum()) < 40
    kept = driven.state.scene["north"].select(~driven.state.free["north"])
    assert bits({"north": kept}) == bits({"north": base["north"].select(region)})
    assert len(driven.state.scene["south"]) == 40
    assert bits(driven.state.base) == bits(base)


def test_those_that_see_the_old_scene_are_tied_to_it_and_the_others_through_them() -> None:
    _, driven = added()
    driven.run(2)
    assert {v: set(decode_align(r).others) for v, r in driven.requests(ALIGN).items()} == {
        "c": {"d", BASE},
        "d": {"c"},
    }
    for vehicle in "cd":
        np.testing.assert_allclose(driven.state.world_from[vehicle].matrix, world_from_own(vehicle).matrix, atol=1e-5)


def test_an_added_region_refines_and_the_old_one_is_shown_beside_it() -> None:
    _, driven = added(refine_rounds=1)
    before = {rsu: part.clone() for rsu, part in driven.run(2).state.scene.items()}
    driven.run(1)
    assert [len(decode_refine(r).scene) for r in driven.requests(REFINE).values()] == [80, 80]
    np.testing.assert_allclose(driven.state.scene["south"].means[:, 2] - before["south"].means[:, 2], RISE_M, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_an_added_region_can_be_resumed(rounds: int) -> None:
    _, whole_run = added()
    whole_run.run()
    _, first = added()
    first.run(rounds)
    second = Driven(Street(("c", "d")), plan=first.strategy.plan, state=restored(first.state), near_m=5.0).run()
    assert bits(second.state.scene) == bits(whole_run.state.scene)
    assert second.state.counters() == whole_run.state.counters()


def test_a_vehicle_that_nothing_joins_stays_where_its_positioning_has_it_beside_an_old_scene() -> None:
    """c sees the old scene but not d, and d neither: only c is moved."""
    _, driven = added()
    without_each_other = with_arrays(lambda arrays: {n: v for n, v in arrays.items() if n == f"found:{BASE}"})
    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = only(ALIGN, without_each_other)
    driven.run(2)
    np.testing.assert_allclose(driven.state.world_from["c"].matrix, world_from_own("c").matrix, atol=1e-5)
    np.testing.assert_allclose(driven.state.world_from["d"].matrix, np.eye(4), atol=1e-9)


def test_without_anyone_who_sees_the_old_scene_positioning_decides() -> None:
    _, driven = added()
    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = only(ALIGN, with_arrays(lambda arrays: {}))
    driven.run(2)
    for vehicle in "cd":
        np.testing.assert_array_equal(driven.state.world_from[vehicle].matrix, np.eye(4))


def test_when_nothing_new_is_accepted_the_old_scene_is_still_there() -> None:
    base, driven = added()
    for node_id in driven.grid.nodes:
        driven.grid.behaviour[node_id, TRAIN] = only(FIT, failing())
    driven.run()
    assert bits(driven.state.base) == bits(base)


def test_harmonics_of_an_added_region_leave_the_old_one_alone() -> None:
    base, driven = added()
    base["north"].sh.fill_(0.7)  # a light grey; the strategy holds the same
    assert driven.state.base["north"] is base["north"]
    driven.grid.behaviour[1, TRAIN] = only(FIT, with_gaussians(few_in_colour))
    driven.run()
    region = PLAN.rsu_region("north")(base["north"].means) > driven.config.blend_m / 2
    kept = driven.state.scene["north"].select(~driven.state.free["north"])
    assert bits({"north": kept.with_degree(0)}) == bits({"north": base["north"].select(region)})
    assert not kept.sh[:, 1:].any()


# Flower's side


def test_configure_may_be_gone_through_twice() -> None:
    """As Flower's HTTP grid does."""
    driven = Driven()
    messages = driven.strategy.configure_train(1, ArrayRecord(), ConfigRecord(), driven.grid)
    assert len(list(messages)) == len(list(messages)) == 4
    assert driven.strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), driven.grid) == []


def test_inputs_of_the_config_are_checked() -> None:
    for wrong in ({"momentum": 1.0}, {"fraction": 0.0}, {"quorum": 1.5}, {"refine_rounds": -1}, {"sight_m": 0.0}):
        with pytest.raises(ValueError, match="got"):
            FusionConfig(**wrong)
    with pytest.raises(ValueError, match="must be positive and finite"):
        FusionConfig(pace=math.nan)


def test_the_rate_falls_in_equal_steps_to_half() -> None:
    config = FusionConfig(refine_rounds=3, rate=2.0)
    assert [config.rate_at(k) for k in range(3)] == pytest.approx([2.0, 1.5, 1.0])
    assert FusionConfig(refine_rounds=1, rate=2.0).rate_at(0) == 2.0
    with pytest.raises(ValueError, match=r"FusionConfig.rate must be positive and finite, got 0.0"):
        FusionConfig(rate=0.0)


def test_pace_falls_in_equal_steps_to_an_eighth() -> None:
    config = FusionConfig(refine_rounds=3, pace=0.8)
    assert [config.pace_at(k) for k in range(3)] == pytest.approx([0.8, 0.45, 0.1])
    assert [config.step_at(k) for k in range(3)] == [1.5, 1.5, 1.0]
    assert FusionConfig(refine_rounds=1, pace=0.8).pace_at(0) == 0.8
