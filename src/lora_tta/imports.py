"""Imports of large libraries: without garbage collection or Ctrl-C, and without a first use of CUDA."""

import atexit
import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def large_imports() -> Iterator[None]:
    """Import without the collector, which would search the imported objects again and again for nothing.

    The search takes a fifth of the time of importing torch, diffusers and MLflow (docs/log/demo.md).
    Later collections leave out what has been imported, and forked processes go on sharing it.

    Ctrl-C counts after the block: torch's initialisation in C++ aborts the process at an exception of Python.
    """
    with _ctrl_c_afterwards(), _without_garbage_collection():
        yield


@contextmanager
def _ctrl_c_afterwards() -> Iterator[None]:
    in_main = threading.current_thread() is threading.main_thread()  # others may not set handlers
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not in_main:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
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


@contextmanager
def without_first_use_of_cuda() -> Iterator[None]:
    """Import while NVML, not CUDA, counts the GPUs.

    A process that has asked CUDA passes a broken CUDA on to the processes forked from it
    (https://docs.pytorch.org/docs/stable/notes/multiprocessing.html#poison-fork-in-multiprocessing), and
    diffusers asks when it is imported.
    """
    import torch

    if not hasattr(torch._C, "_cuda_getDeviceCount"):  # a torch without CUDA
        yield
        return
    with patch.object(torch._C, "_cuda_getDeviceCount", lambda: max(0, torch.cuda._device_count_nvml())):
        yield
