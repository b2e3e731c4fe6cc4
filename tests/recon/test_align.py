"""Alignment: similarities by seven numbers, gradients against differences, and errors that are known and undone."""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recon.align
from geometry import SE3, Camera, Frame, Sim3
from recon.align import align, align_coarse_to_fine, gradient_at, halved, moved_view, noisy, seed
from recon.chart import Chart, rotation_matrix, rotation_vector, similarity
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.objective import LossWeights, render_view
from recon.trajectories import turntable
from recon.views import View, view_of

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = Camera(SE3.identity(), 50.0, 50.0, 24.0, 16.0, 48, 32)
AXIS = np.array([2.0, -1.0, 2.0]) / 3
ERROR = Sim3(
    rotation_matrix(torch.tensor(np.radians(1.3) * AXIS)).numpy(), np.array([0.04, -0.03, 0.02]), 1.03
)  # of a cube of 2 m seen from 4 m: as much as 0.6 m in a street


def cube(count: int = 300, degree: int = 0) -> Gaussians:
    """Balls in a cube of two metres, each in the colour of its place; higher bands by chance."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (count, 3))
    balls = Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9, degree=degree)
    sh = balls.sh.clone()
    sh[:, 1:] = torch.tensor(rng.normal(0, 0.1, sh[:, 1:].shape)).float()
    return replace(balls, sh=sh)


@functools.cache
def views() -> tuple[View, ...]:
    """Six photos of the cube, from a circle of four metres round it, with depth."""
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 6)
    frames = [Frame(0.0, camera, *render_camera(cube(), camera)[:1]) for camera in cameras]
    depths = [render_camera(cube(), camera)[1] for camera in cameras]
    return tuple(
        view_of(replace(frame, depth_m=depth_m), with_depth=True) for frame, depth_m in zip(frames, depths, strict=True)
    )


@functools.cache
def part() -> Gaussians:
    """The cube in another party's frame."""
    return cube().transformed(ERROR.inverse())


def mean_error_m(found: Sim3) -> float:
    means = part().means.double().numpy()
    return float(np.linalg.norm(found.apply(means) - ERROR.apply(means), axis=1).mean())


def test_a_rotation_vector_is_axis_times_angle() -> None:
    quarter = rotation_matrix(torch.tensor([0, 0, math.pi / 2], dtype=torch.float64))
    np.testing.assert_allclose(quarter, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    for vector in ([0.3, -0.2, 0.5], [0.0, 0.0, 0.0], [1e-9, 0, 0], [0, 3.1, 0]):
        back = rotation_vector(rotation_matrix(torch.tensor(vector, dtype=torch.float64)).numpy())
        np.testing.assert_allclose(back, vector, atol=1e-9)


def test_a_chart_gives_similarities_back() -> None:
    chart = Chart(np.array([5.0, -2.0, 1.0]), 7.0)
    found = chart.sim3(chart.parameters(ERROR))
    np.testing.assert_allclose(found.matrix, ERROR.matrix, atol=1e-12)
    assert chart.parameters(Sim3.identity()).tolist() == [0] * 7


def test_a_chart_turns_and_scales_about_its_pivot() -> None:
    chart = Chart(np.array([5.0, -2.0, 1.0]), 7.0)
    moved = chart.sim3(torch.tensor([0.1, 0.2, -0.3, 0.4, 0, 0, 0], dtype=torch.float64))
    np.testing.assert_allclose(moved.apply(chart.pivot_m[None])[0], chart.pivot_m, atol=1e-12)
    assert moved.scale == pytest.approx(math.exp(0.4))
    shifted = chart.sim3(torch.tensor([0, 0, 0, 0, 0.5, 0, 0], dtype=torch.float64))
    np.testing.assert_allclose(shifted.translation_m, [3.5, 0, 0], atol=1e-12)


def test_the_chart_of_gaussians_is_about_their_median() -> None:
    line = Gaussians.from_points(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [99, 0, 0]]), np.zeros((5, 3)))
    chart = Chart.of(line)
    assert (chart.pivot_m.tolist(), chart.reach_m) == ([2, 0, 0], 1)
    assert Chart.of(line, np.array([3.0, 0, 0])).reach_m == 2


