"""Rasteriser: arithmetic by hand, the compiled kernel against the float64 definition, gradients, symmetries."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import recon.render
from recon.render import cpu, oracle, rasterize
from recon.render import gsplat as gsplat_backend
from recon.render.build import KernelUnavailableError, load_kernel
from recon.render.inputs import Inputs
from recon.spherical import from_rgb

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


@dataclass(frozen=True)
class Scene:
    """Inputs of `rasterize` in float32."""

    tensors: tuple[Tensor, ...]  # in the order of NAMES
    ks: Tensor
    width: int
    height: int
    degree: int | None = None


def make_scene(n: int, width: int, height: int, cameras: int = 1, degree: int | None = None, seed: int = 0) -> Scene:
    """Gaussians of many sizes before, beside and behind cameras that look along z from about the origin."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means = torch.stack([2 * normal(n), 2 * normal(n), 8 * uniform(n) - 1], dim=-1)
    colors = uniform(n, 3) if degree is None else 0.5 * normal(n, 16, 3)
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    rotations = torch.linalg.qr(torch.eye(3) + 0.1 * normal(cameras, 3, 3))[0]
    viewmats[:, :3, :3] = rotations * torch.diagonal(rotations, dim1=1, dim2=2).sign()[:, None]
    viewmats[:, :3, 3] = 0.3 * normal(cameras, 3)
    k = torch.tensor([[0.9 * width, 0, width / 2 + 1.3], [0, 0.8 * width, height / 2 - 2.1], [0, 0, 1]])
    gaussians = (means, normal(n, 4), torch.exp(0.8 * normal(n, 3) - 2), uniform(n), colors)
    return Scene((*gaussians, viewmats, uniform(cameras, 3)), k.repeat(cameras, 1, 1), width, height, degree)


def with_tensor(scene: Scene, name: str, tensor: Tensor) -> Scene:
    return replace(scene, tensors=tuple(tensor if n == name else t for n, t in zip(NAMES, scene.tensors, strict=True)))


def opaque(scene: Scene) -> Scene:
    """Large and hardly transparent: most pixels are full before the last Gaussian."""
    return with_tensor(with_tensor(scene, "scales", 3 * scene.tensors[2]), "opacities", scene.tensors[3] ** 0.1)


def degenerate(scene: Scene) -> Scene:
    """A third points, a third needles across the image, some larger than the whole scene."""
    scales = scene.tensors[2].clone()
    scales[::3] = 1e-7
    scales[1::3] = torch.tensor([3.0, 1e-6, 1e-6])
    scales[2::30] = 50
    opacities = scene.tensors[3].clone()
    opacities[2::30] *= 0.05
    return with_tensor(with_tensor(scene, "scales", scales), "opacities", opacities)


def unseen(scene: Scene) -> Scene:
    """Everything behind the camera or beside the image, but for the first ten."""
    means = scene.tensors[0].clone()
    means[10::2, 2] = -means[10::2, 2].abs() - 2
    means[11::2, 0] = 60 + means[11::2, 0]
    return with_tensor(scene, "means", means)


SCENES = {
    "mixed": make_scene(250, 70, 53, cameras=3),
    "saturated": opaque(make_scene(300, 50, 40, seed=1)),
    "degenerate": degenerate(make_scene(120, 61, 47, cameras=2, seed=2)),
    "unseen": unseen(make_scene(60, 33, 48, seed=3)),
    "single": with_tensor(make_scene(1, 20, 17), "means", torch.tensor([[0.1, 0.2, 3.0]])),
    "none": make_scene(0, 20, 17),
    "one pixel": make_scene(50, 1, 1, seed=4),
    **{f"harmonics {degree}": make_scene(100, 40, 30, cameras=2, degree=degree, seed=5) for degree in range(4)},
}


def draw(scene: Scene, backend: Any, mode: Any = "RGB", dtype: torch.dtype = torch.float32, grad: bool = False):
    """Image, alpha, dictionary and the inputs (leaves, if gradients are wanted); gsplat's lie on a GPU."""
    device = "cuda" if backend == "gsplat" else "cpu"
    inputs = [tensor.to(device, dtype, copy=True).requires_grad_(grad) for tensor in scene.tensors]
    means, quats, scales, opacities, colors, viewmats, backgrounds = inputs
    image, alpha, info = rasterize(
        *(means, quats, scales, opacities, colors, viewmats),
        scene.ks.to(device, dtype),
        scene.width,
        scene.height,
        backgrounds=backgrounds,
        sh_degree=scene.degree,
        render_mode=mode,
        backend=backend,
    )
    return image, alpha, info, inputs


