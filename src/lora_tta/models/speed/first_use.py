"""What a process does once: compiling, capturing, loading kernels. No part of what its work costs."""

import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

# While a graph is captured, nothing else of the process may use the GPU.
GPU_ALONE = threading.Lock()


class FirstUses:
    """Seconds that first uses have taken, each for a key that says what is used for the first time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: set[Hashable] = set()

    def is_new(self, key: Hashable) -> bool:
        """Whether a key is met for the first time."""
        is_new = key not in self._known
        self._known.add(key)
        return is_new

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what happens inside, alone on the GPU, until the GPU has done it."""
        began = time.perf_counter()
        try:
            with GPU_ALONE:
                yield
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
        finally:
            self.seconds += time.perf_counter() - began
