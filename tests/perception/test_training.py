import math
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from geometry import SE3, Boxes, Camera, Frame
from perception.detector import Detector, DetectorConfig, build_detector
from perception.labels import IGNORE, SEGMENTS
from perception.optimizer import as_matrix, make_optimizer
from perception.targets import AugmentConfig, Samples, make_samples
from perception.training import (
    TrainConfig,
    evaluate,
    lr_factor,
    predict,
    proximal_term,
    segment_weights,
    train_epochs,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE_PX = (64, 96)
SMALL = DetectorConfig(SIZE_PX, stem=8, stages=(16, 24, 32, 32), width=16, fine=8, precision="float32")
PLAIN = AugmentConfig(flip=0.5, jitter=0.0)


def scene(rng: np.random.Generator) -> Frame:
    """Grey road under a blue sky, and red boxes that are vehicles."""
    height, width = SIZE_PX
    image, masks = np.full((height, width, 3), 90, np.uint8), np.full((height, width), 3, np.uint8)
    image[:24], masks[:24] = (120, 170, 220), 0
    corners = []
    for left in rng.integers(0, 24, size=2) + np.array([0, 48]):
        top, side = int(rng.integers(20, 36)), int(rng.integers(16, 24))
        cv2.rectangle(image, (int(left), top), (int(left) + side - 1, top + side - 1), (200, 30, 30), -1)
        cv2.rectangle(masks, (int(left), top), (int(left) + side - 1, top + side - 1), 8, -1)
        corners.append([left, top, left + side, top + side])
    camera = Camera(SE3.identity(), 80.0, 80.0, width / 2, height / 2, width, height)
    boxes = Boxes(np.array(corners, np.float32), np.zeros(2, np.int64))
    return Frame(0.0, camera, image, boxes=boxes, masks=masks)


def scenes(count: int, seed: int) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [scene(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return make_samples(scenes(8, seed=0), SIZE_PX)


def trained(samples: Samples, config: TrainConfig, seed: int = 0, **kwargs) -> Detector:
    model = build_detector(SMALL, 0)
    train_epochs(model, samples, config, torch.Generator().manual_seed(seed), **kwargs)
    return model


def same(first: Detector, second: Detector) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def distance(model: Detector, reference: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum((value - reference[name]).square().sum().item() for name, value in model.named_parameters()))


def test_learns_to_find_and_to_segment_in_scenes_it_has_not_seen() -> None:
    config = TrainConfig(epochs=8, lr=8e-3, warmup_steps=5, schedule="cosine", augment=PLAIN)
    model = build_detector(SMALL, 0)
    before = evaluate(model, scenes(8, seed=2))
    train_epochs(model, make_samples(scenes(32, seed=1), SIZE_PX), config, torch.Generator().manual_seed(0))
    after = evaluate(model, scenes(8, seed=2))
    assert before.ap50 < 0.1
    assert after.ap50 > 0.8
    assert after.miou > 0.8
    assert set(after.iou_of) == {"sky", "road", "vehicle"}
    assert set(after.ap50_of) == {"vehicle"}
    found = predict(model, scenes(1, seed=2)[0].image)
    assert len(found.scores) >= 1
    assert (found.scores.diff() <= 0).all()


def test_report_counts(samples: Samples) -> None:
    report = train_epochs(build_detector(SMALL, 0), samples, TrainConfig(epochs=2, batch_size=3), torch.Generator())
    assert (report.steps, report.examples) == (6, 16)
    assert set(report.losses) == {"heatmap", "box", "segment", "total", "proximal"}
    assert report.losses["proximal"] == 0.0
    assert report.cpu_s > 0


def test_same_seed_same_model_and_global_random_state_untouched(samples: Samples) -> None:
    before = torch.get_rng_state()
    first, again, other = (trained(samples, TrainConfig(), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, again)
    assert not same(first, other)


def test_threads_train_as_one_after_the_other(samples: Samples) -> None:
    models: dict[int, Detector] = {}
    threads = [
        threading.Thread(target=lambda s=seed: models.update({s: trained(samples, TrainConfig(), s)}))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(models[seed], trained(samples, TrainConfig(), seed)) for seed in range(2))


def test_images_and_reference_are_not_changed(samples: Samples) -> None:
    reference = {name: value.clone() for name, value in build_detector(SMALL, 0).state_dict().items()}
    kept, images = {name: value.clone() for name, value in reference.items()}, samples.images.clone()
    trained(samples, TrainConfig(proximal_mu=0.1), reference=reference)
    assert all(torch.equal(reference[name], kept[name]) for name in kept)
    assert torch.equal(samples.images, images)


def test_proximal_term_by_hand_and_its_gradient() -> None:
    model = build_detector(SMALL, 0)
    reference = {name: value.detach() - 0.5 for name, value in model.named_parameters()}
    count = sum(value.numel() for value in model.parameters())
    pull = proximal_term(model, reference, mu=0.2)
    assert pull.item() == pytest.approx(0.2 / 2 * count * 0.25, rel=1e-4)
    pull.backward()
    assert all(torch.allclose(p.grad, torch.full_like(p, 0.2 * 0.5), atol=1e-5) for p in model.parameters())


def test_proximal_pull_keeps_the_model_near_the_reference(samples: Samples) -> None:
    reference = build_detector(SMALL, 0).state_dict()
    free = distance(trained(samples, TrainConfig(epochs=2)), reference)
    pulled = distance(trained(samples, TrainConfig(epochs=2, proximal_mu=100.0), reference=reference), reference)
    assert pulled < 0.8 * free


def test_proximal_without_reference_is_refused(samples: Samples) -> None:
    with pytest.raises(ValueError, match="needs `reference`"):
        trained(samples, TrainConfig(proximal_mu=1.0))


def test_frames_without_labels_leave_their_task_alone(samples: Samples) -> None:
    nobody = replace(samples, has_boxes=torch.zeros(8, dtype=torch.bool))
    fresh = build_detector(SMALL, 0)
    model = trained(nobody, TrainConfig(weight_decay=0.0))
    assert torch.equal(model.object_head[1].weight, fresh.object_head[1].weight)
    assert not torch.equal(model.segment_head[1].weight, fresh.segment_head[1].weight)
    unseen = replace(samples, masks=torch.full_like(samples.masks, IGNORE), has_masks=nobody.has_boxes)
    model = trained(unseen, TrainConfig(weight_decay=0.0))
    assert torch.equal(model.segment_head[1].weight, fresh.segment_head[1].weight)
    assert not torch.equal(model.object_head[1].weight, fresh.object_head[1].weight)


def test_metrics_without_labels_are_none(samples: Samples) -> None:
    nobody = replace(samples, has_boxes=torch.zeros(8, dtype=torch.bool), masks=torch.full_like(samples.masks, IGNORE))
    scores = evaluate(build_detector(SMALL, 0), nobody)
    assert (scores.ap50, scores.ap, scores.ar, scores.miou, scores.frames) == (None, None, None, None, 8)


def test_batch_size_of_evaluation_does_not_matter(samples: Samples) -> None:
    model = build_detector(SMALL, 0)
    assert evaluate(model, samples, batch_size=3).miou == pytest.approx(evaluate(model, samples, batch_size=8).miou)


def test_threads_measure_the_same_bit_for_bit(samples: Samples) -> None:
    model = trained(samples, TrainConfig(epochs=4, lr=8e-3))
    alone, shared = (evaluate(model, samples, batch_size=3, workers=workers) for workers in (1, 3))
    assert alone == shared
    assert alone.ap50 > 0


def test_divergence_is_an_error(samples: Samples) -> None:
    model = build_detector(SMALL, 0)
    with torch.no_grad():
        model.stem[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_epochs(model, samples, TrainConfig(), torch.Generator())


def test_learning_rate_rises_then_falls_along_a_cosine() -> None:
    config = TrainConfig(warmup_steps=4, schedule="cosine")
    factors = [lr_factor(step, 12, config) for step in range(12)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[8] == pytest.approx(0.5)  # half of the 8 steps after the warm-up
    assert factors[11] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    assert lr_factor(11, 12, TrainConfig(warmup_steps=4)) == 1.0


def test_rare_classes_weigh_more(samples: Samples) -> None:
    weights = segment_weights(samples)
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[SEGMENTS.index("vehicle")] > weights[SEGMENTS.index("road")]
    unseen = segment_weights(replace(samples, masks=torch.full_like(samples.masks, IGNORE)))
    assert unseen.tolist() == pytest.approx([1.0] * len(SEGMENTS))


def test_matrix_view_writes_through_to_the_kernel() -> None:
    kernel = torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)
    as_matrix(kernel)[1, 5] = 7.0  # row 1, then h, w, in: 5 = 0 * 6 + 1 * 3 + 2
    assert kernel[1, 2, 0, 1].item() == 7.0


def test_optimizer_moves_every_parameter_by_about_its_rate_and_forgets_gradients() -> None:
    model = build_detector(SMALL, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator).to(memory_format=torch.preserve_format)
    optimizer.step(lr=1e-3)
    assert all(value.grad is None for value in model.parameters())
    steps = {name: (value - before[name]).square().mean().sqrt().item() for name, value in model.state_dict().items()}
    assert all(1e-4 < step < 2e-3 for step in steps.values())


def test_muon_step_is_nearly_orthogonal() -> None:
    model = build_detector(SMALL, 0)
    kernel = model.stages[1][0][0].weight
    before = kernel.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)
    make_optimizer(model, weight_decay=0.0).step(lr=1e-2)
    singular = torch.linalg.svdvals((kernel.detach() - before).flatten(1))
    assert (singular.max() / singular.min()).item() < 2.0


def test_prediction_is_in_the_images_own_pixels(samples: Samples) -> None:
    model = build_detector(SMALL, 0)
    image = scenes(1, seed=0)[0].image
    small, large = predict(model, image, min_score=0.0), predict(model, np.repeat(np.repeat(image, 2, 0), 3, 1), 0.0)
    assert large.mask.shape == (128, 288)
    assert torch.allclose(large.boxes, small.boxes * torch.tensor([3.0, 2.0, 3.0, 2.0]), atol=1e-3)


def test_prediction_refuses_what_is_no_image() -> None:
    with pytest.raises(Exception, match=r"uint8|type"):
        predict(build_detector(SMALL, 0), np.zeros((8, 8, 3)))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": 0.0}, {"proximal_mu": -1.0}, {"warmup_steps": -1}])
def test_bad_configuration_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"least|above"):
        TrainConfig(**bad)
