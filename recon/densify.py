"""Where Gaussians go, by Markov chain Monte Carlo: Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte
Carlo" (arXiv 2404.09591). Dead Gaussians move to live ones, the set grows to a hard cap, and noise keeps exploring.

Functions are pure. Random numbers follow from (seed, step) alone, so that a run that goes on after a break draws what
it would have drawn.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from recon.gaussians import Gaussians

Moments = Mapping[str, Mapping[str, Tensor]]
"""What an optimizer keeps per row (Adam's "exp_avg", "exp_avg_sq"), by the name of the parameter."""

DrawBy = Literal["opacity", "pull"]
_RELOCATE: Final = 0
_GROW: Final = 1
_NOISE: Final = 2
_OPAQUE: Final = 1e-9  # the least transmittance that is told from 0: beyond it, equation 9 cancels out
_FAINT: Final = 1e-30  # and the least opacity that is
_ABOVE: Final = 1e-3  # by how much a logit lies above that of a dead Gaussian


@dataclass(frozen=True)
class DensifyConfig:
    """Hyper-parameters; the defaults are the paper's.

    Args:
        cap: the most Gaussians that there will ever be.
        start, stop: the set changes in steps start < step < stop.
        every: and in every so many of these.
        min_opacity: below it a Gaussian is dead.
        noise_lr: of the noise on the means, times their learning rate. Its unit is 1/m², so it depends on how fine the
            scene is: a Gaussian of deviation s at the gate moves by noise_lr · learning rate · s / 2 deviations a
            step. The default suits centimetres and tens of thousands of steps; metres need far less.
        grow: factor by which the set grows at a time, until the cap.
        max_copies: the largest N of equation 9; a Gaussian that is drawn more often counts as drawn so often.
        gate_sharpness, gate_opacity: k and t of the gate on the noise, see `sgld_noise`.
        draw_by: what Gaussians are drawn in proportion to when others move onto them or copy them: "opacity" as in the
            paper, or "pull", which sends more to where the scene is still wrong; see `pull`.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    cap: int
    start: int = 500
    stop: int = 25_000
    every: int = 100
    min_opacity: float = 0.005
    noise_lr: float = 5e5
    grow: float = 1.05
    max_copies: int = 51
    gate_sharpness: float = 100.0
    gate_opacity: float = 0.005
    draw_by: DrawBy = "opacity"

    def __post_init__(self) -> None:
        for name in ("cap", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"DensifyConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.min_opacity < 1:
            raise ValueError(f"DensifyConfig.min_opacity must lie in (0, 1), got {self.min_opacity}")
        if not (self.noise_lr >= 0 and self.grow >= 1):
            raise ValueError(f"DensifyConfig takes noise_lr >= 0 and grow >= 1, got {self.noise_lr} and {self.grow}")
        if self.draw_by not in get_args(DrawBy):
            raise ValueError(f"DensifyConfig.draw_by is one of {', '.join(get_args(DrawBy))}, got {self.draw_by!r}")
        if not 2 <= self.max_copies <= 51:
            raise ValueError(f"DensifyConfig.max_copies must lie in 2..51, got {self.max_copies}")

    def due(self, step: int) -> bool:
        """Whether the set changes after this step."""
        return self.start < step < self.stop and step % self.every == 0


@dataclass(frozen=True, eq=False)
class DensifyState:
    """What the operations need beside the Gaussians; it does not change.

    Args:
        seed: of all draws, not negative.
        binomials: "N choose j", float64, [m + 1, m + 1].
    """

    seed: int
    binomials: Float[Tensor, "m m"]

    @classmethod
    def start(cls, config: DensifyConfig, seed: int) -> "DensifyState":
        """The state of a run.

        Raises:
            ValueError: the seed is negative.
        """
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        size = range(config.max_copies + 1)
        return cls(seed, torch.tensor([[math.comb(n, j) for j in size] for n in size], dtype=torch.float64))


class Densified(NamedTuple):
    """Gaussians and moments after a change, and how many rows were moved or added."""

    gaussians: Gaussians
    moments: dict[str, dict[str, Tensor]]
    changed: int


def densify(gaussians: Gaussians, moments: Moments, state: DensifyState, config: DensifyConfig, step: int) -> Densified:
    """Relocate the dead, then grow; `changed` counts both. See `relocate` and `grow`."""
    moved = relocate(gaussians, moments, state, config, step)
    grown = grow(moved.gaussians, moved.moments, state, config, step)
    return grown._replace(changed=moved.changed + grown.changed)


def relocate(
    gaussians: Gaussians, moments: Moments, state: DensifyState, config: DensifyConfig, step: int
) -> Densified:
    """Move each dead Gaussian onto a live one, drawn by `draw_weights` (section 3.3 of the paper: by opacity).

    Those that then share a place share its opacity and size by equation 9, but none becomes dead by that, and their
    moments are set to zero. Without dead or without live ones nothing changes.

    Returns:
        detached Gaussians, same number.
    """
    opacities = gaussians.opacities.detach()
    dead = opacities < config.min_opacity
    weights = torch.where(dead, 0.0, draw_weights(gaussians, moments, config))
    if not dead.any() or not weights.any():
        return Densified(gaussians.detach(), _rows_of(moments, torch.arange(len(dead)), dead & ~dead), 0)
    sources = _draw(weights, int(dead.sum()), state.seed, step, _RELOCATE)
    index = torch.arange(len(dead), device=dead.device)
    index[dead] = sources
    return _share(gaussians, moments, index, sources, state, config)


def grow(gaussians: Gaussians, moments: Moments, state: DensifyState, config: DensifyConfig, step: int) -> Densified:
    """Add copies of Gaussians, drawn by `draw_weights`, up to the cap (section 3.3 of the paper: by opacity).

    Copies and originals share opacity and size by equation 9, and their moments are set to zero.

    Raises:
        ValueError: there are more Gaussians than the cap allows already.
    """
    count = len(gaussians)
    if count > config.cap:
        raise ValueError(f"{count} Gaussians exceed the cap of {config.cap}: start from fewer points or raise the cap")
    added = min(config.cap, math.ceil(config.grow * count)) - count
    index = torch.arange(count, device=gaussians.means.device)
    if added == 0:
        return Densified(gaussians.detach(), _rows_of(moments, index, index < 0), 0)
    weights = draw_weights(gaussians, moments, config).clamp_min(1e-12)  # where all are 0, all are alike
    sources = _draw(weights, added, state.seed, step, _GROW)
    return _share(gaussians, moments, torch.cat([index, sources]), sources, state, config)


def draw_weights(gaussians: Gaussians, moments: Moments, config: DensifyConfig) -> Float[Tensor, "n"]:
    """What Gaussians are drawn in proportion to, float64; see `DensifyConfig`."""
    return pull(gaussians, moments) if config.draw_by == "pull" else gaussians.opacities.detach().double()


def pull(gaussians: Gaussians, moments: Moments) -> Float[Tensor, "n"]:
    """How much the loss would change if a Gaussian moved by its own extent: root mean square of the gradient of its
    mean, as Adam keeps it, times its largest scale.

    Large ones that different views pull in different directions stand for more than one surface. Kerbl et al. 2023
    split by such gradients too. Without moments, that is before the first step, all are alike.
    """
    squared = moments.get("means", {}).get("exp_avg_sq")
    if squared is None:
        return torch.ones(len(gaussians), dtype=torch.float64, device=gaussians.means.device)
    return squared.sum(dim=1).double().sqrt() * gaussians.scales.detach().double().amax(dim=1)


def sgld_noise(
    gaussians: Gaussians, learning_rate: float, state: DensifyState, config: DensifyConfig, step: int
) -> Float[Tensor, "n 3"]:
    """What to add to the means after a step: noise_lr · learning_rate · σ(-k (o - t)) · Σ η, η standard normal.

    This is the noise of the paper's equations 7 and 8: along a Gaussian's own extent, and for faint ones only. The
    paper gives t = 0.995, which would move all but opaque ones; its authors' code has it of 1 - o, and that is meant
    here: t = 0.005 by default.

    Args:
        gaussians: after the optimizer's step.
        learning_rate: of the means, at this step.
        state, config: of the run.
        step: number of the step.

    Returns:
        metres.
    """
    generator = _generator(state.seed, step, _NOISE)
    with torch.no_grad():
        normal = torch.randn(len(gaussians), 3, generator=generator).to(gaussians.means)
        gate = torch.sigmoid(-config.gate_sharpness * (gaussians.opacities - config.gate_opacity))
        turns = gaussians.rotations
        local = torch.einsum("nji,nj->ni", turns, normal) * gaussians.scales.square()
        return config.noise_lr * learning_rate * gate[:, None] * torch.einsum("nij,nj->ni", turns, local)


def shared_shape(
    logit_opacities: Float[Tensor, "n"],
    log_scales: Float[Tensor, "n 3"],
    copies: Int64[Tensor, "n"],
    binomials: Float[Tensor, "m m"],
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """Logit and log-scales of each of N copies that together look like one Gaussian (equation 9 of the paper).

    With o' = 1 - (1 - o)^(1/N), N of them hide as much at the centre as one did, and the scales keep the integral of
    what they hide along a line through it. The double sum of the paper over i and k is, as sums of a column of
    Pascal's triangle are entries of the next, Σ_j C(N, j) (-1)^(j-1) o'^j / √j, j = 1..N.
    """
    transmitted = torch.nn.functional.logsigmoid(-logit_opacities.double()).clamp(math.log(_OPAQUE), -_FAINT)
    each = transmitted / copies  # log(1 - o')
    opacity, power = -torch.expm1(transmitted), torch.arange(1, len(binomials), device=copies.device)
    signs = 1 - 2 * ((power - 1) % 2)
    terms = binomials.to(copies.device)[copies, 1:] * signs / power.double().sqrt()
    total = (terms * (-torch.expm1(each))[:, None] ** power).sum(dim=1)
    shrink = (opacity / total).log()
    logits = torch.log(-torch.expm1(each)) - each
    return logits.to(logit_opacities), (log_scales.double() + shrink[:, None]).to(log_scales)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What an optimizer keeps per row, by the "name" of its groups of one parameter each; empty before a step."""
    found: dict[str, dict[str, Tensor]] = {}
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        state = optimizer.state.get(parameter, {})
        same = {key: value for key, value in state.items() if getattr(value, "shape", None) == parameter.shape}
        found[group["name"]] = {key: value for key, value in same.items() if value.ndim}
    return found


def install(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor], moments: Moments) -> dict[str, Tensor]:
    """Put new values and moments into an optimizer, in place, and return its new parameters by name.

    Args:
        optimizer: has one parameter in each group, and the group's "name" is a key of the other arguments.
        values: of the new parameters.
        moments: as `moments_of` gives them.
    """
    parameters: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        (old,), name = group["params"], group["name"]
        parameters[name] = torch.nn.Parameter(values[name].detach().clone(), requires_grad=old.requires_grad)
        group["params"] = [parameters[name]]
        if state := optimizer.state.pop(old, None):
            optimizer.state[parameters[name]] = {**state, **moments[name]}
    return parameters


