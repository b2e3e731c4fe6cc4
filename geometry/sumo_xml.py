"""Reading XML element by element, with errors that name the file, the line and the attribute."""

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from xml.parsers import expat

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Attributes = dict[str, str]


def parse(path: Path, start: Callable[[str, Attributes, int], None], root: str) -> None:
    """Call `start` with name, attributes and line number of every element of a file, plain or .gz.

    Raises:
        ValueError: the file cannot be read, is no XML, or has another root element than `root`.
    """
    parser, rooted = expat.ParserCreate(), False

    def handle(tag: str, attributes: Attributes) -> None:
        nonlocal rooted
        if not rooted and tag != root:
            raise ValueError(f"{path}, line {parser.CurrentLineNumber}: the root is <{tag}>, want <{root}>")
        rooted = True
        start(tag, attributes, parser.CurrentLineNumber)

    parser.StartElementHandler = handle
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            parser.ParseFile(cast(BinaryIO, file))
    except expat.ExpatError as error:
        problem = expat.errors.messages[error.code]
        raise ValueError(f"{path}, line {error.lineno}: not well-formed XML ({problem}); is it complete?") from None
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None


@dataclass
class Place:
    """An element of a file, for reading its attributes and saying what is wrong with them."""

    path: Path
    tag: str
    attributes: Attributes
    line: int

    def error(self, problem: str) -> ValueError:
        """What to raise."""
        return ValueError(f"{self.path}, line {self.line}: <{self.tag}> {problem}")

    def text(self, name: str) -> str:
        """An attribute that must be there."""
        if name not in self.attributes:
            raise self.error(f"has no attribute {name!r}; SUMO writes it by default")
        return self.attributes[name]

    def number(self, name: str, default: str | None = None) -> float:
        """An attribute that must be a finite number; without a default it must be there."""
        text = self.attributes.get(name, default) if default is not None else self.text(name)
        try:
            value = float(str(text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{name} is {text!r}, want a finite number")
        return value

    def points(self, name: str) -> Float[ndarray, "n 2"]:
        """An attribute that lists points as x,y or x,y,z; z is dropped."""
        try:
            rows = [[float(value) for value in point.split(",")[:2]] for point in self.text(name).split()]
            points = np.array(rows, float).reshape(len(rows), 2)
        except ValueError as error:
            if self.tag in str(error):
                raise
            points = np.full((1, 2), np.nan)
        if not np.isfinite(points).all() or not len(points):
            raise self.error(f"{name} is no list of finite x,y: {self.text(name)[:40]!r}")
        return points
