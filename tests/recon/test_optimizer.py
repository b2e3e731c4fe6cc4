"""Adam that moves only what a step shows: torch's where all is seen, a standstill where nothing is."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geometry import SE3, Camera, Frame
from recon.densify import DensifyState, densify, install, moments_of
from recon.fit import fit, start
from recon.fit_config import FitConfig
from recon.fit_file import load_fit, save_fit
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.optimizer import VisibleAdam, joined_gaussians, make_optimizer, split_tensors
from recon.trajectories import turntable
from recon.views import View, view_of

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = FitConfig(visible_only=True)
CAMERA = Camera(SE3.identity(), 40.0, 40.0, 16.0, 12.0, 32, 24)


def balls(count: int = 6, degree: int = 1) -> Gaussians:
    rng = np.random.default_rng(0)
    return Gaussians.from_points(rng.normal(size=(count, 3)), rng.uniform(size=(count, 3)), degree=degree, opacity=0.6)


def parameters(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    return {group["name"]: group["params"][0] for group in optimizer.param_groups}


def take_step(optimizer: torch.optim.Adam, seed: int, seen: list[int] | None = None) -> None:
    """A step along any gradients; rows that are not seen have none."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters(optimizer).values():
        gradient = torch.randn(parameter.shape, generator=generator)
        if seen is not None:
            hidden = torch.ones(len(gradient), dtype=torch.bool).index_fill(
                0, torch.tensor(seen, dtype=torch.int64), False
            )
            gradient[hidden] = 0
        parameter.grad = gradient
    optimizer.step()


def test_the_config_decides() -> None:
    assert isinstance(make_optimizer(balls(), CONFIG, 1.0), VisibleAdam)
    assert not isinstance(make_optimizer(balls(), FitConfig(), 1.0), VisibleAdam)


def test_where_every_row_is_seen_it_is_adam() -> None:
    ours = make_optimizer(balls(), CONFIG, 2.0)
    theirs = torch.optim.Adam(make_optimizer(balls(), FitConfig(), 2.0).param_groups, eps=1e-15)
    for step in range(20):
        take_step(ours, step)
        take_step(theirs, step)
    for name, parameter in parameters(theirs).items():
        torch.testing.assert_close(parameters(ours)[name], parameter, atol=2e-6, rtol=2e-6)
        for moment in ("exp_avg", "exp_avg_sq"):
            ours_kept = ours.state[parameters(ours)[name]][moment]
            torch.testing.assert_close(ours_kept, theirs.state[parameter][moment], atol=1e-7, rtol=1e-5)


def test_the_first_step_of_a_row_is_the_learning_rate_whenever_it_comes() -> None:
    # Adam's first step is lr · g / |g|; row 3 is first seen in step 10.
    optimizer = make_optimizer(balls(), CONFIG, 1.0)
    for step in range(9):
        take_step(optimizer, step, seen=[0, 1])
    before = {name: parameter.detach().clone() for name, parameter in parameters(optimizer).items()}
    take_step(optimizer, 9, seen=[3])
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    for name, parameter in parameters(optimizer).items():
        moved = (parameter[3] - before[name][3]).detach()
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, rates[name]), atol=1e-6, rtol=1e-4)


