"""Leases on the entries of a cache: files of the processes that hold them, with locks that end with them."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Leases:
    """The leases of this process, and those of all others that share the folder.

    Args:
        folder: of the lease files.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._depth = 0
        self._counting = threading.Lock()
        self._file: Path | None = None
        self._names: set[str] = set()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Entries that are added inside stay leased until the outermost block ends, which began first."""
        with self._counting:
            self._depth += 1
            is_outermost = self._depth == 1
        try:
            if not is_outermost:
                yield
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / f"{uuid.uuid4().hex}.txt"
            lock = _lock_of(file)
            with lock:
                file.touch()
                self._file = file
                try:
                    yield
                finally:
                    self._file = None
                    self._names.clear()
                    file.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
        finally:
            with self._counting:
                self._depth -= 1

    def add(self, entry: Path) -> None:
        """Lease an entry, if this process is inside of a block."""
        name = f"{entry.parent.name}/{entry.name}"
        if self._file is not None and name not in self._names:
            with self._file.open("a") as file:
                file.write(f"{name}\n")
            self._names.add(name)

    def held(self) -> set[str]:
        """The entries that living processes lease, as ``<kind>/<name>``."""
        names: set[str] = set()
        for file in self._folder.glob("*.txt"):
            if file == self._file or _is_held(file):
                try:
                    names |= set(file.read_text().split())
                except FileNotFoundError:
                    continue
        return names

    def remove_dead(self) -> None:
        """Remove the files of processes that have died."""
        for file in self._folder.glob("*.txt"):
            if file != self._file and not _is_held(file):
                file.unlink(missing_ok=True)
                Path(_lock_of(file).lock_file).unlink(missing_ok=True)


def _lock_of(file: Path) -> FileLock:
    return FileLock(file.with_suffix(".lock"), timeout=0)


def _is_held(file: Path) -> bool:
    try:
        with _lock_of(file):
            return False
    except Timeout:
        return True
