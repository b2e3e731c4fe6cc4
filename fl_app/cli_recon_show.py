"""`convoy recon render` and `convoy recon view`: a scene of Gaussians as pictures, as a movie, and in the browser."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Annotated, Final, get_args

import numpy as np
import torch
import typer

from fl_app.cli_export import bar, errors_as_exit, spread
from fl_app.flags import command_with, number_option
from geometry import SE3, Camera, Frame
from perception.datasets.base import DataError, Dataset
from perception.datasets.folder import open_dataset
from recon.gaussians import Gaussians
from recon.movie import WRITERS, colour_depth, depth_range_m, render_camera, render_path, write_movie
from recon.ply import read_ply
from recon.render import Backend
from recon.spz import read_spz
from recon.trajectories import fit_camera, fly_through, orbit_of, turntable, wobble

SIZE_PX: Final = (960, 540)  # width, height
FOV_DEG: Final = 60.0
PLAIN: Final = Camera(SE3.identity(), 1.0, 1.0, 0.5, 0.5, 1, 1)  # to be fitted
READ_FRAMES, VIEW_FRAMES = 200, 60
WOBBLE: Final = 0.05  # radius as a share of the distance of what is seen
READERS: Final = {".ply": read_ply, ".spz": read_spz}

RenderCommand = command_with({"--size": "--size-px", "--fov": "--fov-deg", "--rate": "--rate-fps"})
SceneArgument = Annotated[Path, typer.Argument(help="Scene of 3D Gaussians, .ply or .spz.")]


class PathKind(StrEnum):
    """How the camera moves."""

    TURNTABLE = "turntable"
    FLY = "fly"
    WOBBLE = "wobble"


@contextmanager
def scene_errors_as_exit() -> Iterator[None]:
    """`errors_as_exit`, also for what recon raises: a bad value, a file that cannot be written, a missing library."""
    with errors_as_exit():
        try:
            yield
        except (ValueError, OSError, ImportError, MemoryError) as error:
            raise DataError(str(error) or type(error).__name__) from error


def render(
    scene: SceneArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="FILE.mp4, FILE.gif, FILE.png (first camera alone), or a folder of PNGs."),
    ],
    path: Annotated[
        PathKind,
        typer.Option(help="Round the scene, through the data's cameras in order, or a little about the first."),
    ] = PathKind.TURNTABLE,
    data: Annotated[str, typer.Option(help="Data folder or town:PRESET whose cameras are taken; fly needs it.")] = "",
    frames: Annotated[int, typer.Option(min=1, help="Pictures along the path.")] = 120,
    size: Annotated[
        str,
        typer.Option(
            "--size-px", help=f"WIDTHxHEIGHT in pixels, by default the data's, else {SIZE_PX[0]}x{SIZE_PX[1]}."
        ),
    ] = "",
    fov: Annotated[
        float,
        number_option("--fov-deg", f"Horizontal angle of view; 0: the data's, else {FOV_DEG:g}.", most=170),
    ] = 0.0,
    depth: Annotated[bool, typer.Option("--depth", help="Depth in place of colours, near bright.")] = False,
    rate: Annotated[float, number_option("--rate-fps", "Pictures a second of a movie.", 0.1, 1000)] = 30.0,
    backend: Annotated[str, typer.Option(help=f"What renders: {', '.join(get_args(Backend))}.")] = "auto",
) -> None:
    """Render a scene along a path into a movie, a folder of pictures or one picture."""
    with scene_errors_as_exit():
        _check_options(out, path, data, backend)
        size_px = parse_size(size)
        gaussians = _on_device(read_scene(scene), backend)
        given = _first_drive(_posed(data)) if data else []
        cameras = cameras_of(gaussians, path, given, frames, size_px, fov)
        cameras = cameras[:1] if out.suffix.lower() == ".png" else cameras
        pictures = _pictures(gaussians, cameras, depth, backend)
        count = write_movie(out, pictures, rate)
        seen = cameras[0]
        typer.echo(f"{out}: {count} pictures of {seen.width_px}x{seen.height_px}, {len(gaussians)} Gaussians")


def view(
    scene: SceneArgument,
    data: Annotated[str, typer.Option(help="Data folder or town:PRESET whose cameras are drawn.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines look.")] = "127.0.0.1",
) -> None:
    """Show a scene in the browser until Ctrl-C."""
    with scene_errors_as_exit():
        from recon.viewer import view_scene

        gaussians = read_scene(scene)
        dataset = _posed(data) if data else ()
        indices = spread(len(dataset), VIEW_FRAMES) if data else []
        frames = [_small(dataset[index]) for index in bar("reading cameras")(indices)]
        server = view_scene(gaussians, frames, port=port, host=host)
        typer.echo(f"{scene}: {len(gaussians)} Gaussians at http://{host}:{server.get_port()}, Ctrl-C ends")
        try:
            _wait()
        except KeyboardInterrupt:
            typer.echo("stopped")
        finally:
            server.stop()


def read_scene(path: Path) -> Gaussians:
    """The Gaussians of a .ply or .spz file.

    Raises:
        ValueError: another ending, or the reader's own complaint.
        ImportError: gsply, for .spz, is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: a scene ends in {' or '.join(READERS)}; convert it to one of them")
    return reader(path)


