"""What vehicles' uploads give away of what they saw, as they were sent and trimmed to their regions.

Only a simulation can measure this in one place: a vehicle's images stay with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

import numpy as np

from clients.gaussian_client import VehicleFrames
from fl_app.survey import Survey
from perception.datasets.base import FrameSubset
from recon.leakage import Exposed, Leakage, leakage
from strategies.gaussian_state import FusionState

MARGINS_M: Final = (0.0, 5.0, 20.0)
VEHICLES, VIEWS = 3, 8  # that are measured, by default


@dataclass(frozen=True)
class VehicleLeakage:
    """What one vehicle's upload shows of its own images.

    Args:
        vehicle: its name.
        by_margin: as it was sent, and trimmed with a margin of so many metres.
    """

    vehicle: str
    by_margin: Mapping[float, Leakage]


def leakages(
    survey: Survey,
    state: FusionState,
    *,
    margins_m: Sequence[float] = MARGINS_M,
    vehicles: int = VEHICLES,
    views: int = VIEWS,
) -> list[VehicleLeakage]:
    """Uploads of some vehicles, at some of the images that they learned from.

    Args:
        survey: whose vehicles hold the images.
        state: with the uploads; vehicles without one are passed over.
        margins_m: to leave around a vehicle's region.
        vehicles, views: at most so many, evenly along the way; exposures are not known here, so that what is shown is
            rather more than what is measured.
    """
    plan = survey.active_plan(besides=sorted(state.base))
    sent = [v for v in survey.vehicles if v.vehicle in plan and len(state.parts.get(v.vehicle, ())) and len(v.train)]
    found = []
    for holder in _some(sent, vehicles):
        seen = _fewer(holder, views).learned()
        seen = [view for view in seen if view.counted is None or view.counted.any()]
        if seen:
            part, region = state.parts[holder.vehicle], plan.region(holder.vehicle)
            by_margin = {margin_m: leakage(part, seen, region, margin_m) for margin_m in margins_m}
            found.append(VehicleLeakage(holder.vehicle, by_margin))
    return found


def leakage_row(found: Sequence[VehicleLeakage]) -> dict[str, float]:
    """Means over vehicles as named numbers: leakage/as-sent/…, leakage/margin-5/…; empty without any."""
    row: dict[str, float] = {}
    for name, parts in by_treatment(found).items():
        row |= {f"leakage/{name}/{key.replace('_', '-')}": value for key, value in means(parts).items()}
    return row


def by_treatment(found: Sequence[VehicleLeakage]) -> dict[str, list[Exposed]]:
    """What is shown as sent, and with each margin, the largest first; a list by vehicles."""
    if not found:
        return {}
    table = {"as-sent": [next(iter(one.by_margin.values())).whole for one in found]}
    for margin_m in sorted(found[0].by_margin, reverse=True):
        table[f"margin-{margin_m:g}"] = [one.by_margin[margin_m].trimmed for one in found]
    return table


def means(parts: Sequence[Exposed]) -> dict[str, float]:
    """Means of what is known of several uploads."""
    rows: list[dict[str, Any]] = [vars(part) for part in parts]
    known = {key: [row[key] for row in rows if row[key] is not None] for key in rows[0]}
    return {key: fmean(values) for key, values in known.items() if values}


def _fewer(holder: VehicleFrames, most: int) -> VehicleFrames:
    rows = list(range(len(holder.train)))
    frames: Any = FrameSubset(holder.train, _some(rows, most))
    return replace(holder, train=frames)


def _some(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly."""
    if len(items) <= most:
        return list(items)
    return [items[int(row)] for row in np.linspace(0, len(items) - 1, most).round()]
