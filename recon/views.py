"""Posed images to fit Gaussians to and to judge them by, read from frames when they are needed."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from geometry import SE3, Camera, Frame, Sim3

Ignore = Callable[[Frame], Bool[ndarray, "h w"] | None]
"""Which pixels of a frame are to be left out, say of people and vehicles; None for none."""

FARTHEST_M = 1e5  # from the origin: beyond it float32 rounds to centimetres


@dataclass(frozen=True, eq=False)
class View:
    """One image with its camera.

    Args:
        image: RGB.
        viewmat: camera from world, metres, OpenCV axes.
        intrinsics: in pixels.
        counted: pixels that the fit and the scores see; None for all.
        depth_m: along the camera's z; 0 where unknown, infinity where nothing was hit. None if there is none.
        source: where it came from, for messages.
        timestamp_s: when it was taken, or its place in an order.
    """

    image: UInt8[Tensor, "h w 3"]
    viewmat: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    counted: Bool[Tensor, "h w"] | None
    depth_m: Float[Tensor, "h w"] | None
    source: str
    timestamp_s: float = 0.0

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def known_depth(self) -> tuple[Int64[Tensor, "k"], Float[Tensor, "k"]] | None:
        """Places in the flattened image of counted pixels whose depth is known, and 1 / depth; None without any."""
        return None if self.depth_m is None else known_pixels(self.depth_m, self.counted)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        parts = (self.image, self.counted, self.depth_m)
        return sum(part.nbytes for part in parts if part is not None)


def placed(view: View, world_from_view: Sim3) -> View:
    """A view whose pose and depth are in a world of its own, in another world.

    Args:
        view: of the vehicle's own world.
        world_from_view: the other world from that one.
    """
    rotation = view.viewmat[:3, :3].double().numpy()
    centre_m = -rotation.T @ view.viewmat[:3, 3].double().numpy()
    pose = world_from_view.apply_pose(SE3(rotation.T, centre_m)).inverse()
    depth_m = None if view.depth_m is None else view.depth_m * world_from_view.scale
    return replace(view, viewmat=torch.tensor(pose.matrix).to(view.viewmat), depth_m=depth_m)


def known_pixels(
    depth_m: Float[Tensor, "h w"], counted: Bool[Tensor, "h w"] | None
) -> tuple[Int64[Tensor, "k"], Float[Tensor, "k"]] | None:
    """See `View.known_depth`."""
    known = (depth_m > 0) & torch.isfinite(depth_m)
    known = known if counted is None else known & counted
    places = torch.nonzero(known.flatten())[:, 0]
    return (places, 1 / depth_m.flatten()[places]) if len(places) else None


class Views(Sequence[View]):
    """The views of frames, read on access; those used last are kept.

    Args:
        frames: with images and poses in one world.
        ignore: which pixels of a frame do not count.
        with_depth: read depth too: the frame's depth map, else that of its LiDAR points.
        lidar_first: the other way round, for data whose map knows more than a vehicle senses.
        cache_bytes: of images that are kept in memory.

    Raises:
        ValueError: there are no frames; on access, a frame without an image, NaN or negative depth, or a camera more
            than 100 km from the origin. The message names the frame's source.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        ignore: Ignore | None = None,
        with_depth: bool = False,
        lidar_first: bool = False,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if not len(frames):
            raise ValueError("a fit needs at least one frame with an image; got none")
        self.frames, self.ignore, self.with_depth = frames, ignore, with_depth
        self.lidar_first, self.cache_bytes = lidar_first, cache_bytes
        self._kept: OrderedDict[int, View] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> View:  # type: ignore[override]
        index = range(len(self))[index]
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        view = self._read(index)
        self._kept[index] = view
        self._kept_bytes += view.nbytes
        while self._kept_bytes > self.cache_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return view

    def _read(self, index: int) -> View:
        frame = self.frames[index]
        ignored = None if self.ignore is None else self.ignore(frame)
        return view_of(frame, ignored=ignored, with_depth=self.with_depth, lidar_first=self.lidar_first)


def view_of(
    frame: Frame,
    *,
    ignored: Bool[ndarray, "h w"] | None = None,
    with_depth: bool = False,
    lidar_first: bool = False,
) -> View:
    """A frame as torch tensors.

    Args:
        frame: has an image.
        ignored: pixels that do not count.
        with_depth, lidar_first: see `Views`.

    Raises:
        ValueError: no image, NaN or negative depth, or a camera too far from the origin.
    """
    name = frame.source or f"frame at {frame.timestamp_s} s"
    if frame.image is None:
        raise ValueError(f"{name}: has no image, and a fit needs one; leave the frame out")
    viewmat, intrinsics = camera_tensors(frame.camera, name)
    return View(
        image=torch.from_numpy(np.array(frame.image)),
        viewmat=viewmat,
        intrinsics=intrinsics,
        counted=None if ignored is None or not ignored.any() else torch.from_numpy(~ignored),
        depth_m=_depth_of(frame, name, lidar_first) if with_depth else None,
        source=name,
        timestamp_s=frame.timestamp_s,
    )


def camera_tensors(camera: Camera, name: str = "camera") -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Camera from world and intrinsics, float32, as `rasterize` takes them.

    Raises:
        ValueError: the camera is too far from the origin for float32.
    """
    away_m = np.abs(camera.world_from_cam.translation_m).max()
    if away_m > FARTHEST_M:
        raise ValueError(
            f"{name}: the camera lies {away_m:.0f} m from the origin, beyond the "
            f"{FARTHEST_M:.0f} m that float32 resolves to a centimetre; subtract a common offset from all poses"
        )
    viewmat = torch.tensor(camera.world_from_cam.inverse().matrix).float()
    return viewmat, torch.tensor(camera.intrinsics).float()


def _depth_of(frame: Frame, name: str, lidar_first: bool) -> Tensor | None:
    """Depth [h, w], 0 where unknown."""
    if frame.depth_m is not None and not (lidar_first and frame.points_lidar is not None):
        if np.isnan(frame.depth_m).any() or (frame.depth_m < 0).any():
            raise ValueError(f"{name}: depth_m holds NaN or negative values; write 0 for unknown, infinity for nothing")
        return torch.from_numpy(np.array(frame.depth_m))
    return None if frame.points_lidar is None else torch.from_numpy(lidar_depth(frame))


def lidar_depth(frame: Frame) -> Float[ndarray, "h w"]:
    """Depth of a frame's LiDAR points in its image, float32, 0 where none falls; the nearest of several."""
    camera, points = frame.camera, frame.points_lidar
    if points is not None:  # returns that a sensor marks as lost
        frame = replace(frame, points_lidar=points[(np.abs(points[:, :3]) < FARTHEST_M).all(axis=1)])
    uv, z = camera.project(frame.points_world())
    size_px = (camera.width_px, camera.height_px)
    seen = (z > 0.1) & (uv >= 0).all(axis=1) & (uv < size_px).all(axis=1)
    columns, rows = uv[seen].astype(np.int64).T
    depth_m = np.full((camera.height_px, camera.width_px), np.inf, np.float32)
    np.minimum.at(depth_m, (rows, columns), z[seen].astype(np.float32))
    depth_m[np.isinf(depth_m)] = 0
    return depth_m
