"""The embedded default data set: a synthetic town, ray-cast from a seed, with every label that it can know."""

from perception.datasets.town.config import PRESETS, LidarConfig, LightConfig, TownConfig
from perception.datasets.town.drives import TownDrive, load_town

__all__ = ["PRESETS", "LidarConfig", "LightConfig", "TownConfig", "TownDrive", "load_town"]
