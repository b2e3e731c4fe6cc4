"""A user's script without a `__main__` guard, run by test_town_cache."""

from pathlib import Path
from sys import argv

from perception.datasets.town import rendering, town_fleet
from perception.datasets.town.config import PRESETS

rendering.FRAMES_WORTH_A_PROCESS = 4
fleet = town_fleet(PRESETS["hamlet"], workers=2, root=Path(argv[1]))
print("frames", sum(len(share.train) + len(share.test) for share in fleet.shares) + len(fleet.holdout))
