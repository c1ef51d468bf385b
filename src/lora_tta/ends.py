"""How processes end: with their parent, at Ctrl-C, and at once when their work is done."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from typing import NoReturn


@contextmanager
def without_signals(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never see these signals. Their parent does, after the block.

    For signals that come to a whole group of processes, of which one decides how the others end.
    """
    # Python starts it with the first process, and lets SIGINT through again then.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def without_ctrl_c() -> AbstractContextManager[None]:
    """:func:`without_signals` for Ctrl-C, which reaches every process of a terminal."""
    return without_signals(signal.SIGINT)


def follow_parent() -> None:
    """End this process when its parent ends, in whatever way, and not before at Ctrl-C."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()


def end_process(status: int) -> NoReturn:
    """End this process with a status.

    It ends as those of ``multiprocessing`` do: its threads end and all exit handlers run, but Python does not
    take apart what was imported. With torch that takes 2 to 5 seconds (docs/log/demo.md).
    """
    threading._shutdown()  # pyrefly: ignore[missing-attribute]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
