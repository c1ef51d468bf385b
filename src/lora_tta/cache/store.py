"""A content-addressed store of finished work, shared by every trial, stage, run and process.

An entry is a folder whose name is the hash of everything that determines its content. It appears at
once and whole, or not at all; a key that several processes ask for is computed by one of them. A hash of
each file is kept with the entry and checked when a process opens it.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora_tta.cache.keys import digest
from lora_tta.cache.leases import Leases
from lora_tta.files import file_sha256

logger = logging.getLogger(__name__)

KEY_NAME, CONTENT_NAME = "key.json", "content.json"
# Folders of the store beside the kinds of entries.
LEASES, LOCKS, PARTIAL, TRASH = "leases", "locks", "partial", "trash"
RESERVED = (LEASES, LOCKS, PARTIAL, TRASH)
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
        with self.leasing():
            with self._housekeeping():
                identity = _inode(entry)
                if identity is None:
                    return None
                self._leases.add(entry)
                if (entry / CONTENT_NAME).exists():
                    os.utime(entry / CONTENT_NAME)
            damaged = self._damaged_file(entry)
            if damaged is None:
                return entry
            logger.warning(
                "cache: %s %s is damaged (%s): it is computed again", kind, entry.name[:10], damaged
            )
            with self._housekeeping():
                # Another process may have dropped it meanwhile, and made it anew.
                if _inode(entry) == identity:
                    self._drop(entry)
            self._empty_trash()
            return None

    def fetch(self, kind: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        """The entry's folder, filled by ``compute(folder)`` if it is not there yet."""
        with self.leasing():
            entry = self.find(kind, key)
            if entry is not None:
                return entry
            with self.lock(key):
                return self.find(kind, key) or self._add(kind, key, compute)

    def lock(self, key: Mapping[str, Any], thread_local: bool = True) -> FileLock:
        """A context in which no other process works on ``key``; it ends with the process that holds it.

        Args:
            key: of the work.
            thread_local: whether the thread that acquires the lock must release it.
        """
        locks = self.root / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{digest(key)}.lock", thread_local=thread_local)

    @contextmanager
    def leasing(self) -> Iterator[None]:
        """Keep every entry that is found or added inside the block until its end, or the process's."""
        with self._leases.block():
            yield

    def usage(self) -> list[Usage]:
        """Number and size of the entries of each kind."""
        leased = self._leases.held()
        totals: dict[str, Usage] = {}
        for entry in self._entries():
            kind = entry.parent.name
            before = totals.get(kind, Usage(kind, 0, 0))
            is_leased = _name(entry) in leased
            totals[kind] = Usage(
                kind, before.entries + 1, before.bytes + _folder_bytes(entry), before.leased + is_leased
            )
        return [totals[kind] for kind in sorted(totals)]

    def leftovers(self) -> Usage:
        """Number and size of the folders that killed processes left."""
        sizes = [_folder_bytes(folder) for folder in self._abandoned()]
        return Usage("leftovers", len(sizes), sum(sizes))

    def evict(self, max_bytes: int) -> int:
        """Remove leftovers, and the least recently used entries without a lease until ``max_bytes`` remain.

        Returns:
            The number of entries that were removed.
        """
        self._remove_leftovers()
        used = sorted((_used_at(entry), entry) for entry in self._entries())
        sizes = {entry: _folder_bytes(entry) for _, entry in used}
        total, removed = sum(sizes.values()), 0
        for used_at, entry in used:
            if total <= max_bytes:
                break
            with self._housekeeping():
                if _used_at(entry) != used_at or _name(entry) in self._leases.held():
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

    def _damaged_file(self, entry: Path) -> str | None:
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
        self._checked.pop(entry, None)
        try:
            entry.rename(trash / f"{entry.name}-{os.urandom(4).hex()}")
        except FileNotFoundError:
            return False
        return True

    def _empty_trash(self) -> None:
        # The folder itself stays: another process may be moving an entry into it.
        for folder in _folders(self.root / TRASH):
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for folder in self._abandoned():
            shutil.rmtree(folder, ignore_errors=True)
        self._leases.remove_dead()

    def _abandoned(self) -> Iterator[Path]:
        """The trash, and unfinished entries whose key nobody works on, or begins to until the next one."""
        yield from _folders(self.root / TRASH)
        for partial in _folders(self.root / PARTIAL):
            try:
                with FileLock(self.root / LOCKS / f"{partial.name}.lock", timeout=0):
                    yield partial
            except Timeout:
                continue

    @contextmanager
    def _housekeeping(self) -> Iterator[None]:
        """The short steps in which entries are leased, added and dropped."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".housekeeping.lock", poll_interval=POLL_SECONDS):
            yield

    def _total_bytes(self) -> int:
        return sum(usage.bytes for usage in self.usage())

    def _entries(self) -> list[Path]:
        kinds = [folder for folder in _folders(self.root) if folder.name not in RESERVED]
        return [entry for kind in kinds for entry in _folders(kind) if (entry / CONTENT_NAME).exists()]


def _name(entry: Path) -> str:
    return f"{entry.parent.name}/{entry.name}"


def _content(folder: Path) -> dict[str, str]:
    """Hashes of the files by name, without the file of hashes, which a copied entry brings along."""
    return {name: file_sha256(folder / name) for name in _stats(folder) if name != CONTENT_NAME}


def _stats(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time stamp of every file of an entry by its name.

    The time stamp of the file of hashes is left out, since it tells when the entry was used.
    """
    return {
        name: (stat.st_size, 0 if name == CONTENT_NAME else stat.st_mtime_ns)
        for name, stat in _walk(folder, "")
    }


def _folder_bytes(folder: Path) -> int:
    return sum(stat.st_size for _, stat in _walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states of all files below a folder, which other processes may be removing."""
    try:
        for item in sorted(os.scandir(folder), key=lambda item: item.name):
            if item.is_dir():
                yield from _walk(Path(item), f"{prefix}{item.name}/")
            else:
                yield f"{prefix}{item.name}", item.stat()
    except FileNotFoundError:
        return


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(item) for item in os.scandir(folder) if item.is_dir())
    except FileNotFoundError:
        return []


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def _used_at(entry: Path) -> float:
    try:
        return (entry / CONTENT_NAME).stat().st_mtime
    except FileNotFoundError:  # removed by another process just now
        return 0.0
