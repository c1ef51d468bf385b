"""A content-addressed store of finished work, shared by every trial, stage, run and process.

An entry is a folder whose name is the hash of everything that determines its content. It appears at
once and whole, or not at all; a key that several processes ask for is computed by one of them.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lora_tta.cache.keys import digest

KEY_NAME = "key.json"
# An entry used this recently may be open in another process, so it is not evicted.
PROTECTED_SECONDS = 3600


@dataclass(frozen=True)
class Usage:
    """What the cache holds of one kind."""

    kind: str
    entries: int
    bytes: int


class ContentCache:
    """Entries under ``root/<kind>/<hash of the key>``.

    Args:
        root: the cache's folder, created at first use; it may lie on a disk shared by several machines.
        max_bytes: the least recently used entries go when the total exceeds this.
    """

    def __init__(self, root: Path, max_bytes: int):
        self.root = root
        self.max_bytes = max_bytes
        self._bytes: int | None = None

    def find(self, kind: str, key: Mapping) -> Path | None:
        """The entry's folder if it is there; marks it as used."""
        entry = self.root / kind / digest(key)
        try:
            os.utime(entry / KEY_NAME)
        except FileNotFoundError:
            return None
        return entry

    def fetch(self, kind: str, key: Mapping, compute: Callable[[Path], None]) -> Path:
        """The entry's folder, filled by ``compute(folder)`` if it is not there yet."""
        entry = self.find(kind, key)
        if entry is not None:
            return entry
        with self.lock(key):
            return self.find(kind, key) or self._add(kind, key, compute)

    def lock(self, key: Mapping) -> FileLock:
        """A context in which no other process works on ``key``; it ends with the process that holds it."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{digest(key)}.lock")

    def usage(self) -> list[Usage]:
        """Number and size of the entries of each kind."""
        totals: dict[str, list[int]] = {}
        for entry in self._entries():
            count_and_bytes = totals.setdefault(entry.parent.name, [0, 0])
            count_and_bytes[0] += 1
            count_and_bytes[1] += _folder_bytes(entry)
        return [Usage(kind, *totals[kind]) for kind in sorted(totals)]

    def evict(self, max_bytes: int, protected_seconds: float = PROTECTED_SECONDS) -> int:
        """Remove the least recently used entries until ``max_bytes`` remain; returns how many went."""
        entries = sorted((entry.joinpath(KEY_NAME).stat().st_mtime, entry) for entry in self._entries())
        sizes = {entry: _folder_bytes(entry) for _, entry in entries}
        total, removed = sum(sizes.values()), 0
        for used_at, entry in entries:
            if total <= max_bytes or used_at > time.time() - protected_seconds:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total, removed = total - sizes[entry], removed + 1
        return removed

    def _add(self, kind: str, key: Mapping, compute: Callable[[Path], None]) -> Path:
        (self.root / kind).mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.root))
        try:
            compute(partial)
            (partial / KEY_NAME).write_text(json.dumps(key, indent=1, sort_keys=True))
            entry = partial.rename(self.root / kind / digest(key))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        # Other processes add too, so the running total is only a reason to look at the disk.
        self._bytes = self._total_bytes() if self._bytes is None else self._bytes + _folder_bytes(entry)
        if self._bytes > self.max_bytes:
            self.evict(self.max_bytes)
            self._bytes = self._total_bytes()
        return entry

    def _total_bytes(self) -> int:
        return sum(usage.bytes for usage in self.usage())

    def _entries(self) -> list[Path]:
        return [path.parent for path in self.root.glob(f"*/*/{KEY_NAME}")]


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