def test_similarity_is_the_transform_of_gaussians() -> None:
    before, chart = cube(50, degree=3), Chart(np.array([1.0, 2.0, 3.0]), 2.0)
    found, wanted = similarity(before, chart.parameters(ERROR), chart), before.transformed(ERROR)
    for name, tensor in wanted.tensors().items():
        torch.testing.assert_close(found.tensors()[name], tensor, atol=2e-6, rtol=1e-5)


def test_similarity_has_gradients_at_zero() -> None:
    parameters, chart = torch.zeros(7, dtype=torch.float64, requires_grad=True), Chart(np.zeros(3), 2.0)
    moved = similarity(cube(20), parameters, chart)
    (gradient,) = torch.autograd.grad(moved.means.double().sum(), parameters)
    total = cube(20).means.double().sum(dim=0)
    east, north, up = total.tolist()  # ω × x, x, and 2 m for each of 20 Gaussians, summed over axes
    assert gradient[:3].tolist() == pytest.approx([north - up, up - east, east - north], abs=1e-5)
    assert gradient[3].item() == pytest.approx(east + north + up, abs=1e-5)
    assert gradient[4:].tolist() == pytest.approx([40, 40, 40])


def test_moving_the_camera_shows_what_moving_the_scene_shows() -> None:
    before, chart = cube(degree=2), Chart(np.array([0.5, 0.0, -0.5]), 2.0)
    parameters = chart.parameters(ERROR)
    image, alpha = render_view(similarity(before, parameters, chart), views()[0])
    moved, moved_alpha = render_view(before, moved_view(views()[0], parameters, chart))
    torch.testing.assert_close(moved, image, atol=5e-6, rtol=0)
    torch.testing.assert_close(moved_alpha, alpha, atol=5e-6, rtol=0)


@pytest.mark.parametrize("depth", [0.0, 0.3])
def test_the_gradient_is_that_of_the_loss(depth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recon.align, "COVERED", 1e-3)  # an edge of what counts that hardly moves
    scene, chart = cube(12, degree=1).to(dtype=torch.float64), Chart(np.array([0.2, 0.1, 0.0]), 1.5)
    camera = CAMERA.resized(12, 8)
    view = view_of(Frame(0.0, turntable(np.zeros(3), 4.0, 1.0, camera, 1)[0], np.full((8, 12, 3), 90, np.uint8)))
    view = replace(view, depth_m=torch.full((8, 12), 4.2, dtype=torch.float64))
    at = torch.tensor([0.02, -0.01, 0.03, 0.02, 0.01, 0.02, -0.01], dtype=torch.float64)
    options: dict[str, Any] = {"chart": chart, "weights": LossWeights(depth=depth), "backend": "oracle"}
    _, gradient = gradient_at(scene, at, [view], **options)
    for number in range(7):
        step = 1e-6 * torch.eye(7, dtype=torch.float64)[number]
        up, down = (gradient_at(scene, at + sign * step, [view], **options)[0] for sign in (1, -1))
        assert gradient[number].item() == pytest.approx((up - down) / 2e-6, abs=2e-4)


def test_seven_numbers_and_a_loss_leave_a_vehicle() -> None:
    chart = Chart.of(part())
    loss, gradient = gradient_at(part(), chart.parameters(Sim3.identity()), views(), chart)
    assert gradient.shape == (7,)
    assert gradient.dtype == torch.float64
    assert loss > gradient_at(part(), chart.parameters(ERROR), views(), chart)[0]


def test_exposure_is_taken_out() -> None:
    chart = Chart.of(part())
    true = chart.parameters(ERROR)
    dark = [replace(view, image=view.image // 2) for view in views()]
    gains = torch.full((len(dark), 3), math.log(0.5))
    plain = gradient_at(part(), true, views(), chart)[0]
    assert gradient_at(part(), true, dark, chart, log_gains=gains)[0] < plain + 0.01
    assert gradient_at(part(), true, dark, chart)[0] > plain + 0.02


def test_what_the_gaussians_do_not_cover_does_not_count() -> None:
    chart, empty = Chart(np.zeros(3), 1.0), part().transformed(Sim3(np.eye(3), np.array([0, 0, 1000.0])))
    loss, gradient = gradient_at(empty, torch.zeros(7), views()[:2], chart)
    assert (loss, gradient.tolist()) == (1, [0] * 7)


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(depth=0.3)])
def test_a_known_error_is_undone_by_two_vehicles(weights: LossWeights) -> None:
    assert mean_error_m(Sim3.identity()) > 0.05
    found = align_coarse_to_fine(part(), [views()[:3], views()[3:]], Sim3.identity(), steps=(20, 20), weights=weights)
    assert mean_error_m(found) < 1e-3
    assert found.scale == pytest.approx(ERROR.scale, abs=1e-3)


