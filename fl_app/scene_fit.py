"""A fit as a user sees it: where it starts, a progress bar, Ctrl-C and resume, scores and pictures at the end."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fl_app.console import console, say
from fl_app.scene_data import SceneData
from perception.datasets.base import DataError
from recon.evaluate import ViewScore, score_view
from recon.fit import FitConfig, FitState, Stop, fit, start
from recon.fit import Progress as StepReport
from recon.fit_file import load_fit, save_fit
from recon.gaussians import Gaussians
from recon.initial import initial_points
from recon.movie import comparison
from recon.views import Views

SAVE_EVERY_S = 30.0
SHEET_VIEWS, START_FRAMES = 4, 120


def first_gaussians(data: SceneData, config: FitConfig, source: str) -> tuple[Gaussians, str]:
    """Balls at initial points, and what these were made of.

    Raises:
        ValueError: as `initial_points`.
    """
    chosen = np.linspace(0, len(data.train) - 1, min(len(data.train), START_FRAMES)).round().astype(int)
    frames = [data.train[int(index)] for index in chosen]
    options: dict[str, Any] = {"source": source, "known": data.known, "seed": config.seed, "ignore": data.ignore}
    points = initial_points(frames, config.start_points, **options)
    return points.gaussians(), points.source


def open_state(
    path: Path, resume: bool, data: SceneData, views: Views, config: FitConfig, source: str, device: str = "cpu"
) -> FitState:
    """The state of a fit that goes on, else of a new one on a device.

    Raises:
        ValueError: nothing to go on from, or it does not fit, or there is no such device; and as `first_gaussians`.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch finds no GPU here; use cpu")
    if resume:
        state = load_fit(path, config, f"{data.describe()}, points {source}")
        say(f"going on from step {state.step} of {config.steps}, {len(state.gaussians)} Gaussians")
        return state
    gaussians, label = first_gaussians(data, config, source)
    say(f"{len(gaussians)} initial points: {label}")
    return start(gaussians.to(device=device), config, views)


def run(state: FitState, config: FitConfig, views: Views, *, seconds: float | None, save: Callable[[], None]) -> Stop:
    """Fit with a progress bar; Ctrl-C ends after the step in progress, and what is there is saved now and then.

    Raises:
        ValueError, OSError: as `fit` and `save`.
    """
    saved = time.monotonic()
    with _progress(config.steps, state.step) as update, _until_interrupt() as interrupted:

        def on_step(report: StepReport) -> None:
            nonlocal saved
            update(report)
            if time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()

        return fit(state, config, views, seconds=seconds, on_step=on_step, interrupted=interrupted)


def judge(
    gaussians: Gaussians,
    views: Views,
    log_gains: Float[Tensor, "v 3"] | None = None,
    lpips_weights: Path | None = None,
) -> tuple[list[ViewScore], Any]:
    """Scores of all views, and a sheet of a few: photo, image, difference; None if there are no views.

    Args:
        gaussians: the scene.
        views: to judge by.
        log_gains: exposure of the views; none by default.
        lpips_weights: see `recon.metrics.lpips`.
    """
    shown = set(np.linspace(0, len(views) - 1, min(len(views), SHEET_VIEWS)).round().astype(int).tolist())
    scores, rows = [], []
    for index in range(len(views)):
        gain = None if log_gains is None else log_gains[index]
        score, image = score_view(gaussians, views[index], log_gain=gain, lpips_weights=lpips_weights)
        scores.append(score)
        if index in shown:
            drawn = (image * 255).round().byte().numpy()
            rows.append(comparison(views[index].image.numpy(), drawn))
    return scores, _stacked(rows)


def _stacked(rows: list[np.ndarray]) -> np.ndarray | None:
    """One picture of rows of one width; those of another width are scaled."""
    if not rows:
        return None
    width = rows[0].shape[1]
    fitted = [
        np.asarray(Image.fromarray(row).resize((width, round(row.shape[0] * width / row.shape[1])))) for row in rows
    ]
    return np.concatenate(fitted)


@contextmanager
def _progress(steps: int, done: int) -> Iterator[Callable[[StepReport], None]]:
    """A bar on a terminal, else a line every tenth of the way."""
    columns = [TextColumn("fitting"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn()]
    columns.append(TextColumn("loss {task.fields[loss]:.4f}  {task.fields[gaussians]} Gaussians"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("fit", total=steps, completed=done, loss=float("nan"), gaussians=0)
        smooth = float("nan")

        def update(report: StepReport) -> None:
            nonlocal smooth
            smooth = report.loss if np.isnan(smooth) else 0.98 * smooth + 0.02 * report.loss
            bar.update(task, completed=report.step, loss=smooth, gaussians=report.gaussians)
            if not console.is_terminal and report.step % max(steps // 10, 1) == 0:
                say(f"step {report.step}/{steps} · loss {smooth:.4f} · {report.gaussians} Gaussians")

        yield update


@contextmanager
def _until_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second time it ends the program as usual."""
    pressed = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def saver(path: Path, state: FitState, config: FitConfig, data: SceneData, source: str) -> Callable[[], None]:
    """What writes the state.

    Raises:
        DataError: (when called) the file cannot be written.
    """

    def save() -> None:
        try:
            save_fit(path, state, config, f"{data.describe()}, points {source}")
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error

    return save
