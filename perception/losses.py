"""Losses of the centre-point detector and its segmenter; images without a task's labels add nothing to that task."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, pixel_unshuffle
from torchvision.ops import generalized_box_iou_loss

from perception.detector import DetectorOutput, at_cells
from perception.labels import IGNORE
from perception.targets import BoxTargets

FOCAL_ALPHA, FOCAL_BETA = 2, 4


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the training loss; `docs/decisions/005*.md` says how the defaults were chosen.

    Args:
        heatmap, box, segment: see `LossParts`.
    """

    heatmap: float = 1.0
    box: float = 5.0
    segment: float = 18.0


@dataclass(frozen=True, eq=False)
class LossParts:
    """Scalar losses before weighting; a part without labelled images is zero.

    Args:
        heatmap: `focal_loss`.
        box: `box_loss`.
        segment: `segment_loss`.
    """

    heatmap: Float[Tensor, ""]
    box: Float[Tensor, ""]
    segment: Float[Tensor, ""]

    def total(self, weights: LossWeights) -> Float[Tensor, ""]:
        """Weighted sum."""
        return weights.heatmap * self.heatmap + weights.box * self.box + weights.segment * self.segment


def detector_loss(
    output: DetectorOutput,
    targets: BoxTargets,
    masks: UInt8[Tensor, "b y x"],
    class_weights: Float[Tensor, "s"],
) -> LossParts:
    """All parts for one batch; `masks` are at the images' size."""
    return LossParts(
        heatmap=focal_loss(output.heatmaps, targets),
        box=box_loss(output.sizes, output.offsets, targets),
        segment=segment_loss(output.segments, masks, class_weights),
    )


def focal_loss(logits: Float[Tensor, "b k h w"], targets: BoxTargets) -> Float[Tensor, ""]:
    """Penalty-reduced focal loss (Law & Deng 2018, eq. 1; Zhou et al. 2019, eq. 1), alpha 2 and beta 4.

    -1/N sum of (1-p)^2 log p where the target is 1, of (1-y)^4 p^2 log(1-p) elsewhere; N counts the objects (at
    least 1). Images without box labels are left out of both sums.
    """
    log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    positive = targets.heatmaps == 1
    hit = log_q.exp() ** FOCAL_ALPHA * log_p
    miss = (1 - targets.heatmaps) ** FOCAL_BETA * log_p.exp() ** FOCAL_ALPHA * log_q
    per_image = torch.where(positive, hit, miss).sum(dim=(1, 2, 3))
    return -(per_image * targets.labelled).sum() / targets.valid.sum().clamp(min=1)


def box_loss(
    sizes: Float[Tensor, "b 2 h w"], offsets: Float[Tensor, "b 2 h w"], targets: BoxTargets
) -> Float[Tensor, ""]:
    """Mean of 1 - GIoU (Rezatofighi et al. 2019, algorithm 1) over each object's centre cell and the four beside it.

    The neighbours are trained too because a peak may come out one cell off; those that lie outside the image or more
    than half a cell outside the object are left out.
    """
    height, width = sizes.shape[2:]
    steps = targets.offsets.new_tensor([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
    corner = torch.stack([targets.cells % width, targets.cells // width], dim=-1)
    cells = corner[:, :, None] + steps
    centre, half = corner + targets.offsets, targets.sizes.exp() / 2
    near = ((cells + 0.5 - centre[:, :, None]).abs() <= half[:, :, None] + 0.5).all(dim=-1) | (steps == 0).all(dim=-1)
    limits = cells.new_tensor([width, height])
    used = targets.valid[:, :, None] & near & ((cells >= 0) & (cells < limits)).all(dim=-1)
    flat = (cells[..., 1] * width + cells[..., 0]).long().clamp(0, height * width - 1).flatten(1)
    predicted = _corners(cells.flatten(1, 2) + at_cells(offsets, flat), at_cells(sizes, flat).exp() / 2)
    wanted = _corners(centre, half)[:, :, None].expand(-1, -1, len(steps), -1).flatten(1, 2)
    error = generalized_box_iou_loss(predicted, wanted)
    return (error * used.flatten(1)).sum() / used.sum().clamp(min=1)


def segment_loss(
    logits: Float[Tensor, "b s h w"], masks: UInt8[Tensor, "b y x"], class_weights: Float[Tensor, "s"]
) -> Float[Tensor, ""]:
    """Cross-entropy plus `dice_loss`; zero when no pixel is labelled.

    Masks may be finer than the logits by a whole factor: a cell is then judged by every pixel in it, so that what is
    one pixel wide counts with its share of the cell. Cross-entropy is the mean over pixels weighted by their class.
    """
    wanted = pixel_unshuffle(masks[:, None], masks.shape[1] // logits.shape[2])
    known = wanted != IGNORE
    labels = torch.where(known, wanted, 0).long()
    log_p = log_softmax(logits, dim=1)
    weights = class_weights[labels] * known
    entropy = -(log_p.gather(1, labels) * weights).sum() / weights.sum().clamp(min=1e-6)
    return entropy + dice_loss(log_p.exp(), labels, known)


def dice_loss(
    probabilities: Float[Tensor, "b s h w"], labels: Int64[Tensor, "b p h w"], known: Bool[Tensor, "b p h w"]
) -> Float[Tensor, ""]:
    """One minus the Dice coefficient over the batch's pixels, the mean over the classes that are labelled in it.

    As in Milletari et al. 2016, "V-Net", section 3, without squares in the denominator. It weighs a thin class's few
    pixels as much as the road's many. Each cell holds p pixels that share its probabilities.
    """
    classes = probabilities.shape[1]
    right = probabilities.gather(1, labels) * known
    hits = right.new_zeros(classes).index_add(0, labels.flatten(), right.flatten())
    labelled = torch.bincount(labels.flatten(), known.flatten().float(), minlength=classes)
    predicted = (probabilities * known.sum(dim=1, keepdim=True)).sum(dim=(0, 2, 3))
    error = 1 - 2 * hits / (labelled + predicted).clamp(min=1e-6)
    return (error * (labelled > 0)).sum() / (labelled > 0).sum().clamp(min=1)


def _corners(centre: Float[Tensor, "b n 2"], half: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n 4"]:
    return torch.cat([centre - half, centre + half], dim=-1)
