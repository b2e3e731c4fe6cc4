"""The MCMC strategy: equation 9 by numeric integrals, the cap, moments, noise, determinism."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from recon.densify import (
    DensifyConfig,
    DensifyState,
    DrawBy,
    Moments,
    densify,
    grow,
    install,
    moments_of,
    pull,
    relocate,
    sgld_noise,
    shared_shape,
)
from recon.gaussians import Gaussians
from tests.recon.test_gaussians import covariances, scene
from tests.recon.test_ply import same

CONFIG = DensifyConfig(cap=100)
STATE = DensifyState.start(CONFIG, seed=3)


def ones_like(gaussians: Gaussians) -> Moments:
    return {name: {"exp_avg": torch.ones_like(tensor)} for name, tensor in gaussians.tensors().items()}


def with_opacities(gaussians: Gaussians, opacities: Tensor) -> Gaussians:
    return Gaussians(**{**gaussians.tensors(), "logit_opacities": opacities.to(gaussians.means).logit()})


def shape_of(opacity: float, copies: int) -> tuple[float, float]:
    """Opacity and standard deviation of each copy of a Gaussian of deviation 2."""
    logit = torch.tensor([opacity], dtype=torch.float64).logit()
    logits, log_scales = shared_shape(
        logit, torch.full((1, 3), math.log(2.0), dtype=torch.float64), torch.tensor([copies]), STATE.binomials
    )
    return float(logits.sigmoid()), float(log_scales[0, 0].exp())


@pytest.mark.parametrize("opacity", [0.006, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("copies", [1, 2, 3, 10, 51])
def test_copies_hide_as_much_as_the_one(opacity: float, copies: int) -> None:
    each, deviation = shape_of(opacity, copies)
    assert 1 - (1 - each) ** copies == pytest.approx(opacity, rel=1e-9)
    hidden = lambda x: 1 - (1 - each * math.exp(-0.5 * (x / deviation) ** 2)) ** copies  # noqa: E731
    integral, _ = quad(hidden, 0, 12 * deviation, epsabs=1e-12, limit=200)
    assert 2 * integral == pytest.approx(opacity * 2.0 * math.sqrt(2 * math.pi), rel=1e-6)


@pytest.mark.parametrize("opacity", [0.1, 0.9])
@pytest.mark.parametrize("copies", [2, 5, 20])
def test_equation_9_as_the_paper_writes_it(opacity: float, copies: int) -> None:
    each = 1 - (1 - opacity) ** (1 / copies)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * each ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert shape_of(opacity, copies)[1] == pytest.approx(2.0 * opacity / total, rel=1e-9)


def test_opaque_gaussians_stay_finite() -> None:
    logit = torch.tensor([30.0, 100.0, 1e4])
    logits, log_scales = shared_shape(logit, torch.zeros(3, 3), torch.tensor([51, 51, 2]), STATE.binomials)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(log_scales).all()


def test_the_dead_move_to_the_living() -> None:
    before = with_opacities(scene(4), torch.tensor([0.5, 0.001, 0.9, 0.004]))
    after = relocate(before, ones_like(before), STATE, CONFIG, step=100)
    assert (len(after.gaussians), after.changed) == (4, 2)
    sources = [int((after.gaussians.means[row] == before.means).all(dim=1).nonzero()) for row in range(4)]
    assert sources[0] == 0
    assert sources[2] == 2
    assert {sources[1], sources[3]} <= {0, 2}
    copies = np.bincount(sources, minlength=4)
    for row, source in enumerate(sources):
        hidden = 1 - (1 - after.gaussians.opacities[row].item()) ** copies[source]
        assert hidden == pytest.approx(before.opacities[source].item())
        changed = copies[source] > 1
        for moments in after.moments.values():
            assert (moments["exp_avg"][row] == (0 if changed else 1)).all()
    torch.testing.assert_close(after.gaussians.sh, before.sh[sources])
    torch.testing.assert_close(after.gaussians.quats, before.quats[sources])


def test_draws_follow_opacity() -> None:
    opacities = torch.cat([torch.full((3000,), 0.001), torch.tensor([0.2, 0.6])])
    before = with_opacities(
        Gaussians.from_points(torch.arange(3002.0)[:, None].repeat(1, 3), torch.rand(3002, 3)), opacities
    )
    after = relocate(before, {}, STATE, CONFIG, step=100).gaussians
    share = (after.means[:3000, 0] == 3001).double().mean().item()
    assert share == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 3000))


@pytest.mark.parametrize("opacity", [0.001, 0.5])
def test_all_dead_or_all_alive_change_nothing(opacity: float) -> None:
    before = with_opacities(scene(4), torch.full((4,), opacity))
    after = relocate(before, ones_like(before), STATE, CONFIG, step=100)
    same(after.gaussians, before)
    assert after.changed == 0
    assert all((kept["exp_avg"] == 1).all() for kept in after.moments.values())


@pytest.mark.parametrize(("count", "cap", "expected"), [(100, 200, 105), (100, 102, 102), (100, 100, 100), (1, 9, 2)])
def test_growth(count: int, cap: int, expected: int) -> None:
    before = scene(count)
    after = grow(before, ones_like(before), STATE, DensifyConfig(cap=cap), step=100)
    assert (len(after.gaussians), after.changed) == (expected, expected - count)
    for name, kept in after.moments.items():
        assert kept["exp_avg"].shape == after.gaussians.tensors()[name].shape
        assert (kept["exp_avg"][count:] == 0).all()
    torch.testing.assert_close(after.gaussians.means[:count], before.means)


def test_growth_from_nothing() -> None:
    assert len(grow(Gaussians.empty(), {}, STATE, CONFIG, step=100).gaussians) == 0


def test_growth_where_nothing_can_be_seen() -> None:
    dark = Gaussians(**{**scene(4).tensors(), "logit_opacities": torch.full((4,), -2000.0, dtype=torch.float64)})
    assert len(grow(dark, {}, STATE, CONFIG, step=100).gaussians) == 5


def test_sharing_does_not_kill() -> None:
    before = with_opacities(scene(30), torch.cat([torch.tensor([0.01]), torch.full((29,), 1e-4)]))
    after = relocate(before, {}, STATE, CONFIG, step=100).gaussians
    assert (after.opacities > CONFIG.min_opacity).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(0, 30), st.floats(1, 3), st.integers(0, 2**40), st.floats(-8, 8))
def test_the_cap_is_never_exceeded(count: int, room: int, factor: float, seed: int, shift: float) -> None:
    config = DensifyConfig(cap=count + room, grow=factor)
    state, now = DensifyState.start(config, seed), scene(count, degree=0, seed=seed % 1000)
    now = Gaussians(**{**now.tensors(), "logit_opacities": now.logit_opacities * 4 + shift})
    moments: Moments = ones_like(now)
    for step in range(100, 1100, 100):
        before = len(now)
        now, moments, _ = densify(now, moments, state, config, step)
        assert before <= len(now) <= config.cap
        assert all(len(kept["exp_avg"]) == len(now) for kept in moments.values())


def test_one_seed_one_result() -> None:
    before = with_opacities(scene(50), torch.linspace(0.001, 0.9, 50))
    first = densify(before, ones_like(before), STATE, CONFIG, step=100)
    again = densify(before, ones_like(before), DensifyState.start(CONFIG, seed=3), CONFIG, step=100)
    same(first.gaussians, again.gaussians)
    later = densify(before, ones_like(before), STATE, CONFIG, step=200)
    other = densify(before, ones_like(before), DensifyState.start(CONFIG, seed=4), CONFIG, step=100)
    for changed in (later, other):
        assert not torch.equal(changed.gaussians.means, first.gaussians.means)


def test_inputs_are_not_changed() -> None:
    before = with_opacities(scene(20), torch.linspace(0.001, 0.9, 20)).requires_grad_()
    copy, moments = before.detach().clone(), ones_like(before.detach())
    after = densify(before, moments, STATE, CONFIG, step=100)
    same(before.detach(), copy)
    assert all((kept["exp_avg"] == 1).all() for kept in moments.values())
    assert not after.gaussians.means.requires_grad


def test_noise_has_the_gaussians_own_shape() -> None:
    one = with_opacities(scene(1), torch.tensor([0.005]))  # the gate is at one half
    many = one.select(torch.zeros(20000, dtype=torch.int64))
    noise = sgld_noise(many, 1e-4, STATE, DensifyConfig(cap=1, noise_lr=100.0), step=7).numpy()
    covariance = covariances(one)[0]
    expected = (100.0 * 1e-4 * 0.5) ** 2 * covariance @ covariance  # of Σ η
    np.testing.assert_allclose(np.cov(noise.T), expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_array_equal(noise, sgld_noise(many, 1e-4, STATE, DensifyConfig(cap=1, noise_lr=100.0), 7).numpy())


def test_noise_spares_what_is_seen() -> None:
    seen = with_opacities(scene(9), torch.full((9,), 0.5))
    faint = with_opacities(scene(9), torch.full((9,), 1e-4))
    ratio = sgld_noise(seen, 1.0, STATE, CONFIG, 1) / sgld_noise(faint, 1.0, STATE, CONFIG, 1)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = sigmoid(-100 * (0.5 - 0.005)) / sigmoid(-100 * (1e-4 - 0.005))
    torch.testing.assert_close(ratio, torch.full_like(ratio, expected), rtol=1e-4, atol=0)


def test_an_optimizer_goes_on_with_the_new_rows() -> None:
    leaf = with_opacities(scene(10), torch.linspace(0.001, 0.9, 10)).requires_grad_()
    groups = [{"params": [tensor], "name": name, "lr": 0.01} for name, tensor in leaf.tensors().items()]
    optimizer = torch.optim.Adam(groups)
    assert moments_of(optimizer)["means"] == {}
    values = leaf.tensors()
    for step in (100, 200):
        optimizer.zero_grad()
        torch.stack([tensor.square().sum() for tensor in values.values()]).sum().backward()
        optimizer.step()
        now = Gaussians(**values)
        after = densify(now, moments_of(optimizer), STATE, CONFIG, step)
        values = install(optimizer, after.gaussians.tensors(), after.moments)
    kept = moments_of(optimizer)
    assert set(kept["sh"]) == {"exp_avg", "exp_avg_sq"}
    assert all(kept[name]["exp_avg"].shape == tensor.shape for name, tensor in values.items())
    assert optimizer.state[values["means"]]["step"] == 2
    assert values["means"].requires_grad
    assert len(values["means"]) > 10


def test_due() -> None:
    config = DensifyConfig(cap=1, start=100, stop=400, every=100)
    assert [step for step in range(600) if config.due(step)] == [200, 300]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cap": 0}, "cap must be at least 1, got 0"),
        ({"every": 0}, "every must be"),
        ({"min_opacity": 0.0}, "min_opacity must lie"),
        ({"grow": 0.9}, "grow >= 1"),
        ({"noise_lr": -1.0}, "noise_lr >= 0"),
        ({"max_copies": 52}, r"max_copies must lie in 2\.\.51"),
    ],
)
def test_bad_configs(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DensifyConfig(**{"cap": 10, **changes})


def test_more_than_the_cap_to_begin_with() -> None:
    with pytest.raises(ValueError, match="11 Gaussians exceed the cap of 10"):
        grow(scene(11), {}, STATE, DensifyConfig(cap=10), step=100)
    with pytest.raises(ValueError, match="seed must not be negative"):
        DensifyState.start(CONFIG, seed=-1)


# What is drawn.


def pulled(sizes_m: list[float], gradients: list[float]) -> tuple[Gaussians, dict[str, dict[str, torch.Tensor]]]:
    """Gaussians of one opacity with the squared gradients that Adam would keep of their means."""
    count = len(sizes_m)
    balls = Gaussians.from_points(torch.randn(count, 3), torch.rand(count, 3), opacity=0.5)
    scales = torch.tensor(sizes_m).log()[:, None] - torch.tensor([0.0, 1.0, 2.0])
    squared = torch.tensor(gradients)[:, None] ** 2 * torch.tensor([1.0, 0.0, 0.0])
    moments = {"means": {"exp_avg": torch.zeros(count, 3), "exp_avg_sq": squared}}
    return replace(balls, log_scales=scales), moments


def test_pull_is_gradient_times_largest_scale() -> None:
    gaussians, moments = pulled([0.5, 2.0, 0.1], [3.0, 1.0, 0.0])
    torch.testing.assert_close(pull(gaussians, moments), torch.tensor([1.5, 2.0, 0.0], dtype=torch.float64))
    assert pull(gaussians, {}).tolist() == [1, 1, 1]


@pytest.mark.parametrize("draw_by", ["pull", "opacity"])
def test_growth_follows_what_is_drawn_by(draw_by: DrawBy) -> None:
    gaussians, moments = pulled([1.0] * 100, [0.0] * 99 + [1.0])
    config = DensifyConfig(200, grow=2, draw_by=draw_by)
    grown = grow(gaussians, moments, DensifyState.start(config, 0), config, 1).gaussians
    copies = (grown.means[100:] == gaussians.means[99]).all(dim=1).sum()
    assert copies == 100 if draw_by == "pull" else copies < 10


def test_the_dead_move_to_what_is_pulled() -> None:
    gaussians, moments = pulled([1.0] * 10, [0.0] * 9 + [1.0])
    logits = torch.cat([torch.full((4,), -20.0), gaussians.logit_opacities[4:]])
    config = DensifyConfig(10, draw_by="pull")
    moved = relocate(replace(gaussians, logit_opacities=logits), moments, DensifyState.start(config, 0), config, 1)
    assert moved.changed == 4
    assert (moved.gaussians.means[:4] == gaussians.means[9]).all()
