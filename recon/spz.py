"""Gaussians as .spz, Niantic's compressed format of about a fifth of a .ply: quantised, so not to be trained further.

Coordinates are written as they are; a viewer that takes the file for OpenGL's axes shows the world on its side.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import torch

from recon.gaussians import Gaussians

REACH_M: Final = 2048.0  # 24 bits with 12 after the point


def write_spz(path: Path, gaussians: Gaussians) -> None:
    """Write the Gaussians; the file is there in full or not at all.

    Centres are rounded to 0.25 mm, opacities and colours to 8 bits, scales to 1/16 of their logarithm between e⁻¹⁰ and
    e⁵·⁹ m, and spherical harmonics above band 0 to 8 bits of -1..1.

    Raises:
        ValueError: a centre lies 2048 m or more from the origin along an axis.
        ImportError: gsply is not installed.
    """
    gsply = _gsply()
    far = (gaussians.means.detach().abs() >= REACH_M).any(dim=1)
    if far.any():
        raise ValueError(
            f"{path}: {int(far.sum())} centres lie {REACH_M:.0f} m or more from the origin, beyond what .spz can hold; "
            "shift the scene to its middle first, or write a .ply"
        )
    unit = torch.nn.functional.normalize(gaussians.quats.detach(), dim=1)
    table = {name: tensor.detach().float().cpu().numpy() for name, tensor in gaussians.tensors().items()}
    data = gsply.GSData.from_arrays(
        means=table["means"],
        scales=table["log_scales"],
        quats=unit.float().cpu().numpy(),
        opacities=table["logit_opacities"],
        sh0=np.ascontiguousarray(table["sh"][:, 0]),
        shN=np.ascontiguousarray(table["sh"][:, 1:]) if gaussians.degree else None,
        format="ply",
    )
    part = path.with_name(path.name + ".part")
    with _quiet():
        gsply.write_spz(part, data)
    os.replace(part, path)


def read_spz(path: Path) -> Gaussians:
    """Read Gaussians, float32, quaternions of length 1.

    Raises:
        ValueError: the file is missing, damaged, or no .spz; the message names it.
        ImportError: gsply is not installed.
    """
    gsply = _gsply()
    try:
        with _quiet():
            data = gsply.read_spz(path)
        sh = data.sh0[:, None] if data.shN is None else np.concatenate([data.sh0[:, None], data.shN], axis=1)
        columns = (data.means, data.quats, data.scales, data.opacities.reshape(-1), sh)
        return Gaussians(*[torch.from_numpy(np.array(column, np.float32)) for column in columns])
    except Exception as error:  # the library raises whatever its decoders do
        raise ValueError(
            f"{path}: no readable .spz ({type(error).__name__}: {error}); copy or export it again"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """numba, which gsply compiles with, says when it passes over a TBB that is too old; it then takes OpenMP."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The TBB threading layer")
        yield


def _gsply() -> ModuleType:
    """The library; numba, which it loads, would change how many threads torch works with."""
    threads = torch.get_num_threads()
    try:
        import gsply
    except ImportError as error:
        raise ImportError(".spz files need gsply: pip install gsply; .ply files need nothing") from error
    finally:
        torch.set_num_threads(threads)
    return gsply