def parse_size(text: str) -> tuple[int, int] | None:
    """Width and height in pixels of "WIDTHxHEIGHT"; None for an empty text.

    Raises:
        ValueError: the text is none, or a side is 0.
    """
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise ValueError(f"--size-px is {text!r}; give WIDTHxHEIGHT in pixels, as 960x540")
    return int(found[1]), int(found[2])


def cameras_of(
    gaussians: Gaussians,
    kind: PathKind,
    given: list[Camera],
    count: int,
    size_px: tuple[int, int] | None,
    fov_deg: float,
) -> list[Camera]:
    """The cameras along a path.

    Args:
        gaussians: the scene, which decides where a turntable turns.
        kind: of path.
        given: cameras of a data set in order; the first gives intrinsics, a wobble's middle and a flight's start.
        count: of the cameras.
        size_px: width and height, None for the given ones' own.
        fov_deg: horizontal angle of view, 0 for the given ones' own.

    Raises:
        ValueError: the scene is empty, or the cameras make no path.
    """
    fov_rad = np.deg2rad(fov_deg) if fov_deg else None
    fitted = [fit_camera(camera, size_px, fov_rad) for camera in given]
    if kind is PathKind.FLY:
        return fly_through(fitted, count)
    first = fitted[0] if fitted else fit_camera(PLAIN, size_px or SIZE_PX, fov_rad or np.deg2rad(FOV_DEG))
    orbit = orbit_of(gaussians, _narrow_rad(first))
    if kind is PathKind.TURNTABLE:
        return turntable(orbit.centre_world, orbit.radius_m, orbit.height_m, first, count)
    if not fitted:
        first = turntable(orbit.centre_world, orbit.radius_m, orbit.height_m, first, 1)[0]
    known = depth_range_m(render_camera(gaussians, first)[1])
    distance_m = sum(known) / 2 if known else float(np.hypot(orbit.radius_m, orbit.height_m))
    return wobble(first, WOBBLE * distance_m, count)


def _narrow_rad(camera: Camera) -> float:
    return 2 * float(min(np.arctan2(camera.width_px, 2 * camera.fx_px), np.arctan2(camera.height_px, 2 * camera.fy_px)))


def _check_options(out: Path, path: PathKind, data: str, backend: str) -> None:
    """What can be refused before a scene is read."""
    if out.suffix.lower() not in WRITERS:
        raise ValueError(f"{out}: cannot write {out.suffix} files; end it in .mp4, .gif or .png, or give a folder")
    if path is PathKind.FLY and not data:
        raise ValueError("--path fly flies through the cameras of a data set; name it with --data")
    if backend not in get_args(Backend):
        raise ValueError(f"--backend is {backend!r}; choose one of {', '.join(get_args(Backend))}")


def _on_device(gaussians: Gaussians, backend: str) -> Gaussians:
    """gsplat renders on a GPU only; "auto" takes it where both are there."""
    wanted = backend == "gsplat" or (backend == "auto" and find_spec("gsplat") is not None)
    return gaussians.to(device="cuda") if wanted and torch.cuda.is_available() else gaussians


def _posed(data: str) -> Dataset:
    dataset = open_dataset(data)
    if not getattr(dataset, "posed", True):
        raise DataError(f"{data}: its frames have no poses in one world; give a data set that has, or no --data")
    if len(dataset) == 0:
        raise DataError(f"{data}: holds no frames; give a data set that has some")
    return dataset


def _first_drive(dataset: Dataset) -> list[Camera]:
    """Cameras in order until time goes back, as it does where the next vehicle's begin; the first 200 at most."""
    drive: list[Camera] = []
    last_s = -np.inf
    for index in bar("reading cameras")(range(min(len(dataset), READ_FRAMES))):
        frame = dataset[index]
        if frame.timestamp_s < last_s:
            break
        last_s = frame.timestamp_s
        drive.append(frame.camera)
    return drive


def _small(frame: Frame) -> Frame:
    """Camera and thumbnail alone: a drive of full images fills the memory."""
    from recon.viewer import thumbnail

    if frame.image is None:
        return Frame(frame.timestamp_s, frame.camera)
    image = thumbnail(frame.image)
    return Frame(frame.timestamp_s, frame.camera.resized(image.shape[1], image.shape[0]), image)


def _pictures(gaussians: Gaussians, cameras: list[Camera], depth: bool, backend: str) -> Iterator[np.ndarray]:
    """Colours, or depth in the range of the first picture that has any."""
    range_m = None
    for rgb, depth_m in render_path(gaussians, cameras, backend=backend, progress=bar("rendering")):  # type: ignore[arg-type]
        range_m = range_m or depth_range_m(depth_m)
        yield colour_depth(depth_m, range_m) if depth else rgb


def _wait() -> None:
    """Until Ctrl-C."""
    Event().wait()
