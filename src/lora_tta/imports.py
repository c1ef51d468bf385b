"""Imports of large libraries without garbage collection."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import without the collector, which would search the imported objects again and again for nothing.

    The search takes a fifth of the time of importing torch, diffusers and MLflow (docs/log/demo.md).
    Later collections leave out what has been imported, and forked processes go on sharing it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Libraries complain of leaks if the interpreter ends without having taken them apart.
        atexit.register(gc.unfreeze)
        gc.enable()
