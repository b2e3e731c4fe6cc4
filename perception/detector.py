"""One small network for objects and scene: a centre-point detector and a segmenter on a shared feature pyramid.

It holds no BatchNorm and no buffers, so that its state is floating point parameters alone: federated averaging of such
a state is exact, and an adapter that is trained on it carries everything that changed.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torchvision.models import get_model_weights, mobilenet_v3_small

from perception.labels import OBJECTS, SEGMENTS

STRIDE = 4
CHANNELS_MEAN, CHANNELS_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where mobilenet_v3_small's features reach strides 4, 8, 16 and 32, and how many channels they have there.
TAPS = {1: 16, 3: 24, 8: 48, 11: 96}
PRIOR_PROBABILITY = 0.1


@dataclass(frozen=True)
class DetectorConfig:
    """Shape of a `Detector`.

    Args:
        size_px: (height, width) that images are resized to; multiples of 32.
        width: channels of the pyramid and the heads.
        groups: groups of every GroupNorm; divides 8 and the width.
        weights: name of torchvision's weights for mobilenet_v3_small ("IMAGENET1K_V1"), or None for random ones.

    Raises:
        ValueError: a size that is not a multiple of 32, or a width that the groups do not divide.
    """

    size_px: tuple[int, int] = (128, 384)
    width: int = 64
    groups: int = 8
    weights: str | None = None

    def __post_init__(self) -> None:
        if min(self.size_px) < 32 or any(side % 32 for side in self.size_px):
            raise ValueError(f"size_px = {self.size_px}: height and width are multiples of 32")
        if self.groups not in (1, 2, 4, 8) or self.width % self.groups or self.width <= 0:
            raise ValueError(f"groups = {self.groups} is 1, 2, 4 or 8 and divides width = {self.width}")


@dataclass(frozen=True, eq=False)
class DetectorOutput:
    """What the network says of b images, on a grid of stride 4.

    Args:
        heatmaps: logits of "an object of this class has its centre here", classes as in `labels.OBJECTS`.
        sizes: natural logarithm of box width and height, in grid cells.
        offsets: centre minus the cell's upper left corner, x and y, in grid cells.
        segments: logits of the scene classes, `labels.SEGMENTS`.
    """

    heatmaps: Float[Tensor, "b k h w"]
    sizes: Float[Tensor, "b 2 h w"]
    offsets: Float[Tensor, "b 2 h w"]
    segments: Float[Tensor, "b s h w"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first.

    Args:
        boxes: left, top, right, bottom in pixels.
        scores: confidence in 0..1.
        labels: classes, `labels.OBJECTS`.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, "n"]
    labels: Int64[Tensor, "n"]


class Detector(nn.Module):
    """MobileNetV3-small, a feature pyramid and two heads (Zhou et al. 2019, "Objects as Points", sections 3 and 4)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, lambda channels: nn.GroupNorm(config.groups, channels)
        self.backbone = mobilenet_v3_small(norm_layer=norm).features[: max(TAPS) + 1]
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in TAPS.values())
        self.pyramid_norm = norm(width)
        self.object_head = _head(width, len(OBJECTS) + 4, norm)
        self.segment_head = _head(width, len(SEGMENTS), norm)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> DetectorOutput:
        """Images in 0..1, sides multiples of 32, to dense outputs at a quarter of their size."""
        features = self._pyramid(_normalised(images))
        heatmaps, sizes, offsets = self.object_head(features).split([len(OBJECTS), 2, 2], dim=1)
        return DetectorOutput(heatmaps, sizes, offsets, self.segment_head(features))

    def _pyramid(self, x: Tensor) -> Tensor:
        taps = []
        for index, block in enumerate(self.backbone):
            x = block(x)
            if index in TAPS:
                taps.append(x)
        top = self.laterals[-1](taps[-1])
        for lateral, tap in zip(reversed(self.laterals[:-1]), reversed(taps[:-1]), strict=True):
            top = lateral(tap) + interpolate(top, scale_factor=2.0, mode="nearest")
        return torch.relu(self.pyramid_norm(top))


def build_detector(config: DetectorConfig, seed: int) -> Detector:
    """A detector whose every parameter follows from the seed; the global random state is neither read nor changed."""
    with torch.device("meta"):
        model = Detector(config)
    model = model.to_empty(device="cpu").to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        _initialise(module, generator)
    nn.init.constant_(model.object_head[-1].bias[: len(OBJECTS)], -math.log(1 / PRIOR_PROBABILITY - 1))
    if config.weights is not None:
        _load_backbone(model, config.weights)
    return model


@torch.inference_mode()
def decode_boxes(output: DetectorOutput, most: int = 100) -> list[Detections]:
    """The `most` highest peaks of each image's heatmaps as boxes in pixels (Zhou et al. 2019, section 4).

    A peak is a cell that no neighbour in its 3x3 window exceeds, class by class.
    """
    scores = output.heatmaps.sigmoid()
    scores = scores * (max_pool2d(scores, 3, stride=1, padding=1) == scores)
    b, k, h, w = scores.shape
    best, index = scores.reshape(b, -1).topk(min(most, k * h * w))
    labels, cells = index // (h * w), index % (h * w)
    corner = torch.stack([cells % w, cells // w], dim=-1)
    centre = corner + _at(output.offsets, cells)
    half = _at(output.sizes, cells).exp() / 2
    limits = centre.new_tensor([w, h, w, h]) * STRIDE
    boxes = (torch.cat([centre - half, centre + half], dim=-1) * STRIDE).clamp(min=0).minimum(limits)
    return [Detections(boxes[i], best[i], labels[i]) for i in range(b)]


def _at(values: Float[Tensor, "b 2 h w"], cells: Int64[Tensor, "b m"]) -> Float[Tensor, "b m 2"]:
    return values.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).transpose(1, 2)


def _head(width: int, outputs: int, norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width), nn.ReLU(), nn.Conv2d(width, outputs, 1)
    )


def _normalised(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (CHANNELS_MEAN, CHANNELS_STD))
    return (images - mean) / std


@torch.no_grad()
def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def _load_backbone(model: Detector, name: str) -> None:
    """Convolutions and affine parameters of torchvision's weights; running statistics have no place here."""
    state = get_model_weights("mobilenet_v3_small")[name].get_state_dict(progress=False)
    own = model.backbone.state_dict()
    known = {key: state[f"features.{key}"] for key in own}
    model.backbone.load_state_dict(known)
