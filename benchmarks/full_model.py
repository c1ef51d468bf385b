"""Time and memory of the full-size model: one LoRA step, sampling steps, one generation with VAE.

Weights are random and built straight on the device, so no checkpoint is needed. Run from the repository root:

    python benchmarks/full_model.py                                # 192x336 on the first GPU
    python benchmarks/full_model.py --height 576 --width 1024
    python benchmarks/full_model.py --tiny --device cpu            # smoke test of this script
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from diffusers.models.attention_dispatch import attention_backend
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lora_tta.errors import UserError
from lora_tta.models import (
    OpenSoraContinuationPipeline,
    OpenSoraTransformer3DModel,
    lora_target_modules,
)
from lora_tta.models.frames import decode_latents, encode_video
from lora_tta.models.memory import require_memory
from lora_tta.models.packing import (
    build_condition,
    num_pixel_frames,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
)
from lora_tta.models.scheduling import add_noise, velocity_target

KNOWN_LATENT_FRAMES = 9
TINY_TRANSFORMER = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 14, 14),
}
TINY_VAE = {"block_out_channels": (16, 16, 16, 16), "norm_num_groups": 8}


class Measurements:
    """Rows of the table: median seconds, peak memory, and floating-point rate of each piece of work."""

    def __init__(self, device: torch.device, repeats: int, peak_flops: float) -> None:
        self.device, self.repeats, self.peak_flops = device, repeats, peak_flops
        self.rows: list[dict[str, str | float | None]] = []

    def measure(self, name: str, work: Callable[[], object]) -> None:
        """Run the work once to warm up and count its operations, then against the clock."""
        self._add_row(name, work, count_flops=True, repeats=self.repeats)

    def measure_once(self, name: str, work: Callable[[], object]) -> None:
        """Run long work only once, against the clock."""
        self._add_row(name, work, count_flops=False, repeats=1)

    def _add_row(self, name: str, work: Callable[[], object], count_flops: bool, repeats: int) -> None:
        print(f"... {name}", flush=True)
        row: dict[str, str | float | None] = {"work": name}
        self.rows.append(row)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            if count_flops:
                with FlopCounterMode(display=False) as counter:
                    work()
            row["seconds"] = statistics.median(self._time(work) for _ in range(repeats))
        except torch.OutOfMemoryError:
            row["error"] = "out of memory"
            return
        if self.device.type == "cuda":
            row["peak GiB"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        if count_flops:
            row["TFLOP"] = counter.get_total_flops() / 1e12
            row["share of peak"] = counter.get_total_flops() / row["seconds"] / self.peak_flops

    def print_table(self) -> None:
        """Print the rows, one a line."""
        columns = {"seconds": ".3f", "peak GiB": ".1f", "TFLOP": ".2f", "share of peak": ".0%"}
        print(f"\n{'work':<52}" + "".join(f"{column:>15}" for column in columns))
        for row in self.rows:
            cells = [format(row[name], style) if name in row else "-" for name, style in columns.items()]
            print(f"{row['work']:<52}" + "".join(f"{cell:>15}" for cell in cells), row.get("error", ""))

    def _time(self, work: Callable[[], object]) -> float:
        self._synchronize()
        start = time.perf_counter()
        work()
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a square matrix product of random numbers, median of 20."""
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(23):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def build_model(
    model_class: type[nn.Module], sizes: dict, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A model with random weights, built on the device itself."""
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in model_class(**sizes).parameters())
    require_memory(num_parameters, dtype, device, what=f"{model_class.__name__} with random weights")
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return model_class(**sizes).requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(default_dtype)


def transformer_inputs(
    transformer: OpenSoraTransformer3DModel, latents: Tensor, text_length: int
) -> dict[str, Tensor]:
    """Arguments of a forward pass on packed latents, with random text and the first latent frames known."""
    config, device, dtype, batch = transformer.config, latents.device, transformer.dtype, len(latents)
    mask, reference = build_condition("v2v_head", latents[:, :, :KNOWN_LATENT_FRAMES], latents.shape)
    return {
        "hidden_states": pack_latents(latents).to(dtype),
        "img_ids": prepare_img_ids(*latents.shape[2:], device),
        "encoder_hidden_states": torch.randn(
            batch, text_length, config.joint_attention_dim, device=device, dtype=dtype
        ),
        "txt_ids": prepare_txt_ids(text_length, device),
        "timestep": torch.full((batch,), 0.5, device=device),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, device=device, dtype=dtype),
        "condition": pack_condition(mask, reference).to(dtype),
    }


def measure_lora_steps(
    measurements: Measurements, transformer: OpenSoraTransformer3DModel, arguments: argparse.Namespace
) -> None:
    """One optimiser step on the known frames, with and without gradient checkpointing."""
    device = measurements.device
    transformer.add_adapter(
        LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=lora_target_modules())
    )
    adapters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=2e-4, weight_decay=0.01)
    latents = torch.randn(
        1, 16, KNOWN_LATENT_FRAMES, arguments.height // 8, arguments.width // 8, device=device
    )
    inputs = transformer_inputs(transformer, latents, arguments.text_length)

    def step() -> None:
        noise = torch.randn_like(latents)
        noisy = add_noise(latents, noise, inputs["timestep"])
        velocity = transformer(
            **(inputs | {"hidden_states": pack_latents(noisy).to(transformer.dtype)})
        ).sample
        target = pack_latents(velocity_target(latents, noise))
        nn.functional.mse_loss(velocity.float(), target).backward()
        nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    tokens = f"{inputs['hidden_states'].shape[1]} + {arguments.text_length} tokens"
    transformer.train()
    measurements.measure(f"LoRA step, rank {arguments.rank}, {tokens}", step)
    transformer.enable_gradient_checkpointing()
    measurements.measure(f"LoRA step with recomputation, {tokens}", step)
    transformer.disable_gradient_checkpointing()
    optimizer.zero_grad()
    transformer.unload_lora()
    transformer.eval()


def measure_sampling_steps(
    measurements: Measurements, transformer: OpenSoraTransformer3DModel, arguments: argparse.Namespace
) -> None:
    """Forward passes of one and of three guidance branches on the whole video."""
    latent_frames = (arguments.frames - 1) // 4 + 1
    for branches in (1, 3):
        latents = torch.randn(
            branches,
            16,
            latent_frames,
            arguments.height // 8,
            arguments.width // 8,
            device=measurements.device,
        )
        inputs = transformer_inputs(transformer, latents, arguments.text_length)
        tokens = f"{inputs['hidden_states'].shape[1]} + {arguments.text_length} tokens"
        with torch.no_grad():
            measurements.measure(
                f"sampling step, {branches} branch(es), {tokens}", lambda inputs=inputs: transformer(**inputs)
            )


def measure_generation(
    measurements: Measurements,
    transformer: OpenSoraTransformer3DModel,
    vae: AutoencoderKLHunyuanVideo | None,
    arguments: argparse.Namespace,
) -> None:
    """Encode the known frames, sample a whole continuation, decode it."""
    device, config = measurements.device, transformer.config
    latent_size = (arguments.height // 8, arguments.width // 8)
    pipeline = OpenSoraContinuationPipeline(transformer, vae, FlowMatchEulerDiscreteScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> Tensor:
        embeds = torch.zeros(1, arguments.text_length, config.joint_attention_dim, dtype=transformer.dtype)
        pooled = torch.zeros(1, config.pooled_projection_dim, dtype=transformer.dtype)
        return pipeline(
            reference_latents=torch.zeros(1, 16, KNOWN_LATENT_FRAMES, *latent_size),
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=embeds,
            negative_pooled_prompt_embeds=pooled,
            num_frames=arguments.frames,
            num_inference_steps=arguments.num_inference_steps,
            output_type="latent" if vae is None else "pt",
        ).frames

    decoded = "" if vae is None else ", with decoding"
    measurements.measure_once(
        f"generation, {arguments.frames} frames, {arguments.num_inference_steps} steps{decoded}", sample
    )
    if vae is None:
        return
    num_known = num_pixel_frames(KNOWN_LATENT_FRAMES)
    video = torch.rand(1, 3, num_known, arguments.height, arguments.width, device=device)
    measurements.measure(f"VAE encoding of {num_known} frames", lambda: encode_video(vae, video))
    latents = torch.randn(1, 16, (arguments.frames - 1) // 4 + 1, *latent_size, device=device)
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
    parser.add_argument("--no-decode", action="store_true", help="leave out the VAE")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--attention-backend", default="native", help="a diffusers attention backend")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the table."""
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    torch.manual_seed(0)
    try:
        start = time.perf_counter()
        transformer = build_model(
            OpenSoraTransformer3DModel, TINY_TRANSFORMER if arguments.tiny else {}, device, dtype
        )
        build_seconds = time.perf_counter() - start
        vae = None
        if not arguments.no_decode:
            vae = build_model(AutoencoderKLHunyuanVideo, TINY_VAE if arguments.tiny else {}, device, dtype)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.compile:
        transformer.compile_repeated_blocks()

    peak_flops = measure_peak_flops(device, dtype, size=256 if arguments.tiny else 8192)
    measurements = Measurements(device, arguments.repeats, peak_flops)
    with attention_backend(arguments.attention_backend):
        measure_sampling_steps(measurements, transformer, arguments)
        measure_generation(measurements, transformer, vae, arguments)
        measure_lora_steps(measurements, transformer, arguments)

    print(
        f"\n{name}, torch {torch.__version__}, {transformer.num_parameters() / 1e9:.3g} B parameters in "
        f"{arguments.dtype}, built in {build_seconds:.1f} s; {arguments.height}x{arguments.width}; "
        f"matrix product peak {peak_flops / 1e12:.3g} TFLOP/s"
    )
    measurements.print_table()
    if arguments.output:
        figures = {"device": name, "peak TFLOP/s": peak_flops / 1e12, "rows": measurements.rows}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
