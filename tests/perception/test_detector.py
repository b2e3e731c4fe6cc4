import threading

import pytest
import torch

from perception.detector import DetectorConfig, DetectorOutput, build_detector, decode_boxes, runs_in_bfloat16
from perception.labels import OBJECTS, SEGMENTS

SMALL = DetectorConfig(size_px=(64, 96), stem=8, stages=(8, 16, 16, 16), width=16, fine=8, precision="float32")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def peaks(cells: list[tuple[int, int, int, float]]) -> DetectorOutput:
    """A 4 x 6 grid that is cold but for (class, row, column, logit); every box is 2 x 1 cells, centred in its cell."""
    heatmaps = torch.full((1, len(OBJECTS), 4, 6), -20.0)
    for label, row, column, logit in cells:
        heatmaps[0, label, row, column] = logit
    sizes = torch.tensor([2.0, 1.0]).log()[None, :, None, None].expand(1, 2, 4, 6)
    return DetectorOutput(heatmaps, sizes, torch.full((1, 2, 4, 6), 0.5), torch.zeros(1, len(SEGMENTS), 8, 12))


def test_output_shapes_for_any_multiple_of_32(images: torch.Tensor) -> None:
    for height, width in ((64, 96), (32, 32)):
        output = build_detector(SMALL, 0)(images[:, :, :height, :width])
        assert output.heatmaps.shape == (2, len(OBJECTS), height // 4, width // 4)
        assert output.sizes.shape == output.offsets.shape == (2, 2, height // 4, width // 4)
        assert output.segments.shape == (2, len(SEGMENTS), height // 2, width // 2)


def test_state_is_float32_parameters_alone() -> None:
    model = build_detector(DetectorConfig(), 0)
    assert not list(model.buffers())
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert 0.9e6 < sum(value.numel() for value in model.parameters()) < 1.3e6


def test_seed_decides_every_parameter() -> None:
    first, again, other = (build_detector(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())


def test_global_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), build_detector(SMALL, 0).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    second = build_detector(SMALL, 0).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_threads_build_the_same_detectors_as_one_after_the_other() -> None:
    built: dict[int, dict] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: built.update({seed: build_detector(SMALL, seed).state_dict()}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, state in built.items():
        wanted = build_detector(SMALL, seed).state_dict()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert len(built) == 4


def test_heatmaps_start_near_the_prior(images: torch.Tensor) -> None:
    assert build_detector(SMALL, 0)(images).heatmaps.sigmoid().mean().item() == pytest.approx(0.1, abs=0.03)


def test_images_of_a_batch_do_not_see_each_other(images: torch.Tensor) -> None:
    model = build_detector(SMALL, 0)
    alone, together = model(images[:1]), model(images)
    assert torch.allclose(alone.segments[0], together.segments[0], atol=1e-5)
    assert torch.allclose(alone.heatmaps[0], together.heatmaps[0], atol=1e-5)


def test_bfloat16_stays_close_and_returns_float32(images: torch.Tensor) -> None:
    exact = build_detector(SMALL, 0)
    rough = build_detector(DetectorConfig(**{**vars(SMALL), "precision": "bfloat16"}), 0)
    assert runs_in_bfloat16(rough.config)
    assert not runs_in_bfloat16(exact.config)
    ours, wanted = rough(images).segments, exact(images).segments
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, wanted)
    assert torch.allclose(ours, wanted, atol=0.05 * wanted.abs().max().item())


def test_every_parameter_gets_a_gradient(images: torch.Tensor) -> None:
    model = build_detector(SMALL, 0)
    output = model(images)
    sum(part.square().sum() for part in vars(output).values()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_decode_reads_a_peak_as_a_box() -> None:
    # Centre cell (row 2, column 3) plus 0.5: x 3.5, y 2.5 cells; 2 x 1 cells at 4 px a cell.
    found = decode_boxes(peaks([(1, 2, 3, 2.0)]))[0]
    assert found.boxes[0].tolist() == pytest.approx([10.0, 8.0, 18.0, 12.0])
    assert found.labels[0].item() == 1
    assert found.scores[0].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_decode_keeps_a_lower_neighbour_only_in_another_class() -> None:
    found = decode_boxes(peaks([(0, 1, 1, 3.0), (0, 1, 2, 2.0), (2, 1, 2, 1.0)]))[0]
    sure = found.scores > 0.5
    assert found.labels[sure].tolist() == [0, 2]


def test_decode_clips_to_the_image_and_sorts() -> None:
    found = decode_boxes(peaks([(0, 0, 0, 1.0), (0, 3, 5, 2.0)]), most=2)[0]
    # First box: columns 4.5 to 6.5 cells, cut at 6 cells = 24 px. Second: -0.5 to 1.5 cells, cut at 0.
    assert found.boxes.flatten().tolist() == pytest.approx([18, 12, 24, 16, 0, 0, 6, 4], abs=1e-4)


@pytest.mark.parametrize(
    "bad", [{"size_px": (100, 384)}, {"size_px": (0, 32)}, {"width": 50}, {"groups": 0}, {"precision": "float8"}]
)
def test_bad_configuration_is_refused(bad: dict) -> None:
    with pytest.raises(Exception, match=r"multiples of 32|divide|precision|type"):
        DetectorConfig(**bad)
