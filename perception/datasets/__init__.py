"""Every data set behind one seam: `Sequence[Frame]` for looking, `Fleet` for federated learning."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from perception.datasets.base import DataError, Dataset, Fleet, FleetRequest, FrameSubset, Share

__all__ = [
    "FLEETS",
    "TOWN",
    "DataError",
    "Dataset",
    "Fleet",
    "FleetRequest",
    "FrameSubset",
    "Share",
    "load_fleet",
    "load_holdout",
    "load_own_share",
    "load_share",
]

TOWN = "town"


def _load(name: str, request: FleetRequest) -> Fleet:
    """Calls the loader `load_NAME` of the module NAME, which is imported on first use."""
    loader: Callable[[FleetRequest], Fleet] = _named(name, f"load_{name}")
    return loader(request)


FLEETS: dict[str, Callable[[FleetRequest], Fleet]] = {
    name: partial(_load, name)
    for name in (TOWN, "camvid", "kitti", "cityscapes", "bdd100k", "nuscenes", "argoverse2", "waymo")
}


def load_fleet(name: str, request: FleetRequest) -> Fleet:
    """A data set divided among vehicles. Its loader is imported on first use, for some need heavy libraries.

    Raises:
        DataError: unknown name, or what the loader says of a missing or unreadable file.
    """
    if name not in FLEETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(FLEETS)}")
    return FLEETS[name](request)


def load_share(name: str, request: FleetRequest, index: int) -> Share:
    """What one vehicle of a fleet holds; of the generated town only its own drive is rendered.

    Raises:
        DataError: the fleet has fewer vehicles; and as `load_fleet`.
    """
    if name == TOWN and index >= 0:
        return _named(TOWN, "load_town_share")(request, index)
    shares = load_fleet(name, request).shares
    if not 0 <= index < len(shares):
        raise DataError(f"{name}: no vehicle {index}, the data are divided among {len(shares)}, counted from 0")
    return shares[index]


def load_own_share(name: str, path: Path, vehicle: str, region: str = "", limit: int = 0) -> Share:
    """What a vehicle holds that has a folder of its own: everything in there, divided among nobody.

    Args:
        name: of the data set; with "town", the folder holds an export of it in a layout that has labels.
        path, vehicle, region, limit: as for `sharing.own_share`.

    Raises:
        DataError: no such folder, nothing to learn from in there, or an unreadable file.
    """
    from perception.datasets.sharing import own_share

    return own_share(_read(name, path), vehicle, region, limit)


def load_holdout(name: str, path: Path | None, request: FleetRequest) -> Fleet:
    """What a server evaluates on that holds no vehicle's data, as a fleet without vehicles.

    Args:
        name: of the data set; as for `load_own_share`.
        path: folder of held-out frames; None for the generated town's own holdout, of which nothing else is rendered.
        request: of the run; says how many frames are the root's.

    Raises:
        DataError: no such folder, no labelled frame in there, or an unreadable file.
    """
    from perception.datasets.sharing import holdout_fleet

    if path is None:
        return _named(TOWN, "load_town_holdout")(request)
    return holdout_fleet(_read(name, path), request.root_frames)


def _read(name: str, path: Path) -> Any:
    """The recordings in a folder, by the function `read_NAME` of the module NAME."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; name one that holds {name} frames")
    if name == TOWN:
        from perception.datasets.folder import fleet_name

        name = fleet_name(path)
    return _named(name, f"read_{name}")(path)


def _named(name: str, function: str) -> Any:
    return getattr(import_module(f"perception.datasets.{name}"), function)
