"""From frames to what the detector trains on: samples in memory, their augmentation and their dense targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from geometry import Boxes, Frame
from perception.labels import IGNORE, OBJECTS

NO_BOX = -1
# Of an object's Gaussian: standard deviation per side of its box, and the least size and deviation, in grid cells.
SPREAD, MIN_CELLS, MIN_SIGMA_CELLS = 0.09, 0.25, 0.2


@dataclass(frozen=True, eq=False)
class Samples:
    """Frames at the network's size, kept as tensors so that every epoch reads them from memory.

    Args:
        images: RGB.
        masks: scene classes; 255 where unlabelled, everywhere for a frame without masks.
        boxes: left, top, right, bottom in pixels of `images`; rows past a frame's last box are zero.
        labels: object classes; -1 past a frame's last box.
        has_boxes: whether the frame was labelled with boxes (perhaps none).
        has_masks: whether the frame was labelled with masks.
    """

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]
    boxes: Float[Tensor, "n m 4"]
    labels: Int64[Tensor, "n m"]
    has_boxes: Bool[Tensor, "n"]
    has_masks: Bool[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Int64[Tensor, "k"]) -> "Samples":
        """The samples at these indices, in this order."""
        return Samples(*(getattr(self, name)[indices] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class BoxTargets:
    """What the object head should say, on a grid of b images (Zhou et al. 2019, section 3).

    Args:
        heatmaps: 1 at the cell that holds an object's centre, falling off as a Gaussian around it.
        cells: flat index of each object's centre cell.
        sizes: natural logarithm of width and height in grid cells.
        offsets: centre minus the cell's corner, in grid cells, each in 0..1.
        valid: false for padding, and for objects that lie outside the image.
        labelled: false for images that nobody labelled with boxes.
    """

    heatmaps: Float[Tensor, "b k h w"]
    cells: Int64[Tensor, "b m"]
    sizes: Float[Tensor, "b m 2"]
    offsets: Float[Tensor, "b m 2"]
    valid: Bool[Tensor, "b m"]
    labelled: Bool[Tensor, "b"]


def make_samples(frames: Sequence[Frame], size_px: tuple[int, int]) -> Samples:
    """Read every frame once and bring it to (height, width) = `size_px`; the aspect ratio may change.

    Raises:
        ValueError: no frames, a frame without an image, or a label outside the label space.
    """
    if len(frames) == 0:
        raise ValueError("no frames: a detector trains on at least one, check the data set's split")
    rows = [_resize(frame, size_px) for frame in frames]
    most = max((len(boxes) for _, _, boxes in rows if boxes is not None), default=0)
    padded = [_pad(boxes, most, frame.source) for frame, (_, _, boxes) in zip(frames, rows, strict=True)]
    boxes, labels = zip(*padded, strict=True)
    return Samples(
        images=torch.from_numpy(np.stack([image for image, _, _ in rows])).permute(0, 3, 1, 2).contiguous(),
        masks=torch.from_numpy(np.stack([_or_ignore(mask, size_px) for _, mask, _ in rows])),
        boxes=torch.from_numpy(np.stack(boxes)),
        labels=torch.from_numpy(np.stack(labels)),
        has_boxes=torch.tensor([boxes is not None for _, _, boxes in rows]),
        has_masks=torch.tensor([mask is not None for _, mask, _ in rows]),
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training samples; labels move along with the pixels.

    Args:
        flip: probability of mirroring.
        jitter: brightness and contrast change by factors in 1 ± jitter.
    """

    flip: float = 0.5
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.flip <= 1 and 0 <= self.jitter < 1):
            raise ValueError(f"flip is a probability and jitter lies in 0..1 (1 excluded), got {self}")


def augment(batch: Samples, config: AugmentConfig, generator: torch.Generator) -> Samples:
    """A randomly changed copy of the batch, boxes and masks moved along with the pixels."""
    flipped = torch.rand(len(batch), generator=generator) < config.flip
    factors = 1 + config.jitter * (2 * torch.rand(2, len(batch), generator=generator) - 1)
    images = torch.where(flipped[:, None, None, None], batch.images.flip(3), batch.images)
    masks = torch.where(flipped[:, None, None], batch.masks.flip(2), batch.masks)
    mirrored = batch.images.shape[3] - batch.boxes[..., [2, 1, 0, 3]]
    mirrored[..., [1, 3]] = batch.boxes[..., [1, 3]]
    boxes = torch.where(flipped[:, None, None], mirrored, batch.boxes)
    images = _recolour(images, *factors) if config.jitter else images
    return Samples(images, masks, boxes, batch.labels, batch.has_boxes, batch.has_masks)


