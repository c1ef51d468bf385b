"""Peak memory of a piece of work."""

import psutil
import pytest
import torch

from lora_tta.peak_memory import PeakMemory

MIB = 2**20


def test_on_the_cpu_it_is_the_largest_size_of_the_process():
    memory, process = PeakMemory(torch.device("cpu")), psutil.Process()
    block = torch.ones(400 * MIB, dtype=torch.uint8)
    with_block = process.memory_info().rss
    del block
    # Linux counts pages for each core and adds them up now and then: both sizes are inexact.
    assert memory.bytes() >= with_block - 100 * MIB


@pytest.mark.gpu
def test_a_freed_tensor_counts():
    memory = PeakMemory(torch.device("cuda"))
    torch.empty(300 * MIB, dtype=torch.uint8, device="cuda")
    assert memory.bytes() >= 300 * MIB


@pytest.mark.gpu
def test_the_memory_that_a_replay_uses_counts():
    data = torch.ones(100 * MIB, device="cuda", dtype=torch.uint8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = (data + 1 + 1).sum()
    memory, before = PeakMemory(torch.device("cuda")), torch.cuda.memory_allocated()
    graph.replay()
    assert result.item() == 3 * len(data)
    assert memory.bytes() >= before + 200 * MIB
    assert torch.cuda.max_memory_allocated() < before + 100 * MIB
