import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry import SE3, Boxes, Camera, Frame
from perception.labels import IGNORE, OBJECTS
from perception.targets import NO_BOX, SPREAD, AugmentConfig, augment, box_targets, make_samples

STRIDE = 4


def frame(boxes: list | None = None, labels: list | None = None, masked: bool = True, size=(32, 64)) -> Frame:
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    camera = Camera(SE3.identity(), 50.0, 50.0, width / 2, height / 2, width, height)
    found = None if boxes is None else Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))
    masks = (columns >= width // 2).astype(np.uint8) if masked else None
    return Frame(0.0, camera, image, boxes=found, masks=masks, source="drive/7.png")


def test_samples_keep_what_each_frame_has() -> None:
    frames = [frame([[0, 0, 8, 8], [8, 8, 16, 16]], [0, 2]), frame([], []), frame(None, masked=False)]
    samples = make_samples(frames, (32, 64))
    assert samples.has_boxes.tolist() == [True, True, False]
    assert samples.has_masks.tolist() == [True, True, False]
    assert samples.labels.tolist() == [[0, 2], [NO_BOX, NO_BOX], [NO_BOX, NO_BOX]]
    assert samples.boxes[0].tolist() == [[0, 0, 8, 8], [8, 8, 16, 16]]
    assert (samples.masks[2] == IGNORE).all()
    assert np.array_equal(samples.images[0].permute(1, 2, 0).numpy(), frames[0].image)
    assert samples.images.dtype == samples.masks.dtype == torch.uint8


def test_resizing_scales_boxes_and_masks() -> None:
    samples = make_samples([frame([[8, 4, 16, 8]], [1], size=(64, 64))], (32, 128))
    assert samples.images.shape == (1, 3, 32, 128)
    assert samples.boxes[0].tolist() == [[16, 2, 32, 4]]  # x doubled, y halved
    assert samples.masks[0, 0].tolist() == [0] * 64 + [1] * 64


def test_select_picks_rows_in_order() -> None:
    samples = make_samples([frame([[0, 0, 8, 8]], [0]), frame([[0, 0, 8, 8]], [1])], (32, 64))
    assert samples.select(torch.tensor([1, 0, 1])).labels.flatten().tolist() == [1, 0, 1]


def test_bad_frames_are_named() -> None:
    with pytest.raises(ValueError, match="no frames"):
        make_samples([], (32, 64))
    blind = Frame(0.0, frame().camera, source="drive/7.png")
    with pytest.raises(ValueError, match=r"drive/7.png.*no image"):
        make_samples([blind], (32, 64))
    with pytest.raises(ValueError, match=r"drive/7.png.*outside 0..2"):
        make_samples([frame([[0, 0, 8, 8]], [7])], (32, 64))


def test_targets_by_hand() -> None:
    # Box 20..36 x 8..16 px: centre (28, 12) px = (7, 3) cells, the corner of row 3, column 7; 4 x 2 cells.
    targets = box_targets(make_samples([frame([[20, 8, 36, 16]], [1])], (32, 64)), STRIDE)
    assert targets.cells.tolist() == [[3 * 16 + 7]]
    assert targets.sizes.exp().flatten().tolist() == pytest.approx([4.0, 2.0])
    assert targets.offsets.flatten().tolist() == [0.0, 0.0]
    heat = targets.heatmaps[0, 1]
    assert heat[3, 7] == 1.0
    assert heat[3, 8].item() == pytest.approx(np.exp(-0.5 * (1 / (4 * SPREAD)) ** 2))
    assert (targets.heatmaps == 1).sum() == 1
    assert not targets.heatmaps[0, [0, 2]].any()


def test_objects_that_do_not_count() -> None:
    samples = make_samples([frame([[60, 0, 80, 8], [0, 0, 8, 8]], [0, 0]), frame()], (32, 64))
    targets = box_targets(samples, STRIDE)
    assert targets.valid.tolist() == [[False, True], [False, False]]  # centre beyond the right edge; nothing; padding
    assert targets.labelled.tolist() == [True, False]


def test_frames_without_any_box() -> None:
    targets = box_targets(make_samples([frame([], [])], (32, 64)), STRIDE)
    assert targets.heatmaps.shape == (1, len(OBJECTS), 8, 16)
    assert not targets.heatmaps.any()
    assert targets.valid.shape == (1, 0)


def test_overlapping_objects_take_the_maximum() -> None:
    samples = make_samples([frame([[0, 0, 32, 32], [8, 0, 40, 32]], [0, 0])], (32, 64))
    both = box_targets(samples, STRIDE).heatmaps[0, 0]
    alone = [box_targets(make_samples([frame([b], [0])], (32, 64)), STRIDE).heatmaps[0, 0] for b in samples.boxes[0]]
    assert torch.equal(both, torch.maximum(*alone))


@given(x=st.floats(0, 60), y=st.floats(0, 28), w=st.floats(2, 30), h=st.floats(2, 30))
@settings(max_examples=50, deadline=None)
def test_targets_hold_the_box(x: float, y: float, w: float, h: float) -> None:
    samples = make_samples([frame([[x, y, x + w, y + h]], [0])], (32, 64))
    targets = box_targets(samples, STRIDE)
    if not targets.valid.all():
        assert x + w / 2 >= 63.9 or y + h / 2 >= 31.9
        return
    corner = torch.tensor([targets.cells.item() % 16, targets.cells.item() // 16])
    centre, half = corner + targets.offsets[0, 0], targets.sizes[0, 0].exp() / 2
    again = torch.cat([centre - half, centre + half]) * STRIDE
    assert torch.allclose(again, samples.boxes[0, 0], atol=1e-3)


def test_mirroring_moves_pixels_masks_and_boxes_together() -> None:
    samples = make_samples([frame([[4, 8, 20, 16]], [2])], (32, 64))
    flipped = augment(samples, AugmentConfig(flip=1.0, jitter=0.0), torch.Generator())
    assert torch.equal(flipped.images, samples.images.flip(3))
    assert torch.equal(flipped.masks, samples.masks.flip(2))
    assert flipped.boxes[0].tolist() == [[44, 8, 60, 16]]
    again = augment(flipped, AugmentConfig(flip=1.0, jitter=0.0), torch.Generator())
    assert torch.equal(again.images, samples.images)
    assert torch.equal(again.boxes, samples.boxes)


def test_augmentation_follows_its_generator_and_leaves_its_input() -> None:
    samples = make_samples([frame([[4, 8, 20, 16]], [2]) for _ in range(8)], (32, 64))
    before = samples.images.clone()
    first, again, other = (augment(samples, AugmentConfig(), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(samples.images, before)


def test_no_augmentation_changes_nothing() -> None:
    samples = make_samples([frame([[4, 8, 20, 16]], [2])], (32, 64))
    same = augment(samples, AugmentConfig(flip=0.0, jitter=0.0), torch.Generator())
    assert torch.equal(same.images, samples.images)
    assert torch.equal(same.boxes, samples.boxes)


def test_bad_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        AugmentConfig(flip=1.5)
