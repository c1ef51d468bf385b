"""The processes that work on clips on this machine: how they start, and how many there are.

They import torch and other large libraries, at once and alone; a process that waits for them does not.
"""

import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal

import psutil

from lora_tta.config import ModelParams
from lora_tta.ends import follow_parent, without_ctrl_c
from lora_tta.errors import UserError

# One of them is there wherever PyTorch can find a GPU: the drivers of NVIDIA, of Windows' Linux, and of AMD.
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
# What a process with the embedded model takes, its share of the page cache included.
PROCESS_BYTES = 2 * 10**9
END_MODULE = "lora_tta.end_at_once"


def forkserver(preload: str) -> ForkServerContext:
    """Processes forked from a server that has imported ``preload``, so that torch is imported once for all.

    They are forked before CUDA or a thread is up, which plain forks of this process could not rely on.
    The server imports while the caller goes on, until the first process is started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([END_MODULE, preload])
    with without_ctrl_c():
        multiprocessing.forkserver.ensure_running()
    return context


def call_in_process(preload: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function(*arguments)``, called in a process of :func:`forkserver`.

    Whatever a signal raises here meanwhile ends the other process at once.
    """
    with ProcessPoolExecutor(1, mp_context=forkserver(preload), initializer=follow_parent) as executor:
        called = executor.submit(function, *arguments)
        try:
            return called.result()
        except BaseException:
            if not called.done():
                for process in multiprocessing.active_children():
                    process.kill()
            raise


def num_processes(asked: int | Literal["auto"], model: ModelParams, preload: str) -> int:
    """How many processes are to work: one for each GPU, or as the cores and the memory allow without one.

    Args:
        asked: ``workers.processes`` or what stands for it.
        model: its device and threads.
        preload: the module that the processes import, see :func:`forkserver`.

    Raises:
        UserError: more processes than GPUs are asked for.
    """
    if asked == 1:
        return 1
    num_gpus = 0
    if model.device != "cpu" and any(Path(driver).exists() for driver in DRIVERS):
        # In a process of its own: whoever has asked CUDA can't fork any more, and here torch is not imported.
        num_gpus = call_in_process(preload, count_gpus)
    if not num_gpus:
        return _processes_for_cores(model.num_threads) if asked == "auto" else asked
    if asked == "auto":
        return num_gpus
    if asked > num_gpus:
        raise UserError(
            f"workers.processes is {asked}, but GPUs: {num_gpus}, and two processes on one GPU take each "
            f"other's memory and time: set it to auto, or to {num_gpus} or less"
        )
    return asked


def take_gpu(index: int) -> None:
    """Leave this process one of the GPUs that it may use, as its first one.

    Compiled code is stored with the number of its GPU, so that other numbers would compile anew. To be
    called before the process asks CUDA anything.

    Args:
        index: among the GPUs of CUDA_VISIBLE_DEVICES, modulo their number, or else of the machine.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(index)
    elif visible:
        names = visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[index % len(names)]


def count_gpus() -> int:
    """GPUs that this process may use; CUDA_VISIBLE_DEVICES counts."""
    import torch

    return torch.cuda.device_count()


def _processes_for_cores(num_threads: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // num_threads, psutil.virtual_memory().available // PROCESS_BYTES))
