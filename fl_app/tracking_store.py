"""Where runs are tracked: addresses that work, an MLflow client with short timeouts, a database made in one piece."""

import logging
import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")
ADDRESSES: Final = "use http(s)://HOST:PORT or sqlite:///FILE, or leave it empty"
CREATE_S: Final = 90.0  # making the tables of a database takes MLflow seven seconds of a CPU
ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class TrackingError(RuntimeError):
    """The tracking server or database cannot be used; the text names the URI and the remedy."""


def uri_of(database: Path) -> str:
    """Returns the address of a sqlite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(database.resolve())).render_as_string()


def default_uri(output_dir: Path) -> str:
    """Returns the address of the sqlite file beside the runs."""
    return uri_of(output_dir / "mlflow.db")


def sqlite_file(uri: str) -> Path | None:
    """Returns the file that an address of sqlite stands for; None for other addresses and for a database in memory.

    Raises:
        TrackingError: the address cannot be read.
    """
    if not uri.startswith("sqlite"):
        return None
    try:
        database = make_url(uri).database
    except (ArgumentError, ValueError) as error:
        raise TrackingError(f"tracking-uri {uri!r}: {ADDRESSES} ({error})") from error
    return None if not database or database.startswith((":memory:", "file:")) else Path(database)


def check_reachable(uri: str, timeout_s: float = 5.0) -> None:
    """Asks a tracking server whether it is there, before any work starts.

    Raises:
        TrackingError: no answer, or a scheme that MLflow does not write to.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest.startswith("//"):
        raise TrackingError(f"tracking-uri {uri!r}: {ADDRESSES}")
    if scheme.partition("+")[0] in DATABASES or scheme == "databricks":
        sqlite_file(uri)
        return
    if scheme not in ("http", "https"):
        raise TrackingError(f"tracking-uri {uri!r}: {ADDRESSES}")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_s):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TrackingError(f"tracking-uri {uri!r}: no MLflow server answers there ({error})") from error


def open_client(uri: str) -> Any:
    """Returns an MLflow client; a sqlite database that is not there yet is made first.

    Raises:
        TrackingError: the database is being made by another process that does not finish.
        OSError: it cannot be made.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):  # what they have to say, we say in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if (path := sqlite_file(uri)) is None:
        return MlflowClient(tracking_uri=uri)
    _ensure_database(path)
    client = MlflowClient(tracking_uri=uri)
    _remove_misread_folder(path)
    return client


def _ensure_database(path: Path) -> None:
    """Makes a database that is not there: one process alone, and all of it or nothing.

    MLflow changes the tables of a new database some fifty times, one after another; two processes that do so at a time,
    or one that is killed, leave a database that nobody can open again.
    """
    if _is_there(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=CREATE_S):
            if not _is_there(path):
                _create_database(path)
    except Timeout:
        raise TrackingError(f"{path}: another process has been making it for {CREATE_S:.0f} s; try again") from None


def _is_there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _create_database(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        store = SqlAlchemyStore(uri_of(part), (path.parent / "artifacts").resolve().as_uri())
        store.engine.dispose()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove_misread_folder(path: Path) -> None:
    """Removes the empty folder that MLflow makes for an address whose escapes it takes literally."""
    literal = Path(uri_of(path).removeprefix("sqlite:///")).parent
    if literal != path.resolve().parent:
        with suppress(OSError):
            literal.rmdir()
