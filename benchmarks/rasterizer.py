"""The compiled rasteriser beside plain torch, beside its own definition and beside what the core could do at best.

- `raster.max_image_error`: largest difference of an image from the float64 definition, over scenes with full pixels,
  needles and Gaussians all around the camera. Pixels within 1e-5 of a jump of the definition are left out.
- `raster.vs_torch.100k_640x480`: CPU seconds of one thread, image and all gradients, 100 000 Gaussians at 640x480. The
  reference is the package's own fallback: torch operations in float32, by tiles, with the Gaussians that reach into
  each; gradients by autograd. With `--quick` it renders the 96 middle rows and is scaled by the number of rows.
- `raster.vs_floor.100k_640x480`: the same seconds over the time that the arithmetic of the pixels alone would take:
  pairs of Gaussian and pixel that contribute, times 90 flop (30 there, 60 back), over the multiply-add peak of one
  core, measured in between.

- `raster.loss_vs_torch.256x192`: CPU seconds of the training loss (L1 and D-SSIM) with its gradient. The reference is
  the package's own fallback, one pass of torch operations.

All CPU time is that of the process on one thread. Scenes are seen about 30 Gaussians deep.
"""

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import _harness as harness
import torch
from _harness import Claim
from torch import Tensor

from recon import ssim
from recon.render import cpu, oracle, rasterize
from recon.render.build import load_kernel

SIZES = [(10_000, 256, 192), (100_000, 256, 192), (10_000, 640, 480), (100_000, 640, 480)]
CLAIMED = "100k_640x480"
OVERDRAW, FLOP_PER_PAIR, QUICK_ROWS = 30, 90, 96
FMA_ROUNDS, FMA_VECTORS = 2_000_000, 12
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Scene:
    """Gaussians in the view of one camera at the origin: means, quats, scales, opacities, colours."""

    gaussians: Five
    viewmat: Tensor
    k: Tensor
    width: int
    height: int


def make_scene(n: int, width: int, height: int, seed: int = 0, depth_m: tuple[float, float] = (2.0, 30.0)) -> Scene:
    """Lognormal sizes, such that the 1/255 footprints cover the image about `OVERDRAW` times."""
    generator = torch.Generator().manual_seed(seed)
    focal = 0.8 * width
    z = depth_m[0] + (depth_m[1] - depth_m[0]) * torch.rand(n, generator=generator)
    centres = (1.1 * torch.rand(n, 2, generator=generator) - 0.55) * torch.tensor([width, height])
    # An ellipse that ends at opacity 1/255 covers 2 pi ln(255 o) sigma² pixels; the mean of the logarithm is near 4.
    sigma_px = math.sqrt(OVERDRAW * width * height / n / (2 * math.pi * 4))
    scales = sigma_px * torch.exp(0.4 * torch.randn(n, 3, generator=generator)) * (z / focal)[:, None]
    opacities = torch.sigmoid(1.5 * torch.randn(n, generator=generator) - 1)
    means = torch.cat([centres * (z / focal)[:, None], z[:, None]], dim=1)
    quats, colors = torch.randn(n, 4, generator=generator), torch.rand(n, 3, generator=generator)
    gaussians = (means, quats, scales, opacities, colors)
    for tensor in gaussians:
        tensor.requires_grad_()
    k = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Scene(gaussians, torch.eye(4)[None], k[None], width, height)


def cpu_seconds(step: Callable[[], object], repeats: int) -> float:
    """Least CPU time of this process, after one call that is not counted if there are several.

    The least, because neighbours on the machine can only add to it; the peak is taken in the same way.
    """
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times[repeats > 1 :])


def ours(scene: Scene) -> None:
    """Image and gradients by the kernel."""
    viewmat = scene.viewmat.clone().requires_grad_()
    image, _, info = rasterize(*scene.gaussians, viewmat, scene.k, scene.width, scene.height, backend="cpu")
    assert info["backend"] == "cpu", info["fallback"]
    torch.autograd.grad(image.sum(), [*scene.gaussians, viewmat])


def project(gaussians: tuple[Tensor, ...], viewmat: Tensor, k: Tensor, size_px: tuple[int, int]) -> oracle.Splats:
    """What the camera sees, in the dtype of the inputs."""
    means, quats, scales, opacities, colors = gaussians
    limits: dict = {"eps2d": 0.3, "near_plane": 0.01, "depth": False}
    return oracle.project(means, quats, scales, opacities, colors, viewmat, k, size_px, **limits)


def plain_torch(scene: Scene, rows: int) -> None:
    """The same in torch operations, for the `rows` in the middle of the image."""
    viewmat, k = scene.viewmat[0].clone().requires_grad_(), scene.k[0].clone()
    k[1, 2] -= (scene.height - rows) / 2
    size_px = (rows, scene.width)
    image, _ = oracle.render_tiled(project(scene.gaussians, viewmat, k, size_px), size_px)
    torch.autograd.grad(image.sum(), [*scene.gaussians, viewmat])


