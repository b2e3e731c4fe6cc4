"""What the detector learns of the town in a CPU-minute: AP50 and mIoU on a drive that no vehicle has seen.

Every run starts from random weights and trains on all vehicles' frames together, with one torch thread. CPU seconds are
those of the process from the first augmented batch to the last step; rendering the town is reported apart. Two claims
bound the figures themselves: AP50 (COCO, three classes) and mIoU (eleven classes) after at most 60 CPU-seconds.

Without `--quick` there are more frames and three seeds, a curve of accuracy against CPU seconds (each point is a run of
its own, annealed to zero), and two references that get the same CPU seconds: the same network under AdamW alone, and
for mIoU torchvision's `lraspp_mobilenet_v3_large` from random weights, at the better of two learning rates.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import _harness as harness
import cv2
import numpy as np
import torch
from _harness import Claim
from torch.nn.functional import cross_entropy
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from geometry import Boxes, Frame
from perception.datasets.base import FleetRequest
from perception.datasets.town import load_town
from perception.detector import Detector, DetectorConfig, build_detector
from perception.draw import contact_sheet, draw_boxes, overlay_masks
from perception.labels import IGNORE, SEGMENTS
from perception.metrics import confusion_matrix, iou_per_class
from perception.targets import AugmentConfig, Samples, augment, make_samples
from perception.training import TrainConfig, as_input, evaluate, predict, segment_weights, train_epochs

BOUND_AP50, BOUND_MIOU, BUDGET_CPU_S = 0.55, 0.70, 60.0
IMAGES = 2016  # images seen by a run: about 45 CPU-seconds on a quiet core, 55 on a busy one
SIZE_PX = (128, 384)


@dataclass(frozen=True)
class Run:
    """One training run and what it scored on the held-out drive; None for what a model does not do."""

    model: str
    seed: int
    images: int
    cpu_s: float
    ap50: float | None
    ap: float | None
    miou: float | None


def load(frames_per_vehicle: int) -> tuple[Samples, Sequence[Frame], float]:
    """Samples of all vehicles' frames, the held-out frames, and the wall seconds that loading or rendering took."""
    started_s = time.perf_counter()
    fleet = load_town(FleetRequest(frames_per_vehicle=frames_per_vehicle, size_px=SIZE_PX))
    frames = [frame for share in fleet.shares for frame in (*share.train, *share.test)]
    samples, holdout = make_samples(frames, SIZE_PX), list(fleet.holdout)
    return samples, holdout, time.perf_counter() - started_s


def run_ours(samples: Samples, test: Samples, seed: int, images: int, muon: bool = True) -> tuple[Detector, Run]:
    """Train our detector on `images` images, rounded to whole epochs, and judge it."""
    epochs = max(1, round(images / len(samples)))
    config = TrainConfig(epochs=epochs, lr=8e-3 if muon else 6e-3, warmup_steps=20, schedule="cosine", muon=muon)
    model = build_detector(DetectorConfig(size_px=SIZE_PX), seed)
    started_s = time.process_time()
    report = train_epochs(model, samples, config, torch.Generator().manual_seed(seed))
    cpu_s = time.process_time() - started_s
    scores = evaluate(model, test)
    name = "ours" if muon else "ours, AdamW alone"
    return model, Run(name, seed, report.examples, cpu_s, scores.ap50, scores.ap, scores.miou)


