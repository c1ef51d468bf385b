"""A content-addressed store of finished work, shared by every trial, stage, run and process.

An entry is a folder whose name is the hash of everything that determines its content. It appears at
once and whole, or not at all; a key that several processes ask for is computed by one of them. A hash of
each file is kept with the entry and checked when a process opens it.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lora_tta.cache.keys import digest
from lora_tta.cache.leases import Leases
from lora_tta.files import file_sha256

logger = logging.getLogger(__name__)

KEY_NAME, CONTENT_NAME = "key.json", "content.json"
# Folders of the store beside the kinds of entries.
LEASES, LOCKS, PARTIAL, TRASH = "leases", "locks", "partial", "trash"
# Whoever holds the lock on the whole store lets go of it within a millisecond or so.
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Usage:
    """Entries and bytes of one kind, and how many of the entries are leased."""

    kind: str
    entries: int
    bytes: int
    leased: int = 0


class ContentCache:
    """Entries under ``root/<kind>/<hash of the key>``.

    Args:
        root: the cache's folder, created at first use; it may lie on a disk shared by several machines.
        max_bytes: the least recently used entries that nobody leases go when the total exceeds this.
    """

    def __init__(self, root: Path, max_bytes: int):
        self.root = root
        self.max_bytes = max_bytes
        self._leases = Leases(root / LEASES)
        self._checked: dict[Path, dict[str, tuple[int, int]]] = {}
        self._bytes: int | None = None

    def find(self, kind: str, key: Mapping[str, Any]) -> Path | None:
        """The entry's folder if it is there and undamaged; marks it as used, and leases it."""
        entry = self.root / kind / digest(key)
        if not entry.exists():
            return None
        with self._housekeeping():
            if not (entry / CONTENT_NAME).exists():
                self._drop(entry)
                return None
            self._leases.add(entry)
            os.utime(entry / CONTENT_NAME)
        damage = self._damage(entry)
        if damage is None:
            return entry
        logger.warning("cache: %s %s is damaged (%s): it is computed again", kind, entry.name[:10], damage)
        with self._housekeeping():
            self._drop(entry)
        self._empty_trash()
        return None

    def fetch(self, kind: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        """The entry's folder, filled by ``compute(folder)`` if it is not there yet."""
        entry = self.find(kind, key)
        if entry is not None:
            return entry
        with self.lock(key):
            return self.find(kind, key) or self._add(kind, key, compute)

    def lock(self, key: Mapping[str, Any]) -> FileLock:
        """A context in which no other process works on ``key``; it ends with the process that holds it."""
        locks = self.root / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{digest(key)}.lock")

    @contextmanager
    def leasing(self) -> Iterator[None]:
        """Keep every entry that is found or added inside the block until its end, or the process's."""
        with self._leases.block():
            yield

    def lease(self, paths: Collection[Path]) -> None:
        """Keep the entries that hold the paths, which another process leases still, until the block's end."""
        with self._housekeeping():
            for path in paths:
                self._leases.add(self.root.joinpath(*path.relative_to(self.root).parts[:2]))

    def usage(self) -> list[Usage]:
        """Number and size of the entries of each kind."""
        leased = self._leases.held()
        totals: dict[str, Usage] = {}
        for entry in self._entries():
            kind = entry.parent.name
            before = totals.get(kind, Usage(kind, 0, 0))
            is_leased = f"{kind}/{entry.name}" in leased
            totals[kind] = Usage(
                kind, before.entries + 1, before.bytes + _folder_bytes(entry), before.leased + is_leased
            )
        return [totals[kind] for kind in sorted(totals)]

    def leftovers(self) -> Usage:
        """Number and size of the folders that killed processes left."""
        folders = self._abandoned()
        return Usage("leftovers", len(folders), sum(map(_folder_bytes, folders)))

    def evict(self, max_bytes: int) -> int:
        """Remove leftovers, and the least recently used entries without a lease until ``max_bytes`` remain.

        Returns:
            The number of entries that were removed.
        """
        self._remove_leftovers()
        used = sorted((_used_at(entry), entry) for entry in self._entries())
        sizes = {entry: _folder_bytes(entry) for _, entry in used}
        total, removed = sum(sizes.values()), 0
        for _, entry in used:
            if total <= max_bytes:
                break
            with self._housekeeping():
                if f"{entry.parent.name}/{entry.name}" in self._leases.held():
                    continue
                removed += self._drop(entry)
            total -= sizes[entry]
        self._empty_trash()
        return removed

    def _add(self, kind: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        if self._bytes is None:
            self._remove_leftovers()
        partials = self.root / PARTIAL
        partials.mkdir(parents=True, exist_ok=True)
        name = digest(key)
        partial = partials / name
        # The caller holds the key's lock, so a folder of this name was left by a process that was killed.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            compute(partial)
            (partial / KEY_NAME).write_text(json.dumps(key, indent=1, sort_keys=True))
            (partial / CONTENT_NAME).write_text(json.dumps(_content(partial)))
            entry = self.root / kind / name
            entry.parent.mkdir(parents=True, exist_ok=True)
            with self._housekeeping():
                self._leases.add(entry)
                partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._checked[entry] = _stats(entry)
        # Other processes add too, so the running total is only a reason to look at the disk.
        self._bytes = self._total_bytes() if self._bytes is None else self._bytes + _folder_bytes(entry)
        if self._bytes > self.max_bytes:
            self.evict(self.max_bytes)
            self._bytes = self._total_bytes()
        return entry

    def _damage(self, entry: Path) -> str | None:
        """The first file of an entry that is not as it was written, None if all are.

        Files of the size and time stamp at their last check by this process are not read again.
        """
        stats = _stats(entry)
        if self._checked.get(entry) == stats:
            return None
        try:
            content = json.loads((entry / CONTENT_NAME).read_text())
            for name in content:
                if name not in stats or file_sha256(entry / name) != content[name]:
                    return name
        except (OSError, ValueError, TypeError):
            return CONTENT_NAME
        self._checked[entry] = stats
        return None

    def _drop(self, entry: Path) -> bool:
        """Move an entry to the trash; the caller holds the lock on the store."""
        trash = self.root / TRASH
        trash.mkdir(parents=True, exist_ok=True)
        try:
            entry.rename(trash / f"{entry.name}-{os.urandom(4).hex()}")
        except FileNotFoundError:
            return False
        self._checked.pop(entry, None)
        return True

    def _empty_trash(self) -> None:
        shutil.rmtree(self.root / TRASH, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for folder in self._abandoned():
            shutil.rmtree(folder, ignore_errors=True)
        self._leases.remove_dead()

    def _abandoned(self) -> list[Path]:
        """Unfinished entries whose key nobody works on, and the trash."""
        found = [*(self.root / TRASH).glob("*")]
        for partial in (self.root / PARTIAL).glob("*"):
            lock = FileLock(self.root / LOCKS / f"{partial.name}.lock", timeout=0)
            try:
                with lock:
                    found.append(partial)
            except TimeoutError:
                continue
        return found

    @contextmanager
    def _housekeeping(self) -> Iterator[None]:
        """The short steps in which entries are leased, added and dropped."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".housekeeping.lock", poll_interval=POLL_SECONDS):
            yield

    def _total_bytes(self) -> int:
        return sum(usage.bytes for usage in self.usage())

    def _entries(self) -> list[Path]:
        return [
            path.parent
            for path in self.root.glob(f"*/*/{CONTENT_NAME}")
            if path.parts[-3] not in (PARTIAL, TRASH)
        ]


def _content(folder: Path) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in _stats(folder)}


def _stats(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time stamp of every file of an entry by its name, apart from the file of hashes."""
    stats = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CONTENT_NAME:
            stat = path.stat()
            stats[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return stats


def _used_at(entry: Path) -> float:
    try:
        return (entry / CONTENT_NAME).stat().st_mtime
    except FileNotFoundError:  # removed by another process just now
        return 0.0


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
