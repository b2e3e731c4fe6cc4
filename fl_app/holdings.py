"""What the vehicles of a reconstruction hold, read once per process."""

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


def held_by(request: SurveyRequest, number: int) -> tuple[VehicleFrames, list[View], list[View]]:
    """What the vehicle of a node holds, and its views to learn from and to judge by, read once per process.

    Raises:
        DataError: the survey has fewer vehicles; and as `make_survey`.
    """
    vehicles = survey_of(request).vehicles
    if not 0 <= number < len(vehicles):
        raise DataError(f"node {number} has no vehicle: {len(vehicles)} take part")
    learned, judged = _views.get((request, number), lambda: (vehicles[number].learned(), vehicles[number].judged()))
    return vehicles[number], learned, judged
