"""A vehicle that rebuilds what it sees: a cube of known Gaussians, a handful of small photos, all four jobs."""

import functools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import clients.gaussian_client
from clients.gaussian_client import GaussianClient, VehicleFrames, showing
from clients.gaussian_messages import (
    ALL,
    LIDAR,
    AlignRequest,
    FitReply,
    FitRequest,
    JudgeRequest,
    RefineReply,
    RefineRequest,
)
from clients.gaussian_wire import (
    JOB,
    decode_fit_reply,
    decode_refine_reply,
    encode_align,
    encode_fit,
    encode_judge,
    encode_refine,
)
from clients.messages import EvaluateReply, MessageError, TrainRequest
from geometry import SE3, Camera, Frame, Sim3
from recon.chart import rotation_matrix
from recon.evaluate import mean_scores, score
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.refine import combined, spread
from recon.refusal import AcceptanceConfig, sound_rows
from recon.region import waypoint_region
from recon.size_limit import SizeLimit
from recon.trajectories import turntable
from recon.views import View, placed

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = Camera(SE3.identity(), 50.0, 50.0, 24.0, 16.0, 48, 32)
TURN = rotation_matrix(torch.tensor(np.radians(1.3) * np.array([2.0, -1, 2]) / 3)).numpy()
ERROR = Sim3(TURN, np.array([0.04, -0.03, 0.02]), 1.03)  # of a cube of 2 m seen from 4 m
EAST, WEST = np.array([[4.0, 0.0]]), np.array([[-4.0, 0.0]])  # waypoints whose border is the plane x = 0


@functools.cache
def cube() -> Gaussians:
    """Balls in a cube of two metres, each in the colour of its place."""
    xyz = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    return Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)


@functools.cache
def frames() -> tuple[Frame, ...]:
    """Twelve photos of the cube with depth, from a circle of four metres round it; the first from the east."""
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 12)
    shots = [(camera, *render_camera(cube(), camera)[:2]) for camera in cameras]
    return tuple(
        Frame(float(number), camera, image, depth_m=depth_m) for number, (camera, image, depth_m) in enumerate(shots)
    )


@functools.cache
def client(own_from_data: Sim3 = Sim3.identity(), judges: bool = True) -> GaussianClient:  # noqa: B008
    """A vehicle that learns from every other photo and holds the others back."""
    held = VehicleFrames("v", "rsu", frames()[::2], frames()[1::2] if judges else (), own_from_data)
    return GaussianClient(held, held.learned(), held.judged())


OFF = Sim3(TURN, np.array([30.0, -20.0, 0.5]), 1.03)  # a world that is somewhere else


def psnr_db(scene: Gaussians, world_from_own: Sim3, own_from_data: Sim3) -> float:
    views = [placed(view, world_from_own) for view in client(own_from_data).learned]
    return mean_scores(score(scene, views))["psnr_db"]


def bits(gaussians: Gaussians) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in gaussians.tensors().values()]


def fit_request(**changed: Any) -> FitRequest:
    values: dict[str, Any] = {"own_m": EAST, "others_m": WEST, "steps": 60, "max_gaussians": 150}
    return FitRequest(**{**values, "margin_m": math.inf, "seed": 3, **changed})


def refine_request(scene: Gaussians, **changed: Any) -> RefineRequest:
    values: dict[str, Any] = {"world_from_own": Sim3.identity(), "steps": 18, "round_number": 0, "pace": 0.5, "seed": 3}
    return RefineRequest(**{**values, "scene": scene, **changed})


@functools.cache
def worse() -> Gaussians:
    """The cube in which every ball is a little out of place and of another colour."""
    rng = np.random.default_rng(1)
    means, sh = (
        torch.tensor(rng.normal(0, size, shape)).float() for size, shape in ((0.05, (300, 3)), (0.5, (300, 1, 3)))
    )
    return replace(cube(), means=cube().means + means, sh=cube().sh + sh)


# Who it is


