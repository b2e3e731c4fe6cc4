"""`convoy recon`: scenes of 3D Gaussians from posed images: fit, judge, render, view."""

import csv
import math
import resource
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor

from fl_app.cli_recon_show import RenderCommand, SceneArgument, read_scene, render, scene_errors_as_exit, view
from fl_app.console import say
from fl_app.flags import command_with
from fl_app.scene_data import SceneData, Selection, open_scene
from fl_app.scene_fit import judge, open_state, run, saver
from perception.datasets.base import DataError
from recon.evaluate import ViewScore, gains_between, mean_scores
from recon.fit import WEIGHTS, FitConfig
from recon.gaussians import Gaussians
from recon.initial import SOURCES
from recon.memory import IMAGE_SHARE, plan_memory, ply_bytes
from recon.metrics import lpips
from recon.ply import write_ply
from recon.render.build import KernelUnavailableError, load_kernel
from recon.spz import write_spz
from recon.views import Views

MANY_VIEWS = 100  # from which on one image shows a small part of what is fitted
recon_app = typer.Typer(help="Streets as 3D Gaussians: fit, judge, render, view.", no_args_is_help=True)
recon_app.command(cls=RenderCommand)(render)
recon_app.command()(view)

MOST_PX = 100_000
HEADER_BYTES = 2048  # of a .ply, at most
WRITERS = {".ply": write_ply, ".spz": write_spz}
DataArgument = Annotated[str, typer.Argument(help="Data folder with poses, or town:PRESET for generated data.")]
First = Annotated[int, typer.Option("--first", min=0, help="Number of the first frame.")]
Frames = Annotated[int, typer.Option("--frames", min=0, help="At most so many frames; 0 takes all.")]
Apart = Annotated[float, typer.Option("--apart-m", min=0, help="Least way between frames, for vehicles that wait.")]
Holdout = Annotated[int, typer.Option("--holdout", min=0, help="Hold every so many frames back for judging; 0 none.")]
Side = Annotated[
    int, typer.Option("--longest-side-px", min=0, max=MOST_PX, help="Make larger images smaller; 0 does not.")
]
KeepMoving = Annotated[bool, typer.Option("--keep-moving", help="Learn vehicles and people too (labels are needed).")]
Lpips = Annotated[Path | None, typer.Option("--lpips-weights", help="torchvision's AlexNet weights, for LPIPS.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to torch.")]

ReconCommand = command_with({"--apart": "--apart-m", "--longest-side": "--longest-side-px"})


