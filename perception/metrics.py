"""How good boxes and masks are: COCO's average precision and recall, and intersection over union per scene class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from perception.detector import Detections
from perception.labels import IGNORE, OBJECTS, SEGMENTS


@dataclass(frozen=True)
class BoxMetrics:
    """COCO figures over images with box labels; None where no object is labelled.

    Args:
        ap: average precision, mean over IoU thresholds 0.50:0.05:0.95 and over the classes that occur.
        ap50: the same at IoU 0.5.
        ar: average recall over the same thresholds with at most 100 boxes an image.
        ap50_of: AP50 per class that occurs.
    """

    ap: float | None
    ap50: float | None
    ar: float | None
    ap50_of: dict[str, float]


@dataclass(frozen=True)
class DetectionMetrics:
    """A detector's figures on labelled frames, each in 0..1; None for a task without labels.

    Args:
        ap50, ap, ar: see `BoxMetrics`.
        miou: mean IoU over the scene classes that occur in the labels.
        ap50_of: AP50 per object class that occurs.
        iou_of: IoU per scene class that occurs.
        frames: how many frames were looked at.
    """

    ap50: float | None
    ap: float | None
    ar: float | None
    miou: float | None
    ap50_of: dict[str, float]
    iou_of: dict[str, float]
    frames: int


def box_metrics(found: Sequence[Detections], wanted: Sequence[tuple[Tensor, Tensor]]) -> BoxMetrics:
    """COCO evaluation (Lin et al. 2014) of detections against (boxes [n, 4], labels [n]) image by image.

    Raises:
        ValueError: the two sequences differ in length.
    """
    if len(found) != len(wanted):
        raise ValueError(f"{len(found)} images with detections, {len(wanted)} with labels")
    if not sum(len(labels) for _, labels in wanted):
        return BoxMetrics(None, None, None, {})
    truth = COCO(_ground_truth(wanted))
    entries = [entry for image, detections in enumerate(found) for entry in _result_entries(image, detections)]
    if not entries:
        present = {OBJECTS[int(label)] for _, labels in wanted for label in labels}
        return BoxMetrics(0.0, 0.0, 0.0, {name: 0.0 for name in OBJECTS if name in present})
    run = COCOeval_faster(truth, truth.loadRes(entries), "bbox")
    run.evaluate()
    run.accumulate()
    precision, recall = run.eval["precision"][..., 0, -1], run.eval["recall"][..., 0, -1]
    per_class = {name: _known_mean(precision[0, :, index]) for index, name in enumerate(OBJECTS)}
    return BoxMetrics(
        ap=_known_mean(precision),
        ap50=_known_mean(precision[0]),
        ar=_known_mean(recall),
        ap50_of={name: value for name, value in per_class.items() if value is not None},
    )


def confusion_matrix(found: UInt8[Tensor, "*n h w"], wanted: UInt8[Tensor, "*n h w"]) -> Int64[Tensor, "s s"]:
    """Pixels by labelled class (row) and predicted class (column), unlabelled pixels left out. Matrices add up."""
    return multiclass_confusion_matrix(
        found.long(), wanted.long(), len(SEGMENTS), ignore_index=IGNORE, validate_args=False
    )


def iou_per_class(confusion: Int64[Tensor, "s s"]) -> dict[str, float]:
    """Intersection over union of every class that occurs in the labels."""
    hits, labelled, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
    iou = hits / (labelled + predicted - hits).clamp(min=1)
    return {name: float(iou[index]) for index, name in enumerate(SEGMENTS) if labelled[index] > 0}


def combine(boxes: BoxMetrics, confusion: Int64[Tensor, "s s"], frames: int) -> DetectionMetrics:
    """One report of both tasks."""
    iou_of = iou_per_class(confusion)
    miou = float(np.mean(list(iou_of.values()))) if iou_of else None
    return DetectionMetrics(boxes.ap50, boxes.ap, boxes.ar, miou, boxes.ap50_of, iou_of, frames)


def _ground_truth(wanted: Sequence[tuple[Tensor, Tensor]]) -> dict:
    annotations: list[dict] = []
    for image, (boxes, labels) in enumerate(wanted):
        for box, label in zip(_xywh(boxes), labels.tolist(), strict=True):
            area = box[2] * box[3]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": image} for image in range(len(wanted))],
        "categories": [{"id": index, "name": name} for index, name in enumerate(OBJECTS)],
        "annotations": annotations,
    }


def _result_entries(image: int, found: Detections) -> list[dict]:
    rows = zip(_xywh(found.boxes), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [{"image_id": image, "bbox": box, "score": score, "category_id": label} for box, score, label in rows]


def _xywh(boxes: Float[Tensor, "n 4"]) -> list[list[float]]:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def _known_mean(values: ndarray) -> float | None:
    """COCO writes -1 where a class has no labelled object."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
