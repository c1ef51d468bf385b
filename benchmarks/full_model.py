"""Time and memory of the full-size model, plain and accelerated: LoRA steps, sampling steps, generation, VAE.

Weights are random and built straight on the device, so no checkpoint is needed. Run from the repository root:

    python benchmarks/full_model.py                                # 192x336 on the first GPU
    python benchmarks/full_model.py --height 576 --width 1024
    python benchmarks/full_model.py --tiny --device cpu            # smoke test of this script
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo
from random_model import (
    Timing,
    backbone_of,
    build_transformer,
    build_vae,
    measure_peak_flops,
    random_conditioning,
    time_once,
    time_repeatedly,
    transformer_inputs,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.trajectory import adapt
from lora_tta.config import load_params
from lora_tta.errors import UserError
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.speed.acceleration import accelerate
from lora_tta.models.vae import decode_latents, encode_video
from lora_tta.peak_memory import PeakMemory

# Seconds of the published code at 192x336 on an H200 whose bf16 matrix products ran at 790 TFLOP/s.
PUBLISHED_SIZE = (192, 336)
LORA_STEP, THREE_BRANCHES, ONE_BRANCH, GENERATION = (
    "LoRA step",
    "sampling step, 3 branches",
    "sampling step, 1 branch",
    "generation of {} frames, {} steps, decoded",
)
PUBLISHED_SECONDS = {
    LORA_STEP: 0.298,
    f"{LORA_STEP}, recomputed": 0.556,
    THREE_BRANCHES: 0.481,
    ONE_BRANCH: 0.162,
    GENERATION.format(65, 25): 16.2,
}
# Steps of the short and of the long adaptation whose difference is what a step takes.
SHORT_RUN, LONG_RUN = 5, 25
COLUMNS = {
    "median": ".3f",
    "least": ".3f",
    "most": ".3f",
    "first run": ".1f",
    "peak GiB": ".1f",
    "TFLOP/s": ".0f",
}


class Measurements:
    """Rows of a table, printed as they come: seconds, memory, and rate of each piece of work."""

    def __init__(
        self,
        device: torch.device,
        arguments: argparse.Namespace,
        flops: dict[str, float],
        published: dict[str, float],
    ) -> None:
        self.device, self.repeats, self.wanted = device, arguments.repeats, re.compile(arguments.work)
        self.flops, self.published = flops, published
        self.rows: list[dict] = []

    def measure(self, name: str, work: Callable[[], object], repeats: int | None = None) -> None:
        """Run the work once to warm up, then against the clock."""
        repeats = self.repeats if repeats is None else repeats
        self._add_row(name, work, lambda: time_repeatedly(work, self.device, repeats))

    def measure_step(self, name: str, run: Callable[[int], object]) -> None:
        """Time one step of `run(num_steps)`, as the difference of a long and a short run."""

        def step_seconds() -> float:
            short, long = (time_once(lambda n=n: run(n), self.device) for n in (SHORT_RUN, LONG_RUN))
            return (long - short) / (LONG_RUN - SHORT_RUN)

        def time_steps() -> Timing:
            seconds = [step_seconds() for _ in range(self.repeats)]
            return Timing(statistics.median(seconds), min(seconds), max(seconds))

        self._add_row(name, lambda: run(SHORT_RUN), time_steps)

    def _add_row(self, name: str, warm_up: Callable[[], object], measure: Callable[[], Timing]) -> None:
        if not self.wanted.search(name):
            return
        if not self.rows:
            header = "".join(f"{column:>10}" for column in COLUMNS)
            print(f"{'seconds':<50}{header}   against published")
        row: dict = {"work": name}
        self.rows.append(row)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        memory = PeakMemory(self.device)
        try:
            row["first run"] = time_once(warm_up, self.device)
            row |= asdict(measure())
        except torch.OutOfMemoryError:
            row["error"] = "out of memory"
        else:
            if self.device.type == "cuda":
                row["peak GiB"] = memory.bytes() / 2**30
            if name in self.flops:
                row["TFLOP/s"] = self.flops[name] / row["median"] / 1e12
            if name in self.published:
                row["speed-up"] = self.published[name] / row["median"]
        self._print(row)

    def _print(self, row: dict) -> None:
        cells = [format(row[name], style) if name in row else "-" for name, style in COLUMNS.items()]
        speedup = f"{row['speed-up']:.2f} x" if "speed-up" in row else ""
        line = f"{row['work']:<50}" + "".join(f"{cell:>10}" for cell in cells)
        print(line, f"  {row.get('error', speedup)}", flush=True)


class Workload:
    """The pieces of work, as calls."""

    def __init__(
        self,
        transformer: OpenSoraTransformer3DModel,
        vae: AutoencoderKLHunyuanVideo | None,
        device: torch.device,
        arguments: argparse.Namespace,
    ) -> None:
        self.transformer, self.vae, self.device, self.arguments = transformer, vae, device, arguments
        self.backbone = backbone_of(transformer, vae)
        self.methods = MethodSlot(self.backbone)
        plain = load_params().adaptation.model_copy(update={"stopping": None})
        self.params = plain.at({"rank": arguments.rank, "learning_rate": 2e-4})
        size = (arguments.height, arguments.width)
        self.conditioning = random_conditioning(transformer, *size, arguments.text_length, device)
        self.latent_shape = ((arguments.frames - 1) // 4 + 1, *(length // 8 for length in size))
        self.inputs = {branches: self._sampling_inputs(branches) for branches in (1, 3)}

    def random_latents(self, count: int) -> Tensor:
        """Of videos, as the transformer sees them."""
        channels = self.transformer.config.in_channels // 4
        return torch.randn(count, channels, *self.latent_shape, device=self.device)

    @torch.no_grad()
    def _sampling_inputs(self, branches: int) -> dict[str, Tensor]:
        """As in a generation, which computes the modulation of all its steps beforehand."""
        latents = self.random_latents(branches)
        inputs = transformer_inputs(self.transformer, latents, self.arguments.text_length)
        modulation = self.transformer.modulation(inputs.pop("timestep"), inputs.pop("pooled_projections"))
        return inputs | {"modulation": modulation}

    def adapt(self, num_steps: int) -> None:
        """A fresh adapter for the clip, with its snapshot at the end."""
        params = self.params.at({"num_steps": num_steps})
        list(adapt(self.backbone, self.methods.put(params.method), self.conditioning, params, seed=0))

    @torch.no_grad()
    def predict(self, branches: int) -> None:
        """The velocity, in a number of guidance branches."""
        self.transformer(**self.inputs[branches])

    def generate(self) -> None:
        """Sample a whole continuation and decode it."""
        self.backbone.pipeline(
            num_frames=self.arguments.frames,
            num_inference_steps=self.arguments.num_inference_steps,
            output_type="latent" if self.vae is None else "pt",
            **self.conditioning.tensors,
        )


def count_flops(workload: Workload) -> dict[str, float]:
    """Floating-point operations of the plain model's steps; compiled code would hide from the counter."""
    works = {
        THREE_BRANCHES: lambda: workload.predict(3),
        ONE_BRANCH: lambda: workload.predict(1),
        LORA_STEP: lambda: workload.adapt(1),
    }
    flops = {}
    for name, work in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        flops[name] = counter.get_total_flops()
    workload.methods.clear()
    return flops


