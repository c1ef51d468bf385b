"""PSNR, SSIM, LPIPS and temporal consistency of generated frames 34-65, per frame and per clip."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lora_tta.errors import UserError
from lora_tta.evaluation.perceptual import MIN_FRAME_SIZE, PerceptualDistance
from lora_tta.records.metric_table import ClipMetrics

DATA_RANGE = 255.0
MIN_MSE = 1 / 12
"""Mean squared error of rounding to 8 bits: smaller ones count as this much, which caps PSNR at 58.92 dB."""
MAX_PSNR = float(10 * np.log10(DATA_RANGE**2 / MIN_MSE))
FRAMES_PER_BATCH = 8


class ContinuationMetrics:
    """Compares generated frames with the ground truth.

    PSNR and SSIM (Gaussian window of 11, sigma 1.5; Wang et al. 2004) work on RGB values in 0..255.
    Temporal consistency is the mean PSNR between consecutive generated frames, in dB, as in the published
    evaluation. It does not look at the ground truth, and a frozen video has the highest.
    """

    def __init__(self, lpips: PerceptualDistance, device: torch.device | str) -> None:
        self.lpips = lpips
        self.device = device

    @torch.inference_mode()
    def __call__(self, generated: np.ndarray, target: np.ndarray) -> ClipMetrics:
        """Measure one clip.

        Args:
            generated: (32, height, width, 3) RGB uint8, frames 34-65.
            target: the true frames, of the same shape and type.

        Raises:
            ValueError: the arrays are not uint8 RGB frames of one shape, or fewer than two.
            UserError: the frames are smaller than 31 pixels, which LPIPS cannot take.
        """
        _check_frames(generated, target)
        generated, target = (self._to_tensor(frames) for frames in (generated, target))
        # TF32 convolutions would ruin SSIM, which subtracts large squares from each other.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            per_frame = {
                "psnr": _psnr_per_frame(generated, target),
                "ssim": _in_batches(_ssim_per_frame, generated, target),
                self.lpips.name: _in_batches(self.lpips, generated, target),
                "temporal_consistency": _psnr_per_frame(generated[:-1], generated[1:]),
            }
        per_frame = {name: values.cpu().numpy() for name, values in per_frame.items()}
        summary = {name: float(values.mean(dtype=np.float64)) for name, values in per_frame.items()}
        pooled = peak_signal_noise_ratio(generated, target, data_range=DATA_RANGE)
        return ClipMetrics(per_frame, summary | {"psnr": min(float(pooled), MAX_PSNR)})

    def _to_tensor(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).to(self.device).float()


def _psnr_per_frame(frames: Tensor, reference: Tensor) -> Tensor:
    psnr = peak_signal_noise_ratio(frames, reference, data_range=DATA_RANGE, dim=(1, 2, 3), reduction="none")
    return psnr.clamp(max=MAX_PSNR)


def _ssim_per_frame(frames: Tensor, reference: Tensor) -> Tensor:
    ssim = structural_similarity_index_measure(frames, reference, data_range=DATA_RANGE, reduction="none")
    return ssim.reshape(-1)


def _in_batches(metric: Callable[[Tensor, Tensor], Tensor], frames: Tensor, reference: Tensor) -> Tensor:
    batches = zip(frames.split(FRAMES_PER_BATCH), reference.split(FRAMES_PER_BATCH), strict=True)
    return torch.cat([metric(*batch) for batch in batches])


def _check_frames(generated: np.ndarray, target: np.ndarray) -> None:
    for name, frames in (("generated", generated), ("target", target)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"{name} must be (frames, height, width, 3) uint8: {frames.shape} {frames.dtype}"
            )
    if generated.shape != target.shape:
        raise ValueError(f"generated and target differ in shape: {generated.shape} and {target.shape}")
    if len(generated) < 2:
        raise ValueError("temporal consistency needs at least two frames")
    height, width = generated.shape[1:3]
    if min(height, width) < MIN_FRAME_SIZE:
        raise UserError(
            f"frames of {width}x{height} pixels are too small for LPIPS: "
            f"set preprocess.height and preprocess.width to {MIN_FRAME_SIZE + 1} or more"
        )
