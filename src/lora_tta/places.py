"""Names and places in the settings: experiments and studies, databases and servers, paths and URIs."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

# The beginning of the URL of a SQLite file.
SQLITE = "sqlite:///"
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")
_NAME = re.compile(r"\w([\w. -]*[\w-])?")
_NOT_IN_NAMES = re.compile(r"[^\w. -]+")
# A study's name with its hash and an ending is the name of a file, of 255 bytes at most.
_MAX_NAME_BYTES = 200
_SECRET = re.compile(r"passw|pwd|token|secret", re.IGNORECASE)


def is_path(place: str) -> bool:
    """Whether a place is a path, and no URI.

    >>> is_path("mlruns/artifacts"), is_path("s3://bucket/runs"), is_path("mlflow-artifacts:/")
    (True, False, False)
    """
    return not _SCHEME.match(place)


def below(folder: Path, place: str) -> str:
    """A place as it is seen from ``folder``: a relative path becomes absolute, anything else stays."""
    if place.startswith(SQLITE):
        return f"{SQLITE}{folder / place.removeprefix(SQLITE)}"
    return str(folder / place) if is_path(place) else place


def checked_name(name: str) -> str:
    """A name that may stand in file names, filters, databases and MLflow's registry.

    Raises:
        ValueError: it may not; the message proposes one that may.
    """
    if _NAME.fullmatch(name) and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    near = _NOT_IN_NAMES.sub("-", name).strip(" .-").encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    hint = f"; {near.rstrip(' .')} would do" if near else ""
    raise ValueError(
        f"{name!r} is no valid name: letters, digits and . _ - or spaces between them, {_MAX_NAME_BYTES} "
        f"bytes at most{hint}"
    )


def without_password(url: str) -> str:
    """A URL that carries no secret, since settings are recorded in ``dvc.lock`` and with the results.

    Raises:
        ValueError: it does; the message does not repeat the URL.
    """
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query))
    except ValueError:
        raise ValueError("is no URL") from None
    if secret:
        raise ValueError(
            "holds a password, and settings are recorded with the results: leave it out here and give it "
            "in PGPASSWORD or ~/.pgpass for PostgreSQL, ~/.my.cnf for MySQL, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN for a server of MLflow"
        )
    return url


def checked_store(uri: str) -> str:
    """The URI of a store that MLflow runs can be logged to.

    Raises:
        ValueError: it is none.
    """
    without_password(uri)
    path = uri.removeprefix(SQLITE)
    if path != uri and path and not path.startswith(":"):
        return uri
    parts = urlsplit(uri)
    if parts.scheme in SERVERS or parts.scheme.partition("+")[0] in DATABASES:
        if parts.hostname:
            return uri
        raise ValueError(f"{uri!r} names no host")
    if is_path(uri) or parts.scheme == "file":
        raise ValueError(
            f"{uri!r} is a folder, which MLflow keeps no new runs in: write {SQLITE}mlruns/mlflow.db "
            "(mlflow migrate-filestore takes old runs over)"
        )
    raise ValueError(
        f"{uri!r} is no place for MLflow runs: write {SQLITE}PATH, https://HOST, or the URL of a database "
        f"({', '.join(DATABASES)})"
    )
