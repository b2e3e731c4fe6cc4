"""The fields of a run config that only a reconstruction reads."""

import math
from typing import Literal

from pydantic import BaseModel, Field

from fl_app.survey import ANCHORS
from recon.landmarks import LANDMARKS


class SceneFields(BaseModel):
    """Field by field as in `[tool.flwr.app.config]` (there with dashes); meanings are those of `SurveyRequest` and
    `FusionConfig`.
    """

    scene_frames: int = Field(0, ge=0)
    scene_apart_m: float = Field(0.5, ge=0)
    overlap_m: float = Field(6.5, ge=0)
    speed_ratio: float = Field(4.0, ge=1)
    gaussians_per_view: int = Field(225, ge=1)
    misplaced: float = Field(1.0, ge=0)
    anchors: Literal[*ANCHORS] = "rsu"  # type: ignore[valid-type]
    fit_steps: float = Field(22.0, gt=0)
    align_rounds: int = Field(2, ge=1)
    landmarks: int = Field(LANDMARKS, ge=0)
    refine_rounds: int = Field(6, ge=0)
    refine_steps: float = Field(4.0, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    block_weighting: bool = False
    margin_m: float = Field(1000.0, ge=0, allow_inf_nan=True)
    sight_m: float = Field(100.0, gt=0)
    regions: str = ""
    without: str = ""
    slowed: str = ""
    add_to: str = ""

    @property
    def regions_wanted(self) -> tuple[str, ...]:
        """RSUs whose vehicles take part in a reconstruction; none for all."""
        return _names(self.regions)

    @property
    def gone(self) -> tuple[str, ...]:
        """Vehicles and RSUs that fall out once all is planned."""
        return _names(self.without)

    @property
    def speeds(self) -> tuple[tuple[str, float], ...]:
        """Vehicles that are slower or faster than planned, and by what factor.

        Raises:
            ValueError: not written as NAME:FACTOR, a factor is not positive and finite, or a name comes twice.
        """
        try:
            pairs = [pair.partition(":")[::2] for pair in _names(self.slowed)]
            found = tuple((name.strip(), float(factor)) for name, factor in pairs)
        except ValueError:
            raise ValueError(f"slowed = {self.slowed!r}: write NAME:FACTOR, as vehicle-3:0.5") from None
        if not all(0 < factor < math.inf for _, factor in found):
            raise ValueError(f"slowed = {self.slowed!r}: factors must be positive and finite")
        if len(dict(found)) < len(found):
            raise ValueError(f"slowed = {self.slowed!r}: a name comes twice")
        return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
