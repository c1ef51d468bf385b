"""Imported by a server of forks, has it end without taking apart what it has imported, which takes seconds.

It goes before the other imports: then all of their exit handlers run before this one.
"""

import atexit
import os

_SERVER = os.getpid()


def _end() -> None:
    # The forked processes have statuses of their own, and multiprocessing ends them at once.
    if os.getpid() == _SERVER:
        os._exit(0)


atexit.register(_end)
