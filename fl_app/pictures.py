"""Pictures of a run: what the model sees on held-out frames, and how it got there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fl_app.history import History
from fl_app.plain_figures import pyplot, save_figure
from geometry import Boxes, Frame
from perception.detector import Detector
from perception.draw import draw_boxes, overlay_masks
from perception.training import predict


def draw_detections(model: Detector, frames: Sequence[Frame], path: Path, most: int = 4) -> Path:
    """Rows of labelled and predicted boxes and masks, for frames spread over the sequence; writes a PNG."""
    picks = np.unique(np.linspace(0, len(frames) - 1, most).astype(int))
    rows = [_row(model, frames[int(i)]) for i in picks if frames[int(i)].image is not None]
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([_to_width(row, width) for row in rows])).save(path)
    return path


def draw_curves(history: History, path: Path) -> Path:
    """Accuracy on held-out frames, or else the vehicles' own, against round and cloud traffic; writes a PNG."""
    tier = history.evaluated_by
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for name, label in (("ap50", "AP50"), ("miou", "mIoU")):
        series = history.series(f"{tier}/{name}")
        rounds = [number for number, _ in series]
        traffic = [sum(history.rows[n].get(f"bytes/cloud-{way}", 0) for way in ("up", "down")) / 1e6 for n in rounds]
        values = [value for _, value in series]
        axes[0].plot(rounds, values, marker="o", markersize=3, label=label)
        axes[1].plot(traffic, values, marker="o", markersize=3, label=label)
    axes[0].set(xlabel="RSU round", ylabel=f"on {'held-out' if tier == 'cloud' else 'test'} frames", ylim=(0, 1))
    axes[1].set(xlabel="RSU–cloud traffic, MB")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    save_figure(figure, path, dpi=120)
    pyplot.close(figure)
    return path


def _row(model: Detector, frame: Frame) -> np.ndarray:
    assert frame.image is not None
    found = predict(model, frame.image)
    labelled = draw_boxes(frame.image, frame.boxes or Boxes.empty())
    boxes = draw_boxes(frame.image, Boxes(found.boxes.numpy(), found.labels.numpy()))
    return np.concatenate([labelled, boxes, overlay_masks(frame.image, found.mask.numpy())], axis=1)


def _to_width(image: np.ndarray, width: int) -> np.ndarray:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
