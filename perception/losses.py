"""Losses of the centre-point detector and its segmenter; images without a task's labels add nothing to that task."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from perception.detector import DetectorOutput
from perception.labels import IGNORE
from perception.targets import BoxTargets

FOCAL_ALPHA, FOCAL_BETA = 2, 4


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the training loss, in the order of `LossParts`."""

    heatmap: float = 1.0
    size: float = 0.5
    offset: float = 0.5
    segment: float = 1.0


@dataclass(frozen=True, eq=False)
class LossParts:
    """Scalar losses before weighting; a part without labelled images is zero."""

    heatmap: Float[Tensor, ""]
    size: Float[Tensor, ""]
    offset: Float[Tensor, ""]
    segment: Float[Tensor, ""]

    def total(self, weights: LossWeights) -> Float[Tensor, ""]:
        """Weighted sum."""
        return sum(getattr(weights, name) * getattr(self, name) for name in self.__dataclass_fields__)


def detector_loss(
    output: DetectorOutput,
    boxes: BoxTargets,
    masks: UInt8[Tensor, "b h w"],
    class_weights: Float[Tensor, "s"],
) -> LossParts:
    """All parts for one batch; `masks` are at the grid's size."""
    return LossParts(
        heatmap=focal_loss(output.heatmaps, boxes),
        size=centre_l1(output.sizes, boxes.sizes, boxes),
        offset=centre_l1(output.offsets, boxes.offsets, boxes),
        segment=segment_loss(output.segments, masks, class_weights),
    )


def focal_loss(logits: Float[Tensor, "b k h w"], targets: BoxTargets) -> Float[Tensor, ""]:
    """Penalty-reduced focal loss (Law & Deng 2018, eq. 1; Zhou et al. 2019, eq. 1), alpha 2 and beta 4.

    -1/N sum of (1-p)^2 log p where the target is 1, of (1-y)^4 p^2 log(1-p) elsewhere; N counts the objects (at least 1).
    Images without box labels are left out of both sums.
    """
    log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    positive = targets.heatmaps == 1
    hit = log_q.exp() ** FOCAL_ALPHA * log_p
    miss = (1 - targets.heatmaps) ** FOCAL_BETA * log_p.exp() ** FOCAL_ALPHA * log_q
    per_image = torch.where(positive, hit, miss).sum(dim=(1, 2, 3))
    return -(per_image * targets.labelled).sum() / targets.valid.sum().clamp(min=1)


def centre_l1(
    field: Float[Tensor, "b 2 h w"], wanted: Float[Tensor, "b m 2"], targets: BoxTargets
) -> Float[Tensor, ""]:
    """Mean over objects of |predicted - wanted|_1 at their centre cells (Zhou et al. 2019, eqs 2 and 3)."""
    index = targets.cells[:, None, :].expand(-1, 2, -1)
    predicted = field.flatten(2).gather(2, index).transpose(1, 2)
    error = (predicted - wanted).abs().sum(dim=-1)
    return (error * targets.valid).sum() / targets.valid.sum().clamp(min=1)


def segment_loss(
    logits: Float[Tensor, "b s h w"], masks: UInt8[Tensor, "b h w"], class_weights: Float[Tensor, "s"]
) -> Float[Tensor, ""]:
    """Cross-entropy, the mean over labelled pixels weighted by their class; zero when no pixel is labelled."""
    wanted = masks.long()
    total = cross_entropy(logits, wanted, class_weights, ignore_index=IGNORE, reduction="sum")
    padded = torch.cat([class_weights, class_weights.new_zeros(IGNORE + 1 - len(class_weights))])
    return total / padded[wanted].sum().clamp(min=1e-6)
