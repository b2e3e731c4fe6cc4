"""Reading JSON with errors that name the file, the field and the remedy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.files import require


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: missing, or not JSON.
    """
    try:
        return json.loads(require(path, remedy).read_bytes())
    except ValueError as error:  # of which JSON and text decoding errors are kinds
        raise DataError(f"{path}: not a whole JSON file ({error}); {remedy}") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a JSON file that holds one object at its top.

    Raises:
        DataError: missing, not JSON, or a list, text or number.
    """
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, want an object with named fields; {remedy}")
    return content


def json_floats(entry: Any, field: str, shape: tuple[int, ...], where: str) -> Float[ndarray, "..."]:
    """The numbers of one field as a float64 array; the shape () means a single number.

    Raises:
        DataError: no such field, another shape, something that is no number, NaN or infinity.
    """
    value = entry.get(field) if isinstance(entry, dict) else None
    want = "a number" if shape == () else f"{'x'.join(map(str, shape))} numbers"
    if value is None:
        raise DataError(f"{where}: no field {field}; add it ({want})")
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros((0, 0))
    if numbers.shape != shape or isinstance(value, (str, bool)):
        raise DataError(f"{where}: {field} is {str(value)[:60]!r}, want {want}; mend the field")
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: {field} holds NaN or infinity; mend or remove the entry")
    return numbers


def json_float(entry: Any, field: str, where: str, default: float | None = None) -> float:
    """One finite number; the default where the field is absent and a default is given.

    Raises:
        DataError: as `json_floats`.
    """
    value = entry.get(field) if isinstance(entry, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):  # needs no array
        return float(value)
    if value is None and default is not None and isinstance(entry, dict):
        return default
    return float(json_floats(entry, field, (), where))
