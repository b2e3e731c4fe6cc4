"""The trained network as one graph of plain tensors, for runtimes that know nothing of Convoy."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perception.detector import Detector


class StackedMaps(nn.Module):
    """The detector with its outputs stacked along channels, all on the grid of its heatmaps.

    In this order: class heatmap logits (`labels.OBJECTS`), sizes (2), offsets (2), and the segment logits
    (`labels.SEGMENTS`), whose finer grid is folded into channels as by `torch.nn.functional.pixel_unshuffle`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h4 w4"]:
        out = self.detector(images)
        finer = out.segments.shape[-1] // out.heatmaps.shape[-1]
        segments = torch.nn.functional.pixel_unshuffle(out.segments, finer)
        return torch.cat([out.heatmaps, out.sizes, out.offsets, segments], dim=1)
