"""Fits of scenes that are known: what is learned, how the set grows, and that a fit can be broken off anywhere."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Camera, Frame
from recon.evaluate import mean_scores, score
from recon.fit import FitConfig, FitState, Progress, advance, fit, pick_view, start
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.objective import LossWeights, view_loss
from recon.optimizer import make_optimizer
from recon.scene_scale import scene_scale
from recon.size_limit import SizeLimit
from recon.trajectories import turntable
from recon.views import View, Views

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = Camera(SE3.identity(), 50.0, 50.0, 24.0, 16.0, 48, 32)
SMALL = FitConfig(
    steps=40, cap=300, degree=1, densify_every=7, noise_lr=50.0, weights=LossWeights(0.2, 0.1, 0.01, 0.01)
)
RATES = ("means", "quats", "log_scales", "logit_opacities", "sh", "exposures", "last", "noise")


def cube(count: int = 300) -> Gaussians:
    """Balls in a cube of two metres, each in the colour of its place."""
    xyz = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    return Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)


@functools.cache
def photos() -> tuple[Frame, ...]:
    """Twelve of the cube, from a circle of four metres round it."""
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 12)
    pictures = [render_camera(cube(), camera) for camera in cameras]
    return tuple(
        Frame(float(number), camera, rgb, depth_m=depth_m, source=f"photo {number}")
        for number, (camera, (rgb, depth_m)) in enumerate(zip(cameras, pictures, strict=True))
    )


@functools.cache
def views(with_depth: bool = True) -> Views:
    """All photos but every fourth."""
    return Views([frame for number, frame in enumerate(photos()) if number % 4], with_depth=with_depth)


def guess(count: int = 200) -> Gaussians:
    """Grey balls about where some of the cube's are."""
    noise = np.random.default_rng(1).normal(0, 0.1, (count, 3))
    return Gaussians.from_points(cube(count).means.numpy() + noise, np.full((count, 3), 0.5))


def bits(state: FitState) -> dict[str, bytes]:
    """All that a fit carries from step to step."""
    found = {"rest": repr((state.step, state.scale_m, state.start_count)).encode()}
    for optimizer in (state.optimizer, state.exposures):
        for group in optimizer.param_groups:
            name, (parameter,) = group.get("name", "exposures"), group["params"]
            kept = {"": parameter, **optimizer.state[parameter]}
            found |= {f"{name} {key}".strip(): tensor.detach().numpy().tobytes() for key, tensor in kept.items()}
    return found


@functools.cache
def whole_fit() -> dict[str, bytes]:
    """Forty steps in one go, on one thread."""
    state = start(guess(), SMALL, views())
    assert fit(state, SMALL, views()) == "steps"
    assert len(state.gaussians) == SMALL.cap, "the set changes on the way"
    return bits(state)


def test_the_same_fit_again_has_the_same_bits() -> None:
    state = start(guess(), SMALL, views())
    fit(state, SMALL, views())
    assert bits(state) == whole_fit()


def test_another_seed_gives_another_scene() -> None:
    config = replace(SMALL, seed=1)
    state = start(guess(), config, views())
    fit(state, config, views())
    assert bits(state)["means"] != whole_fit()["means"]


def test_noise_moves_the_means() -> None:
    config = replace(SMALL, noise_lr=0.0)
    state = start(guess(), config, views())
    fit(state, config, views())
    assert bits(state)["means"] != whole_fit()["means"]


@pytest.mark.parametrize("steps", [0, 1, 7, 13, 39])
def test_an_interrupt_loses_nothing(steps: int) -> None:
    state, asked = start(guess(), SMALL, views()), iter(range(100))
    assert fit(state, SMALL, views(), interrupted=lambda: next(asked) == steps) == "interrupt"
    assert state.step == steps
    assert fit(state, SMALL, views()) == "steps"
    assert bits(state) == whole_fit()


def test_a_time_budget_loses_nothing() -> None:
    state = start(guess(), SMALL, views())
    assert fit(state, SMALL, views(), seconds=0) == "time"
    assert state.step == 0
    assert fit(state, SMALL, views(), seconds=60) == "steps"
    assert bits(state) == whole_fit()


