"""Signs of life of the workers of a study, as files on the disk they share."""

import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

MISSED_BEATS = 3
# For as long, whoever looks has to be awake himself: after a sleep all others seem silent until they beat.
WATCHED_BEATS = 1.5


class Heartbeat:
    """Touches a file of this process's own while the ``with`` lasts, and tells which others do.

    Time stamps come from the file system, so the clocks of the machines that share it need not agree. They
    are believed only after a while of watching, by a clock that neither jumps nor runs during a sleep.

    Args:
        folder: shared by the workers of one study.
        seconds: between two beats; a worker silent for three times as long is dead.
    """

    def __init__(self, folder: Path, seconds: float):
        self.worker_id = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        # The last beat of each other worker, and when it was first seen by this process's clock.
        self._seen: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own.touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._own.unlink(missing_ok=True)

    def is_alive(self, worker_id: str | None) -> bool:
        """Whether a worker has shown a sign of life lately; one of this machine has to have a process."""
        if worker_id is None or _has_ended(worker_id):
            return False
        self._own.touch()
        try:
            beat = (self._folder / worker_id).stat().st_mtime_ns
        except FileNotFoundError:
            return False
        now = time.monotonic()
        last, since = self._seen.get(worker_id, (None, now))
        if beat != last:
            since = now
            self._seen[worker_id] = (beat, since)
        watched, silent = now - since, (self._own.stat().st_mtime_ns - beat) / 1e9
        limit = MISSED_BEATS * self._seconds
        # The second condition alone would keep the dead alive whose last beat lies in the future of a clock
        # that was set back.
        return watched < limit and (silent < limit or watched < WATCHED_BEATS * self._seconds)

    @property
    def _own(self) -> Path:
        return self._folder / self.worker_id

    def _beat(self) -> None:
        while not self._stopped.wait(self._seconds):
            # A disk that fails for a moment must not end the beats of a living worker.
            with suppress(OSError):
                self._own.touch()


def _machine() -> str:
    """A name for what shares its process ids with this process: a machine, or a container on it."""
    namespace = Path("/proc/self/ns/pid")
    return f"{os.uname().nodename}.{namespace.stat().st_ino if namespace.exists() else 0}"


def _has_ended(worker_id: str) -> bool:
    """Whether a worker was a process of this machine that is no more."""
    machine, _, rest = worker_id.rpartition("-")[0].rpartition("-")
    if machine != _machine():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        return False
    return False
