"""The continuation of one clip: sampling in ``v2v_head`` and decoding to frames."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from lora_tta.backbones.conditioning import Conditioning
from lora_tta.config import GenerationParams
from lora_tta.models import OpenSoraContinuationPipeline
from lora_tta.peak_memory import PeakMemory
from lora_tta.records.clips import NUM_FRAMES


@dataclass(frozen=True)
class Continuation:
    """A generated video with its cost.

    Attributes:
        frames: (65, H, W, 3) uint8, the 33 conditioning frames as the model renders them and 32 new ones.
        seconds: sampling and decoding.
        peak_memory_bytes: see :class:`~lora_tta.peak_memory.PeakMemory`.
    """

    frames: np.ndarray
    seconds: float
    peak_memory_bytes: int


@torch.no_grad()
def generate_continuation(
    pipeline: OpenSoraContinuationPipeline,
    conditioning: Conditioning,
    params: GenerationParams,
    seed: int,
) -> Continuation:
    """Continue a clip with whatever adapter the transformer holds.

    The starting noise depends on ``seed`` alone, so that runs with and without adaptation are paired.
    """
    height, width = (8 * size for size in conditioning.reference_latents.shape[-2:])
    memory, began = PeakMemory(conditioning.reference_latents.device), time.perf_counter()
    frames = pipeline(
        mode="v2v_head",
        height=height,
        width=width,
        num_frames=NUM_FRAMES,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        image_guidance_scale=params.image_guidance_scale,
        guidance_oscillation=params.guidance_oscillation,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **conditioning.tensors,
    ).frames[0]
    return Continuation(
        frames=(frames * 255).round().astype(np.uint8),
        seconds=time.perf_counter() - began,
        peak_memory_bytes=memory.bytes(),
    )
