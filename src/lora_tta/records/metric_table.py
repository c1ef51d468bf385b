"""The metrics by name: which way is better, how they are labelled, and what a measured clip holds.

Kept apart from the code that measures, which needs torch, so that reading results does not.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

TRAINED_NAME = "lpips"
UNTRAINED_NAME = "lpips_untrained"

Direction = Literal["maximize", "minimize"]

METRIC_DIRECTIONS: dict[str, Direction] = {
    "psnr": "maximize",
    "ssim": "maximize",
    TRAINED_NAME: "minimize",
    UNTRAINED_NAME: "minimize",
    "temporal_consistency": "maximize",
}
METRIC_LABELS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    TRAINED_NAME: "LPIPS",
    UNTRAINED_NAME: "lpips_untrained",
    "temporal_consistency": "Temporal consistency (dB)",
}


@dataclass(frozen=True)
class ClipMetrics:
    """Metrics of one generated continuation of n frames.

    Attributes:
        per_frame: ``psnr``, ``ssim`` and ``lpips`` (or ``lpips_untrained``), each (n,) float32, and
            ``temporal_consistency``, (n - 1,): entry i compares generated frames i and i + 1.
        summary: one value a metric. PSNR is that of the squared error pooled over the n frames; the others
            are means over frames.
    """

    per_frame: dict[str, np.ndarray]
    summary: dict[str, float]