def test_a_time_budget_ends_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("recon.fit.time.monotonic", lambda: float(next(clock)))
    state = start(guess(), SMALL, views())
    assert fit(state, SMALL, views(), seconds=4) == "time"  # begun at 0, asked at 1, 2, 3 and 4
    assert state.step == 3


def test_a_fit_that_is_done_stays_so() -> None:
    state = start(guess(), SMALL, views())
    state.step = SMALL.steps
    before = bits(state)
    assert fit(state, SMALL, views(), seconds=0, interrupted=lambda: True) == "steps"
    assert bits(state) == before


def test_sizes_are_held_within_a_limit() -> None:
    """The cube lies within 2 m of a waypoint: 5 cm at most. A limit that nothing reaches changes no bit."""
    centre, wide, tight = np.zeros((1, 2)), start(guess(), SMALL, views()), start(guess(), SMALL, views())
    assert start(guess(), SMALL, views()).gaussians.scales.max() > 0.06
    fit(tight, SMALL, views(), limit=SizeLimit(centre, 0.01, 0.05))
    most = SizeLimit(centre, 0.01, 0.05).largest_m(tight.gaussians.means)
    assert (tight.gaussians.scales.amax(dim=1) <= most * (1 + 1e-6)).all()
    fit(wide, SMALL, views(), limit=SizeLimit(centre, 100.0, 100.0))
    assert bits(wide) == whole_fit()


