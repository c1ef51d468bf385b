"""Peak memory of a piece of work, on the device that does it."""

import resource
import sys

import torch


class PeakMemory:
    """Peak memory in bytes.

    On CUDA, the most that torch's allocator held since construction. On the CPU, the largest resident
    size of the process so far, which the operating system keeps for the whole process only.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
