"""Peak memory of the full-size model's work, by what is switched on: CUDA graphs, recomputation, tiling.

Weights are random. Run from the repository root:

    python benchmarks/memory.py                                 # 192x336 and 576x1024 on the first GPU
    python benchmarks/memory.py --tiny --device cpu --sizes 32x48   # smoke test of this script
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from full_model import Workload
from random_model import build_transformer, build_vae, time_once

from lora_tta.models import vae as vae_module
from lora_tta.models.speed.acceleration import accelerate
from lora_tta.models.vae import decode_latents, encode_video
from lora_tta.peak_memory import PeakMemory

GIB = 2**30
PLAIN, COMPILED, GRAPHS = "plain PyTorch", "compiled", "compiled, CUDA graphs"


class Table:
    """Rows of the table, printed as they come and kept in a file."""

    def __init__(self, device: torch.device, output: Path | None) -> None:
        self.device, self.output, self.rows = device, output, []
        print(
            "| pixels | work | switched on | peak, GiB | seconds |\n| --- | --- | --- | --- | --- |",
            flush=True,
        )

    def measure(self, size: str, name: str, switched_on: str, work: Callable[[], object]) -> None:
        """Run the work twice; the second run's seconds, the peak of both."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        memory = PeakMemory(self.device)
        try:
            _, seconds = (time_once(work, self.device) for _ in range(2))
            peak, cells = memory.bytes() / GIB, f"{memory.bytes() / GIB:.1f} | {seconds:.2f}"
        except torch.OutOfMemoryError:
            peak, seconds, cells = None, None, "out of memory |"
        print(f"| {size} | {name} | {switched_on} | {cells} |", flush=True)
        row = {"pixels": size, "work": name, "switched on": switched_on, "peak GiB": peak, "seconds": seconds}
        self.rows.append(row)
        if self.output:
            self.output.write_text(json.dumps(self.rows, indent=1) + "\n")


def measure_transformer(workload: Workload, size: str, version: str, table: Table) -> None:
    """LoRA steps with and without recomputation, and a sampling step without and with a trained adapter."""
    backbone = workload.backbone
    decide = type(backbone).recompute_activations
    for recompute in (False, True):
        if recompute and version == GRAPHS:
            continue  # Recomputation goes without graphs.
        backbone.recompute_activations = lambda conditioning, _, to=recompute: decide(
            backbone, conditioning, to
        )
        switched_on = f"{version}, recomputation" if recompute else version
        table.measure(size, "LoRA steps", switched_on, lambda: workload.adapt(2))
    workload.methods.clear()
    table.measure(size, "sampling step, 3 branches", version, lambda: workload.predict(3))


def measure_vae(workload: Workload, size: str, table: Table) -> None:
    """Encoding of the conditioning frames and decoding of all frames, in one piece and in tiles."""
    vae, arguments, device = workload.vae, workload.arguments, workload.device
    video = torch.rand(1, 3, 33, arguments.height, arguments.width, device=device) * 2 - 1
    latents = workload.random_latents(1)
    untiled = vae_module.MAX_UNTILED_PIXELS
    try:
        for name, limit in (("in one piece", 10**9), ("tiling", 0)):
            vae_module.MAX_UNTILED_PIXELS = limit
            table.measure(size, "VAE, 33 frames to latents", name, lambda: encode_video(vae, video))
            table.measure(size, "VAE, latents to 65 frames", name, lambda: decode_latents(vae, latents))
    finally:
        vae_module.MAX_UNTILED_PIXELS = untiled


def main() -> None:
    """Measure every size and every mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["192x336", "576x1024"], help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA adapters")
    parser.add_argument("--text-length", type=int, default=512, help="text tokens")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    parser.add_argument("--output", type=Path, help="also write the rows to this JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    torch.manual_seed(0)
    transformer = build_transformer(arguments.tiny, device, dtype)
    vae = build_vae(arguments.tiny, device, dtype)
    weights = sum(p.numel() * p.element_size() for m in (transformer, vae) for p in m.parameters()) / GIB
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, LoRA rank {arguments.rank}; weights: {weights:.1f} GiB\n")
    workloads = {}
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        sizes = argparse.Namespace(**vars(arguments), height=height, width=width, frames=65)
        workloads[size] = Workload(transformer, vae, device, sizes)

    table = Table(device, arguments.output)
    for size, workload in workloads.items():
        measure_vae(workload, size, table)
        measure_transformer(workload, size, PLAIN, table)
    if on_gpu:
        accelerate(transformer)
        graphed = transformer.forward
        for size, workload in workloads.items():
            most, graphed._max_tokens = graphed._max_tokens, 0
            measure_transformer(workload, size, COMPILED, table)
            graphed._max_tokens = most
            with torch.no_grad():
                small_enough = graphed._can_replay(workload.inputs[1])
            if small_enough:
                measure_transformer(workload, size, GRAPHS, table)


if __name__ == "__main__":
    main()
