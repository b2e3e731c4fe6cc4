"""Point Cloud Data files, ascii and binary (https://pointclouds.org/documentation/tutorials/pcd_file_format.html)."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from numpy.lib import recfunctions

from perception.datasets.base import DataError
from perception.datasets.files import check_cloud, require

KINDS = {"F": "f", "U": "u", "I": "i"}


def read_pcd(path: Path) -> Float32[ndarray, "n 4"]:
    """x y z (m) and intensity (0 where the file has none); rows without a finite position are absent returns.

    Raises:
        DataError: missing, truncated, compressed, without x y z, or not a PCD file.
    """
    with require(path, "fetch the point cloud").open("rb") as stream:
        header = _read_header(stream, path)
        rows = _read_rows(stream.read(), header, path)
    missing = {"x", "y", "z"} - set(rows.dtype.names or ())
    if missing:
        raise DataError(f"{path}: FIELDS lacks {sorted(missing)}; write the cloud with x y z")
    names = ["x", "y", "z", *(["intensity"] if "intensity" in (rows.dtype.names or ()) else [])]
    points = np.zeros((len(rows), 4), np.float32)
    points[:, : len(names)] = recfunctions.structured_to_unstructured(rows[names], dtype=np.float32)
    return check_cloud(points[np.isfinite(points[:, :3]).all(axis=1)], path)


def _read_header(stream: BinaryIO, path: Path) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    while "DATA" not in header:
        line = stream.readline()
        if not line:
            raise DataError(f"{path}: no DATA line; this is not a PCD file")
        key, *values = line.decode("ascii", errors="replace").split() or ["#"]
        if not key.startswith("#"):
            header[key] = values
    lacking = [key for key in ("FIELDS", "SIZE", "TYPE", "POINTS") if key not in header]
    if lacking:
        raise DataError(f"{path}: the header lacks {lacking}; write the file again as PCD v0.7")
    return header


def _row_type(header: dict[str, list[str]], path: Path) -> np.dtype:
    fields = header["FIELDS"]
    counts = header.get("COUNT", ["1"] * len(fields))
    if not len(fields) == len(header["SIZE"]) == len(header["TYPE"]) == len(counts):
        raise DataError(f"{path}: FIELDS, SIZE, TYPE and COUNT differ in length; write the file again as PCD v0.7")
    columns = zip(fields, header["TYPE"], header["SIZE"], counts, strict=True)
    try:
        # A padding field is called "_" and may occur many times, which numpy's names may not.
        return np.dtype(
            [
                (f"_{place}" if name == "_" else name, f"<{KINDS[kind]}{size}", *([] if n == "1" else [int(n)]))
                for place, (name, kind, size, n) in enumerate(columns)
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: TYPE/SIZE of a field is unknown ({error}); write the file again") from error


def _read_ascii(body: bytes, row: np.dtype, path: Path) -> ndarray:
    if not body.strip():
        return np.zeros(0, row)
    try:
        return np.loadtxt(BytesIO(body), dtype=row, ndmin=1)
    except ValueError as error:
        raise DataError(f"{path}: {error}; fetch the file again") from error


def _read_rows(body: bytes, header: dict[str, list[str]], path: Path) -> ndarray:
    row, layout = _row_type(header, path), header["DATA"][0] if header["DATA"] else ""
    if not (header["POINTS"] and header["POINTS"][0].isdecimal()):
        raise DataError(f"{path}: POINTS {header['POINTS']} is no number; write the file again as PCD v0.7")
    count = int(header["POINTS"][0])
    if layout == "ascii":
        rows = _read_ascii(body, row, path)
    elif layout == "binary":
        rows = np.frombuffer(body, row, min(count, len(body) // row.itemsize))
    else:
        raise DataError(f"{path}: DATA {layout or '(empty)'} is not read here; save the cloud as binary or ascii")
    if len(rows) != count:
        raise DataError(f"{path}: POINTS says {count}, the file holds {len(rows)}; fetch the file again")
    return rows
