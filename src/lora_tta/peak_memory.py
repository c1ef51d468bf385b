"""Peak memory of a piece of work, on the device that does it."""

import resource
import sys

import torch


class PeakMemory:
    """Peak memory in bytes.

    On CUDA, the most that tensors took since construction, or what they take now with the memory that CUDA
    graphs keep for their replays, whichever is more. On the CPU, the largest resident size of the process so
    far, which the operating system keeps for the whole process only.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            with_graphs = torch.cuda.memory_allocated(self._device) + _kept_by_graphs(self._device)
            return max(torch.cuda.max_memory_allocated(self._device), with_graphs)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kept_by_graphs(device: torch.device) -> int:
    """Bytes of graphs' own memory pools outside of tensors; a replay uses them, unseen by the allocator."""
    index = torch.cuda.current_device() if device.index is None else device.index
    ordinary = (0, 0)
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == index and segment["segment_pool_id"] != ordinary
    )
