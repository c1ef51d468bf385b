"""Made-up results of clips for the tests of this folder, of records, of the report and of the cli."""

import numpy as np

from lora_tta.records.metric_table import ClipMetrics
from lora_tta.records.results import ClipResult


def make_result(
    clip_id: str,
    psnr: float,
    perceptual: str = "lpips",
    losses: tuple[float, ...] = (),
    class_name: str = "Archery",
    device: str | None = "cpu",
    features: np.ndarray | None = None,
) -> ClipResult:
    """A clip whose PSNR rises by 0.01 dB a frame around ``psnr``; its other metrics follow from it.

    Its costs are unknown without a device.
    """
    curve = (psnr + 0.01 * (np.arange(32) - 15.5)).astype(np.float32)
    per_frame = {
        "psnr": curve,
        "ssim": curve / 40,
        perceptual: 1 - curve / 40,
        "temporal_consistency": curve[1:] + 10,
    }
    summary = {name: float(values.mean(dtype=np.float64)) for name, values in per_frame.items()}
    return ClipResult(
        clip_id=clip_id,
        class_name=class_name,
        conditioning_frames=33,
        metrics=ClipMetrics(per_frame, summary),
        losses=losses,
        work=f"work_{psnr:g}",
        device=device,
        adapt_seconds=1.5 * len(losses) if device else None,
        generate_seconds=2.25 if device else None,
        peak_memory_bytes=3 * 2**30 if device else None,
        features=features,
    )