def test_it_says_its_name_and_how_many_images_it_learns_from() -> None:
    hello = client().hello()
    assert (hello.vehicle, hello.region, hello.num_examples) == ("v", "rsu", 6)


def test_a_job_that_nobody_knows_is_named() -> None:
    with pytest.raises(MessageError, match="no such job: 'steal'; known are fit, align and refine"):
        client().work(TrainRequest({}, {JOB: "steal"}))
    with pytest.raises(MessageError, match="no such job: None"):
        client().work(TrainRequest({}, {}))


# Fit


@functools.cache
def fitted() -> FitReply:
    return client(OFF).fit(fit_request())


def test_a_fit_shows_the_cube_in_the_vehicles_own_world() -> None:
    reply = fitted()
    assert reply.views == 6
    assert psnr_db(reply.gaussians, Sim3.identity(), OFF) > 18
    inside = OFF.inverse().apply(reply.gaussians.means.double().numpy())
    assert np.median(np.abs(inside)) < 1


def test_a_fit_sends_no_more_than_its_budget() -> None:
    assert 100 < len(fitted().gaussians) <= 150
    small = client(OFF).fit(fit_request(max_gaussians=20, steps=10))
    assert 0 < len(small.gaussians) <= 20
    assert fitted().gaussians.degree == 0


def test_no_fit_sends_what_a_limit_refuses_once_it_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """499.9 m, within 500, are sent as e^(398 / 64) or 502 m; 1.0001e-5 as e^(-737 / 64) or 0.997e-5."""
    edge = cube().clone()
    edge.log_scales[0], edge.log_scales[1] = math.log(499.9), math.log(1.0001e-5)
    monkeypatch.setattr(clients.gaussian_client, "start", lambda *_: SimpleNamespace(gaussians=edge))
    monkeypatch.setattr(clients.gaussian_client, "fit", lambda *_, **__: None)
    sent = decode_fit_reply(client().work(encode_fit(fit_request(max_gaussians=300)))).gaussians
    assert len(sent) >= 298
    assert sound_rows(sent, AcceptanceConfig()).all()


def test_neither_fit_nor_refinement_makes_anything_larger_than_the_limit() -> None:
    """Sizes travel as powers of e^(1/64): they may arrive half such a step larger."""
    limit = SizeLimit(np.concatenate([EAST, WEST]), 1e-5, 0.08)
    sent = client().fit(fit_request(limit=limit)).gaussians
    assert 0.07 < float(sent.scales.max()) <= 0.08 * math.exp(1 / 128)
    assert float(client().fit(fit_request()).gaussians.scales.max()) > 0.1
    scene = limit.bounded(worse())
    reply = client().refine(refine_request(scene, limit=limit))
    after = combined(scene, [spread(reply.update, reply.rows, len(scene))])
    assert float(after.scales.max()) <= 0.08 * (1 + 1e-5)


@pytest.mark.parametrize("margin_m", [0.0, 0.4])
def test_a_fit_sends_only_what_lies_within_its_margin(margin_m: float) -> None:
    """East of the middle and, with a margin, what is no deeper on the other side: |far| - |near| over two."""
    whole = client().fit(fit_request(steps=20))
    cut = client().fit(fit_request(steps=20, margin_m=margin_m))
    depth_m = waypoint_region(EAST, WEST)(whole.gaussians.means)
    kept = whole.gaussians.select(depth_m >= -margin_m)
    assert 0 < len(kept) < len(whole.gaussians)
    assert bits(cut.gaussians) == bits(kept)
    assert cut.metrics["gaussians-sent"] == len(kept)
    assert cut.metrics["gaussians-fitted"] == len(whole.gaussians)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, other = (client().fit(fit_request(steps=8)).gaussians for _ in range(2))
    assert bits(one) == bits(other)
    assert bits(client().fit(fit_request(steps=8, seed=4)).gaussians) != bits(one)


# Align


def error_m(found: Sim3, wanted: Sim3, places_m: np.ndarray) -> float:
    return float(np.linalg.norm(found.apply(places_m) - wanted.apply(places_m), axis=1).mean())


