"""Reads the frames that the server of a run holds itself: those it evaluates on, and those a rule trains on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clients.perception_client import PerceptionTask, fleet_of
from fl_app.run_config import NO_HOLDOUT, RunConfig
from perception.datasets import TOWN, DataError, Fleet, load_holdout
from perception.targets import Samples, make_samples
from strategies.topology import Member

logger = logging.getLogger("convoy")


@dataclass(frozen=True, eq=False)
class ServerData:
    """What the server holds.

    Args:
        fleet: the data set; its shares are those of a run whose data are all at hand, else there are none.
        holdout: frames to evaluate on, None where the vehicles alone evaluate.
        root: frames to train on, None unless a rule wants some.
    """

    fleet: Fleet
    holdout: Samples | None
    root: Samples | None


def load_server_data(config: RunConfig, task: PerceptionTask) -> ServerData:
    """Reads what the run config's "holdout-path" names.

    Raises:
        DataError: the data are missing, unreadable or unlabelled.
    """
    fleet = _load_fleet(config, task)
    holdout, root = (
        make_samples(frames, task.size_px) if len(frames) else None for frames in (fleet.holdout, fleet.root)
    )
    if holdout is None and config.holdout_path != NO_HOLDOUT:
        raise DataError(f"{fleet.name}: no frame to evaluate on; give more data, or holdout-path = {NO_HOLDOUT!r}")
    return ServerData(fleet, holdout, root)


def warn_of_other_division(fleet: Fleet, members: Mapping[str, Member]) -> list[str]:
    """Logs vehicles that hold another number of frames than this server's division of the data gives them.

    A vehicle that holds a part of the data only, and was not told so, divides that part again.
    """
    sizes = {share.vehicle: len(share.train) for share in fleet.shares}
    odd = [
        name
        for name, member in sorted(members.items())
        if member.num_examples not in ([sizes[name]] if name in sizes else sizes.values())
    ]
    for name in odd if sizes else ():
        logger.warning(
            "%s holds %d training frames, the server's division of the data gives it %s: does it have other data? "
            "start its SuperNode with --node-config 'data-path=\"FOLDER\" ...' and this run with holdout-path",
            name,
            members[name].num_examples,
            sizes.get(name, "none"),
        )
    return odd if sizes else []


def _load_fleet(config: RunConfig, task: PerceptionTask) -> Fleet:
    if config.holdout_path == NO_HOLDOUT:
        return Fleet(config.data, "the licence of each vehicle's data holds", (), ())
    if config.holdout_path:
        path = None if config.holdout_path == TOWN else Path(config.holdout_path).expanduser()
        return load_holdout(task.data, path, task.request)
    return fleet_of(task)
