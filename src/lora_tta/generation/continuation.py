"""The continuation of one clip."""

import time
from dataclasses import dataclass

import numpy as np

from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.config import GenerationParams
from lora_tta.peak_memory import PeakMemory


@dataclass(frozen=True)
class Continuation:
    """A generated video with its cost.

    Attributes:
        frames: (F, H, W, 3) uint8, the conditioning frames as the model renders them and the new ones.
        seconds: sampling and decoding, without first uses (:attr:`Backbone.first_use_seconds`).
        peak_memory_bytes: see :class:`~lora_tta.peak_memory.PeakMemory`.
    """

    frames: np.ndarray
    seconds: float
    peak_memory_bytes: int


def generate_continuation(
    backbone: Backbone, conditioning: Conditioning, num_frames: int, params: GenerationParams, seed: int
) -> Continuation:
    """Continue a clip to ``num_frames`` in all, with whatever adapted parameters the model holds.

    The starting noise depends on ``seed`` alone, so that runs with and without adaptation are paired.

    Raises:
        FailedWork: the result holds values that are not finite.
    """
    memory, began = PeakMemory(backbone.device), time.perf_counter()
    first_uses = backbone.first_use_seconds
    frames = backbone.sample(conditioning, num_frames, params, seed)
    seconds = time.perf_counter() - began - (backbone.first_use_seconds - first_uses)
    return Continuation(
        frames=(frames * 255).round().astype(np.uint8),
        seconds=seconds,
        peak_memory_bytes=memory.bytes(),
    )
