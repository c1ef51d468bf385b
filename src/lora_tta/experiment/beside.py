"""Jobs that need no model, done by a thread beside the model's work."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")


class Beside:
    """Does jobs one after another, in the order in which they come.

    Args:
        threaded: whether a thread does them while the caller goes on, which on a GPU mostly waits. On the
            CPU, where both would share the cores, each job is done at once.
        num_threads: of PyTorch on the CPU, which counts for every thread by itself.
    """

    def __init__(self, threaded: bool, num_threads: int):
        self._jobs: deque[Future] = deque()
        self._executor = (
            ThreadPoolExecutor(1, "beside", lambda: torch.set_num_threads(num_threads)) if threaded else None
        )

    def submit(self, job: Callable[[], Result]) -> "Future[Result]":
        """Add a job; the future holds its result or its exception."""
        if self._executor is None:
            future: Future[Result] = Future()
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
            return future
        future = self._executor.submit(job)
        self._jobs.append(future)
        return future

    def wait(self, keep: int = 0) -> None:
        """Return when no more than ``keep`` jobs are left."""
        while len(self._jobs) > keep:
            wait([self._jobs.popleft()])
