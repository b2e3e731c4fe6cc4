"""Every data set behind one seam: `Sequence[Frame]` for looking, `Fleet` for federated learning."""

from collections.abc import Callable

from perception.datasets.base import DataError, Dataset, Fleet, FleetRequest, FrameSubset, Share

__all__ = ["FLEETS", "DataError", "Dataset", "Fleet", "FleetRequest", "FrameSubset", "Share", "load_fleet"]


def _town(request: FleetRequest) -> Fleet:
    from perception.datasets.town import load_town

    return load_town(request)


def _camvid(request: FleetRequest) -> Fleet:
    from perception.datasets.camvid import load_camvid

    return load_camvid(request)


def _kitti(request: FleetRequest) -> Fleet:
    from perception.datasets.kitti import load_kitti

    return load_kitti(request)


FLEETS: dict[str, Callable[[FleetRequest], Fleet]] = {"town": _town, "camvid": _camvid, "kitti": _kitti}


def load_fleet(name: str, request: FleetRequest) -> Fleet:
    """A data set divided among vehicles. Its loader is imported on first use, for some need heavy libraries.

    Raises:
        DataError: unknown name, or what the loader says of a missing or unreadable file.
    """
    if name not in FLEETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(FLEETS)}")
    return FLEETS[name](request)
