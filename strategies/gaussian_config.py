"""Settings of `GaussianFusion`."""

import math
from dataclasses import dataclass, field
from typing import Final

from recon.landmarks import LANDMARKS
from recon.merge import Duplicates
from recon.refusal import AcceptanceConfig
from strategies.topology import GivenTopology

STEPS: Final = ("fit_steps", "refine_steps", "refine_step", "pace", "rate")
POSITIVE: Final = (*STEPS, "size_share", "size_m", "sight_m", "far_share", "near_m", "join_timeout_s")
WIDTHS: Final = ("blend_m", "border_m", "align_margin_m", "felt_near_m", "margin_m")
NOT_NEGATIVE: Final = (*WIDTHS, "refine_rounds", "landmarks", "fill")


@dataclass(frozen=True)
class FusionConfig:
    """How a scene is put together. Steps are per planned view, so that fast vehicles, which cover more, work more.

    Args:
        fit_steps: of a vehicle's own fit, per view.
        align_rounds: the first pair by pair; in the others each vehicle that no LiDAR ties to a surveyed one or an
            earlier scene, directly or over others, looks at all its neighbours at once.
        refine_rounds: after the merge.
        refine_steps: of each round, per view.
        refine_step: how far the scene goes along the mean update, see `recon.refine.combined`.
        pace: first learning rate of the means in the refinement, as a share of a fit's; it falls in equal steps.
        rate: first learning rate of all else, as a multiple of a fit's: a mean of vehicles moves less than each.
            It falls in equal steps to half.
        momentum: share of the teacher that stays in a round; 0 for no teacher.
        block_weighting: have parties count more whose images the scene shows worse.
        blend_m: width of the band at borders.
        fill: see `recon.merge.merge`.
        margin_m: what lies farther outside its region a vehicle does not send.
        size_share, size_m: the largest deviation that a Gaussian may have is a share of its distance to the nearest
            waypoint, or so many metres if that is more; see `recon.size_limit`.
        sight_m: how far from a vehicle's waypoints all of the scene is sent to it.
        far_share: beyond, what is as large as this share of its distance.
        near_m: vehicles whose waypoints come so near are aligned to each other.
        align_margin_m: by what lies within their regions, and so far beyond.
        landmarks: that a vehicle with LiDAR sends to be found by others' LiDAR; 0 aligns by images alone.
        felt_near_m: vehicles whose waypoints come so near look for each other's landmarks.
        border_m: views so near to the border of a vehicle's region are judged apart.
        acceptance: what an RSU takes of an upload; None takes all that fits the budget.
        duplicates: see `recon.merge`.
        vehicles: to wait for.
        join_timeout_s: for that long.
        fraction: of the vehicles that refine in a round, at each RSU.
        quorum: share of the vehicles that were asked without whose update a round changes nothing.
        seed: of fits, and of who is asked.
        given: whose nodes alone may use vehicles' names; None for who comes first.

    Raises:
        ValueError: a value is out of range.
    """

    fit_steps: float = 22.0
    align_rounds: int = 2
    refine_rounds: int = 6
    refine_steps: float = 4.0
    refine_step: float = 1.5
    pace: float = 0.8
    rate: float = 2.0
    momentum: float = 0.0
    block_weighting: bool = False
    blend_m: float = 2.0
    fill: float = 0.7
    margin_m: float = math.inf
    size_share: float = 0.2
    size_m: float = 4.0
    sight_m: float = 100.0
    far_share: float = 0.01
    near_m: float = 3.0
    align_margin_m: float = 8.0
    landmarks: int = LANDMARKS
    felt_near_m: float = 15.0
    border_m: float = 6.0
    acceptance: AcceptanceConfig | None = field(default_factory=AcceptanceConfig)
    duplicates: Duplicates | None = field(default_factory=Duplicates)
    vehicles: int = 1
    join_timeout_s: float = 120.0
    fraction: float = 1.0
    quorum: float = 0.5
    seed: int = 0
    given: GivenTopology | None = None

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"FusionConfig.{name} must be positive and finite, got {value}")
        for name in NOT_NEGATIVE:
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"FusionConfig.{name} must not be negative, got {value}")
        if self.align_rounds < 1:
            raise ValueError(f"FusionConfig.align_rounds must be at least 1, got {self.align_rounds}")
        if not (0 <= self.momentum < 1 and 0 < self.fraction <= 1 and 0 <= self.quorum <= 1):
            given = (self.momentum, self.fraction, self.quorum)
            raise ValueError(
                f"FusionConfig: momentum lies in [0, 1), fraction in (0, 1], quorum in [0, 1]; got {given}"
            )

    @property
    def num_rounds(self) -> int:
        """Rounds in all: fit, align, refine."""
        return 1 + self.align_rounds + self.refine_rounds

    def pace_at(self, refine_round: int) -> float:
        """Pace of a round of the refinement, from 0: in equal steps down to an eighth of the first."""
        return self.pace * (1 - 0.875 * self._done(refine_round))

    def rate_at(self, refine_round: int) -> float:
        """Rate of a round of the refinement, from 0: in equal steps down to half of the first."""
        return self.rate * (1 - 0.5 * self._done(refine_round))

    def _done(self, refine_round: int) -> float:
        return refine_round / max(self.refine_rounds - 1, 1)

    def step_at(self, refine_round: int) -> float:
        """`refine_step`, and 1 in the last round, after which nobody corrects what went too far."""
        return 1.0 if refine_round == self.refine_rounds - 1 else self.refine_step
