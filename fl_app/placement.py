"""How far vehicles' worlds are from where they truly are. Only a simulation can know."""

import numpy as np

from fl_app.survey import Survey
from geometry import Sim3
from strategies.gaussian_state import FusionState


def placement_errors(survey: Survey, state: FusionState) -> dict[str, float]:
    """How far vehicles' cameras are from where they were, mean of each: as positioned, and after alignment.

    Args:
        survey: with what positioning is off by.
        state: with the worlds that were found.

    Returns:
        metres, by `vehicle/NAME/seed-m` and `vehicle/NAME/error-m`; means over vehicles by `align/seed-m` and
        `align/error-m`.
    """
    row: dict[str, float] = {}
    for vehicle in survey.vehicles:
        if vehicle.vehicle not in state.world_from:
            continue
        centres_m = np.array([frame.camera.world_from_cam.translation_m for frame in vehicle.train])
        for name, world_from_own in (("seed", Sim3.identity()), ("error", state.world_from[vehicle.vehicle])):
            moved_m = (world_from_own @ vehicle.own_from_data).apply(centres_m)
            row[f"vehicle/{vehicle.vehicle}/{name}-m"] = float(np.linalg.norm(moved_m - centres_m, axis=1).mean())
    for name in ("seed", "error"):
        values = [value for key, value in row.items() if key.endswith(f"/{name}-m")]
        row[f"align/{name}-m"] = float(np.mean(values)) if values else 0.0
    return row
