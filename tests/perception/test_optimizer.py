import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perception.detector import DetectorConfig, build_detector
from perception.optimizer import NEWTON_SCHULZ, STEPS, make_optimizer, orthogonalize, step_muon
from perception.targets import Samples
from perception.training import TrainConfig, train_epochs

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"size_px": (32, 64), "stem": 8, "stages": (16, 16, 16, 16), "width": 16, "fine": 8}


def textbook(matrix: Tensor) -> Tensor:
    """Jordan et al.'s iteration on the matrix itself, in float64."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.double() if len(matrix) <= matrix.shape[1] else matrix.double().T
    x = x / x.norm()
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if len(matrix) <= matrix.shape[1] else x.T


def matrix_of(shape: tuple[int, int], decades: float, seed: int = 0) -> Tensor:
    """Random directions, singular values that fall by so many decades from the first to the last."""
    generator = torch.Generator().manual_seed(seed)
    u, s, v = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    return (u * 10 ** torch.linspace(0, -decades, len(s), dtype=torch.float64) @ v).float()


@pytest.mark.parametrize("shape", [(24, 27), (48, 432), (128, 1152), (64, 48), (40, 40), (1, 9)])
def test_orthogonalization_is_the_textbooks_in_float64(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert (orthogonalize(matrix) - textbook(matrix)).abs().max() < 3e-5


@pytest.mark.parametrize("decades", [2.0, 4.0, 8.0])
def test_tiny_singular_values_cost_little_accuracy(decades: float) -> None:
    matrix = matrix_of((48, 216), decades)
    error = (orthogonalize(matrix) - textbook(matrix)).abs().max()
    assert error < 1e-3 * textbook(matrix).abs().max()


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(8, 16)), torch.zeros(8, 16))


@pytest.mark.parametrize("shape", [(24, 96), (96, 24)])
def test_steps_are_those_of_torchs_muon(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(shape, generator=generator)
    theirs, start, momentum = torch.nn.Parameter(ours.clone()), ours.clone(), torch.zeros(shape)
    reference = torch.optim.Muon([theirs], weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for lr in (0.1, 0.05, 0.2):
        theirs.grad = torch.randn(shape, generator=generator)
        reference.param_groups[0]["lr"] = lr
        step_muon(ours, theirs.grad, momentum, lr, weight_decay=0.3)
        reference.step()
    moved = (theirs.detach() - start).norm()
    assert (ours - theirs.detach()).norm() < 0.02 * moved  # theirs has 8 bits of mantissa
    assert torch.allclose(momentum, reference.state[theirs]["momentum_buffer"], atol=1e-6)


def test_kernels_of_a_model_move_by_their_gradients_in_either_layout() -> None:
    moved = []
    for layout in (torch.channels_last, torch.contiguous_format):
        model = build_detector(DetectorConfig(**SMALL), 0)
        optimizer = make_optimizer(model, weight_decay=0.0)
        for value in model.parameters():
            gradient = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
            value.grad = gradient.contiguous(memory_format=layout) if value.ndim == 4 else gradient
        optimizer.step(1e-2)
        moved.append(model.state_dict())
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


class _Types(TorchDispatchMode):
    """Collects the element types of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {out.dtype} if isinstance(out, Tensor) else set()
        return out


@pytest.mark.parametrize(("precision", "wanted"), [("float32", False), ("bfloat16", True)])
def test_training_in_float32_computes_nothing_in_bfloat16(precision: str, wanted: bool) -> None:
    samples = Samples(
        images=torch.zeros(2, 3, 32, 64, dtype=torch.uint8),
        masks=torch.zeros(2, 32, 64, dtype=torch.uint8),
        boxes=torch.tensor([[[4.0, 4.0, 20.0, 20.0]]] * 2),
        labels=torch.zeros(2, 1, dtype=torch.int64),
        has_boxes=torch.ones(2, dtype=torch.bool),
        has_masks=torch.ones(2, dtype=torch.bool),
    )
    model = build_detector(DetectorConfig(**SMALL, precision=precision), 0)
    with _Types() as types:
        train_epochs(model, samples, TrainConfig(batch_size=2), torch.Generator())
    assert torch.float32 in types.seen
    assert (torch.bfloat16 in types.seen) == wanted


@pytest.mark.slow
def test_a_processor_that_torch_uses_without_avx512_trains_in_float32() -> None:
    code = (
        "from perception.detector import DetectorConfig, runs_in_bfloat16 as runs;"
        "print(runs(DetectorConfig()), runs(DetectorConfig(precision='bfloat16')))"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
