"""A starting point for small real data sets: the detector trained centrally on the town."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from clients.messages import Arrays
from clients.perception_client import arrays_of, fleet_of
from fl_app import checkpoint
from fl_app.client_app import task_of
from fl_app.run_config import RunConfig
from perception.detector import DetectorConfig, build_detector
from perception.targets import make_samples
from perception.training import TrainConfig, evaluate, train_epochs

logger = logging.getLogger("convoy")
VEHICLES, LEARNING_RATE = 6, 8e-3


def pretrained(config: RunConfig, folder: Path) -> Arrays:
    """Weights after `pretrain_epochs` on all the town's vehicles together; also left in `folder`/pretrained."""
    request = replace(config.fleet_request, path=None, vehicles=VEHICLES, frames_per_vehicle=0)
    fleet = fleet_of(replace(task_of(config), data="town", request=request))
    frames = [frame for share in fleet.shares for frame in share.train]
    model = build_detector(DetectorConfig(size_px=config.size_px), config.seed)
    logger.info("pre-training on the town: %d frames, %d epochs", len(frames), config.pretrain_epochs)
    settings = TrainConfig(
        epochs=config.pretrain_epochs, batch_size=config.batch_size, lr=LEARNING_RATE, schedule="cosine"
    )
    train_epochs(model, make_samples(frames, config.size_px), settings, torch.Generator().manual_seed(config.seed))
    scores = evaluate(model, make_samples(fleet.holdout, config.size_px))
    logger.info("pre-trained: AP50 %.3f, mIoU %.3f on the town's held-out drive", scores.ap50, scores.miou)
    arrays = arrays_of(model)
    checkpoint.save_model(folder / "pretrained", arrays)
    return arrays
