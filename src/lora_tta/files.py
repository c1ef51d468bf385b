"""Files that are either whole or not there, and hashes of their content."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FLOAT_FORMAT = "%.9g"
"""Nine digits carry a float32 through a text file unchanged."""
PARTIAL_PATTERN = ".*.partial*"
"""Matches what an interrupted :func:`atomic` leaves behind."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file or a folder so that it appears at once and whole, or not at all.

    The block gets a path beside ``path``, with the same suffix, to write to. What it wrote there replaces
    ``path`` at the end of the block, and is removed if the block raises. The parent folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}.partial{path.suffix}")
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside, and is removed at the end.
            old = path.with_name(f".{uuid.uuid4().hex[:12]}.partial-old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    except OSError as error:
        # Of a full disk, the system does not tell where it is.
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8 and with Unix line ends; creates its folder."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write the columns of ``table`` (not its index) atomically; NaN becomes an empty cell."""
    write_text(path, table.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
