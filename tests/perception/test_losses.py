import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from perception.labels import IGNORE, OBJECTS, SEGMENTS
from perception.losses import LossParts, LossWeights, box_loss, dice_loss, focal_loss, segment_loss
from perception.targets import BoxTargets

ONES = torch.ones(len(SEGMENTS))


def targets(heat: dict[tuple[int, int, int], float], labelled: bool = True, valid: bool = True) -> BoxTargets:
    """One image on a 3 x 3 grid with one object: centre in the middle of the middle cell, 2 x 2 cells."""
    heatmaps = torch.zeros(1, len(OBJECTS), 3, 3)
    for place, value in heat.items():
        heatmaps[(0, *place)] = value
    return BoxTargets(
        heatmaps=heatmaps,
        cells=torch.tensor([[4]]),
        sizes=torch.tensor([[[2.0, 2.0]]]).log(),
        offsets=torch.tensor([[[0.5, 0.5]]]),
        valid=torch.tensor([[valid]]),
        labelled=torch.tensor([labelled]),
    )


def test_focal_loss_by_hand() -> None:
    # All logits 0, so p = 1/2: the centre gives (1/2)^2 ln 2, a cell with y = 0.5 gives (1/2)^4 (1/2)^2 ln 2, and each
    # of the other 27 - 2 cells (1/2)^2 ln 2.
    wanted = math.log(2) * (0.25 + 0.25 / 16 + 25 * 0.25)
    loss = focal_loss(torch.zeros(1, 3, 3, 3), targets({(0, 1, 1): 1.0, (0, 1, 2): 0.5}))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_focal_loss_counts_objects_and_survives_sure_mistakes() -> None:
    wanted = targets({(0, 1, 1): 1.0})
    sure = torch.full((1, 3, 3, 3), -100.0)
    sure[0, 0, 1, 1] = 100.0
    assert focal_loss(sure, wanted).item() == pytest.approx(0.0, abs=1e-6)
    assert focal_loss(-sure, wanted).item() == pytest.approx(27 * 100, rel=1e-4)


def test_unlabelled_images_add_nothing() -> None:
    logits = torch.zeros(1, 3, 3, 3, requires_grad=True)
    fields = torch.zeros(1, 2, 3, 3, requires_grad=True)
    nothing = targets({}, labelled=False, valid=False)
    total = focal_loss(logits, nothing) + box_loss(fields, fields, nothing)
    total.backward()
    assert total.item() == 0.0
    assert not logits.grad.any()
    assert not fields.grad.any()


def test_an_image_labelled_as_empty_pushes_heatmaps_down() -> None:
    logits = torch.zeros(1, 3, 3, 3, requires_grad=True)
    focal_loss(logits, targets({}, valid=False)).backward()
    assert (logits.grad > 0).all()


def exact_fields() -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes and offsets that give the object's box from every cell."""
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    return torch.full((1, 2, 3, 3), math.log(2)), torch.stack([1.5 - columns, 1.5 - rows])[None]


def test_box_loss_is_zero_for_the_right_box_from_the_centre_and_its_neighbours() -> None:
    assert box_loss(*exact_fields(), targets({})).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("row", "column", "used"), [(1, 1, True), (0, 1, True), (1, 2, True), (0, 0, False)])
def test_box_loss_trains_the_centre_cell_and_the_four_beside_it(row: int, column: int, used: bool) -> None:
    sizes, offsets = exact_fields()
    offsets[0, 0, row, column] += 1.0
    # Moved by 1 of 2 cells: intersection 2, union 6, hull 6, so 1 - GIoU = 2/3, over five cells.
    assert box_loss(sizes, offsets, targets({})).item() == pytest.approx(2 / 15 if used else 0.0, abs=1e-5)


def test_segment_loss_by_hand_weights_classes_and_leaves_out_the_unlabelled() -> None:
    logits = torch.zeros(1, len(SEGMENTS), 1, 3)
    logits[0, 0, 0, 0] = math.log(10)  # p(class 0) = 10 / 20 there, 1 / 11 elsewhere
    weights = ONES.clone()
    weights[1] = 3.0
    masks = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    entropy = (math.log(2) + 3 * math.log(11)) / 4
    # Class 0: right 1/2, labelled 1, predicted 1/2 + 1/11. Class 1: right 1/11, labelled 1, predicted 1/20 + 1/11.
    dice = [2 * (1 / 2) / (1 + 1 / 2 + 1 / 11), 2 * (1 / 11) / (1 + 1 / 20 + 1 / 11)]
    wanted = entropy + 1 - sum(dice) / 2
    assert segment_loss(logits, masks, weights).item() == pytest.approx(wanted, rel=1e-5)


def test_segment_loss_judges_a_cell_by_every_pixel_in_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(SEGMENTS), 2, 3, generator=generator)
    masks = torch.randint(len(SEGMENTS), (2, 4, 6), generator=generator).to(torch.uint8)
    masks[0, 1, 2] = IGNORE
    weights = torch.rand(len(SEGMENTS), generator=generator) + 0.5
    repeated = logits.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert segment_loss(logits, masks, weights).item() == pytest.approx(segment_loss(repeated, masks, weights).item())


def test_cross_entropy_in_the_segment_loss_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(SEGMENTS), 3, 3, generator=generator)
    masks = torch.randint(len(SEGMENTS), (2, 3, 3), generator=generator).to(torch.uint8)
    masks[1, 0] = IGNORE
    weights = torch.rand(len(SEGMENTS), generator=generator) + 0.5
    known = masks != IGNORE
    dice = dice_loss(logits.softmax(dim=1), masks.where(known, 0).long()[:, None], known[:, None])
    wanted = cross_entropy(logits, masks.long(), weights, ignore_index=IGNORE) + dice
    assert segment_loss(logits, masks, weights).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_dice_loss_weighs_a_thin_class_as_much_as_a_wide_one() -> None:
    labels = torch.zeros(1, 1, 1, 100, dtype=torch.long)
    labels[..., 99] = 1
    everything_zero = torch.zeros(1, len(SEGMENTS), 1, 100)
    everything_zero[:, 0] = 1.0
    # Class 0: 1 - 2 * 99 / (99 + 100); class 1, a single pixel, is missed: 1.
    wanted = (1 - 198 / 199 + 1) / 2
    known = torch.ones_like(labels, dtype=torch.bool)
    assert dice_loss(everything_zero, labels, known).item() == pytest.approx(wanted, rel=1e-5)


def test_segment_loss_without_labels_is_zero_and_has_no_gradient() -> None:
    logits = torch.randn(1, len(SEGMENTS), 2, 2, requires_grad=True)
    loss = segment_loss(logits, torch.full((1, 2, 2), IGNORE, dtype=torch.uint8), ONES)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_total_is_the_weighted_sum() -> None:
    parts = LossParts(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0))
    assert parts.total(LossWeights(heatmap=1.0, box=10.0, segment=100.0)).item() == 321.0
