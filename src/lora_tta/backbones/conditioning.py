"""What a clip shows the model: the latents of frames 1-33 and the embeddings of its caption.

This is all that adaptation and generation ever receive of a clip; frames 34-65 have no way in.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_tta.models import OpenSoraContinuationPipeline
from lora_tta.records.clips import CONDITIONING_FRAMES


@dataclass(frozen=True)
class Conditioning:
    """Inputs of one clip, batch size 1.

    Attributes:
        reference_latents: (1, 16, 9, H/8, W/8), scaled latents of the 33 frames encoded alone.
        prompt_embeds: (1, L, D) T5 states of the caption.
        pooled_prompt_embeds: (1, P) pooled CLIP output of the caption.
        negative_prompt_embeds: (1, L, D) T5 states of the empty prompt.
        negative_pooled_prompt_embeds: (1, P) pooled CLIP output of the empty prompt.
    """

    reference_latents: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    negative_pooled_prompt_embeds: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, as keyword arguments of the pipeline."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same on another device, in another precision."""
        return type(self)(**{name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        partial = path.with_suffix(".partial")
        save_file({name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path))


@torch.no_grad()
def encode_conditioning(
    pipeline: OpenSoraContinuationPipeline, frames: np.ndarray, caption: str
) -> Conditioning:
    """Encode the conditioning frames and the caption of one clip.

    Args:
        pipeline: with VAE and text encoders.
        frames: (33, H, W, 3) uint8, the conditioning frames and no others.
        caption: the prompt.

    Raises:
        ValueError: ``frames`` does not hold exactly 33 frames.
    """
    if len(frames) != CONDITIONING_FRAMES:
        raise ValueError(f"expected the {CONDITIONING_FRAMES} conditioning frames, got {len(frames)}")
    prompt_embeds, pooled_prompt_embeds = pipeline.encode_prompt(caption)
    negative_prompt_embeds, negative_pooled_prompt_embeds = pipeline.encode_prompt("")
    return Conditioning(
        reference_latents=pipeline.encode_reference(frames, "v2v_head"),
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled_prompt_embeds,
        negative_prompt_embeds=negative_prompt_embeds,
        negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
    )