def test_rows_that_are_not_seen_keep_value_and_moments() -> None:
    optimizer = make_optimizer(balls(), CONFIG, 1.0)
    for step in range(3):
        take_step(optimizer, step)
    kept = {name: [p.detach().clone(), *_moments(optimizer, p)] for name, p in parameters(optimizer).items()}
    for step in range(3, 8):
        take_step(optimizer, step, seen=[1, 4])
    for name, parameter in parameters(optimizer).items():
        for before, after in zip(kept[name], [parameter.detach(), *_moments(optimizer, parameter)], strict=True):
            assert torch.equal(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
            assert (after[[1, 4]] != before[[1, 4]]).any()


def _moments(optimizer: torch.optim.Adam, parameter: Tensor) -> list[Tensor]:
    return [tensor.clone() for _, tensor in sorted(optimizer.state[parameter].items()) if tensor.ndim]


def test_rows_that_are_seen_now_and_then_move_as_if_there_were_no_other_steps() -> None:
    often, seldom = make_optimizer(balls(), CONFIG, 1.0), make_optimizer(balls(), CONFIG, 1.0)
    for step in range(12):
        if step % 3 == 0:
            take_step(often, step, seen=[2])
            take_step(seldom, step, seen=[2])
        else:
            take_step(often, step, seen=[0, 5])
    for name, parameter in parameters(often).items():
        assert torch.equal(parameter[2], parameters(seldom)[name][2])


def test_a_step_that_shows_nothing_changes_nothing() -> None:
    optimizer = make_optimizer(balls(), CONFIG, 1.0)
    for seen in ([], [0], []):
        before = {name: parameter.detach().clone() for name, parameter in parameters(optimizer).items()}
        take_step(optimizer, 7, seen=seen)
        for name, parameter in parameters(optimizer).items():
            assert torch.equal(parameter[1:], before[name][1:])
            assert torch.equal(parameter, before[name]) is (not seen)


def test_it_goes_on_after_the_set_has_changed() -> None:
    """Rows that are shared or new start afresh; the others go on where they were."""
    scene = balls(8, degree=0)
    scene.logit_opacities[0] = -9.0  # dead: it is sent to another
    optimizer = make_optimizer(scene, CONFIG, 1.0)
    for step in range(4):
        take_step(optimizer, step, seen=list(range(1, 8)))
    limits = FitConfig(cap=12, steps=10, densify_every=1).densify_config(8)
    now, moments = joined_gaussians(parameters(optimizer)), moments_of(optimizer)
    assert moments["logit_opacities"]["visits"].tolist() == [0, *[4] * 7]
    changed = densify(now, moments, DensifyState.start(limits, 0), limits, 3)
    assert changed.changed > 0
    install(optimizer, split_tensors(changed.gaussians), changed.moments)
    assert len(parameters(optimizer)["means"]) == len(changed.gaussians) > 8
    visits = moments_of(optimizer)["logit_opacities"]["visits"]
    assert len(visits) == len(changed.gaussians)
    fresh = torch.nonzero(visits == 0)[:, 0].tolist()
    assert 0 in fresh
    assert set(visits.tolist()) == {0, 4}
    before = {name: parameter.detach().clone() for name, parameter in parameters(optimizer).items()}
    take_step(optimizer, 99)
    moved = (parameters(optimizer)["means"] - before["means"]).detach().abs()
    torch.testing.assert_close(moved[fresh], torch.full_like(moved[fresh], CONFIG.means_lr), atol=1e-6, rtol=1e-3)
    assert torch.isfinite(joined_gaussians(parameters(optimizer)).means).all()


# In a fit


@functools.cache
def views() -> tuple[View, ...]:
    xyz = np.random.default_rng(1).uniform(-1, 1, (60, 3))
    cube = Gaussians.from_points(xyz, (xyz + 1) / 2, opacity=0.9)
    cameras = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 5)
    return tuple(view_of(Frame(0.0, camera, render_camera(cube, camera)[0])) for camera in cameras)


def guess() -> Gaussians:
    xyz = np.random.default_rng(2).uniform(-1, 1, (40, 3))
    return Gaussians.from_points(xyz, np.full((40, 3), 0.5), opacity=0.5)


def test_a_fit_that_was_broken_off_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = FitConfig(steps=40, cap=60, densify_every=5, seed=3, visible_only=True)
    straight = start(guess(), config, views())
    fit(straight, config, views())
    first = start(guess(), config, views())
    fit(first, config, views(), interrupted=lambda: first.step == 17)
    assert first.step == 17
    save_fit(tmp_path / "fit.pt", first, config, "a cube")
    second = load_fit(tmp_path / "fit.pt", config, "a cube")
    assert isinstance(second.optimizer, VisibleAdam)
    fit(second, config, views())
    assert len(straight.gaussians) == len(second.gaussians) > 40
    for name, tensor in straight.gaussians.tensors().items():
        assert torch.equal(tensor, second.gaussians.tensors()[name])
    kept, others = moments_of(straight.optimizer), moments_of(second.optimizer)
    for name, moments in kept.items():
        assert all(torch.equal(values, others[name][key]) for key, values in moments.items())


def test_a_fit_gets_better_with_it() -> None:
    losses: list[float] = []
    config = FitConfig(steps=60, cap=60, densify_every=20, visible_only=True)
    fit(start(guess(), config, views()), config, views(), on_step=lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert all(map(math.isfinite, losses))


def test_a_saved_fit_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    config = FitConfig(steps=4, cap=60, visible_only=True)
    state = start(guess(), config, views())
    fit(state, config, views())
    save_fit(tmp_path / "fit.pt", state, config, "a cube")
    with pytest.raises(ValueError, match="visible_only"):
        load_fit(tmp_path / "fit.pt", FitConfig(steps=4, cap=60), "a cube")