def inputs_of(scene: Scene) -> Inputs:
    means, quats, scales, opacities, colors, viewmats, backgrounds = scene.tensors
    return Inputs(means, quats, scales, opacities, colors, viewmats, scene.ks, backgrounds)


def views(scene: Scene) -> list[oracle.Splats]:
    """What each camera sees, in float64 and without colours."""
    means, quats, scales, opacities, _, viewmats, _ = (tensor.double() for tensor in scene.tensors)
    shared, size_px = (means, quats, scales, opacities, means[:, :0]), (scene.height, scene.width)
    limits: dict[str, Any] = {"eps2d": 0.3, "near_plane": 0.01, "depth": False}
    cameras = zip(viewmats, scene.ks.double(), strict=True)
    return [oracle.project(*shared, viewmat, k, size_px, **limits) for viewmat, k in cameras]


def decided(scene: Scene) -> Tensor:
    """Pixels [c, h, w, 1] that do not stand at a jump of the definition."""
    masks = [~oracle.undecided_pixels(splats, (scene.height, scene.width)) for splats in views(scene)]
    return torch.stack(masks)[..., None]


def errors(scene: Scene, mode: Any = "RGB", backend: Any = "cpu") -> dict[str, float]:
    """Against the float64 definition: largest error of image and alpha, relative L2 error of every gradient.

    Depth above 1 m counts relative to itself.
    """
    mask, generator = decided(scene), torch.Generator().manual_seed(7)
    assert mask.double().mean() > 0.9
    runs: list[tuple] = []
    for name, dtype in (("oracle", torch.float64), (backend, torch.float32)):
        image, alpha, info, inputs = draw(scene, name, mode, dtype, grad=True)
        assert info["backend"] == name
        if not runs:
            weights = [torch.randn(part.shape, generator=generator) * mask for part in (image, alpha)]
        loss = (image * weights[0].to(image)).sum() + (alpha * weights[1].to(alpha)).sum()
        grads = [None if g is None else g.cpu() for g in torch.autograd.grad(loss, inputs, allow_unused=True)]
        info = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in info.items()}
        runs.append((image.detach().double().cpu(), alpha.detach().double().cpu(), info, grads))
    (image, alpha, info, grads), (image32, alpha32, info32, grads32) = runs
    assert ((info["radii"] - info32["radii"]).abs() <= 1).all()
    seen = info["visibility"]
    torch.testing.assert_close(info32["means2d"][seen].double(), info["means2d"][seen], rtol=1e-5, atol=1e-3)
    found = {
        "image": _largest((image - image32) / image.abs().clamp_min(1) * mask),
        "alpha": _largest((alpha - alpha32) * mask),
    }
    for input_name, exact, grad in zip(NAMES, grads, grads32, strict=True):
        if exact is not None:
            assert torch.isfinite(grad).all()
            found[input_name] = float((exact - grad.double()).norm() / exact.norm().clamp_min(1e-12))
    return found


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SCENES)
def test_kernel_is_the_definition(name: str) -> None:
    found = errors(SCENES[name])
    assert max(found.values()) <= 1e-5, found


@pytest.mark.parametrize("mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_kernel_is_the_definition_in_every_mode(mode: Any) -> None:
    found = errors(make_scene(200, 37, 50, cameras=2, seed=8), mode)
    assert max(found.values()) <= 1e-5, found


def test_scenes_are_as_hard_as_they_claim() -> None:
    splats = oracle.by_depth(views(SCENES["saturated"])[0])
    alpha = oracle.alphas(splats, oracle.pixel_centres(splats, 0, 0, 50, 40)).clamp_max(oracle.ALPHA_MAX)
    assert (torch.prod(1 - alpha * (alpha >= oracle.ALPHA_CUT), dim=0) < oracle.T_STOP).double().mean() > 0.1
    assert draw(SCENES["unseen"], "cpu")[2]["visibility"].sum() <= 10
    assert draw(SCENES["mixed"], "cpu")[2]["visibility"].float().mean() < 0.9


@pytest.mark.parametrize("name", ["mixed", "saturated"])
def test_plain_torch_by_tiles_is_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise KernelUnavailableError("no C++ compiler")

    monkeypatch.setattr(recon.render, "load_kernel", unavailable)
    image, alpha, info, _ = draw(SCENES[name], "auto")
    exact = draw(SCENES[name], "oracle", dtype=torch.float64)
    assert info["backend"] == "oracle"
    assert "no C++ compiler" in info["fallback"]
    mask = decided(SCENES[name])
    assert _largest((image - exact[0]) * mask) < 1e-4
    assert _largest((alpha - exact[1]) * mask) < 1e-4


@pytest.mark.parametrize("name", ["saturated", "harmonics 3"])
def test_narrow_vectors_go_back_the_same_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "load_kernel", lambda _: load_kernel(4))
    found = errors(SCENES[name])
    assert max(found.values()) <= 1e-5, found


