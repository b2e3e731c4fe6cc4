"""What a vehicle of a reconstruction holds: its views, read once a process, and what Flower keeps of it for a run."""

from collections.abc import Iterator, MutableMapping

from flwr.app import ArrayRecord, RecordDict

from clients.gaussian_client import VehicleFrames
from clients.messages import Arrays, from_record, to_record
from clients.perception_client import Once
from fl_app.survey import Survey, SurveyRequest, make_survey
from perception.datasets.base import DataError
from recon.views import View

_surveys, _views = Once(), Once()


class Kept(MutableMapping[str, Arrays]):
    """Arrays in the state that Flower keeps for each vehicle, on every engine."""

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Arrays:
        record = self._state[name]
        if not isinstance(record, ArrayRecord):
            raise KeyError(name)
        return from_record(record)

    def __setitem__(self, name: str, arrays: Arrays) -> None:
        self._state[name] = to_record(arrays)

    def __delitem__(self, name: str) -> None:
        del self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._state))

    def __len__(self) -> int:
        return len(self._state)


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
