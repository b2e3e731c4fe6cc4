"""Columns of Arrow files (feather and parquet) as numpy arrays. The only module that imports pyarrow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from perception.datasets.base import DataError
from perception.datasets.files import require

Columns = dict[str, ndarray]
Filters = Sequence[tuple[str, str, Any]]


def read_feather(path: Path, columns: Sequence[str], remedy: str) -> Columns:
    """The named columns of a feather file (version 2), each as an array of one length.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or pyarrow is not installed.
    """
    require(path, remedy)
    with _arrow_errors(path, remedy):
        from pyarrow import ipc

        with ipc.open_file(str(path)) as reader:
            _check_columns(reader.schema.names, columns, path, remedy)
            return _as_numpy(reader.read_all().select(list(columns)))


def read_parquet(path: Path, columns: Sequence[str], remedy: str, where: Filters = ()) -> Columns:
    """The named columns of a parquet file, and of its rows those that pass all `where` (column, operator, value).

    Raises:
        DataError: the file is missing or damaged, lacks a column, or pyarrow is not installed.
    """
    require(path, remedy)
    with _arrow_errors(path, remedy):
        from pyarrow import parquet

        names = parquet.read_schema(path).names
        _check_columns(names, [*columns, *(name for name, _, _ in where)], path, remedy)
        return _as_numpy(parquet.ParquetDataset(path, filters=list(where) or None).read(columns=list(columns)))


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of the columns of a parquet file.

    Raises:
        DataError: the file is missing or damaged, or pyarrow is not installed.
    """
    remedy = "fetch the file again"
    require(path, remedy)
    with _arrow_errors(path, remedy):
        from pyarrow import parquet

        return tuple(parquet.read_schema(path).names)


@contextmanager
def _arrow_errors(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DataError(f"{path}: reading it takes pyarrow ({error}); pip install pyarrow") from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors derive from these
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: damaged ({reason}); {remedy}") from error


def _check_columns(there: Sequence[str], wanted: Sequence[str], path: Path, remedy: str) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; {remedy}")


def _as_numpy(table: Any) -> Columns:
    return {name: np.asarray(table.column(name).to_numpy(zero_copy_only=False)) for name in table.column_names}