def test_a_known_similarity_is_found() -> None:
    other = cube().transformed(ERROR.inverse())
    places_m = other.means.double().numpy()
    reply = client().align(AlignRequest({"b": other}))
    found = reply.found["b"]
    assert error_m(Sim3.identity(), ERROR, places_m) > 0.05
    assert error_m(found.own_from_other, ERROR, places_m) < 0.005
    assert found.own_from_other.scale == pytest.approx(ERROR.scale, abs=2e-3)
    assert found.after < found.before
    assert 1 <= found.views <= 6


def test_what_it_does_not_see_it_does_not_align() -> None:
    away = cube().transformed(Sim3(np.eye(3), np.array([0.0, 0, 500])))
    assert client().align(AlignRequest({"b": away})).found == {}
    assert client().align(AlignRequest({"b": away}, together=True)).found == {}
    assert client().align(AlignRequest({})).found == {}


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [
        ([0.1, 0.2, 0.14, 0.5], [1, 3]),  # at least 0.15
        ([*[0.2] * 4, *[0.3] * 8], [4, 5, 6, 7, 8, 9, 10, 11]),  # no more than eight, the best
        ([*[0.7] * 10, *[0.5] * 5], list(range(10))),  # but all that are nearly filled
        ([0.9] * 30, list(range(16))),  # up to twice as many
    ],
)
def test_whoever_fills_more_images_is_aligned_by_more(
    shares: list[float], chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(shares)
    monkeypatch.setattr("clients.gaussian_client.covered_share", lambda *_: next(left))
    views = [client().learned[0]] * len(shares)
    numbered = [replace(view, source=str(number)) for number, view in enumerate(views)]
    assert [int(view.source) for view in showing(cube(), numbered)] == chosen


def test_all_together_are_one_similarity() -> None:
    other = cube().transformed(ERROR.inverse())
    east = other.means[:, 0] > 0
    reply = client().align(AlignRequest({"b": other.select(east), "c": other.select(~east)}, together=True))
    assert list(reply.found) == [ALL]
    assert error_m(reply.found[ALL].own_from_other, ERROR, other.means.double().numpy()) < 0.005


# Find by LiDAR


def surfaces_m(seed: int) -> np.ndarray:
    """A yard: ground, walls on two sides and a gable; points that differ from seed to seed."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-9, 9, (9000, 2)), np.zeros(9000)])
    north = np.column_stack([rng.uniform(-9, 9, 5000), np.full(5000, 9.0), rng.uniform(0, 5, 5000)])
    east = np.column_stack([np.full(5000, 9.0), rng.uniform(-9, 9, 5000), rng.uniform(0, 5, 5000)])
    gable = np.column_stack([np.full(2000, -2.0), rng.uniform(6, 9, 2000), rng.uniform(0, 5, 2000)])
    return np.concatenate([ground, north, east, gable])


@functools.cache
def sensing(seed: int, own_from_data: Sim3 = Sim3.identity()) -> GaussianClient:  # noqa: B008
    """A vehicle whose LiDAR, at its camera, sees the yard."""
    camera = Camera(SE3(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([0, -4, 1.5])), 20, 20, 24, 16, 48, 32)
    there = camera.world_from_cam.inverse().apply(surfaces_m(seed))
    cloud = np.column_stack([there, np.ones(len(there))]).astype(np.float32)
    image = np.full((32, 48, 3), 128, np.uint8)
    seen = [Frame(float(k), camera, image, points_lidar=cloud, lidar_from_cam=SE3.identity()) for k in range(2)]
    held = VehicleFrames("v", "rsu", seen, (), own_from_data)
    return GaussianClient(held, held.learned(), [])


def test_landmarks_are_found_where_they_lie() -> None:
    """One vehicle's landmarks in its own world, found in the map of another: own from other, to a centimetre."""
    marks = sensing(1, ERROR).fit(fit_request(steps=1, landmarks=800)).landmarks
    assert marks.shape == (800, 3)
    turned = Sim3(TURN.T, np.array([0.5, -0.3, 0.1]), 0.99)
    reply = sensing(2, turned).align(AlignRequest({}, landmarks={"b": marks}))
    found = reply.found["b"]
    assert found.by == LIDAR
    assert 400 < found.views <= 800
    assert found.after < 0.02 < found.before
    assert error_m(found.own_from_other, turned @ ERROR.inverse(), marks.astype(np.float64)) < 0.01


@pytest.mark.parametrize("plain", [False, True])
def test_images_are_for_those_without_landmarks_and_for_all_if_lidar_finds_nobody(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks, tried = sensing(1).fit(fit_request(steps=1, landmarks=800)).landmarks, list[str]()
    others = {name: Gaussians.from_points(marks[:4], np.full((4, 3), k / 4)) for k, name in enumerate("bc")}

    def looked_at(other: Gaussians, views: object) -> list[View]:
        tried.extend(name for name in "bc" if torch.equal(other.sh, others[name].sh))
        return []

    monkeypatch.setattr("clients.gaussian_client.showing", looked_at)
    sent = marks[:50] if plain else marks  # of which nobody can be found
    found = sensing(2).align(AlignRequest(others, landmarks={"b": sent})).found
    assert (sorted(found), tried) == (([], ["b", "c"]) if plain else (["b"], ["c"]))


def test_without_lidar_nothing_is_felt_and_no_landmark_sent() -> None:
    marks = sensing(1).fit(fit_request(steps=1, landmarks=200)).landmarks
    assert client().align(AlignRequest({}, landmarks={"b": marks})).found == {}
    assert client().fit(fit_request(steps=1, landmarks=200)).landmarks.shape == (0, 3)


def test_landmarks_are_sent_where_they_are_wanted_alone() -> None:
    assert sensing(1).fit(fit_request(steps=1)).landmarks.shape == (0, 3)


# Refine


@functools.cache
def refined() -> RefineReply:
    return client(OFF).refine(refine_request(worse(), world_from_own=OFF.inverse()))


def after(scene: Gaussians, reply: RefineReply) -> Gaussians:
    return combined(scene, [spread(reply.update, reply.rows, len(scene))])


def test_a_refinement_shows_its_images_better() -> None:
    before_db = psnr_db(worse(), OFF.inverse(), OFF)
    assert psnr_db(after(worse(), refined()), OFF.inverse(), OFF) > before_db + 1
    assert refined().views == 6


def test_only_rows_that_are_seen_come_back() -> None:
    hidden = cube().select(torch.arange(7)).transformed(Sim3(np.eye(3), np.array([0.0, 0, 500])))
    scene = Gaussians.concat([hidden, worse()])
    reply = client().refine(refine_request(scene, steps=6))
    assert (reply.update.visibility > 0).all()
    assert (reply.rows.diff() > 0).all()
    assert reply.rows[0] >= 7
    assert 100 < len(reply.rows) <= 300
    assert len(reply.update.changes["means"]) == len(reply.rows)


def test_a_scene_out_of_sight_is_named() -> None:
    away = cube().transformed(Sim3(np.eye(3), np.array([0.0, 0, 500])))
    with pytest.raises(ValueError, match="none of the 300 Gaussians shows in any of 6 views"):
        client().refine(refine_request(away, steps=2))


def test_quality_is_told_where_it_is_asked_for() -> None:
    assert "psnr-db" not in refined().metrics
    asked = client().refine(refine_request(worse(), steps=1, report_quality=True))
    assert asked.metrics["psnr-db"] > 5
    assert 0 < asked.metrics["ssim"] <= 1


def test_a_slower_pace_moves_less() -> None:
    fast, slow = (client().refine(refine_request(worse(), steps=6, pace=pace)) for pace in (0.8, 0.1))
    moved = [float(reply.update.changes["means"].norm()) for reply in (fast, slow)]
    assert moved[1] < 0.5 * moved[0]


def test_a_higher_rate_changes_all_but_the_means_more() -> None:
    """In one step Adam moves each number by its learning rate."""
    once, twice = (client().refine(refine_request(worse(), steps=1, rate=rate)).update.changes for rate in (1.0, 2.0))
    for name in ("log_scales", "logit_opacities", "sh"):
        assert float(twice[name].norm()) == pytest.approx(2 * float(once[name].norm()), rel=1e-3)
    assert float(twice["means"].norm()) == pytest.approx(float(once["means"].norm()), rel=1e-6)


def test_a_request_is_left_alone() -> None:
    scene = worse()
    before = bits(scene)
    client().refine(refine_request(scene, steps=2, teacher=cube()))
    assert bits(scene) == before


# Judge


def judged(scene: Gaussians, world_from_own: Sim3, border_m: float, who: GaussianClient) -> dict[str, float]:
    reply = who.judge(encode_judge(JudgeRequest(scene, world_from_own, EAST, WEST, border_m)))
    assert reply.num_examples == 6
    return dict(reply.metrics)


def test_the_true_scene_is_judged_well_wherever_the_world_is() -> None:
    assert judged(cube(), Sim3.identity(), 1.0, client())["psnr-db"] > 40
    assert judged(cube(), OFF.inverse(), 1.0, client(OFF))["psnr-db"] > 35
    assert judged(worse(), Sim3.identity(), 1.0, client())["psnr-db"] < 35


def test_images_near_a_border_are_judged_once_more() -> None:
    # Held back are those at 30°, 90°, ... on the circle: 4 cos 30° east, √(32 + 32 cos) and √(32 - 32 cos) from both
    # waypoints. Depths: half of 7.73 - 2.07, 0, and the same in the west: two lie within two metres, all within three.
    none = judged(cube(), Sim3.identity(), 0.0, client())
    assert none["border-views"] == 0
    assert "border-psnr-db" not in none
    two = judged(cube(), Sim3.identity(), 2.0, client())
    assert two["border-views"] == 2
    assert two["border-psnr-db"] > 40
    every = judged(cube(), Sim3.identity(), 3.0, client())
    assert every["border-views"] == 6
    assert every["border-psnr-db"] == pytest.approx(every["psnr-db"])


def test_who_holds_nothing_back_has_nothing_to_say_and_is_no_loss() -> None:
    request = encode_judge(JudgeRequest(cube(), Sim3.identity(), EAST, WEST, 1.0))
    assert client(Sim3.identity(), judges=False).judge(request) == EvaluateReply(0)


# What leaves the vehicle


def test_no_reply_holds_a_pose_or_an_image() -> None:
    """By name and size, all of it: Gaussians; eleven numbers a neighbour; changes of Gaussians; plain metrics.

    Bytes that hold more than the rows they say they do are refused.
    """
    who = client(OFF)
    fit = who.work(encode_fit(fit_request(steps=4, max_gaussians=30)))
    assert set(fit.arrays) == {"part"}
    assert len(decode_fit_reply(fit).gaussians) == fit.metrics["gaussians-sent"] <= 30
    assert decode_fit_reply(fit).gaussians.degree == 0
    align = who.work(encode_align(AlignRequest({"b": cube().transformed(OFF)})))
    assert {name: values.shape for name, values in align.arrays.items()} == {"found:b": (11,)}
    refine = who.work(
        encode_refine(refine_request(worse(), world_from_own=OFF.inverse(), steps=1, report_quality=True))
    )
    assert set(refine.arrays) == {"update"}
    assert 0 < len(decode_refine_reply(refine, worse()).rows) <= 300
    verdict = who.judge(encode_judge(JudgeRequest(cube(), OFF.inverse(), EAST, WEST, 2.0)))
    for metrics in (fit.metrics, align.metrics, refine.metrics, verdict.metrics):
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in metrics.values())
    known = {"fit-cpu-s", "gaussians-fitted", "gaussians-sent", "landmarks-sent", "align-cpu-s", "refine-cpu-s"}
    assert {*fit.metrics, *align.metrics, *refine.metrics} <= known | {"psnr-db", "ssim"}
    assert (fit.num_examples, align.num_examples, refine.num_examples) == (6, 1, 6)
