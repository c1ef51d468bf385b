"""Signs of life of the workers of a study, as files on the disk they share."""

import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

MISSED_BEATS = 3


class Heartbeat:
    """Touches a file of this process's own while the ``with`` lasts, and tells which others do.

    Ages are differences of time stamps that the file system gives, so the clocks of the machines that
    share it need not agree.

    Args:
        folder: shared by the workers of one study.
        seconds: between two beats; a worker silent for three times as long is dead.
    """

    def __init__(self, folder: Path, seconds: float):
        self.worker_id = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

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
        """Whether a worker has shown a sign of life lately."""
        if worker_id is None:
            return False
        self._own.touch()
        try:
            silence = self._own.stat().st_mtime - (self._folder / worker_id).stat().st_mtime
        except FileNotFoundError:
            return False
        return silence < MISSED_BEATS * self._seconds

    @property
    def _own(self) -> Path:
        return self._folder / self.worker_id

    def _beat(self) -> None:
        while not self._stopped.wait(self._seconds):
            # A disk that fails for a moment must not end the beats of a living worker.
            with suppress(OSError):
                self._own.touch()
