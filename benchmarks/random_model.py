"""What the GPU benchmarks share: models with random weights, inputs, peak rate, and timing.

``--tiny`` takes the sizes of the embedded model, to test a benchmark without a GPU.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from lora_tta.backbones.base import Conditioning
from lora_tta.backbones.opensora import OpenSoraBackbone
from lora_tta.embedded.recipe import TransformerRecipe, VAERecipe
from lora_tta.models import OpenSoraContinuationPipeline, OpenSoraTransformer3DModel
from lora_tta.models.memory import require_memory
from lora_tta.models.packing import (
    build_condition,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
)

KNOWN_LATENT_FRAMES = 9
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: median, least and most."""

    median: float
    least: float
    most: float


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def time_repeatedly(work: Callable[[], object], device: torch.device, repeats: int) -> Timing:
    """Seconds of `repeats` runs."""
    seconds = [time_once(work, device) for _ in range(repeats)]
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def measure_peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a square matrix product of random numbers, median of 20."""
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    for _ in range(3):
        left @ right
    return 2 * size**3 / time_repeatedly(lambda: left @ right, device, repeats=20).median


def build_transformer(tiny: bool, device: torch.device, dtype: torch.dtype) -> OpenSoraTransformer3DModel:
    """The transformer, of the published sizes unless it is to be tiny."""
    return build_model(OpenSoraTransformer3DModel, TransformerRecipe().config if tiny else {}, device, dtype)


def build_vae(tiny: bool, device: torch.device, dtype: torch.dtype) -> AutoencoderKLHunyuanVideo:
    """The VAE, of the published sizes unless it is to be tiny."""
    return build_model(AutoencoderKLHunyuanVideo, VAERecipe().config if tiny else {}, device, dtype)


def build_model(
    model_class: type[Model], sizes: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Model:
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


def backbone_of(
    transformer: OpenSoraTransformer3DModel, vae: AutoencoderKLHunyuanVideo | None = None
) -> OpenSoraBackbone:
    """The models as adaptation and generation use them."""
    pipeline = OpenSoraContinuationPipeline(transformer, vae, FlowMatchEulerDiscreteScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return OpenSoraBackbone(pipeline)


def transformer_inputs(
    transformer: OpenSoraTransformer3DModel, latents: Tensor, text_length: int
) -> dict[str, Tensor]:
    """Arguments of a forward pass on packed latents, with random text and the first latent frames known."""
    config, device, dtype, batch = transformer.config, latents.device, transformer.dtype, len(latents)
    mask, reference = build_condition("v2v_head", latents[:, :, :KNOWN_LATENT_FRAMES], latents.shape)
    _, _, num_frames, height, width = latents.shape
    return {
        "hidden_states": pack_latents(latents).to(dtype),
        "img_ids": prepare_img_ids(num_frames, height, width, device),
        "encoder_hidden_states": torch.randn(
            batch, text_length, config.joint_attention_dim, device=device, dtype=dtype
        ),
        "txt_ids": prepare_txt_ids(text_length, device),
        "timestep": torch.full((batch,), 0.5, device=device),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, device=device, dtype=dtype),
        "condition": pack_condition(mask, reference).to(dtype),
    }


def random_conditioning(
    transformer: OpenSoraTransformer3DModel, height: int, width: int, text_length: int, device: torch.device
) -> Conditioning:
    """A clip's inputs, random, for frames of height x width pixels."""
    config = transformer.config
    shapes = {
        "reference_latents": (1, config.in_channels // 4, KNOWN_LATENT_FRAMES, height // 8, width // 8),
        "prompt_embeds": (1, text_length, config.joint_attention_dim),
        "pooled_prompt_embeds": (1, config.pooled_projection_dim),
        "negative_prompt_embeds": (1, text_length, config.joint_attention_dim),
        "negative_pooled_prompt_embeds": (1, config.pooled_projection_dim),
    }
    return Conditioning(
        {name: torch.randn(shape, device=device).to(transformer.dtype) for name, shape in shapes.items()}
    )
