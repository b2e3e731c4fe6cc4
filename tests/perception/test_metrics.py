import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from perception.detector import Detections
from perception.labels import IGNORE, SEGMENTS
from perception.metrics import BoxMetrics, box_metrics, combine, confusion_matrix, iou_per_class

BOX = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def found(boxes: torch.Tensor, *labels: int, scores: tuple[float, ...] = ()) -> Detections:
    return Detections(boxes, torch.tensor(scores or [0.9] * len(labels)), torch.tensor(labels))


def wanted(boxes: torch.Tensor, *labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return boxes, torch.tensor(labels, dtype=torch.int64)


def test_perfect_detections_score_one() -> None:
    scores = box_metrics([found(BOX, 0), found(BOX, 2)], [wanted(BOX, 0), wanted(BOX, 2)])
    assert (scores.ap, scores.ap50, scores.ar) == pytest.approx((1.0, 1.0, 1.0))
    assert scores.ap50_of == pytest.approx({"vehicle": 1.0, "cyclist": 1.0})


def test_a_box_with_iou_two_thirds_passes_four_of_ten_thresholds() -> None:
    # 20 x 20 against 20 x 30 around it: IoU 400 / 600 = 0.667, above 0.50, 0.55, 0.60 and 0.65.
    scores = box_metrics([found(torch.tensor([[10.0, 10.0, 30.0, 40.0]]), 0)], [wanted(BOX, 0)])
    assert scores.ap50 == pytest.approx(1.0)
    assert scores.ap == pytest.approx(0.4)
    assert scores.ar == pytest.approx(0.4)


def test_wrong_class_scores_zero_and_classes_without_objects_are_left_out() -> None:
    scores = box_metrics([found(BOX, 1)], [wanted(BOX, 0)])
    assert scores == BoxMetrics(0.0, 0.0, 0.0, {"vehicle": 0.0})


def test_a_surer_false_alarm_halves_precision() -> None:
    far = torch.tensor([[100.0, 100.0, 120.0, 120.0]])
    scores = box_metrics([found(torch.cat([BOX, far]), 0, 0, scores=(0.5, 0.9))], [wanted(BOX, 0)])
    assert scores.ap50 == pytest.approx(0.5)


def test_no_detections_and_no_labels() -> None:
    assert box_metrics([NOTHING], [wanted(BOX, 0)]) == BoxMetrics(0.0, 0.0, 0.0, {"vehicle": 0.0})
    assert box_metrics([found(BOX, 0)], [wanted(torch.zeros(0, 4))]) == BoxMetrics(None, None, None, {})
    assert box_metrics([], []) == BoxMetrics(None, None, None, {})


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="1 images with detections, 0 with labels"):
        box_metrics([NOTHING], [])


def test_nothing_is_printed(capfd: pytest.CaptureFixture) -> None:
    box_metrics([found(BOX, 0)], [wanted(BOX, 0)])
    assert capfd.readouterr() == ("", "")


def test_iou_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, IGNORE]]], dtype=torch.uint8)
    guess = torch.tensor([[[0, 1, 1, 5]]], dtype=torch.uint8)
    # Class 0: 1 of 2; class 1: 1 of 2. Class 5 is only guessed where nobody labelled.
    assert iou_per_class(confusion_matrix(guess, labels)) == {SEGMENTS[0]: 0.5, SEGMENTS[1]: 0.5}


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_miou_agrees_with_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Every class occurs in the labels, where both definitions of the mean coincide.
    labels = torch.cat([torch.arange(len(SEGMENTS)), torch.randint(len(SEGMENTS), (53,), generator=generator)])
    labels = labels.to(torch.uint8).view(1, 8, 8)
    guess = torch.where(torch.rand(1, 8, 8, generator=generator) < 0.5, labels, labels.flip(2))
    labels = torch.where(torch.rand(1, 8, 8, generator=generator) < 0.1, IGNORE, labels.int()).to(torch.uint8)
    if len(labels.unique()) <= len(SEGMENTS):
        return
    oracle = MulticlassJaccardIndex(len(SEGMENTS), ignore_index=IGNORE)(guess.long(), labels.long())
    scores = combine(BoxMetrics(None, None, None, {}), confusion_matrix(guess, labels), frames=1)
    assert scores.miou == pytest.approx(oracle.item(), abs=1e-6)


def test_matrices_add_up_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    guess, labels = (torch.randint(11, (4, 5, 6), generator=generator, dtype=torch.uint8) for _ in range(2))
    halves = confusion_matrix(guess[:2], labels[:2]) + confusion_matrix(guess[2:], labels[2:])
    assert torch.equal(halves, confusion_matrix(guess, labels))


def test_tasks_without_labels_give_none() -> None:
    nothing = combine(BoxMetrics(None, None, None, {}), torch.zeros(11, 11, dtype=torch.int64), frames=3)
    assert (nothing.miou, nothing.iou_of, nothing.ap50, nothing.frames) == (None, {}, None, 3)
