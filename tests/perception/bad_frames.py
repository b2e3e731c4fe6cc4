"""Reading a data set to the end although some of its frames are bad."""

from collections.abc import Sequence

from geometry import Frame
from perception.datasets.base import DataError


def problems_of(frames: Sequence[Frame]) -> dict[int, str]:
    """What each frame that cannot be read says, by index; the others are read."""
    found = {}
    for index in range(len(frames)):
        try:
            frames[index]
        except DataError as error:
            found[index] = str(error)
    return found
