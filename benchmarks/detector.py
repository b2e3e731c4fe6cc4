"""What the detector learns of a town in a CPU-minute: AP50 and mIoU on a drive that no vehicle has seen.

Every run starts from random weights, trains on all vehicles' frames of one town together and is judged on that town's
held-out drive. The towns are those of seeds 7, 8 and 9 (with `--quick` seed 7 alone); settings were chosen on towns 1
and 2 and on none of these (`docs/decisions/005-detector-and-how-it-was-tuned.md`). CPU seconds are those of the process
from the first augmented batch to the last step; loading is reported apart. Two claims bound the figures themselves, as
means over the towns: AP50 (COCO, three classes) and mIoU (eleven classes) after at most 60 CPU-seconds.

There is one torch thread: with more, threads that wait for each other on a busy machine count as CPU seconds too. The
quick run takes about a minute if the cache holds the town; rendering it first (816 frames) takes about 60 CPU-seconds
more. Without `--quick` there is also a curve of accuracy against CPU seconds (each point is a run of its own, annealed
to zero), and two references that get the same CPU seconds: the same network under AdamW alone, and for mIoU
torchvision's `lraspp_mobilenet_v3_large` from random weights, at the better of two learning rates.
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
IMAGES = 2304  # images seen by a run, three passes
FRAMES_PER_VEHICLE = 128
TOWNS, SEED = (7, 8, 9), 0
SIZE_PX = (128, 384)


@dataclass(frozen=True)
class Run:
    """One training run and what it scored on its town's held-out drive; None for what a model does not do."""

    model: str
    town: int
    images: int
    cpu_s: float
    ap50: float | None
    ap: float | None
    miou: float | None


@dataclass(frozen=True, eq=False)
class Town:
    """All vehicles' frames of the town of a seed, and its held-out drive as frames and as samples."""

    seed: int
    samples: Samples
    holdout: Sequence[Frame]
    test: Samples


def load(seed: int) -> Town:
    """The town from the cache, or rendered; says how long that took."""
    started_s = time.perf_counter()
    request = FleetRequest(seed=seed, frames_per_vehicle=FRAMES_PER_VEHICLE, size_px=SIZE_PX)
    fleet = load_town(request)
    frames = [frame for share in fleet.shares for frame in (*share.train, *share.test)]
    holdout = list(fleet.holdout)
    town = Town(seed, make_samples(frames, SIZE_PX), holdout, make_samples(holdout, SIZE_PX))
    loading_s = time.perf_counter() - started_s
    harness.console.print(f"town {seed}: {len(frames)} frames to train on, {len(holdout)} held out, {loading_s:.1f} s")
    return town


def run_ours(town: Town, images: int, muon: bool = True) -> tuple[Detector, Run]:
    """Train our detector on `images` images, rounded to whole epochs, and judge it."""
    epochs = max(1, round(images / len(town.samples)))
    config = TrainConfig(epochs=epochs, lr=8e-3 if muon else 6e-3, warmup_steps=20, schedule="cosine", muon=muon)
    model = build_detector(DetectorConfig(size_px=SIZE_PX), SEED)
    started_s = time.process_time()
    report = train_epochs(model, town.samples, config, torch.Generator().manual_seed(SEED))
    cpu_s = time.process_time() - started_s
    scores = evaluate(model, town.test)
    name = "ours" if muon else "ours, AdamW alone"
    return model, Run(name, town.seed, report.examples, cpu_s, scores.ap50, scores.ap, scores.miou)


def run_lraspp(town: Town, budget_s: float, lr: float) -> Run:
    """Train torchvision's LR-ASPP for `budget_s` CPU seconds, the rate falling with the time that is spent."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(SEGMENTS))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2, fused=True)
    generator, weights = torch.Generator().manual_seed(SEED), segment_weights(town.samples)
    started_s, images = time.process_time(), 0
    while (spent := (time.process_time() - started_s) / budget_s) < 1:
        chosen = torch.randint(len(town.samples), (8,), generator=generator)
        batch = augment(town.samples.select(chosen), AugmentConfig(), generator)
        logits = model(as_input(batch.images))["out"]
        loss = cross_entropy(logits, batch.masks.long(), weights, ignore_index=IGNORE)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * spent)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images += len(batch)
    cpu_s = time.process_time() - started_s
    miou = miou_of(model, town.test)
    return Run(f"lraspp_mobilenet_v3_large, lr {lr:g}", town.seed, images, cpu_s, None, None, miou)


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


def references(town: Town, budget_s: float) -> list[Run]:
    """The alternatives, each with the CPU seconds that ours took."""
    adamw = run_ours(town, IMAGES, muon=False)[1]
    return [adamw, *(run_lraspp(town, budget_s, lr) for lr in (1e-3, 4e-3))]


def main() -> None:
    arguments = harness.parse_arguments(__doc__ or "")
    torch.set_num_threads(1)
    town = load(TOWNS[0])
    model, first = run_ours(town, IMAGES)
    full_length = [first]
    if not arguments.quick:
        full_length += [run_ours(load(seed), IMAGES)[1] for seed in TOWNS[1:]]
    runs = list(full_length)
    if not arguments.quick:
        runs += [run_ours(town, IMAGES * share // 100)[1] for share in (33, 200)]
        runs += references(town, fmean(run.cpu_s for run in full_length))
    rows = [asdict(run) for run in runs]
    harness.write_csv(arguments.out / "detector.csv", rows)
    picture(arguments.out / "detector-predictions.png", model, town.holdout)
    curve(arguments.out / "detector.png", runs)
    harness.print_table(f"Held-out drive of each town (budget {BUDGET_CPU_S:.0f} CPU-s)", rows)
    harness.print_table("Cost, one thread", [cost_of(model, first, town.test)])
    harness.print_claims(claims_of(full_length))


if __name__ == "__main__":
    main()