def _recolour(images: UInt8[Tensor, "n 3 h w"], brightness: Tensor, contrast: Tensor) -> UInt8[Tensor, "n 3 h w"]:
    """Contrast about mid-grey, then brightness, by one factor an image."""
    gain, shift = (
        (brightness * contrast)[:, None, None, None],
        (127.5 * brightness * (1 - contrast))[:, None, None, None],
    )
    return (images * gain + shift).clamp(0, 255).to(torch.uint8)


def box_targets(batch: Samples, stride: int) -> BoxTargets:
    """Dense targets of the object head at 1/stride of the images' size.

    The Gaussian is elliptical with standard deviations of `SPREAD` times the box's sides (Liu et al. 2020,
    "Training-Time-Friendly Network", eq. 1), so that a bus does not blur upwards as far as sideways.
    """
    height, width = (side // stride for side in batch.images.shape[2:])
    corners = batch.boxes / stride
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    sizes = (corners[..., 2:] - corners[..., :2]).clamp(min=MIN_CELLS)
    limits = centres.new_tensor([width, height])
    inside = ((centres >= 0) & (centres < limits)).all(dim=-1)
    valid = (batch.labels != NO_BOX) & inside & batch.has_boxes[:, None]
    cells = centres.floor().clamp(min=0).minimum(limits - 1)
    return BoxTargets(
        heatmaps=_heatmaps(cells, sizes, batch.labels, valid, (height, width)),
        cells=(cells[..., 1] * width + cells[..., 0]).long(),
        sizes=sizes.log(),
        offsets=centres - cells,
        valid=valid,
        labelled=batch.has_boxes,
    )


def _heatmaps(cells: Tensor, sizes: Tensor, labels: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Per class the maximum over its objects of a Gaussian around each centre cell [b, k, h, w]."""
    sigma = (SPREAD * sizes).clamp(min=MIN_SIGMA_CELLS)
    dy = (torch.arange(grid[0]) - cells[..., 1:]) / sigma[..., 1:]
    dx = (torch.arange(grid[1]) - cells[..., :1]) / sigma[..., :1]
    gaussians = torch.exp(-dy.square() / 2)[..., :, None] * torch.exp(-dx.square() / 2)[..., None, :]
    heat = gaussians.new_zeros(len(cells), len(OBJECTS), *grid)
    for name in range(len(OBJECTS)):
        chosen = (valid & (labels == name)).to(gaussians.dtype)[..., None, None]
        if gaussians.shape[1]:
            heat[:, name] = (gaussians * chosen).amax(dim=1)
    return heat


def _resize(frame: Frame, size_px: tuple[int, int]) -> tuple[ndarray, ndarray | None, Boxes | None]:
    if frame.image is None:
        raise ValueError(f"{frame.source or 'frame'} has no image: a camera detector needs one")
    height, width = size_px
    if frame.image.shape[:2] == size_px:
        return frame.image, frame.masks, frame.boxes
    image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
    masks = None if frame.masks is None else cv2.resize(frame.masks, (width, height), interpolation=cv2.INTER_NEAREST)
    if frame.boxes is None:
        return image, masks, None
    scale = np.array([width / frame.camera.width_px, height / frame.camera.height_px] * 2, np.float32)
    return image, masks, Boxes(frame.boxes.xyxy_px * scale, frame.boxes.labels)


def _pad(boxes: Boxes | None, rows: int, source: str) -> tuple[ndarray, ndarray]:
    corners, labels = np.zeros((rows, 4), np.float32), np.full(rows, NO_BOX, np.int64)
    if boxes is not None:
        if len(boxes) and not 0 <= boxes.labels.min() <= boxes.labels.max() < len(OBJECTS):
            strange, limit = boxes.labels.tolist(), len(OBJECTS) - 1
            raise ValueError(f"{source or 'frame'}: box labels {strange} outside 0..{limit}, map them to {OBJECTS}")
        corners[: len(boxes)], labels[: len(boxes)] = boxes.xyxy_px, boxes.labels
    return corners, labels


def _or_ignore(mask: UInt8[ndarray, "h w"] | None, size_px: tuple[int, int]) -> UInt8[ndarray, "h w"]:
    return np.full(size_px, IGNORE, np.uint8) if mask is None else mask