def run_lraspp(samples: Samples, test: Samples, seed: int, budget_s: float, lr: float) -> Run:
    """Train torchvision's LR-ASPP for `budget_s` CPU seconds, the rate falling with the time that is spent."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(SEGMENTS))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2, fused=True)
    generator, weights = torch.Generator().manual_seed(seed), segment_weights(samples)
    started_s, images = time.process_time(), 0
    while (spent := (time.process_time() - started_s) / budget_s) < 1:
        chosen = torch.randint(len(samples), (8,), generator=generator)
        batch = augment(samples.select(chosen), AugmentConfig(), generator)
        logits = model(as_input(batch.images))["out"]
        loss = cross_entropy(logits, batch.masks.long(), weights, ignore_index=IGNORE)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * spent)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images += len(batch)
    cpu_s = time.process_time() - started_s
    return Run(f"lraspp_mobilenet_v3_large, lr {lr:g}", seed, images, cpu_s, None, None, miou_of(model, test))


@torch.inference_mode()
def miou_of(model: torch.nn.Module, test: Samples) -> float:
    """Mean IoU of a torchvision segmentation model."""
    model.eval()
    masks = torch.cat([model(as_input(images))["out"].argmax(dim=1) for images in test.images.split(16)])
    return fmean(iou_per_class(confusion_matrix(masks.to(torch.uint8), test.masks)).values())


def cost_of(model: Detector, run: Run, test: Samples, repeats: int = 20) -> harness.Row:
    """Parameters, and CPU milliseconds an image with one thread: a whole training step, a forward pass of one image."""
    images = as_input(test.images[:1])
    with torch.inference_mode():
        model(images)
        started_s = time.process_time()
        for _ in range(repeats):
            model(images)
    infer_ms = 1e3 * (time.process_time() - started_s) / repeats
    parameters = sum(value.numel() for value in model.parameters())
    return {"parameters": parameters, "train ms/image": 1e3 * run.cpu_s / run.images, "inference ms/image": infer_ms}


def claims_of(runs: Sequence[Run]) -> list[Claim]:
    """Means over our full-length runs."""
    ap50, miou = fmean(run.ap50 or 0.0 for run in runs), fmean(run.miou or 0.0 for run in runs)
    return [
        Claim("detector.town_ap50", ap50, BOUND_AP50, ap50, "AP50", len(runs)),
        Claim("detector.town_miou", miou, BOUND_MIOU, miou, "mIoU", len(runs)),
    ]


def picture(path: Path, model: Detector, frames: Sequence[Frame]) -> None:
    """Predictions beside labels on held-out frames that lie evenly over the drive."""
    tiles = []
    for index in np.linspace(0, len(frames) - 1, 4).astype(int):
        frame = frames[index]
        if frame.image is None or frame.masks is None:
            raise ValueError(f"{frame.source}: the held-out drive has images and masks")
        found = predict(model, frame.image)
        boxes = Boxes(found.boxes.numpy(), found.labels.numpy())
        predicted = draw_boxes(overlay_masks(frame.image, found.mask.numpy()), boxes)
        labelled = draw_boxes(overlay_masks(frame.image, frame.masks), frame.boxes or Boxes.empty())
        tiles += [(f"predicted, frame {index}", predicted), (f"labelled, frame {index}", labelled)]
    cv2.imwrite(str(path), contact_sheet(tiles, columns=2)[..., ::-1])


def curve(path: Path, runs: Sequence[Run]) -> None:
    """AP50 and mIoU against CPU seconds."""

    def draw(axes: Sequence) -> None:
        for axis, name, bound in zip(axes, ("ap50", "miou"), (BOUND_AP50, BOUND_MIOU), strict=True):
            for model in dict.fromkeys(run.model for run in runs):
                chosen = [run for run in runs if run.model == model and getattr(run, name) is not None]
                points = sorted((run.cpu_s, getattr(run, name)) for run in chosen)
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", label=model)
            axis.axhline(bound, color="grey", linestyle=":")
            axis.set(xlabel="CPU seconds of training", ylabel=name, ylim=(0, 1))
            axis.legend(fontsize=7)

    harness.save_figure(path, 2, draw)


def references(samples: Samples, test: Samples, budget_s: float) -> list[Run]:
    """The alternatives, each with the CPU seconds that ours took."""
    adamw = run_ours(samples, test, 0, IMAGES, muon=False)[1]
    return [adamw, *(run_lraspp(samples, test, 0, budget_s, lr) for lr in (1e-3, 4e-3))]


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    torch.set_num_threads(1)
    samples, frames, loading_s = load(48 if arguments.quick else 128)
    test = make_samples(frames, SIZE_PX)
    harness.console.print(f"town: {len(samples)} frames to train on, {len(test)} held out, {loading_s:.1f} s to load")
    trained = [run_ours(samples, test, seed, IMAGES) for seed in range(1 if arguments.quick else 3)]
    model, full_length = trained[0][0], [run for _, run in trained]
    runs = list(full_length)
    if not arguments.quick:
        runs += [run_ours(samples, test, 0, IMAGES * share // 100)[1] for share in (40, 200)]
        runs += references(samples, test, fmean(run.cpu_s for run in full_length))
    rows = [asdict(run) for run in runs]
    harness.write_csv(arguments.out / "detector.csv", rows)
    picture(arguments.out / "detector-predictions.png", model, frames)
    curve(arguments.out / "detector.png", runs)
    harness.print_table(f"Town, held-out drive (budget {BUDGET_CPU_S:.0f} CPU-s)", rows)
    harness.print_table("Cost, one thread", [cost_of(model, full_length[0], test)])
    harness.print_claims(claims_of(full_length))


if __name__ == "__main__":
    main()
