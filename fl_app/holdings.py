"""What the vehicles of a reconstruction hold, read once per process."""

from collections.abc import Sequence
from dataclasses import replace

from clients.gaussian_client import VehicleFrames
from clients.perception_client import Once
from fl_app.survey import Survey, SurveyRequest, make_survey
from perception.datasets.base import DataError
from recon.views import View

_surveys, _views = Once(), Once()


def survey_of(request: SurveyRequest) -> Survey:
    """The street of a request, surveyed once per process.

    Raises:
        DataError, ImportError: as `make_survey`.
    """
    return _surveys.get(request, lambda: make_survey(request))


def held_by(
    request: SurveyRequest, number: int, missing: tuple[str, ...] = ()
) -> tuple[VehicleFrames, list[View], list[View]]:
    """What the vehicle of a node holds, and its views to learn from and to judge by, read once per process.

    Args:
        request: of the run.
        number: of the node.
        missing: vehicles that others make up for, see `replanned`.

    Raises:
        DataError: the survey has fewer vehicles, or this one is missing; and as `make_survey`.
    """
    vehicles = survey_of(request).vehicles
    if not 0 <= number < len(vehicles):
        raise DataError(f"node {number} has no vehicle: {len(vehicles)} take part")
    name = vehicles[number].vehicle
    held = {vehicle.vehicle: vehicle for vehicle in survey_of(replanned(request, missing)).vehicles}
    if name not in held:
        raise DataError(f"{name} has no stretch: others make up for it")
    vehicle = held[name]
    learned, judged = _views.get((request, missing, number), lambda: (vehicle.learned(), vehicle.judged()))
    return vehicle, learned, judged


def replanned(request: SurveyRequest, missing: Sequence[str]) -> SurveyRequest:
    """The same street, planned again without vehicles that were not there when the run began."""
    return replace(request, without=(*request.without, *missing)) if missing else request
