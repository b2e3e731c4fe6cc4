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


def _cityscapes(request: FleetRequest) -> Fleet:
    from perception.datasets.cityscapes import load_cityscapes

    return load_cityscapes(request)


def _bdd100k(request: FleetRequest) -> Fleet:
    from perception.datasets.bdd100k import load_bdd100k

    return load_bdd100k(request)


def _nuscenes(request: FleetRequest) -> Fleet:
    from perception.datasets.nuscenes import load_nuscenes

    return load_nuscenes(request)


def _argoverse2(request: FleetRequest) -> Fleet:
    from perception.datasets.argoverse2 import load_argoverse2

    return load_argoverse2(request)


def _waymo(request: FleetRequest) -> Fleet:
    from perception.datasets.waymo import load_waymo

    return load_waymo(request)


FLEETS: dict[str, Callable[[FleetRequest], Fleet]] = {
    "town": _town,
    "camvid": _camvid,
    "kitti": _kitti,
    "cityscapes": _cityscapes,
    "bdd100k": _bdd100k,
    "nuscenes": _nuscenes,
    "argoverse2": _argoverse2,
    "waymo": _waymo,
}


def load_fleet(name: str, request: FleetRequest) -> Fleet:
    """A data set divided among vehicles. Its loader is imported on first use, for some need heavy libraries.

    Raises:
        DataError: unknown name, or what the loader says of a missing or unreadable file.
    """
    if name not in FLEETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(FLEETS)}")
    return FLEETS[name](request)
