"""The viewer: what it hands to viser by hand, and a server that is asked as a browser asks."""

import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from geometry import SE3, Camera, Frame
from recon import viewer
from recon.gaussians import Gaussians
from recon.movie import render_camera
from recon.trajectories import turntable
from recon.viewer import CAMERAS, NODE, camera_of, splats_of, thumbnail, view_scene
from tests.recon.test_gaussians import covariances, scene

CAMERA = Camera(SE3.identity(), 100.0, 100.0, 64.0, 48.0, 128, 96)


def test_splats_are_centres_covariances_colours_and_opacities() -> None:
    gaussians = scene(20, 3)
    order = np.argsort(-gaussians.opacities.numpy(), kind="stable")
    centres, seconds, rgb, opacities = splats_of(gaussians)
    np.testing.assert_allclose(centres, gaussians.means.numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(seconds, covariances(gaussians)[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(opacities[:, 0], gaussians.opacities.numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(rgb, np.clip(0.5 + 0.2820948 * gaussians.sh[:, 0].numpy()[order], 0, 1), atol=1e-6)
    assert {array.dtype for array in (centres, seconds, rgb, opacities)} == {np.dtype(np.float32)}


def test_the_most_opaque_stay_and_the_large_shrink() -> None:
    logits, sizes = torch.tensor([-1.0, 2.0, 0.0, 1.0]), torch.tensor([8.0, 1.0, 2.0, 4.0])
    means = torch.arange(12.0).reshape(4, 3)
    quats, sh = torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1), torch.zeros(4, 1, 3)
    gaussians = Gaussians(means, quats, sizes.log()[:, None].repeat(1, 3), logits, sh)
    centres, seconds, _, _ = splats_of(gaussians, shown=0.5)
    np.testing.assert_allclose(centres, means[[1, 3]].numpy())
    np.testing.assert_allclose(seconds[:, 0, 0], [1, 16], rtol=1e-6)
    _, clamped, _, _ = splats_of(gaussians, clamp=0.5)  # the median size is 3
    np.testing.assert_allclose(clamped[:, 2, 2], [1, 9, 4, 9], rtol=1e-6)
    assert len(splats_of(gaussians, shown=0.0)[0]) == 0
    with pytest.raises(ValueError, match=r"shares lie in 0\.\.1"):
        splats_of(gaussians, shown=1.5)


def test_covariances_survive_16_bits() -> None:
    xyz = np.array([[0.0, 0, 0], [0, 0, 1e5]])
    gaussians = Gaussians.from_points(xyz, np.ones((2, 3)), min_scale_m=1e-6).select(torch.tensor([0]))
    huge = Gaussians.from_points(xyz, np.ones((2, 3)))
    tiny = Gaussians.from_points(np.zeros((2, 3)), np.ones((2, 3)), min_scale_m=1e-6)
    for each in (gaussians, huge, tiny):
        diagonal = np.diagonal(splats_of(each)[1].astype(np.float16), axis1=1, axis2=2)
        assert (np.isfinite(diagonal) & (diagonal > 0)).all()


def test_the_camera_of_a_view_by_hand() -> None:
    wide = camera_of(np.array([1.0, 0, 0, 0]), np.array([1.0, 2, 3]), np.pi / 2, 2.0, 600)
    assert (wide.width_px, wide.height_px, wide.fx_px, wide.fy_px) == (600, 300, pytest.approx(150), pytest.approx(150))
    assert (wide.cx_px, wide.cy_px) == (300, 150)
    tall = camera_of(np.array([1.0, 0, 0, 0]), np.array([1.0, 2, 3]), np.pi / 2, 0.5, 600)
    assert (tall.width_px, tall.height_px, tall.fx_px) == (300, 600, pytest.approx(300))
    np.testing.assert_allclose(tall.world_from_cam.translation_m, [1, 2, 3])
    for fov_rad, aspect in ((0.0, 1.0), (np.pi, 1.0), (1.0, 0.0), (1.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="no camera has"):
            camera_of(np.array([1.0, 0, 0, 0]), np.zeros(3), fov_rad, aspect)


def test_a_thumbnail_is_the_mean_of_blocks() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    found = thumbnail(image, 4)  # 7 / 2 rounded down by 5 / 2 rounded down; the rest is cropped
    assert found.shape == (2, 3, 3)
    assert found[0, 0, 0] == round(np.mean([image[0, 0, 0], image[0, 1, 0], image[1, 0, 0], image[1, 1, 0]]))
    assert np.array_equal(thumbnail(image, 7), image)
    assert thumbnail(np.zeros((1, 900, 3), np.uint8), 10).shape == (1, 900, 3), "one row cannot be halved"


def frames() -> list[Frame]:
    images = [np.full((96, 128, 3), 90, np.uint8), None]
    around = turntable(np.zeros(3), 4.0, 1.0, CAMERA, 2)
    return [Frame(float(i), camera, image) for i, (camera, image) in enumerate(zip(around, images, strict=True))]


@pytest.fixture
def server() -> Iterator[Any]:
    pytest.importorskip("viser", reason="pip install convoy[view]")
    running = view_scene(scene(50, 1, dtype=torch.float32), frames(), port=0)
    yield running
    running.stop()


def test_a_server_answers_and_holds_the_scene(server: Any) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}/", timeout=5) as answer:
        assert answer.status == 200
    nodes = server.scene._handle_from_node_name
    assert {NODE, f"{CAMERAS}/00000", f"{CAMERAS}/00001"} <= set(nodes)
    assert nodes[NODE].buffer.shape == (50, 8)
    frustum = nodes[f"{CAMERAS}/00000"]
    assert frustum.fov == pytest.approx(2 * np.arctan(48 / 100))
    assert frustum.aspect == pytest.approx(4 / 3)
    np.testing.assert_allclose(frustum.position, [4, 0, 1])
    np.testing.assert_allclose(server.initial_camera.position, [4, 0, 1])
    with pytest.raises(ValueError, match=rf"port {server.get_port()} \(something listens there already\)"):
        view_scene(scene(2, dtype=torch.float32), port=server.get_port())


def test_a_stopped_server_frees_its_port() -> None:
    pytest.importorskip("viser", reason="pip install convoy[view]")
    running = view_scene(scene(5, dtype=torch.float32), port=0)
    port = running.get_port()
    running.stop()
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.1", port)) != 0


class Browser:
    """Speaks viser's protocol as its page does."""

    def __init__(self, server: Any) -> None:
        import msgspec
        import viser
        from websockets.sync.client import connect

        self._encode = msgspec.msgpack.encode
        self._socket = connect(
            f"ws://127.0.0.1:{server.get_port()}",
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            max_size=None,
            compression=None,
        )
        self._handles = server.gui._gui_input_handle_from_uuid

    def look(self) -> None:
        """From (0, -5, 0) to the north, 1000 x 500 px."""
        view = {"wxyz": (np.sqrt(0.5), -np.sqrt(0.5), 0, 0), "position": (0, -5, 0), "fov": 1.0, "near": 0.01}
        view |= {"far": 1e3, "image_height": 500, "image_width": 1000, "look_at": (0, 0, 0), "up_direction": (0, 0, 1)}
        self._send({"type": "ViewerCameraMessage", **view})

    def set(self, label: str, value: object) -> None:
        (uuid,) = [uuid for uuid, handle in self._handles.items() if handle.label == label]
        self._send({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": value}})

    def click(self, node: str) -> None:
        ray = {"ray_origin": (0, -5, 0), "ray_direction": (0, 1, 0), "screen_pos": (0.5, 0.5)}
        self._send({"type": "SceneNodeClickMessage", "name": node, "instance_index": None, "modifier": None, **ray})

    def receive(self, wanted: bytes) -> bool:
        """Whether a message with these bytes comes within five seconds of the one before it."""
        import zstandard

        while True:
            message = self._socket.recv(timeout=5, decode=False)
            size = int.from_bytes(message[8:16], "little")
            if wanted in zstandard.ZstdDecompressor().decompress(message[16 : 16 + size]):
                return True

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(self._encode({key: _plain(value) for key, value in message.items()}))


def _plain(value: Any) -> Any:
    return [float(each) for each in value] if isinstance(value, tuple) else value


def test_a_browser_moves_a_slider_and_renders(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = threading.Event()
    calls: dict[str, Any] = {}

    def splats(gaussians: Gaussians, shown: float, clamp: float) -> viewer.Splats:
        calls["shown"] = shown
        drawn.set()
        return splats_of(gaussians, shown, clamp)

    def render(gaussians: Gaussians, camera: Camera, **options: Any) -> Any:
        calls["camera"], calls["picture"] = camera, real(gaussians, camera, **options)[0]
        return calls["picture"], None

    real = render_camera
    monkeypatch.setattr(viewer, "splats_of", splats)
    monkeypatch.setattr(viewer, "render_camera", render)
    browser = Browser(server)
    try:
        browser.look()
        browser.set("Gaussians shown", 0.5)
        assert drawn.wait(5)
        browser.set("Render here", True)
        assert browser.receive(b"IHDR" + (640).to_bytes(4, "big") + (320).to_bytes(4, "big")), "a PNG of this size"
    finally:
        browser.close()
    assert calls["shown"] == 0.5
    camera = calls["camera"]
    assert (camera.width_px, camera.height_px) == (640, 320)
    assert camera.fy_px == pytest.approx(160 / np.tan(0.5))
    pixels, depth_m = camera.project(np.array([[0.0, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(pixels[0], [320, 160], atol=1e-6)
    np.testing.assert_allclose(depth_m, 5)
    assert pixels[1, 1] < 160, "up is up"
    assert calls["picture"].std() > 1


def test_a_click_on_a_camera_goes_there(server: Any) -> None:
    browser, moved = Browser(server), threading.Event()
    try:
        browser.look()
        assert browser.receive(b"ReplayDoneMessage")
        browser.click(f"{CAMERAS}/00001")
        assert browser.receive(b"SetCameraLookAtMessage")
        (client,) = server.get_clients().values()
        there = frames()[1].camera.world_from_cam
        for _ in range(100):  # the last of its messages is sent before the state is whole
            if np.abs(client.camera.wxyz @ there.quat_wxyz) > 1 - 1e-6:
                break
            moved.wait(0.01)
        np.testing.assert_allclose(client.camera.position, there.translation_m, atol=1e-6)
        assert np.abs(client.camera.wxyz @ there.quat_wxyz) == pytest.approx(1)
    finally:
        browser.close()


def test_callbacks_in_bursts_act_once_on_the_latest() -> None:
    value, acted = [1], list[int]()
    call = viewer._latest(lambda: value[0], acted.append)
    call()
    call("event")
    value[0] = 2
    call()
    assert acted == [1, 2]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: view_scene(Gaussians.empty(), port=0), "no Gaussians"),
        (lambda: view_scene(scene(2), port=0, host="192.0.2.1"), "cannot listen on 192.0.2.1 port 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(call: Callable[[], object], says: str) -> None:
    pytest.importorskip("viser", reason="pip install convoy[view]")
    with pytest.raises(ValueError, match=says):
        call()


def test_without_viser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ImportError, match=r"pip install convoy\[view\]"):
        view_scene(scene(2))
