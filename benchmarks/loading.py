"""Start-up: a full-size checkpoint from local safetensors to the GPU, beside the disk's own speed.

Writes a pipeline folder of random weights (24 GB) first. Run from the repository root:

    python benchmarks/loading.py --folder /scratch/random-model
    python benchmarks/loading.py --tiny --device cpu --folder /tmp/tiny  # smoke test of this script
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import torch
from random_model import backbone_of, build_transformer, build_vae, synchronize

from lora_tta.models.loading import load_pipeline

READ_BYTES = 16 * 2**20
SAMPLING_SECONDS = 0.02


def write_checkpoint(folder: Path, device: torch.device, tiny: bool) -> None:
    """A pipeline folder in shards of 5 GB, flushed to the disk."""
    transformer, vae = (build(tiny, device, torch.bfloat16) for build in (build_transformer, build_vae))
    backbone_of(transformer, vae).pipeline.save_pretrained(folder, max_shard_size="5GB")
    os.sync()


def drop_from_page_cache(files: list[Path]) -> None:
    """Make the next reading of the files come from the disk."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> None:
    """Read the files from end to end, and nothing else."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def private_memory() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


@contextmanager
def sampled_private_memory() -> Iterator[list[int]]:
    """Private memory at the start, every 20 ms meanwhile, and at the end."""
    samples, done = [private_memory()], Event()

    def sample() -> None:
        while not done.wait(SAMPLING_SECONDS):
            samples.append(private_memory())

    sampler = Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()
        samples.append(private_memory())


def main() -> None:
    """Write the checkpoint; read and load it from the system's cache of the files, then from the disk.

    The cache comes first, so that imports and the start of CUDA are not counted against the disk.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the checkpoint; it stays there")
    parser.add_argument("--repeats", type=int, default=3, help="readings and loadings from the disk, in turn")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if not (arguments.folder / "model_index.json").exists():
        write_checkpoint(arguments.folder, device, arguments.tiny)
    files = sorted(arguments.folder.rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    print(f"{size / 1e9:.3g} GB in {len(files)} files; {device}, torch {torch.__version__}")
    print(f"{'':<28}{'seconds':>10}{'GB/s':>8}{'private host memory, GB: most':>32}{'at the end':>12}")
    for state in ("from the page cache", *["from disk"] * arguments.repeats):
        for work in ("reading", "loading"):
            if state == "from disk":
                drop_from_page_cache(files)
            with sampled_private_memory() as samples:
                start = time.perf_counter()
                result = read(files) if work == "reading" else load_pipeline(arguments.folder, device)
                synchronize(device)
                seconds = time.perf_counter() - start
            most, last = ((value - samples[0]) / 1e9 for value in (max(samples), samples[-1]))
            speed = f"{seconds:>10.2f}{size / seconds / 1e9:>8.2f}"
            print(f"{work + ' ' + state:<28}{speed}{most:>32.2f}{last:>12.2f}", flush=True)
            del result


if __name__ == "__main__":
    main()
