"""PSNR, SSIM, LPIPS and temporal consistency of generated frames.

Frames are float tensors (n, 3, height, width) in 0..255 on one device.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lora_tta.evaluation.measurement import Measurement
from lora_tta.evaluation.perceptual import PerceptualDistance

DATA_RANGE = 255.0
MIN_MSE = 1 / 12
"""Mean squared error of rounding to 8 bits: smaller ones count as this much, which caps PSNR at 58.92 dB."""
MAX_PSNR = float(10 * np.log10(DATA_RANGE**2 / MIN_MSE))
FRAMES_PER_BATCH = 8


def psnr(generated: Tensor, target: Tensor) -> Measurement:
    """Peak signal-to-noise ratio in dB; the value of a clip pools the squared error over its frames."""
    pooled = peak_signal_noise_ratio(generated, target, data_range=DATA_RANGE)
    series = _psnr_per_frame(generated, target).cpu().numpy()
    return Measurement(min(float(pooled), MAX_PSNR), series)


def ssim(generated: Tensor, target: Tensor) -> Measurement:
    """Structural similarity, Gaussian window of 11 pixels and sigma 1.5 (Wang et al. 2004)."""
    return Measurement.mean_of(_in_batches(_ssim_per_frame, generated, target))


def perceptual_distance(generated: Tensor, target: Tensor, distance: PerceptualDistance) -> Measurement:
    """LPIPS (Zhang et al. 2018), or the stand-in that ``distance`` is."""
    return Measurement.mean_of(_in_batches(distance, generated, target))


def temporal_consistency(generated: Tensor) -> Measurement:
    """Mean PSNR between consecutive frames, in dB, as in the published evaluation."""
    return Measurement.mean_of(_psnr_per_frame(generated[:-1], generated[1:]))


def _in_batches(measure: Callable[[Tensor, Tensor], Tensor], frames: Tensor, reference: Tensor) -> Tensor:
    """Values of pairs of frames (n,), measured a few pairs at a time."""
    batches = zip(frames.split(FRAMES_PER_BATCH), reference.split(FRAMES_PER_BATCH), strict=True)
    return torch.cat([measure(*batch) for batch in batches])


def _psnr_per_frame(frames: Tensor, reference: Tensor) -> Tensor:
    values = peak_signal_noise_ratio(
        frames, reference, data_range=DATA_RANGE, dim=(1, 2, 3), reduction="none"
    )
    return values.clamp(max=MAX_PSNR)


def _ssim_per_frame(frames: Tensor, reference: Tensor) -> Tensor:
    values = structural_similarity_index_measure(frames, reference, data_range=DATA_RANGE, reduction="none")
    return cast(Tensor, values).reshape(-1)
