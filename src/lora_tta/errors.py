"""Errors that are shown to the user as a plain line instead of a traceback, and interruptions."""

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted: run again to go on; nothing that was finished is lost"
_FULL = "free some space and run again; nothing that was finished is lost"
_DENIED = "change its owner or rights, or set another place"
# What the system says of a disk that takes no files, and what to do.
_DISK_TROUBLE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit of the size of files (ulimit -f) and run again",
    errno.EROFS: _DENIED,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EIO: "the disk fails: save what is on it",
    errno.ESTALE: "the network's disk has gone away: mount it again",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
}
# How libraries say that a file took less than they wrote: NumPy, torch (two), SQLite.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|unexpected pos \d+|failed writing file|disk is full")


class UserError(Exception):
    """Something the user can put right.

    The message is one line that says what was wrong, where, and what to do; the command line prints it
    to standard error and exits with status 2.
    """


class FailedWork(Exception):  # noqa: N818
    """A piece of work on a clip that gave no usable result: the trial or the clip fails, nothing else does.

    The message is one line with the reason, for instance a loss that is not a number, or memory that ran out.
    """


def reason_of(error: BaseException) -> str:
    """The reason of a failure in one line."""
    known = _disk_trouble(error) or error
    text = " ".join(str(known).split())
    return text if isinstance(known, UserError | FailedWork) else f"{type(known).__name__}: {text}"


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what a full, read-only or foreign disk causes inside into a :class:`UserError`.

    No work is to blame for it, and all that follows would meet it too.
    """
    try:
        yield
    except Exception as error:
        if found := _disk_trouble(error):
            raise found from error
        raise


def report_user_errors(run: Callable[[], None]) -> int:
    """Call ``run``; returns 0, or 2 after printing one line.

    The line tells of a :class:`UserError`, of a missing file, a disk that takes none, or an end by Ctrl-C or
    SIGTERM.
    """
    try:
        with _sigterm_interrupts(), disk_errors():
            run()
    except UserError as error:
        line = str(error)
    except KeyboardInterrupt:
        line = INTERRUPTED
    except FileNotFoundError as error:
        if not error.filename:
            raise
        line = (
            f"{_place_of(error)}{error.strerror}: run the stage that writes it (dvc repro), or check the path"
        )
    else:
        return 0
    print(f"error: {line}", file=sys.stderr)
    return 2


def _disk_trouble(error: BaseException | None) -> UserError | None:
    """What to tell the user of an error that a disk caused, directly or not; None if none did."""
    while error is not None and not isinstance(error, UserError | FailedWork):
        for code, remedy in _DISK_TROUBLE.items():
            # Libraries that are not written in Python pass on the system's words alone.
            reason = os.strerror(code)
            if (isinstance(error, OSError) and error.errno == code) or f"{reason} (os error {code})" in str(
                error
            ):
                return UserError(f"{_place_of(error)}{reason}: {remedy}")
        if _CUT_SHORT.search(str(error)):
            return UserError(f"a file could not be written to its end, as on a full disk: {_FULL}")
        error = error.__cause__ or error.__context__
    return None


def _place_of(error: BaseException) -> str:
    return f"{name}: " if (name := getattr(error, "filename", None)) else ""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does, and not at once, which would leave half-written files."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
