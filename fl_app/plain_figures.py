"""Figures whose words are data: names of runs, vehicles and RSUs are drawn as they are, not as TeX, and all of them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from fl_app.console import printable

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False

__all__ = ["add_legend", "pyplot", "save_figure"]


def add_legend(axis: Any, handles: Mapping[str, Any], **options: Any) -> None:
    """Adds a legend of artists by name; matplotlib itself leaves out names that begin with an underscore."""
    legend = axis.legend(list(handles.values()), ["-"] * len(handles), **options)
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_text(printable(name))


def save_figure(figure: Any, path: Path, dpi: int) -> Path:
    """Writes a figure; a character that the font lacks is a box and no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, dpi=dpi)
    return path
