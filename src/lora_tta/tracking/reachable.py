"""Whether the MLflow store takes runs, found out within seconds, before any work and without MLflow."""

import os
import socket
import sqlite3
import ssl
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from lora_tta.errors import UserError
from lora_tta.places import SERVERS, SQLITE

SECONDS = 5
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What the messages of SQLite and the operating system are about, and what to do.
_ADVICE = {
    "locked": "another program is writing to it; close it (fuser names it) and run again",
    "not a database": "the file is damaged; move it away, and the study and the cache fill a new one",
    "malformed": "the file is damaged; move it away, and the study and the cache fill a new one",
    "readonly": "make the file and its folder writable, or set another tracking.uri",
    "denied": "make the file and its folder writable, or set another tracking.uri",
    "unable to open": "give the path of a file in a folder that can be written to",
}
_UNUSABLE = "move the file away, and the study and the cache fill a new one"
_ABSENT = "start the server, or set another tracking.uri (sqlite:///mlruns/mlflow.db needs none)"


def check_store(uri: str) -> None:
    """Return if the store answers and can be written to.

    Raises:
        UserError: it cannot, and what to do.
    """
    try:
        if uri.startswith(SQLITE):
            _check_file(Path(uri.removeprefix(SQLITE)))
        elif urlsplit(uri).scheme in SERVERS:
            _check_server(uri)
        else:
            _check_port(uri)
    except (OSError, sqlite3.Error, HTTPException) as error:
        raise store_error(uri, error) from None


def store_error(uri: str, error: BaseException) -> UserError:
    """One line for an error of a store."""
    reason = short_reason(error)
    otherwise = _UNUSABLE if uri.startswith(SQLITE) else _ABSENT
    advice = next((advice for part, advice in _ADVICE.items() if part in reason), otherwise)
    return UserError(f"tracking.uri {uri} takes no runs ({reason}): {advice}")


def short_reason(error: BaseException) -> str:
    """The one line of an error that says most; that of a database stands below others."""
    lines = str(getattr(error, "reason", error)).strip().splitlines()
    return next((line for line in lines if "Error)" in line), lines[0] if lines else type(error).__name__)


def _check_file(path: Path) -> None:
    if not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"permission denied in {folder}")
        return
    file = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(file, uri=True, timeout=SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()


def _check_server(uri: str) -> None:
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS):  # noqa: S310  # a server's, checked by the caller
            return
    except HTTPError as error:
        # A proxy answers like this for a server that is down; other codes are a server's own.
        if error.code in (502, 503, 504):
            raise
    except URLError as error:
        # MLflow's own settings say which certificates it takes.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _check_port(uri: str) -> None:
    parts = urlsplit(uri)
    port = parts.port or _PORTS[parts.scheme.partition("+")[0]]
    socket.create_connection((parts.hostname or "", port), timeout=SECONDS).close()