def measure_transformer(workload: Workload, measurements: Measurements) -> None:
    """Sampling steps without and with an adapter, LoRA steps, and a generation."""
    arguments = workload.arguments
    measurements.measure(THREE_BRANCHES, lambda: workload.predict(3))
    measurements.measure(ONE_BRANCH, lambda: workload.predict(1))
    generation = GENERATION if workload.vae else GENERATION.removesuffix(", decoded")
    name = generation.format(arguments.frames, arguments.num_inference_steps)
    measurements.measure(name, workload.generate, repeats=arguments.generations)
    measurements.measure_step(LORA_STEP, workload.adapt)
    name = "adaptation of 20 steps, with its snapshot"
    measurements.measure(name, lambda: workload.adapt(20), repeats=arguments.generations)
    measurements.measure(f"{THREE_BRANCHES}, with the adapter", lambda: workload.predict(3))
    workload.methods.clear()


def measure_vae(workload: Workload, measurements: Measurements) -> None:
    """Encoding and decoding of all frames."""
    vae, arguments, device = workload.vae, workload.arguments, workload.device
    video = torch.rand(1, 3, arguments.frames, arguments.height, arguments.width, device=device) * 2 - 1
    latents = workload.random_latents(1)
    measurements.measure(f"VAE encoding of {arguments.frames} frames", lambda: encode_video(vae, video))
    measurements.measure(f"VAE decoding of {arguments.frames} frames", lambda: decode_latents(vae, latents))


def parse_arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--height", type=int, default=192, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=336, help="pixels, a multiple of 16")
    parser.add_argument("--frames", type=int, default=65, help="frames to generate in all, 4 k + 1")
    parser.add_argument("--text-length", type=int, default=512, help="text tokens")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA adapters")
    parser.add_argument("--num-inference-steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each step")
    parser.add_argument("--generations", type=int, default=2, help="timed generations and adaptations")
    parser.add_argument("--no-decode", action="store_true", help="leave out the VAE")
    parser.add_argument("--work", default="", help="a pattern of the rows to measure, e.g. 'LoRA|VAE'")
    parser.add_argument("--only", choices=("plain", "accelerated"), help="instead of both")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    torch.manual_seed(0)
    try:
        start = time.perf_counter()
        transformer = build_transformer(arguments.tiny, device, dtype)
        build_seconds = time.perf_counter() - start
        vae = None if arguments.no_decode else build_vae(arguments.tiny, device, dtype)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error

    def peak() -> float:
        return measure_peak_flops(device, dtype, size=256 if arguments.tiny else 8192) / 1e12

    workload = Workload(transformer, vae, device, arguments)
    flops = count_flops(workload)
    comparable = (arguments.height, arguments.width) == PUBLISHED_SIZE and not arguments.tiny
    published = PUBLISHED_SECONDS if comparable else {}
    peaks = [peak()]
    print(
        f"{name}, torch {torch.__version__}, {transformer.num_parameters() / 1e9:.3g} B parameters in "
        f"{arguments.dtype}, built in {build_seconds:.1f} s; {arguments.height}x{arguments.width}; "
        f"matrix products at {peaks[0]:.0f} TFLOP/s"
    )
    tables: dict[str, Measurements] = {}

    def start_table(title: str) -> Measurements:
        print(f"\n{title}")
        tables[title] = Measurements(device, arguments, flops, published)
        return tables[title]

    for version in ("plain", "accelerated"):
        if arguments.only not in (None, version) or (version == "accelerated" and device.type == "cpu"):
            continue
        if version == "accelerated":
            accelerate(transformer)
        measure_transformer(workload, start_table(version))
        peaks.append(peak())
        print(f"matrix products at {peaks[-1]:.0f} TFLOP/s now")
    if vae is not None:
        measure_vae(workload, start_table("VAE"))
    if arguments.output:
        rows = {title: measurements.rows for title, measurements in tables.items()}
        figures = {"device": name, "peak TFLOP/s": peaks, "flops": flops, "tables": rows}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
