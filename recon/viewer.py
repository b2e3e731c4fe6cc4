"""A scene in the browser, by viser: the one module that imports it (`pip install convoy[view]`).

The browser draws Gaussians in one colour from everywhere (band 0) and with its own rasteriser. The button "render here"
shows what `recon.render` makes of the same view: all bands, exact image formation.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray

from geometry import SE3, Camera, Frame
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.render import Backend
from recon.spherical import colours
from recon.trajectories import look_at, orbit_of

if TYPE_CHECKING:
    from viser import ViserServer

NODE: Final = "/gaussians"
CAMERAS: Final = "/cameras"
RENDER_PX: Final = 640  # longer side of a render, and of a thumbnail below
THUMBNAIL_PX: Final = 160
SCALES_M: Final = (2.5e-4, 250.0)  # the covariances travel in 16 bits: their squares must fit
FRUSTUM: Final = 0.04  # length of a frustum as a share of the scene's reach

Splats = tuple[Float32[ndarray, "m 3"], Float32[ndarray, "m 3 3"], Float32[ndarray, "m 3"], Float32[ndarray, "m 1"]]


def view_scene(
    gaussians: Gaussians,
    frames: Sequence[Frame] = (),
    *,
    port: int = 8080,
    host: str = "127.0.0.1",
    backend: Backend = "auto",
) -> "ViserServer":
    """Start a server that shows a scene to browsers; it runs in threads of its own until `stop()` is called.

    Args:
        gaussians: the scene.
        frames: whose cameras are drawn, with their images if they have them; a click on one goes there.
        port: to listen on; 0 takes a free one (`server.get_port()` says which).
        host: address to listen on; "0.0.0.0" lets other machines look.
        backend: of "render here".

    Raises:
        ValueError: the scene is empty, or the port cannot be listened on.
        ImportError: viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise ImportError("the viewer needs viser: pip install convoy[view]") from error
    orbit = orbit_of(gaussians)
    _check_port(host, port)
    server = viser.ViserServer(host=host, port=port, label="Convoy", verbose=False)
    server.scene.set_up_direction("+z")
    away = np.array([orbit.radius_m, 0.0, orbit.height_m])
    start = look_at(orbit.centre_world + away, orbit.centre_world)
    pose = frames[0].camera.world_from_cam if frames else start
    server.initial_camera.position = pose.translation_m
    server.initial_camera.look_at = pose.translation_m + orbit.reach_m * pose.rotation[:, 2]
    _add_splats(server, gaussians.detach())
    _add_cameras(server, frames, FRUSTUM * orbit.reach_m)
    _add_render(server, gaussians.detach(), backend)
    return server


def splats_of(gaussians: Gaussians, shown: float = 1.0, clamp: float = 1.0) -> Splats:
    """What the browser draws: centres, covariances, colours (band 0) and opacities.

    Args:
        gaussians: the scene.
        shown: share of them, the most opaque ones, 0..1.
        clamp: quantile of all standard deviations that none exceeds, 0..1.

    Returns:
        metres, square metres, 0..1 and 0..1, the most opaque first.

    Raises:
        ValueError: a share outside 0..1.
    """
    if not (0 <= shown <= 1 and 0 <= clamp <= 1):
        raise ValueError(f"splats_of: shares lie in 0..1, got shown {shown} and clamp {clamp}")
    count = int(np.ceil(shown * len(gaussians)))
    most = gaussians.select(torch.argsort(gaussians.opacities, descending=True, stable=True)[:count])
    limit_m = np.quantile(gaussians.scales.detach().cpu().numpy(), clamp) if len(gaussians) else 1.0
    scales = most.scales.clamp(SCALES_M[0], SCALES_M[1]).clamp_max(max(float(limit_m), SCALES_M[0]))
    turns = most.rotations
    covariances = torch.einsum("nij,nj,nkj->nik", turns, scales.square(), turns)
    rgb = colours(most.sh[:, :1], torch.zeros_like(most.means)).clamp_max(1)
    columns = (most.means, covariances, rgb, most.opacities[:, None])
    centres, seconds, colour, opacities = (tensor.detach().float().cpu().numpy() for tensor in columns)
    return centres, seconds, colour, opacities