@recon_app.command("fit", cls=ReconCommand)
def fit_command(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Scene to write: FILE.ply, or FILE.spz (smaller).")],
    steps: Annotated[int, typer.Option(min=1, help="Images to look at, one a step.")] = 3000,
    cap: Annotated[int, typer.Option(help="The most Gaussians.")] = 50_000,
    degree: Annotated[int, typer.Option(min=0, max=3, help="Of the spherical harmonics.")] = 0,
    points: Annotated[str, typer.Option(help=f"Where to start: {', '.join(SOURCES)}.")] = "auto",
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this time and keep what there is.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="Lower the cap so that the .ply is at most this large.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="Memory for the fit, beside 1 GB for the program.")] = None,
    depth_weight: Annotated[float, typer.Option(min=0, help="Of depth, where frames know it.")] = WEIGHTS.depth,
    first: First = 0,
    frames: Frames = 0,
    apart: Apart = 0.0,
    holdout: Holdout = 8,
    longest_side: Side = 640,
    keep_moving: KeepMoving = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.")] = 0,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda (needs gsplat).")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was broken off.")] = False,
    lpips_weights: Lpips = None,
) -> None:
    """Fit Gaussians to posed images and judge them on frames that were held back."""
    with scene_errors_as_exit():
        _check_before(out, seconds, lpips_weights)
        torch.set_num_threads(threads or torch.get_num_threads())
        selection = Selection(first, frames, apart, holdout, longest_side, keep_moving)
        config = FitConfig(steps, cap, degree, seed, replace(WEIGHTS, depth=depth_weight))
        cache_bytes = 1 << 30 if memory_mb is None else round(IMAGE_SHARE * _positive("--memory-mb", memory_mb) * 1e6)
        scene = open_scene(data, selection, cache_bytes // 2)
        config = replace(config, visible_only=len(scene.train) >= MANY_VIEWS)
        config = _within(config, scene, max_mb, memory_mb)
        for line in (*scene.missing, *_slow_because(device)):
            say(f"note: {line}")
        views = scene.learned(with_depth=bool(depth_weight), cache_bytes=cache_bytes // 2)
        path = out.with_name(out.name + ".fit")
        state = open_state(path, resume, scene, views, config, points, device)
        save = saver(path, state, config, scene, points)
        stop = run(state, config, views, seconds=seconds, save=save)
        save()
        if stop == "interrupt":
            say(f"interrupted at step {state.step} of {steps}; --resume goes on from {path}")
            raise typer.Exit(130)
        gaussians = state.gaussians.detach()
        _write(out, gaussians)
        if len(scene.test):
            test = scene.judged()
            _report(gaussians, test, "held back", out, lpips_weights, gains_between(state.log_gains, views, test))
        else:
            say("no frames were held back (--holdout), so there are no scores")
        if stop == "time":
            say(f"time was up at step {state.step} of {steps}; --resume goes on from {path}")
        else:
            path.unlink(missing_ok=True)


@recon_app.command("eval", cls=ReconCommand)
def eval_command(
    scene_file: SceneArgument,
    data: DataArgument,
    first: First = 0,
    frames: Frames = 0,
    apart: Apart = 0.0,
    holdout: Holdout = 8,
    longest_side: Side = 640,
    keep_moving: KeepMoving = False,
    every: Annotated[bool, typer.Option("--all", help="Judge on all frames, not on those held back alone.")] = False,
    threads: Threads = 0,
    lpips_weights: Lpips = None,
) -> None:
    """Judge a scene on the frames that `fit` with the same options held back."""
    with scene_errors_as_exit():
        torch.set_num_threads(threads or torch.get_num_threads())
        gaussians = read_scene(scene_file)
        selection = Selection(first, frames, apart, holdout, longest_side, keep_moving)
        scene = open_scene(data, selection)
        judged = [*scene.train, *scene.test] if every else scene.test
        if not len(judged):
            raise DataError("no frames are held back (--holdout), so there is nothing to judge by; or use --all")
        views = scene.judged(judged)
        _report(gaussians, views, "looked at" if every else "held back", scene_file, lpips_weights)


def _slow_because(device: str) -> list[str]:
    """Why the compiled kernel does not run, if it does not."""
    try:
        if device == "cpu":
            load_kernel()
    except KernelUnavailableError as error:
        return [f"{error}; fitting with plain torch instead, some fifty times slower"]
    return []


def _write(out: Path, gaussians: Gaussians) -> None:
    WRITERS[out.suffix](out, gaussians)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size_mb = out.stat().st_size / 1e6
    say(f"{out}: {len(gaussians)} Gaussians, {size_mb:.1f} MB; peak memory of the program {peak_mb:.0f} MB")


def _check_before(out: Path, seconds: float | None, lpips_weights: Path | None) -> None:
    """What would only show after the fit.

    Raises:
        DataError, ValueError: the scene cannot be written there, or the weights cannot be used.
    """
    if out.suffix not in WRITERS:
        raise DataError(f"{out}: want a name that ends in {' or '.join(WRITERS)}")
    if out.is_dir() or not out.parent.is_dir():
        raise DataError(f"{out}: cannot be written; name a file in a folder that exists")
    if seconds is not None and not math.isfinite(seconds):
        raise DataError(f"--seconds must be a number, got {seconds}")
    if out.suffix == ".spz" and find_spec("gsply") is None:
        raise DataError(f"{out}: .spz files need gsply: pip install 'convoy[spz]'; .ply files need nothing")
    if lpips_weights is not None:
        grey = torch.zeros(64, 64, 3)
        lpips(grey, grey, lpips_weights)


def _within(config: FitConfig, scene: SceneData, max_mb: float | None, memory_mb: float | None) -> FitConfig:
    """The config with its cap lowered to what the budgets allow."""
    cap, camera = config.cap, scene.train[0].camera
    if max_mb is not None:
        cap = min(cap, (int(_positive("--max-mb", max_mb) * 1e6) - HEADER_BYTES) // ply_bytes(config.degree))
        if cap < 1:
            raise DataError(f"--max-mb {max_mb}: holds no Gaussian ({ply_bytes(config.degree)} bytes each); give more")
    if memory_mb is not None:
        pixels = camera.width_px * camera.height_px
        cap = plan_memory(round(memory_mb * 1e6), cap, config.degree, pixels).cap
    if cap < config.cap:
        say(f"the budget lowers the cap from {config.cap} to {cap} Gaussians")
    return replace(config, cap=cap)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{name} must be a positive number, got {value}")
    return value


def _report(
    gaussians: Gaussians,
    views: Views,
    which: str,
    out: Path,
    lpips_weights: Path | None,
    log_gains: Tensor | None = None,
) -> None:
    """Scores to the terminal and a file, a few views side by side to a picture."""
    scores, sheet = judge(gaussians, views, None, lpips_weights)
    say(f"{len(scores)} views that were {which}: {_words(scores)}")
    rows = [score.row() for score in scores]
    if log_gains is not None:
        scores, sheet = judge(gaussians, views, log_gains, lpips_weights)
        say(f"  with the exposure of their neighbours in time: {_words(scores)}")
        rows = [row | _exposed(score) for row, score in zip(rows, scores, strict=True)]
    table, picture = out.with_suffix(".scores.csv"), out.with_suffix(".views.png")
    _write_csv(table, rows)
    Image.fromarray(sheet).save(picture)
    say(
        f"{table}: one line a view; {picture}: photo, rendered (what does not count is the photo's), "
        "four times the difference"
    )


def _exposed(score: ViewScore) -> dict[str, float | str]:
    return {f"{name}_exposed": value for name, value in score.row().items() if name in ("psnr_db", "ssim", "lpips")}


def _words(scores: list[ViewScore]) -> str:
    means = mean_scores(scores)
    parts = [f"PSNR {means['psnr_db']:.2f} dB", f"SSIM {means['ssim']:.3f}"]
    parts.append(f"LPIPS {means['lpips']:.3f}" if "lpips" in means else "LPIPS not computed (no weights given)")
    if "depth_abs_rel" in means:
        parts.append(f"depth off by {means['depth_abs_rel']:.1%}")
    return ", ".join(parts)


def _write_csv(path: Path, rows: list[dict[str, float | str]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
