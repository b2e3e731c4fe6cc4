"""The embedded default data set: a synthetic town, ray-cast from a seed, with every label that it can know."""

from perception.datasets.town.config import PRESETS, LidarConfig, LightConfig, TownConfig, town_config
from perception.datasets.town.drives import LICENCE, TownDrive, load_town, town_fleet

__all__ = [
    "LICENCE",
    "PRESETS",
    "LidarConfig",
    "LightConfig",
    "TownConfig",
    "TownDrive",
    "load_town",
    "town_config",
    "town_fleet",
]
