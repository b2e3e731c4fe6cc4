"""Gaussians as .ply files, in the layout that viewers of Kerbl et al. 2023 read: 4-byte floats, raw parameters.

Properties of `vertex`: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_* (all of red, then green, then blue), opacity
(logit), scale_0..2 (logarithms), rot_0..3 (w x y z).
"""

import os
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from recon.gaussians import Gaussians

_FORMATS: Final = {"binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES: Final = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
_MEANS: Final = ("x", "y", "z")
_COLOURS: Final = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES: Final = ("scale_0", "scale_1", "scale_2")
_QUATS: Final = ("rot_0", "rot_1", "rot_2", "rot_3")
_HEADER_BYTES: Final = 1 << 16


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write the Gaussians; the file is there in full or not at all.

    Raises:
        OSError: the folder is missing or not writable.
    """
    names = _property_names(gaussians.degree)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write("\n".join(header).encode())
        file.write(_table(gaussians).astype("<f4").tobytes())
    os.replace(part, path)


def read_ply(path: Path) -> Gaussians:
    """Read Gaussians, float32; properties beyond the layout are ignored.

    Raises:
        ValueError: the file is missing, no binary .ply, cut off, lacks a property, or holds a value that is not
            finite; the message names the file, the property and what to do.
    """
    try:
        with path.open("rb") as file:
            prefix, count, skipped, properties = _read_header(path, file)
            rows = _read_rows(path, file, np.dtype([(n, prefix + t) for n, t in properties]), count, skipped)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return _from_rows(path, rows)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}; remove these rows") from None


def _property_names(degree: int) -> list[str]:
    rest = [f"f_rest_{index}" for index in range(3 * ((degree + 1) ** 2 - 1))]
    return [*_MEANS, "nx", "ny", "nz", *_COLOURS, *rest, "opacity", *_SCALES, *_QUATS]


def _table(gaussians: Gaussians) -> Float[ndarray, "n p"]:
    columns = {name: tensor.detach().float().cpu().numpy() for name, tensor in gaussians.tensors().items()}
    count, sh = len(gaussians), columns["sh"]
    rest = sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (sh.shape[1] - 1))
    opacity = columns["logit_opacities"][:, None]
    parts = [columns["means"], np.zeros((count, 3)), sh[:, 0], rest, opacity, columns["log_scales"], columns["quats"]]
    return np.concatenate(parts, axis=1)


def _from_rows(path: Path, rows: ndarray) -> Gaussians:
    names = rows.dtype.names or ()
    rest = [f"f_rest_{index}" for index in range(sum(name.startswith("f_rest_") for name in names))]
    missing = [name for name in (*_MEANS, *_COLOURS, *rest, "opacity", *_SCALES, *_QUATS) if name not in names]
    if missing:
        raise ValueError(
            f"{path}: element vertex has no property {missing[0]} ({len(missing)} missing); it is no splat file, or "
            "was written by a tool that drops them: export it again as 3D Gaussians"
        )
    if len(rest) not in (0, 9, 24, 45):
        raise ValueError(f"{path}: {len(rest)} properties f_rest_*, want 0, 9, 24 or 45; export it again")
    pick = lambda wanted: np.stack([rows[name] for name in wanted], axis=1).astype(np.float32)  # noqa: E731
    colours = pick(_COLOURS)[:, None]
    if rest:
        colours = np.concatenate([colours, pick(rest).reshape(len(rows), 3, len(rest) // 3).transpose(0, 2, 1)], axis=1)
    columns = (pick(_MEANS), pick(_QUATS), pick(_SCALES), rows["opacity"].astype(np.float32), colours)
    return Gaussians(*[torch.from_numpy(np.ascontiguousarray(column)) for column in columns])


def _read_rows(path: Path, file: BinaryIO, row: np.dtype, count: int, skipped: int) -> ndarray:
    start = file.tell() + skipped
    size, wanted = os.fstat(file.fileno()).st_size - start, count * row.itemsize
    if size < wanted:
        whole = max(size, 0) // row.itemsize
        raise ValueError(f"{path}: cut off, {whole} of {count} rows of element vertex are there; copy it again")
    file.seek(start)
    return np.frombuffer(file.read(wanted), row, count)


def _read_header(path: Path, file: BinaryIO) -> tuple[str, int, int, list[tuple[str, str]]]:
    """Byte order, number of vertices, bytes of the elements before them, and the vertices' properties."""
    lines = _header_lines(path, file)
    order = _byte_order(path, lines)
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["element"]:
            elements.append((words[1] if len(words) > 1 else "", _count(path, line, words), []))
        elif words[:1] == ["property"]:
            if not elements:
                raise ValueError(f"{path}: header line {line!r} stands before any element; write the file again")
            elements[-1][2].append(_property(path, line, words))
        if elements and elements[-1][0] != "vertex" and any(name == "vertex" for name, _, _ in elements):
            elements.pop()  # what follows the vertices does not matter
            break
    if not elements or elements[-1][0] != "vertex":
        raise ValueError(f"{path}: the header has no element vertex; it is no splat file")
    before = sum(count * sum(int(kind[1]) for _, kind in properties) for _, count, properties in elements[:-1])
    properties = elements[-1][2]
    if len({name for name, _ in properties}) < len(properties) or not properties:
        raise ValueError(f"{path}: element vertex names no property, or one twice; write the file again")
    return order, elements[-1][1], before, properties


def _header_lines(path: Path, file: BinaryIO) -> list[str]:
    lines, left = [], _HEADER_BYTES
    while left > 0 and (raw := file.readline(left)):
        left -= len(raw)
        lines.append(raw.decode("ascii", "replace").strip())
        if lines[0] != "ply":
            raise ValueError(f"{path}: does not begin with the line 'ply'; it is no .ply file")
        if lines[-1] == "end_header":
            return lines[1:-1]
    raise ValueError(f"{path}: the header has no line 'end_header' in its first {_HEADER_BYTES} bytes; copy it again")


def _byte_order(path: Path, lines: list[str]) -> str:
    words = next((line.split() for line in lines if line.startswith("format")), ["format", "none"])
    kind = words[1] if len(words) > 1 else "none"
    if kind == "ascii":
        raise ValueError(f"{path}: format ascii is not read; save it as binary_little_endian, as viewers do")
    if kind not in _FORMATS:
        raise ValueError(f"{path}: format {kind!r}, want binary_little_endian; write the file again")
    return _FORMATS[kind]


def _count(path: Path, line: str, words: list[str]) -> int:
    if len(words) != 3 or not words[2].isdecimal():
        raise ValueError(f"{path}: header line {line!r}, want 'element NAME COUNT'; write the file again")
    return int(words[2])


def _property(path: Path, line: str, words: list[str]) -> tuple[str, str]:
    if words[1:2] == ["list"]:
        raise ValueError(f"{path}: header line {line!r} is a list, as meshes have; export it as 3D Gaussians")
    if len(words) != 3 or words[1] not in _TYPES:
        raise ValueError(f"{path}: header line {line!r}, want 'property TYPE NAME'; write the file again")
    return words[2], _TYPES[words[1]]
