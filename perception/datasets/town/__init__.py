"""The embedded default data set: a synthetic town, ray-cast from a seed, with every label that it can know."""

from perception.datasets.town.config import PRESETS, LidarConfig, TownConfig, town_config
from perception.datasets.town.drives import (
    LICENCE,
    TownDrive,
    load_town,
    load_town_holdout,
    load_town_share,
    moving_drive,
    town_drive,
    town_fleet,
)
from perception.datasets.town.ground_truth import surface_points
from perception.datasets.town.light import LIGHTS, KeyLight, LightConfig
from perception.datasets.town.mounts import RIGS, CameraMount
from perception.datasets.town.rendering import HOLDOUT, rsu_number

__all__ = [
    "HOLDOUT",
    "LICENCE",
    "LIGHTS",
    "PRESETS",
    "RIGS",
    "CameraMount",
    "KeyLight",
    "LidarConfig",
    "LightConfig",
    "TownConfig",
    "TownDrive",
    "load_town",
    "load_town_holdout",
    "load_town_share",
    "moving_drive",
    "rsu_number",
    "surface_points",
    "town_config",
    "town_drive",
    "town_fleet",
]