def _share(
    gaussians: Gaussians, moments: Moments, index: Tensor, sources: Tensor, state: DensifyState, config: DensifyConfig
) -> Densified:
    """Rows `index`, where all rows that come from one of `sources` share what it hid."""
    old = gaussians.detach()
    copies = (1 + torch.bincount(sources, minlength=len(old))).clamp_max(config.max_copies)
    rows = torch.unique(sources)
    shapes = shared_shape(old.logit_opacities[rows], old.log_scales[rows], copies[rows], state.binomials)
    least = math.log(config.min_opacity / (1 - config.min_opacity)) + _ABOVE
    logits = old.logit_opacities.index_copy(0, rows, shapes[0].clamp_min(least))
    log_scales = old.log_scales.index_copy(0, rows, shapes[1])
    shared = Gaussians(old.means, old.quats, log_scales, logits, old.sh)
    return Densified(shared.select(index), _rows_of(moments, index, (copies > 1)[index]), len(sources))


def _rows_of(moments: Moments, index: Int64[Tensor, "m"], zero: Bool[Tensor, "m"]) -> dict[str, dict[str, Tensor]]:
    def pick(tensor: Tensor) -> Tensor:
        rows = tensor[index]
        rows[zero] = 0
        return rows

    return {name: {key: pick(tensor) for key, tensor in kept.items()} for name, kept in moments.items()}


def _draw(weights: Float[Tensor, "n"], count: int, seed: int, step: int, purpose: int) -> Int64[Tensor, "m"]:
    """Indices in proportion to weights, with replacement, by the inverse of the cumulative sum; the same anywhere."""
    cumulative = weights.cpu().cumsum(0)
    draws = torch.rand(count, generator=_generator(seed, step, purpose), dtype=torch.float64) * cumulative[-1]
    last = int(torch.nonzero(weights.cpu())[-1])  # rounding must not end behind the last weight
    return torch.searchsorted(cumulative, draws, right=True).clamp_max(last).to(weights.device)


def _generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """On the CPU wherever the Gaussians are, so that devices draw alike."""
    mixed = np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
