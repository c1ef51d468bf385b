"""The one table of metrics: their names, labels, directions and functions. Everything else reads it.

It is free of torch, so that reading results needs none; the functions are imported where they measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

TRAINED_NAME = "lpips"
UNTRAINED_NAME = "lpips_untrained"

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Metric:
    """A measure of a generated continuation.

    Attributes:
        name: in files, parameters and MLflow.
        label: for people.
        unit: of the values, empty if there is none.
        direction: whether higher or lower values are better.
        decimals: of a value, where it is shown.
        difference_decimals: of a difference between two arms.
        per_frame: whether there is a value for each frame beside the one of the clip.
        needs_reference: whether it compares with the ground truth.
        weights: the pretrained weights that it needs, None if it needs none.
        measure: ``module:function``, see :mod:`lora_tta.evaluation.metrics`.
        meaning: one sentence.
        distance: the perceptual distance that it is measured with, None if it is measured with any.
        lowest: no value is below.
    """

    name: str
    label: str
    unit: str
    direction: Direction
    decimals: int
    difference_decimals: int
    per_frame: bool
    needs_reference: bool
    weights: str | None
    measure: str
    meaning: str
    distance: str | None = None
    lowest: float = 0.0

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Cost:
    """A cost of the work on a clip: its name, a label, and the unit."""

    name: str
    label: str
    unit: str


_FRAMES, _MOTION = "lora_tta.evaluation.frame_metrics", "lora_tta.evaluation.motion"
_TEMPORAL = "How far the change from frame to frame is from the true one (tLP, Chu et al. 2020), by"

_LPIPS = Metric(
    name=TRAINED_NAME,
    label="LPIPS",
    unit="",
    direction="minimize",
    decimals=4,
    difference_decimals=4,
    per_frame=True,
    needs_reference=True,
    weights="ImageNet AlexNet of torchvision",
    measure=f"{_FRAMES}:perceptual_distance",
    meaning="Distance of deep features (Zhang et al. 2018), AlexNet, mean over frames.",
    distance=TRAINED_NAME,
)
_TEMPORAL_LPIPS = replace(
    _LPIPS,
    name=f"temporal_{TRAINED_NAME}",
    label="Temporal LPIPS",
    measure=f"{_MOTION}:temporal_distance",
    meaning=f"{_TEMPORAL} LPIPS.",
)

METRICS = (
    Metric(
        name="psnr",
        label="PSNR",
        unit="dB",
        direction="maximize",
        decimals=2,
        difference_decimals=3,
        per_frame=True,
        needs_reference=True,
        weights=None,
        measure=f"{_FRAMES}:psnr",
        meaning="Peak signal-to-noise ratio of the squared error pooled over the frames of a clip.",
    ),
    Metric(
        name="ssim",
        label="SSIM",
        unit="",
        direction="maximize",
        decimals=4,
        difference_decimals=4,
        per_frame=True,
        needs_reference=True,
        weights=None,
        measure=f"{_FRAMES}:ssim",
        meaning="Structural similarity (Wang et al. 2004), mean over frames.",
        lowest=-1.0,
    ),
    _LPIPS,
    replace(
        _LPIPS,
        name=UNTRAINED_NAME,
        label="lpips_untrained",
        weights=None,
        meaning="The same distance with random features, where the weights are missing. It is not LPIPS.",
        distance=UNTRAINED_NAME,
    ),
    Metric(
        name="temporal_consistency",
        label="Temporal consistency",
        unit="dB",
        direction="maximize",
        decimals=2,
        difference_decimals=3,
        per_frame=True,
        needs_reference=False,
        weights=None,
        measure=f"{_FRAMES}:temporal_consistency",
        meaning="Mean PSNR between consecutive generated frames. A frozen video has the highest.",
    ),
    Metric(
        name="motion_error",
        label="Motion error",
        unit="",
        direction="minimize",
        decimals=3,
        difference_decimals=3,
        per_frame=False,
        needs_reference=True,
        weights=None,
        measure=f"{_MOTION}:motion_error",
        meaning="How far the amount of motion (mean optical flow) is from the true one: the size of the "
        "ratio's logarithm, 0.69 for half and for twice. A frozen video has a high one.",
    ),
    _TEMPORAL_LPIPS,
    replace(
        _TEMPORAL_LPIPS,
        name=f"temporal_{UNTRAINED_NAME}",
        label=f"temporal_{UNTRAINED_NAME}",
        weights=None,
        meaning=f"{_TEMPORAL} {UNTRAINED_NAME}. It is not temporal LPIPS.",
        distance=UNTRAINED_NAME,
    ),
)

COSTS = (
    Cost("adapt_seconds_per_clip", "Adaptation", "s"),
    Cost("generate_seconds_per_clip", "Generation", "s"),
    Cost("peak_memory_mib", "Peak memory", "MiB"),
)


def metric(name: str) -> Metric:
    """The row of a metric.

    Raises:
        KeyError: there is none of this name.
    """
    return {row.name: row for row in METRICS}[name]


def in_table_order(names: Sequence[str]) -> list[str]:
    """Names of metrics in the order of the table; others are left out."""
    return [row.name for row in METRICS if row.name in names]


def markdown_table() -> str:
    """The table for the documentation."""
    lines = ["| name | metric | better | needs | meaning |", "| --- | --- | --- | --- | --- |"]
    for row in METRICS:
        better = "higher" if row.direction == "maximize" else "lower"
        needs = ["ground truth"] if row.needs_reference else []
        needs += [row.weights] if row.weights else []
        lines.append(
            f"| `{row.name}` | {row.title} | {better} | {', '.join(needs) or 'nothing'} | {row.meaning} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class ClipMetrics:
    """Metrics of one generated continuation of n frames.

    Attributes:
        per_frame: of every metric that has them, the values of the last k frames, (k,) float32, k <= n. A
            metric that compares a frame with the one before it has none for the first.
        summary: one value a metric.
    """

    per_frame: dict[str, np.ndarray]
    summary: dict[str, float]
