"""Reading safetensors files into a device's memory at the rate of the disk."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

READERS = 8
PART_BYTES = 8 * 2**20


class _Part(NamedTuple):
    values: Tensor
    """To be filled, on the device; flat."""
    stored_dtype: torch.dtype
    path: Path
    offset: int

    @property
    def stored_bytes(self) -> int:
        return len(self.values) * self.stored_dtype.itemsize


def read_weights(files: Sequence[Path], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read safetensors files from end to end; parts are on their way to the device while the next are read.

    From a mapped file, which safetensors and diffusers load from, nothing is read while a part is copied
    (docs/log/loading.md). Host memory takes ``READERS + 1`` buffers, whatever the size of the files.

    Args:
        files: with tensors of different names.
        device: where the tensors go, a CUDA device or the CPU.
        dtype: of the tensors that hold floating-point numbers.

    Returns:
        The tensors by their names.

    Raises:
        safetensors.SafetensorError: if a file is no safetensors file, or has been cut off.
        OSError: if a file cannot be read to its end.
    """
    weights: dict[str, Tensor] = {}
    pin_memory = device.type == "cuda"
    buffers = cycle(torch.empty(READERS + 1, PART_BYTES, dtype=torch.uint8, pin_memory=pin_memory))
    reading: deque[tuple[_Part, Tensor, Future[None]]] = deque()
    size = sum(path.stat().st_size for path in files)
    with (
        ThreadPoolExecutor(READERS) as readers,
        tqdm(total=size, desc="Loading weights", unit="B", unit_scale=True) as progress,
    ):

        def copy_oldest() -> None:
            part, buffer, read = reading.popleft()
            read.result()
            if device.type == "cuda":
                # For the copy before this one: its buffer is the next to be read into.
                torch.cuda.current_stream(device).synchronize()
            part.values.copy_(buffer.view(part.stored_dtype), non_blocking=True)
            progress.update(len(buffer))

        for part in _allocate_parts(files, device, dtype, weights):
            buffer = next(buffers)[: part.stored_bytes]
            reading.append((part, buffer, readers.submit(_read, part, buffer)))
            if len(reading) == READERS:
                copy_oldest()
        while reading:
            copy_oldest()
    return weights


def _allocate_parts(
    files: Sequence[Path], device: torch.device, dtype: torch.dtype, weights: dict[str, Tensor]
) -> Iterator[_Part]:
    """Put tensors like the files' into ``weights``, and yield their parts, in the order of the files."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.offset_keys()}  # mapped, nothing is read
        # The format leaves no gaps between the tensors, and nothing behind them.
        offset = path.stat().st_size - sum(tensor.nbytes for tensor in stored.values())
        for name, tensor in stored.items():
            weights[name] = torch.empty_like(
                tensor, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device=device
            )
            for values in weights[name].view(-1).split(PART_BYTES // tensor.itemsize):
                part = _Part(values, tensor.dtype, path, offset)
                yield part
                offset += part.stored_bytes


def _read(part: _Part, buffer: Tensor) -> None:
    with part.path.open("rb") as file:
        file.seek(part.offset)
        if file.readinto(buffer.numpy()) < len(buffer):
            raise OSError(f"{part.path} ended while it was being read")