def test_every_step_is_reported() -> None:
    config, reports = FitConfig(steps=5, cap=200), list[Progress]()
    state = start(guess(), config, views())
    fit(state, config, views(), on_step=reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert [report.gaussians for report in reports] == [200] * 5
    assert all(0 < report.loss < 1 for report in reports)


def test_a_fit_learns_what_it_was_not_shown() -> None:
    config = FitConfig(steps=300, cap=400, densify_every=10)
    held_out = Views(photos()[::4])
    state = start(guess(300), config, views(with_depth=False))
    before = mean_scores(score(state.gaussians.detach(), held_out))["psnr_db"]
    fit(state, config, views(with_depth=False))
    after = mean_scores(score(state.gaussians.detach(), held_out))["psnr_db"]
    assert before < 10, "8.3 dB as it starts"
    assert after > 24, "26.7 to 27.5 dB with four seeds when this was written"


def test_what_is_fitted_are_copies() -> None:
    first = guess()
    before = first.clone()
    fit(start(first, FitConfig(steps=3, cap=200), views()), FitConfig(steps=3, cap=200), views())
    assert all(torch.equal(tensor, before.tensors()[name]) for name, tensor in first.tensors().items())


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("every", [1, 50])
def test_a_few_steps_do(steps: int, every: int) -> None:
    config = FitConfig(steps=steps, cap=250, degree=3, densify_every=every, noise_lr=1.0)
    state = start(guess(), config, views())
    assert fit(state, config, views()) == "steps"
    assert 200 <= len(state.gaussians) <= 250


@pytest.mark.parametrize(("count", "cap"), [(1, 1), (1, 2), (200, 200)])
def test_small_caps_are_kept(count: int, cap: int) -> None:
    config = FitConfig(steps=20, cap=cap, densify_every=1)
    one = Gaussians.from_points(np.zeros((1, 3)), np.ones((1, 3)), opacity=0.9, lone_scale_m=1.0)
    balls = guess(200) if count > 1 else one
    state = start(balls, config, views())
    fit(state, config, views())
    assert len(state.gaussians) == cap


def test_the_cap_is_reached_half_way() -> None:
    config, counts = FitConfig(steps=40, cap=1000, densify_every=4), list[int]()
    state = start(guess(), config, views())
    fit(state, config, views(), on_step=lambda report: counts.append(report.gaussians))
    assert counts[0] == 200
    assert counts == sorted(counts)
    assert counts[14] < 1000 == counts[15], "four changes, after steps 4, 8, 12 and 16; they begin behind step 2"


sizes = st.integers(1, 100_000)


@given(steps=st.integers(1, 5000), every=st.integers(1, 200), start_count=sizes, more=st.integers(0, 100_000))
@settings(max_examples=200, deadline=None)
def test_growth_never_passes_the_cap_and_reaches_it(steps: int, every: int, start_count: int, more: int) -> None:
    config = FitConfig(steps=steps, cap=start_count + more, densify_every=every)
    limits, count = config.densify_config(start_count), start_count
    due = [step for step in range(1, steps + 1) if limits.due(step)]
    assert all(steps // 20 < step < round(0.8 * steps) for step in due)
    for step in due:
        count = min(config.cap, int(np.ceil(limits.grow * count)))  # as `recon.densify.grow` has it
        assert count <= config.cap
        if step * 2 > steps:
            break
    early = [step for step in due if step * 2 <= steps]
    assert count == (config.cap if due else start_count) or not early


def test_no_growth_where_no_step_is_due() -> None:
    limits = FitConfig(steps=40, cap=1000).densify_config(10)  # changes in every 50th step
    assert not any(limits.due(step) for step in range(41))


@given(seed=st.integers(0, 2**63), count=st.integers(1, 60), epoch=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_every_view_once_in_each_round(seed: int, count: int, epoch: int) -> None:
    steps = range(epoch * count, (epoch + 1) * count)
    assert sorted(pick_view(seed, step, count) for step in steps) == list(range(count))


def test_rounds_and_seeds_differ() -> None:
    orders = [tuple(pick_view(seed, epoch * 20 + i, 20) for i in range(20)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_what_is_looked_at_does_not_depend_on_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, config = list[str](), FitConfig(steps=20, cap=200)

    def noted(gaussians: Gaussians, view: View, *rest: Any, **options: Any) -> torch.Tensor:
        looked.append(view.source)
        return view_loss(gaussians, view, *rest, **options)

    monkeypatch.setattr("recon.fit.view_loss", noted)
    fit(start(guess(), config, views()), config, views())
    state = start(guess(), config, views())
    for stop in (3, 9, 11, 20):
        fit(state, config, views(), interrupted=lambda stop=stop: state.step == stop)  # type: ignore[misc]
    assert looked[:20] == looked[20:]
    names = sorted(view.source for view in views())
    assert sorted(looked[:9]) == sorted(looked[9:18]) == names
    assert looked[:9] != looked[9:18], "each round has an order of its own"


def test_bands_come_in_one_after_the_other() -> None:
    config = FitConfig(steps=100, degree=3)
    assert [config.degree_at(step) for step in (1, 9, 10, 19, 20, 29, 30, 100)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {FitConfig(steps=100, degree=0).degree_at(step) for step in range(101)} == {0}


def test_a_band_that_is_not_in_yet_does_not_change() -> None:
    config = FitConfig(steps=100, cap=200, degree=1)
    state = start(guess(), config, views())
    for _ in range(9):
        advance(state, config, views())
    assert not state.gaussians.sh[:, 1:].any()
    for _ in range(2):
        advance(state, config, views())
    assert state.gaussians.sh[:, 1:].any()


def test_learning_rates_by_hand() -> None:
    fixed: dict[str, Any] = {"quats_lr": 0.3, "log_scales_lr": 0.4, "logit_opacities_lr": 0.5}
    config = FitConfig(steps=10, cap=200, degree=1, means_lr=0.1, sh_lr=0.2, exposures_lr=0.6, last_lr=0.01, **fixed)
    state = start(guess(), config, views())
    groups = [*state.optimizer.param_groups, *state.exposures.param_groups]
    rates = lambda: {group.get("name", "exposures"): group["lr"] for group in groups}  # noqa: E731
    rest = {"quats": 0.3, "log_scales": 0.4, "logit_opacities": 0.5, "sh_0": 0.2, "sh_rest": 0.01}
    assert rates() == pytest.approx({**rest, "means": 0.1 * state.scale_m, "exposures": 0.6})
    for share in (0.1, 0.01):  # 0.01 to the power of 5/10 and 10/10
        for _ in range(5):
            advance(state, config, views())
        assert rates() == pytest.approx({**rest, "means": 0.1 * state.scale_m * share, "exposures": 0.6 * share})


def test_exposures_are_learned() -> None:
    """Photo 5 is twice as bright in red as it should be; without exposures that would be in the scene's colours."""
    frames, index = [frame for number, frame in enumerate(photos()) if number % 4], 3
    assert frames[index].source == "photo 5"
    bright = np.array(frames[index].image)
    bright[..., 0] = np.minimum(2 * bright[..., 0].astype(int), 255)
    frames[index] = replace(frames[index], image=bright)
    config = FitConfig(steps=300, cap=300, exposures_lr=2e-2)
    state = start(cube(), config, Views(frames))
    assert not state.log_gains.any()
    fit(state, config, Views(frames))
    gains = state.log_gains.exp()
    assert gains[index, 0] == gains.max()
    assert gains[index, 0] > 1.4
    torch.testing.assert_close(state.log_gains.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    still = replace(config, exposures_lr=0.0, steps=5)
    state = start(cube(), still, Views(frames))
    fit(state, still, Views(frames))
    assert not state.log_gains.any()


def test_scale_by_hand() -> None:
    """Cameras along a line that see a wall of opaque balls 8 m ahead."""
    x, y = np.meshgrid(np.arange(-12, 12.1, 0.5), np.arange(-8, 8.1, 0.5))
    wall = Gaussians.from_points(np.stack([x, y, 0 * x + 8], -1).reshape(-1, 3), np.ones((x.size, 3)), opacity=0.99)
    pose = lambda at: replace(CAMERA, world_from_cam=SE3(np.eye(3), np.array([at, 0.0, 0.0])))  # noqa: E731
    image = np.zeros((32, 48, 3), np.uint8)
    near = Views([Frame(0.0, pose(at), image) for at in (-0.5, 0.5)])
    assert scene_scale(wall, near) == pytest.approx(8, rel=1e-3)
    apart = Views([Frame(0.0, pose(at), image) for at in (-100.0, 0.0, 100.0)])  # the middle one sees the wall
    assert scene_scale(wall, apart) == pytest.approx(0.2 * 100, rel=1e-3)


def test_nothing_in_view_is_refused() -> None:
    away = replace(guess(), means=guess().means + torch.tensor([0, 0, 100.0]))
    with pytest.raises(ValueError, match=r"^none of the 200 Gaussians shows in any of 9 views; check the poses"):
        start(away, FitConfig(cap=200), views())


@pytest.mark.parametrize("count", [0, 200])
def test_a_wrong_number_of_gaussians_is_refused(count: int) -> None:
    balls = guess() if count else Gaussians.empty()
    with pytest.raises(ValueError, match=rf"^a fit starts from 1 to 199 \(the cap\) Gaussians, got {count}$"):
        start(balls, FitConfig(cap=199), views())


def test_a_loss_that_is_not_finite_names_the_view() -> None:
    config = FitConfig(steps=10, cap=200, weights=LossWeights(scale=1.0))
    state = start(guess(), config, views())
    with torch.no_grad():
        state.optimizer.param_groups[2]["params"][0][0] = 200.0  # e^200 m is more than float32 holds
    with pytest.raises(ValueError, match=r"^photo \d+: the loss is (inf|nan) at step 1; look at this frame's image"):
        advance(state, config, views())


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("steps", [0, -1]),
        ("cap", [0]),
        ("densify_every", [0]),
        ("degree", [-1, 4]),
        ("seed", [-1]),
        *[(f"{name}_lr", [-1.0, np.nan, np.inf]) for name in RATES],
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^FitConfig\.{field} .*got {value}$"):
            FitConfig(**{field: value})  # type: ignore[arg-type]


def test_points_to_start_from() -> None:
    assert [FitConfig(cap=cap).start_points for cap in (1, 2, 10, 1000)] == [1, 1, 7, 700]


def test_an_optimizer_has_one_group_a_tensor() -> None:
    names = {"means", "quats", "log_scales", "logit_opacities", "sh_0"}
    assert {group["name"] for group in make_optimizer(guess(), FitConfig(), 1.0).param_groups} == names
    richer = make_optimizer(guess().with_degree(2), FitConfig(), 1.0)
    assert {group["name"]: group["params"][0].shape[1:] for group in richer.param_groups}["sh_rest"] == (8, 3)
