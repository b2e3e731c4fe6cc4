"""One small network for objects and scene: a centre-point detector and a segmenter on a shared feature pyramid.

It holds no BatchNorm and no buffers, so that its state is floating point parameters alone: federated averaging of such
a state is exact, and an adapter that is trained on it carries everything that changed. Its convolutions are dense
rather than depthwise: on a CPU they do several times more arithmetic in the same time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from perception.labels import OBJECTS, SEGMENTS

STRIDE = 4
CHANNELS_MEAN, CHANNELS_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRIOR_PROBABILITY = 0.1
# Kernels start below the usual 1/sqrt(fan-in): a GroupNorm undoes the scale, and small kernels turn faster per step.
KERNEL_GAIN = 0.3

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class DetectorConfig:
    """Shape and arithmetic of a `Detector`.

    Args:
        size_px: (height, width) that images are resized to; multiples of 32.
        stem: channels at stride 2.
        stages: channels at strides 4, 8, 16 and 32.
        width: channels of the pyramid and of the object head.
        fine: channels of the segmentation head at stride 2.
        groups: groups of every GroupNorm; divides all channel counts.
        precision: of the convolutions; parameters, outputs and the optimiser's steps are float32 always. "auto" takes
            bfloat16 where the processor has instructions for it (about 1.5 times faster there, ten times slower
            elsewhere).

    Raises:
        ValueError: a size that is not a multiple of 32, channels that the groups do not divide, unknown precision.
    """

    size_px: tuple[int, int] = (128, 384)
    stem: int = 24
    stages: tuple[int, int, int, int] = (48, 96, 128, 128)
    width: int = 48
    fine: int = 16
    groups: int = 8
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if min(self.size_px) < 32 or any(side % 32 for side in self.size_px):
            raise ValueError(f"size_px = {self.size_px}: height and width are multiples of 32")
        channels = (self.stem, *self.stages, self.width, self.fine)
        if self.groups < 1 or any(count < 1 or count % self.groups for count in channels):
            raise ValueError(f"groups = {self.groups} does not divide all of the channel counts {channels}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision is 'auto', 'float32' or 'bfloat16', got {self.precision!r}")


@dataclass(frozen=True, eq=False)
class DetectorOutput:
    """What the network says of b images. Objects are on a grid of stride 4, the scene on one of stride 2.

    Args:
        heatmaps: logits of "an object of this class has its centre here", classes as in `labels.OBJECTS`.
        sizes: natural logarithm of box width and height, in grid cells.
        offsets: centre minus the cell's upper left corner, x and y, in grid cells.
        segments: logits of the scene classes, `labels.SEGMENTS`.
    """

    heatmaps: Float[Tensor, "b k h w"]
    sizes: Float[Tensor, "b 2 h w"]
    offsets: Float[Tensor, "b 2 h w"]
    segments: Float[Tensor, "b s 2*h 2*w"]


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
    """Residual stages, a feature pyramid and two heads.

    Stages are BasicBlocks (He et al. 2016), levels are summed top-down (Lin et al. 2017, "Feature Pyramid Networks"),
    objects are points (Zhou et al. 2019, "Objects as Points", section 3). For the scene the pyramid is rearranged to
    twice its resolution (Shi et al. 2016, sub-pixel convolution) and meets the stem's features there, so that poles and
    signs keep their edges.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        norm = partial(_FloatGroupNorm, config.groups)
        self.stem = Conv2dNormActivation(3, config.stem, 3, stride=2, norm_layer=norm)
        inputs = (config.stem, *config.stages[:-1])
        self.stages = nn.ModuleList(_stage(*pair, norm) for pair in zip(inputs, config.stages, strict=True))
        self.laterals = nn.ModuleList(nn.Conv2d(channels, config.width, 1) for channels in config.stages)
        self.pyramid_norm = norm(config.width)
        self.object_head = nn.Sequential(
            Conv2dNormActivation(config.width, config.width, 3, norm_layer=norm),
            nn.Conv2d(config.width, len(OBJECTS) + 4, 1),
        )
        fine = config.fine
        self.upsample = nn.Sequential(
            Conv2dNormActivation(config.width, 4 * fine, 3, norm_layer=norm), nn.PixelShuffle(2)
        )
        self.segment_head = nn.Sequential(
            Conv2dNormActivation(config.stem + fine, fine, 3, norm_layer=norm), nn.Conv2d(fine, len(SEGMENTS), 1)
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> DetectorOutput:
        """Images in 0..1, sides multiples of 32, to dense float32 outputs."""
        enabled = runs_in_bfloat16(self.config)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
            edges = self.stem(_normalised(images))
            features = self._pyramid(edges)
            objects = self.object_head(features).float()
            segments = self.segment_head(torch.cat([edges, self.upsample(features)], dim=1)).float()
        heatmaps, sizes, offsets = objects.split([len(OBJECTS), 2, 2], dim=1)
        return DetectorOutput(heatmaps, sizes, offsets, segments)

    def _pyramid(self, x: Float[Tensor, "b e h w"]) -> Float[Tensor, "b c h//2 w//2"]:
        levels = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        top = levels.pop()
        while levels:
            top = levels.pop() + interpolate(top, scale_factor=2.0, mode="nearest")
        return torch.relu(self.pyramid_norm(top))


class _FloatGroupNorm(nn.GroupNorm):
    """GroupNorm (Wu & He 2018) in float32 whatever its input: in bfloat16 its backward pass is several times slower."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def build_detector(config: DetectorConfig, seed: int) -> Detector:
    """A detector whose every parameter follows from the seed; the global random state is neither read nor changed."""
    with torch.device("meta"):
        model = Detector(config)
    model = model.to_empty(device="cpu").to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        _initialise(module, generator)
    heatmap_bias = model.get_parameter("object_head.1.bias")[: len(OBJECTS)]
    nn.init.constant_(heatmap_bias, -math.log(1 / PRIOR_PROBABILITY - 1))
    return model


def runs_in_bfloat16(config: DetectorConfig) -> bool:
    """Whether convolutions take bfloat16 inputs under this configuration on this processor."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    has = torch.cpu.get_capabilities()
    used = torch.backends.cpu.get_cpu_capability()  # below what the processor has if ATEN_CPU_CAPABILITY says so
    return used.startswith("AVX512") and bool(has.get("avx512_bf16") or has.get("amx_bf16"))


@torch.no_grad()
def decode_boxes(output: DetectorOutput, most: int = 100) -> list[Detections]:
    """The `most` highest peaks of each image's heatmaps as boxes in pixels (Zhou et al. 2019, section 3).

    A peak is a cell that no neighbour in its 3x3 window exceeds, class by class.
    """
    scores = output.heatmaps.sigmoid().nan_to_num(0.0)  # a network that overflows finds nothing
    scores = scores * (max_pool2d(scores, 3, stride=1, padding=1) == scores)
    b, k, h, w = scores.shape
    best, index = scores.reshape(b, -1).topk(min(most, k * h * w))
    labels, cells = index // (h * w), index % (h * w)
    corner = torch.stack([cells % w, cells // w], dim=-1)
    centre = corner + at_cells(output.offsets, cells)
    half = at_cells(output.sizes, cells).exp() / 2
    centre, half = centre.nan_to_num(0.0), half.nan_to_num(0.0)
    limits = centre.new_tensor([w, h, w, h]) * STRIDE
    boxes = (torch.cat([centre - half, centre + half], dim=-1) * STRIDE).clamp(min=0).minimum(limits)
    return [Detections(boxes[i], best[i], labels[i]) for i in range(b)]


def at_cells(field: Float[Tensor, "b 2 h w"], cells: Int64[Tensor, "b m"]) -> Float[Tensor, "b m 2"]:
    """Values of a field at flat cell indices."""
    return field.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).transpose(1, 2)


def _stage(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        Conv2dNormActivation(inputs, outputs, 3, stride=2, norm_layer=norm),
        BasicBlock(outputs, outputs, norm_layer=norm),
    )


def _normalised(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (CHANNELS_MEAN, CHANNELS_STD))
    return (images - mean) / std


@torch.no_grad()
def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=KERNEL_GAIN / math.sqrt(fan_in), generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