def contributing_pairs(scene: Scene) -> int:
    """Pairs of Gaussian and pixel that the image is made of."""
    setting = cpu.Setting(scene.width, scene.height, 0.3, 0.01, depth=False)
    with torch.no_grad():
        view = cpu.View(setting, [x.contiguous() for x in scene.gaussians], scene.viewmat[0], scene.k[0], None)
    return int(view.kept["contributing"].sum())


def peak_gflops() -> float:
    """Multiply-adds of one core on the kernel's vectors, in 10⁹ flop a second: the best of five."""
    kernel = load_kernel()
    flop = 2 * FMA_VECTORS * kernel.convoy_vector_floats() * FMA_ROUNDS
    return flop / min(cpu_seconds(lambda: kernel.convoy_fma(ctypes.c_int64(FMA_ROUNDS)), 1) for _ in range(5)) / 1e9


def max_image_error(seeds: int) -> float:
    """Over scenes of 600 Gaussians at 150x100, some full, some with needles."""
    worst = 0.0
    for seed in range(seeds):
        scene = make_scene(600, 150, 100, seed, depth_m=(-2, 12))
        means, quats, scales, opacities, colors = (x.detach() for x in scene.gaussians)
        scales = scales * torch.tensor([1, 1, 1e-4]) ** (seed % 3) * (1 + seed % 2)
        inputs = (means, quats, scales.abs(), opacities ** (0.1 if seed % 2 else 1), colors)
        image, *_ = rasterize(*inputs, scene.viewmat, scene.k, scene.width, scene.height, backend="cpu")
        size_px = (scene.height, scene.width)
        splats = project(tuple(x.double() for x in inputs), scene.viewmat[0].double(), scene.k[0].double(), size_px)
        difference = (image[0] - oracle.render(splats, size_px)[0]).abs().amax(-1)
        worst = max(worst, float(difference[~oracle.undecided_pixels(splats, size_px)].max()))
    return worst


def loss_seconds(repeats: int) -> tuple[float, float]:
    """Kernel and torch, one image of 256x192 with its gradient."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(192, 256, 3, generator=generator)
    image = torch.rand(192, 256, 3, generator=generator).requires_grad_()
    kernel_s = cpu_seconds(lambda: torch.autograd.grad(ssim.photometric_loss(image, reference), image), repeats)
    plain = partial(ssim.plain_photometric_loss, image, reference, 0.2, None)
    return kernel_s, cpu_seconds(lambda: torch.autograd.grad(plain(), image), repeats)


def measure(n: int, width: int, height: int, repeats: int, quick: bool) -> dict[str, harness.Value]:
    """One row of the table; CPU-ms."""
    scene = make_scene(n, width, height)
    rows = min(QUICK_ROWS, height) if quick else height
    peak = peak_gflops()
    kernel_s = cpu_seconds(lambda: ours(scene), repeats)
    peak = (peak + peak_gflops()) / 2
    torch_s = cpu_seconds(lambda: plain_torch(scene, rows), 1) * height / rows
    pairs = contributing_pairs(scene)
    floor_s = pairs * FLOP_PER_PAIR / peak / 1e9
    figures = {"kernel_ms": kernel_s * 1e3, "torch_ms": torch_s * 1e3, "torch/kernel": torch_s / kernel_s}
    figures |= {
        "pairs": pairs / 1e6,
        "peak_gflops": peak,
        "floor_ms": floor_s * 1e3,
        "kernel/floor": kernel_s / floor_s,
    }
    return {"case": f"{n // 1000}k_{width}x{height}", **figures}


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    torch.set_num_threads(1)
    repeats, seeds = (5, 6) if arguments.quick else (15, 24)
    rows = [measure(*size, repeats, arguments.quick) for size in (SIZES[-1:] if arguments.quick else SIZES)]
    harness.print_table("image and all gradients, one thread; CPU-ms, pairs in millions", rows)
    harness.write_csv(arguments.out / "rasterizer.csv", rows)
    error = max_image_error(seeds)
    row = {name: float(value) for name, value in rows[-1].items() if isinstance(value, float)}
    kernel_s = row["kernel_ms"] / 1e3
    loss_s, plain_s = loss_seconds(10 * repeats)
    harness.print_claims(
        [
            Claim("raster.max_image_error", error, 1e-5, error, "RGB", seeds),
            Claim(f"raster.vs_torch.{CLAIMED}", kernel_s, row["torch_ms"] / 1e3, row["torch/kernel"], "CPU-s", repeats),
            Claim(f"raster.vs_floor.{CLAIMED}", kernel_s, row["floor_ms"] / 1e3, row["kernel/floor"], "CPU-s", repeats),
            Claim("raster.loss_vs_torch.256x192", loss_s, plain_s, plain_s / loss_s, "CPU-s", 10 * repeats),
        ]
    )


if __name__ == "__main__":
    main()