def camera_of(
    quat_wxyz: ndarray, position_world: ndarray, fov_rad: float, aspect: float, longest_px: int = RENDER_PX
) -> Camera:
    """The camera of a browser's view.

    Args:
        quat_wxyz: rotation from the camera (OpenCV axes) to the world.
        position_world: metres.
        fov_rad: full vertical angle of view.
        aspect: width over height.
        longest_px: longer side of the image.

    Raises:
        ValueError: the angle or the aspect is not positive and finite.
    """
    if not (0 < fov_rad < np.pi and 0 < aspect < np.inf):
        raise ValueError(f"camera_of: no camera has the vertical angle {fov_rad} rad and the aspect {aspect}")
    width_px = max(1, round(longest_px * min(1.0, aspect)))
    height_px = max(1, round(longest_px * min(1.0, 1 / aspect)))
    focal_px = float(height_px / 2 / np.tan(fov_rad / 2))
    pose = SE3.from_quat(quat_wxyz, position_world)
    return Camera(pose, focal_px, focal_px, width_px / 2, height_px / 2, width_px, height_px)


def thumbnail(image: UInt8[ndarray, "h w 3"], longest_px: int = THUMBNAIL_PX) -> UInt8[ndarray, "_ _ 3"]:
    """The image shrunk by a whole factor to at most the given size; what the factor leaves over is cropped."""
    step = -(-max(image.shape[:2]) // longest_px)
    step = min(step, *image.shape[:2])
    rows, columns = image.shape[0] // step, image.shape[1] // step
    blocks = image[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _add_splats(server: "ViserServer", gaussians: Gaussians) -> None:
    options: dict[str, Any] = {"min": 0.01, "max": 1.0, "step": 0.01, "initial_value": 1.0}
    shown = server.gui.add_slider("Gaussians shown", **options, hint="share of them, the most opaque first")
    clamp = server.gui.add_slider("Size clamp", **options, hint="quantile of all sizes that none exceeds")
    draw = _latest(
        lambda: (shown.value, clamp.value),
        lambda values: server.scene.add_gaussian_splats(NODE, *splats_of(gaussians, *values)),
    )
    shown.on_update(draw)
    clamp.on_update(draw)
    draw()


def _latest(read: Callable[[], Any], act: Callable[[Any], object]) -> Callable[..., None]:
    """Acts on what `read` gives, one call at a time, and not twice in a row on the same: sliders call in bursts."""
    lock, done = Lock(), None

    def call(*_event: object) -> None:
        nonlocal done
        with lock:
            value = read()
            if value != done:
                act(value)
                done = value

    return call


def _add_cameras(server: "ViserServer", frames: Sequence[Frame], length_m: float) -> None:
    if not frames:
        return
    handles = [_add_frustum(server, index, frame, length_m) for index, frame in enumerate(frames)]
    visible = server.gui.add_checkbox("Cameras", initial_value=True)

    @visible.on_update
    def _(_event: object) -> None:
        for handle in handles:
            handle.visible = visible.value


def _add_frustum(server: "ViserServer", index: int, frame: Frame, length_m: float) -> Any:
    camera, pose = frame.camera, frame.camera.world_from_cam
    handle = server.scene.add_camera_frustum(
        f"{CAMERAS}/{index:05}",
        fov=2 * float(np.arctan2(camera.height_px / 2, camera.fy_px)),
        aspect=camera.width_px / camera.height_px,
        scale=length_m,
        thickness=length_m / 50,
        image=None if frame.image is None else thumbnail(frame.image),
        wxyz=pose.quat_wxyz,
        position=pose.translation_m,
    )

    @handle.on_click
    def _(event: Any) -> None:
        with event.client.atomic():
            event.client.camera.position = pose.translation_m
            event.client.camera.wxyz = pose.quat_wxyz

    return handle


def _add_render(server: "ViserServer", gaussians: Gaussians, backend: Backend) -> None:
    button = server.gui.add_button("Render here", hint="all bands of colour, by Convoy's own rasteriser")
    picture = server.gui.add_image(np.zeros((1, 1, 3), np.uint8), label="Rendered", visible=False)
    picture.format = "png"  # an argument at its making holds for the first image alone
    lock = Lock()

    @button.on_click
    def _(event: Any) -> None:
        with lock:
            view = event.client.camera
            camera = camera_of(view.wxyz, view.position, view.fov, view.aspect)
            rgb, _ = render_camera(gaussians, camera, backend=backend)
            picture.visible = True
            picture.image = rgb


def _check_port(host: str, port: int) -> None:
    """viser goes on to the next port silently, and waits for ever where none is left.

    Raises:
        ValueError: the port cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = "something listens there already" if error.errno == errno.EADDRINUSE else error.strerror
        raise ValueError(
            f"cannot listen on {host} port {port} ({why}); give another port, or 0 for a free one"
        ) from None