def test_narrow_vectors_give_the_same() -> None:
    scene = SCENES["saturated"]
    setting = cpu.Setting(scene.width, scene.height, 0.3, 0.01, depth=False, vector_floats=4)
    image, *_ = cpu.render(inputs_of(scene), setting)
    assert _largest((image - draw(scene, "oracle", dtype=torch.float64)[0]) * decided(scene)) < 1e-5


@pytest.mark.parametrize("name", ["mixed", "saturated", "harmonics 3"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    results = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        image, alpha, _, inputs = draw(SCENES[name], "cpu", "RGB+ED", grad=True)
        grads = torch.autograd.grad(image.sin().sum() + alpha.cos().sum(), inputs)
        results.append([image.detach(), alpha.detach(), *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_of_the_definition_are_those_of_differences() -> None:
    scene = make_scene(6, 7, 5, seed=11)
    means = scene.tensors[0].double() * 0.3 + torch.tensor([0, 0, 3.0])
    inputs = [means, *(tensor.double() for tensor in scene.tensors[1:])]
    inputs[2] = inputs[2] * 2 + 0.3  # wide, so that no pixel stands at the cut
    inputs[3] = inputs[3] * 0.3 + 0.4

    def image(*x: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = dict(zip(names, x, strict=True)) | {"Ks": scene.ks.double(), "backend": "oracle"}
        return rasterize(**options, width=scene.width, height=scene.height, render_mode="RGB+ED")[:2]

    names = ["colors_or_sh" if name == "colors" else name for name in NAMES]

    assert torch.autograd.gradcheck(image, [x.requires_grad_() for x in inputs], eps=1e-6, atol=1e-5)


def single(depth_m: float, sigma_px: float, **other: Tensor) -> dict[str, Any]:
    """One round Gaussian at the centre of pixel (column 8, row 6) of a camera with focal length 100."""
    k = torch.tensor([[[100.0, 0, 8.5], [0, 100.0, 6.5], [0, 0, 1]]])
    inputs: dict[str, Any] = {
        "means": torch.tensor([[0.0, 0, depth_m]]),
        "quats": torch.tensor([[2.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), sigma_px * depth_m / 100),
        "opacities": torch.tensor([0.8]),
        "colors_or_sh": torch.tensor([[1.0, 0.5, 0.25]]),
        "viewmats": torch.eye(4)[None],
        "Ks": k,
    }
    return inputs | other


@pytest.mark.parametrize("backend", ["cpu", "oracle"])
def test_one_gaussian_by_hand(backend: Any) -> None:
    image, alpha, info = rasterize(**single(4.0, 2.0), width=16, height=12, eps2d=0.0, backend=backend)
    assert alpha[0, 6, 8, 0] == pytest.approx(0.8)
    assert alpha[0, 6, 10, 0] == pytest.approx(0.8 * 2.718281828**-0.5)  # two pixels are one sigma
    assert alpha[0, 4, 10, 0] == pytest.approx(0.8 * 2.718281828**-1.0)
    torch.testing.assert_close(image[0, 6, 8], torch.tensor([0.8, 0.4, 0.2]))
    torch.testing.assert_close(info["means2d"], torch.tensor([[[8.5, 6.5]]]))
    # sqrt(2 ln(255 * 0.8)) = 3.261 sigmas of two pixels, rounded up.
    assert info["radii"].tolist() == [[[7, 7]]]


@pytest.mark.parametrize("backend", ["cpu", "oracle"])
def test_two_gaussians_by_hand(backend: Any) -> None:
    near, far = single(4.0, 2.0), single(8.0, 2.0)
    both: dict[str, Any] = {name: torch.cat([far[name], near[name]]) for name in list(near)[:5]}
    both["colors_or_sh"] = torch.tensor([[0.0, 1, 0], [1.0, 0, 0]])
    both |= {"viewmats": near["viewmats"], "Ks": near["Ks"]}
    white = torch.ones(1, 3)
    image, alpha, _ = rasterize(
        **both, width=16, height=12, render_mode="RGB+D", backgrounds=white, backend=backend, eps2d=0.0
    )
    # Weights: near 0.8, far 0.2 * 0.8 = 0.16, background 0.2 * 0.2 = 0.04; depth 0.8 * 4 + 0.16 * 8 = 4.48.
    torch.testing.assert_close(image[0, 6, 8], torch.tensor([0.84, 0.2, 0.04, 4.48]))
    assert alpha[0, 6, 8, 0] == pytest.approx(0.96)
    expected = rasterize(**both, width=16, height=12, render_mode="ED", backend=backend, eps2d=0.0)[0]
    assert expected[0, 6, 8, 0] == pytest.approx(4.48 / 0.96)


def test_colours_of_band_zero_and_one() -> None:
    sh = torch.zeros(1, 4, 3)
    sh[0, 0, 0], sh[0, 2, 1] = 1, 1  # red in band 0, green along z in band 1; seen along +z
    image, *_ = rasterize(**single(4.0, 2.0, colors_or_sh=sh), width=16, height=12, sh_degree=1)
    torch.testing.assert_close(
        image[0, 6, 8] / 0.8, torch.tensor([0.5 + 0.2820948, 0.5 + 0.4886025, 0.5]), atol=0.05, rtol=0
    )
    exact = (
        rasterize(**single(4.0, 2.0, colors_or_sh=sh), width=16, height=12, sh_degree=1, eps2d=0.0)[0][0, 6, 8] / 0.8
    )
    torch.testing.assert_close(exact, torch.tensor([0.7820948, 0.9886025, 0.5]))


@pytest.mark.parametrize("degree", [0, 3])
def test_what_is_black_can_brighten_and_what_is_darker_than_black_cannot(degree: int) -> None:
    sh = torch.zeros(1, 16, 3)
    sh[0, 0] = from_rgb(torch.tensor([0.0, -0.1, 0.2]))
    sh.requires_grad_()
    image, *_ = rasterize(**single(4.0, 2.0, colors_or_sh=sh), width=16, height=12, sh_degree=degree, backend="cpu")
    torch.testing.assert_close(image[0, 6, 8], torch.tensor([0.0, 0.0, 0.16]))
    gradient = torch.autograd.grad(image[0, 6, 8].sum(), sh)[0]
    torch.testing.assert_close(gradient[0, 0], 0.8 * 0.2820948 * torch.tensor([1.0, 0, 1]))
    along_z = [0, 2, 6, 12] if degree == 3 else [0]  # the other functions are 0 there
    assert gradient[0, :, 2].nonzero().flatten().tolist() == along_z


@given(st.permutations(range(40)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_does_not_matter(order: list[int]) -> None:
    scene = make_scene(40, 33, 18, seed=12)
    shuffled = tuple(t[order] if name in NAMES[:5] else t for name, t in zip(NAMES, scene.tensors, strict=True))
    image, *_ = draw(scene, "cpu")
    assert torch.equal(image, draw(replace(scene, tensors=shuffled), "cpu")[0])


@given(st.integers(0, 2**31), st.floats(0, 1 / 256))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_transparent_changes_nothing(seed: int, opacity: float) -> None:
    scene, extra = make_scene(30, 33, 18, seed=13), make_scene(10, 33, 18, seed=seed)
    extra = with_tensor(extra, "opacities", torch.full((10,), opacity))
    pairs = zip(NAMES, scene.tensors, extra.tensors, strict=True)
    both = tuple(torch.cat([a, b]) if name in NAMES[:5] else a for name, a, b in pairs)
    assert torch.equal(draw(scene, "cpu")[0], draw(replace(scene, tensors=both), "cpu")[0])


def test_broken_numbers_draw_nothing_and_spoil_nothing() -> None:
    scene = make_scene(40, 33, 18, seed=14)
    means, scales = scene.tensors[0].clone(), scene.tensors[2].clone()
    means[:3] = torch.tensor([[float("nan"), 0, 3], [float("inf"), 0, 3], [0, 0, float("-inf")]])
    scales[3] = float("nan")
    broken = with_tensor(with_tensor(scene, "means", means), "scales", scales)
    rest = replace(
        scene, tensors=tuple(t[4:] if n in NAMES[:5] else t for n, t in zip(NAMES, scene.tensors, strict=True))
    )
    image, _, info, inputs = draw(broken, "cpu", grad=True)
    assert torch.equal(image, draw(rest, "cpu")[0])
    assert not info["visibility"][0, :3].any()
    assert torch.isfinite(torch.autograd.grad(image.sum(), inputs[5])[0]).all()


@pytest.mark.parametrize("kept_bytes", [0, 2**26])
def test_views_of_other_sizes_do_not_disturb_each_other(kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "KEPT_BYTES", kept_bytes)
    large, small = make_scene(300, 60, 50, cameras=2, seed=16), make_scene(5, 16, 16, seed=17)

    def gradients(scene: Scene) -> tuple[Tensor, ...]:
        image, *_, inputs = draw(scene, "cpu", grad=True)
        return torch.autograd.grad(image.sin().sum(), inputs)

    first = [gradients(scene) for scene in (small, large)]
    again = [gradients(scene) for scene in (small, large)]
    assert all(torch.equal(a, b) for pair in zip(first, again, strict=True) for a, b in zip(*pair, strict=True))


def test_inputs_changed_before_the_way_back_are_noticed() -> None:
    image, *_, inputs = draw(make_scene(5, 16, 16), "cpu", grad=True)
    with torch.no_grad():
        inputs[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        image.sum().backward()


def test_the_way_back_can_be_gone_twice() -> None:
    image, *_, inputs = draw(make_scene(50, 16, 16), "cpu", grad=True)
    first = torch.autograd.grad(image.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(2 * image.sum(), inputs)
    assert all(torch.equal(2 * a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quats": torch.ones(1, 3)}, r"quats must have shape \[1, 4\], got \[1, 3\]"),
        ({"viewmats": torch.eye(4)}, r"viewmats must have shape"),
        ({"Ks": torch.eye(3)[None].repeat(2, 1, 1)}, r"Ks must have shape \[1, 3, 3\]"),
        ({"colors_or_sh": torch.ones(1, 16, 3)}, r"\[n, 3\] without sh_degree"),
        ({"sh_degree": 1}, r"\[n, k, 3\] with sh_degree"),
        ({"colors_or_sh": torch.ones(1, 4, 3), "sh_degree": 2}, r"sh_degree 2 needs 9 coefficients"),
        ({"width": 0}, r"at least one pixel"),
        ({"render_mode": "BGR"}, r"render_mode must be one of RGB, D, ED"),
        ({"backend": "cuda"}, r"backend must be one of auto, cpu"),
        ({"backend": "gsplat"}, r"CUDA device"),
        ({"backgrounds": torch.ones(3)}, r"backgrounds must have shape \[1, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, says: str) -> None:
    unchecked = inspect.unwrap(rasterize)  # as a user has it, without the type checks of the tests
    with pytest.raises(ValueError, match=says):
        unchecked(**({"width": 16, "height": 12} | single(4.0, 2.0) | change))


def on_gsplat(degree: int | None) -> tuple[Inputs, cpu.Setting]:
    scene = make_scene(10, 70, 53, cameras=2, degree=degree)
    scene = replace(scene, tensors=tuple(tensor.double() for tensor in scene.tensors))
    setting = cpu.Setting(scene.width, scene.height, 0.3, 0.01, depth=True, sh_degree=degree)
    return inputs_of(scene), setting


@pytest.mark.parametrize("degree", [None, 3])
def test_what_gsplat_is_given(degree: int | None) -> None:
    options: dict[str, Any] = gsplat_backend.options(*on_gsplat(degree), "RGB+ED")
    assert options["colors"].shape == ((10, 3) if degree is None else (10, 16, 3))
    assert options["backgrounds"].shape == (2, 3)  # it adds the depth's itself
    assert options["packed"] is False
    assert {value.dtype for value in options.values() if isinstance(value, Tensor)} == {torch.float32}


def test_gsplat_takes_it() -> None:
    gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed: pip install gsplat packaging")
    inspect.signature(gsplat.rasterization).bind(**gsplat_backend.options(*on_gsplat(3), "RGB"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat renders on a CUDA device; there is none here")
@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("degree", [None, 0, 3])
def test_gsplat_is_the_definition(degree: int | None, mode: Any) -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed: pip install gsplat packaging")
    found = errors(make_scene(200, 70, 53, cameras=2, degree=degree, seed=15), mode, "gsplat")
    assert max(found.values()) <= 1e-3, found
    assert max(found["image"], found["alpha"]) <= 1e-4, found
