"""Training, judging and using a detector: functions of a model and samples, with no state and no global randomness.

Several threads of one process may train different models at the same time: every random number comes from the
generator that the caller passes, and nothing here touches torch's thread count or default generator.
"""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import cv2
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import interpolate

from geometry import Frame
from perception.detector import STRIDE, Detections, Detector, decode_boxes
from perception.labels import IGNORE, SEGMENTS
from perception.losses import LossParts, LossWeights, detector_loss
from perception.metrics import DetectionMetrics, box_metrics, combine, confusion_matrix
from perception.optimizer import make_optimizer
from perception.targets import NO_BOX, AugmentConfig, Samples, augment, box_targets, make_samples

CLASS_BALANCE = 1.1


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the samples.
        batch_size: images a step; the last batch of an epoch may be smaller.
        lr: highest learning rate, see `MuonAdamW`.
        weight_decay: decoupled, on kernels only.
        warmup_steps: steps over which the rate rises linearly to `lr`.
        muon: whether Muon trains the kernels; without it AdamW trains everything.
        schedule: after the warm-up the rate stays ("constant") or falls to zero along half a cosine ("cosine").
        proximal_mu: weight of FedProx's pull towards the reference; 0 is FedAvg.
        augment, loss: see there.

    Raises:
        ValueError: a count, rate or weight out of range.
    """

    epochs: int = 1
    batch_size: int = 4
    lr: float = 4e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 0
    muon: bool = True
    schedule: Literal["constant", "cosine"] = "constant"
    proximal_mu: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.warmup_steps < 0:
            raise ValueError(f"epochs and batch_size are at least 1 and warmup_steps at least 0, got {self}")
        if not (self.lr > 0 and self.weight_decay >= 0 and self.proximal_mu >= 0):
            raise ValueError(f"lr is above 0, weight_decay and proximal_mu are not below 0, got {self}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is 'constant' or 'cosine', got {self.schedule!r}")


@dataclass(frozen=True)
class TrainReport:
    """What a training run did.

    Args:
        losses: mean of each part of the loss over the steps, "total" (weighted) and "proximal" among them.
        steps: optimiser steps.
        examples: images seen, repeats counted.
        cpu_s: CPU seconds of the calling thread, which are all of them with one torch thread.
    """

    losses: dict[str, float]
    steps: int
    examples: int
    cpu_s: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the detector sees in one image, in that image's own pixels.

    Args:
        boxes: left, top, right, bottom.
        scores: confidence in 0..1, falling.
        labels: classes, `labels.OBJECTS`.
        mask: scene classes, `labels.SEGMENTS`.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, "n"]
    labels: Int64[Tensor, "n"]
    mask: UInt8[Tensor, "h w"]


def train_epochs(
    model: Detector,
    samples: Samples,
    config: TrainConfig,
    generator: torch.Generator,
    reference: Mapping[str, Tensor] | None = None,
) -> TrainReport:
    """Train `model` in place and say what happened.

    Args:
        model: changed in place.
        samples: see `make_samples`; build them once and keep them.
        config: see `TrainConfig`.
        generator: decides order and augmentation; its state moves on.
        reference: the global model's parameters by name, for `proximal_mu` > 0; not changed.

    Raises:
        ValueError: `proximal_mu` > 0 without a reference, or no samples.
        FloatingPointError: the loss became NaN or infinite.
    """
    if config.proximal_mu > 0 and reference is None:
        raise ValueError("proximal_mu > 0 needs `reference`, the parameters of the global model")
    if config.proximal_mu == 0:
        reference = None
    if len(samples) == 0:
        raise ValueError("no samples to train on: check the vehicle's share of the data")
    started_s = time.thread_time()
    batches = [batch for _ in range(config.epochs) for batch in _batches(len(samples), config.batch_size, generator)]
    model.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, config.weight_decay, config.muon)
    weights = segment_weights(samples)
    sums: dict[str, float] = {}
    for step, indices in enumerate(batches):
        batch = augment(samples.select(indices), config.augment, generator)
        for name, value in _backward(model, batch, weights, config, reference).items():
            sums[name] = sums.get(name, 0.0) + value
        optimizer.step(config.lr * lr_factor(step, len(batches), config))
    means = {name: value / len(batches) for name, value in sums.items()}
    return TrainReport(means, len(batches), sum(map(len, batches)), time.thread_time() - started_s)


def lr_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Share of the highest learning rate at a step counted from 0: linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


def segment_weights(samples: Samples) -> Float[Tensor, "s"]:
    """Class weights 1 / ln(c + frequency) (Paszke et al. 2016, "ENet", section 5.2), scaled to a mean of 1.

    The paper's c = 1.02 makes thin classes spill over their neighbours; 1.1 gave the best mean IoU here.
    """
    counts = torch.bincount(samples.masks[:, ::STRIDE, ::STRIDE].flatten().int(), minlength=IGNORE + 1)[: len(SEGMENTS)]
    weights = 1 / torch.log(CLASS_BALANCE + counts / counts.sum().clamp(min=1))
    return weights / weights.mean()


def evaluate(
    model: Detector, data: Samples | Sequence[Frame], batch_size: int = 8, workers: int = 1
) -> DetectionMetrics:
    """Judge a model on labelled frames at its own size; a task without labels gives None.

    Args:
        model: the detector.
        data: frames, or what `make_samples` made of them.
        batch_size: images at a time.
        workers: threads that take batches in turn; what is measured does not depend on it.
    """
    samples = data if isinstance(data, Samples) else make_samples(data, model.config.size_px)
    model.eval()
    batches = torch.arange(len(samples)).split(batch_size)
    with ThreadPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        parts = list((pool.map if pool else map)(partial(_evaluate_batch, model, samples), batches))
    found = [detections for part, _ in parts for detections in part]
    labelled = samples.has_boxes.nonzero().flatten().tolist()
    wanted = [
        (samples.boxes[i][samples.labels[i] != NO_BOX], samples.labels[i][samples.labels[i] != NO_BOX])
        for i in labelled
    ]
    confusion = torch.stack([confusion for _, confusion in parts]).sum(dim=0)
    return combine(box_metrics([found[i] for i in labelled], wanted), confusion, len(samples))


@torch.inference_mode()
def _evaluate_batch(
    model: Detector, samples: Samples, indices: Int64[Tensor, "b"]
) -> tuple[list[Detections], Int64[Tensor, "s s"]]:
    """Objects found in these samples, and the confusion matrix of their pixels."""
    masks = samples.masks[indices]
    output = model(as_input(samples.images[indices]))
    found = interpolate(output.segments, size=masks.shape[1:], mode="bilinear").argmax(dim=1).to(torch.uint8)
    return decode_boxes(output), confusion_matrix(found, masks)


@torch.inference_mode()
def measure_loss(model: Detector, samples: Samples, batch_size: int = 16) -> float:
    """Returns the mean training loss of a model on samples as they are, without augmentation; infinity for NaN."""
    model.eval()
    weights, total = segment_weights(samples), 0.0
    for indices in torch.arange(len(samples)).split(batch_size):
        batch = samples.select(indices)
        parts = detector_loss(model(as_input(batch.images)), box_targets(batch, STRIDE), batch.masks, weights)
        total += float(parts.total(LossWeights())) * len(indices)
    return total / len(samples) if math.isfinite(total) else math.inf


@torch.inference_mode()
def predict(model: Detector, image: UInt8[ndarray, "h w 3"], min_score: float = 0.3) -> Prediction:
    """Objects above `min_score` and the scene's classes in one RGB image of any size.

    Raises:
        ValueError: not an RGB image of uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8":
        raise ValueError(f"predict takes an RGB image uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
    (height, width), (net_h, net_w) = image.shape[:2], model.config.size_px
    resized = cv2.resize(image, (net_w, net_h), interpolation=cv2.INTER_AREA)
    model.eval()
    output = model(as_input(torch.from_numpy(resized).permute(2, 0, 1)[None]))
    found = decode_boxes(output)[0]
    keep = found.scores >= min_score
    scale = found.boxes.new_tensor([width / net_w, height / net_h] * 2)
    logits = interpolate(output.segments, size=(height, width), mode="bilinear")
    mask = logits[0].argmax(dim=0).to(torch.uint8)
    return Prediction(found.boxes[keep] * scale, found.scores[keep], found.labels[keep], mask)


def as_input(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to 0..1 in the memory layout that convolutions are fastest in."""
    return images.to(torch.float32, memory_format=torch.channels_last) / 255


def proximal_term(model: Detector, reference: Mapping[str, Tensor], mu: float) -> Float[Tensor, ""]:
    """(mu / 2) |w - w_global|^2 (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", eq. 2)."""
    squares = [(value - reference[name]).square().sum() for name, value in model.named_parameters()]
    return mu / 2 * torch.stack(squares).sum()


def _backward(
    model: Detector,
    batch: Samples,
    weights: Float[Tensor, "s"],
    config: TrainConfig,
    reference: Mapping[str, Tensor] | None,
) -> dict[str, float]:
    """Leave the gradients of one batch in the model; returns its losses."""
    output = model(as_input(batch.images))
    parts = detector_loss(output, box_targets(batch, STRIDE), batch.masks, weights)
    total = parts.total(config.loss)
    pull = proximal_term(model, reference, config.proximal_mu) if reference is not None else total.new_zeros(())
    values = {**_values(parts), "total": float(total.detach()), "proximal": float(pull.detach())}
    if not math.isfinite(values["total"] + values["proximal"]):
        raise FloatingPointError(f"training diverged: losses {values}; lower the learning rate")
    (total + pull).backward()
    return values


def _values(parts: LossParts) -> dict[str, float]:
    return {name: float(getattr(parts, name).detach()) for name in parts.__dataclass_fields__}


def _batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    return list(torch.randperm(count, generator=generator).split(size))
