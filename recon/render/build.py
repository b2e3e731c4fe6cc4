"""The rasteriser's kernel, `kernel.cpp` and its parts, compiled on first use (`geometry.native`)."""

import ctypes
from functools import cache
from pathlib import Path

from geometry.native import BASE_FLAGS, KernelUnavailableError, Source, build

__all__ = ["FLAGS", "SOURCE", "KernelUnavailableError", "build_kernel", "load_kernel"]

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = (*BASE_FLAGS, "-ffp-contract=fast")
THREADS = (("-fopenmp",), ())
PURPOSE = "to render 3D Gaussians at full speed"


def load_kernel(vector_floats: int | None = None) -> ctypes.CDLL:
    """`build_kernel`, tried once per process: what came of it, library or error, is remembered."""
    outcome = _outcome(vector_floats)
    if isinstance(outcome, KernelUnavailableError):
        raise outcome
    return outcome


@cache
def _outcome(vector_floats: int | None) -> ctypes.CDLL | KernelUnavailableError:
    try:
        return build_kernel(vector_floats)
    except KernelUnavailableError as error:
        return error


def build_kernel(vector_floats: int | None = None) -> ctypes.CDLL:
    """The compiled kernel, built unless it is in the cache.

    Args:
        vector_floats: floats in a vector: 16, 8 or 4. By default what the machine has.

    Raises:
        KernelUnavailableError: no compiler, no source, or an error of the compiler.
    """
    source = Source(SOURCE, "render", PURPOSE, FLAGS, THREADS)
    return build(source, lambda macros: (f"-DVL={vector_floats or _vector_floats(macros)}",))


def _vector_floats(macros: str) -> int:
    if "__AVX512DQ__" in macros:
        return 16
    return 8 if "__AVX2__" in macros else 4