def test_adam_bears_noise() -> None:
    chart = Chart.of(part())

    def told(parameters: Tensor) -> tuple[float, Tensor]:
        return gradient_at(part(), parameters, views()[::2], chart)

    private = noisy(told, most=0.1, deviation=0.2, seed=3)
    found = align([private], Sim3.identity(), chart, steps=60, rate=5e-3, solver="adam")
    assert mean_error_m(found) < 0.01


def test_many_vehicles_find_the_minimum_of_their_sum() -> None:
    chart = Chart(np.zeros(3), 1.0)
    targets = [torch.full((7,), value, dtype=torch.float64) for value in (0.01, 0.02, 0.06)]

    def bowl(target: Tensor):
        return lambda parameters: (float((parameters - target).square().sum()), 2 * (parameters - target))

    found = align([bowl(target) for target in targets], Sim3.identity(), chart)
    np.testing.assert_allclose(chart.parameters(found), np.full(7, 0.03), atol=1e-5)


def test_a_private_gradient_is_cut_and_its_loss_kept() -> None:
    def told(parameters: Tensor) -> tuple[float, Tensor]:
        return 3.0, torch.tensor([3.0, 4.0, 0, 0, 0, 0, 0], dtype=torch.float64)

    loss, gradient = noisy(told, most=1.0, deviation=0.0, seed=0)(torch.zeros(7))
    assert (loss, gradient.tolist()) == (0, pytest.approx([0.6, 0.8, 0, 0, 0, 0, 0]))
    asked = noisy(told, most=2.0, deviation=0.5, seed=0)
    spread = torch.stack([asked(torch.zeros(7))[1] for _ in range(400)]).std(dim=0)
    torch.testing.assert_close(spread, torch.ones(7, dtype=torch.float64), atol=0.15, rtol=0)


def test_the_seed_leaves_wrong_positions_out() -> None:
    rng = np.random.default_rng(2)
    own = rng.normal(size=(12, 3)) * 5
    world = ERROR.apply(own)
    world[:3] += 40
    np.testing.assert_allclose(seed(own, world, 0.5).matrix, ERROR.matrix, atol=1e-9)


def test_half_the_image_is_means_of_four() -> None:
    image = torch.tensor([[10, 20, 5], [30, 40, 5]], dtype=torch.uint8)[..., None].expand(2, 3, 3)
    depth_m = torch.tensor([[2.0, 4.0, 9.0], [0.0, 4.0, 9.0]])
    counted = torch.tensor([[True, False, True], [True, True, True]])
    view = View(image, torch.eye(4), torch.tensor([[8.0, 0, 1.5], [0, 6.0, 1.0], [0, 0, 1]]), counted, depth_m, "photo")
    half = halved(view)
    assert half.image.tolist() == [[[25, 25, 25]]]
    assert half.intrinsics.tolist() == [[4, 0, 0.75], [0, 3, 0.5], [0, 0, 1]]
    assert half.counted is not None
    assert half.depth_m is not None
    assert half.counted.tolist() == [[False]]
    assert half.depth_m.tolist() == [[pytest.approx(3.0)]]  # 1 / mean(1/2, 1/4, 1/4)
    with pytest.raises(ValueError, match="photo: an image of \\(1, 1\\) pixels cannot be halved"):
        halved(half)


def broken(parameters: Tensor) -> tuple[float, Tensor]:
    return 1.0, torch.full((7,), math.nan, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Chart(np.full(3, np.nan), 1.0), "pivot_m must be three"),
        (lambda: Chart(np.zeros(3), 0.0), "reach_m must be finite and positive"),
        (lambda: Chart.of(Gaussians.empty()), "takes Gaussians"),
        (lambda: align([], Sim3.identity(), Chart(np.zeros(3), 1.0)), "at least one vehicle"),
        (lambda: align([broken], Sim3.identity(), Chart(np.zeros(3), 1.0)), "vehicle 0 told"),
        (lambda: gradient_at(part(), torch.zeros(7), [], Chart(np.zeros(3), 1.0)), "needs a view"),
        (lambda: noisy(broken, 0.0, 1.0, 0), "most > 0"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
